//! The client of a remote registry.
//!
//! It asks and reports; what to keep and what to say to a client is decided above. Every wait, body and repetition
//! is bounded, every error names the host that was asked, and neither credentials nor tokens reach a redirect's
//! target, an error or a log. Making an [`Upstream`] does no I/O on the network: nothing is asked before someone
//! needs it.

mod auth;
mod base64;
mod blob;
mod body;
mod breaker;
mod connector;
mod counters;
mod docker_config;
mod docker_logins;
mod door;
mod doubt;
mod error;
mod failure;
mod governor;
mod ledger;
mod logins;
mod metrics;
mod mirrors;
mod no_proxy;
mod probe;
mod proxy;
mod redirect;
mod refusals;
mod request;
mod retry;
mod settings;
mod tls;
mod token;
mod transport;
mod trials;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::LINK;
use reqwest::Url;
use rustls::ClientConfig;
use serde::Deserialize;

pub use body::BlobBody;
pub use breaker::Watch;
pub use counters::{Class, Counters, Kind};
pub use doubt::Doubt;
pub use error::{Phase, UpstreamError};
pub use ledger::Ledger;
pub use logins::Credentials;
pub use metrics::UpstreamCollector;
pub use proxy::{ProxyChoice, ProxyEnvironment, ProxyServer};
pub use settings::{BuildError, Login, Settings};

use crate::oci::digest::Digest;
use crate::oci::link::next_link;
use crate::oci::manifest::MANIFEST_LIMIT;
use crate::oci::media_type::{ACCEPT_MANIFESTS, MediaType};
use crate::oci::name::{Reference, RepositoryName, Tag};
use crate::registry::Memo;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;
use auth::Trust;
use counters::Tally;
use docker_config::HUB_HOSTS;
use door::{Door, Manner};
use governor::{Governor, Governors};
use logins::{AuthBuilder, Logins};
use mirrors::Mirrors;
use proxy::Proxies;
use redirect::host_of;
use request::{Question, bad_host, content_length, media_type, not_html};
use retry::retried;
use settings::{base_url, endpoint_url};
use token::Limits;
use transport::{Blobs, Control, connect_limit};

/// The most bytes of one page of tags: 60,000 tags of the greatest length.
const TAGS_LIMIT: usize = 8 * 1024 * 1024;

/// A remote registry. Clones share connections, tokens, counters and the ledger.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    settings: Settings,
    base: Url,
    control: Control,
    blobs: Blobs,
    logins: Logins,
    place: Place,
    /// The same without logins and mirrors; `None` where this is it.
    anonymous: Option<Upstream>,
    door: Arc<Door>,
    ping: Url,
    tasks: Tasks,
    /// The upstream itself, also where this is how nobody asks it.
    this: Weak<Self>,
    governors: Arc<Governors>,
    tally: Arc<Tally>,
    clock: Arc<dyn Clock>,
}

/// What a registry stands for.
enum Place {
    /// Itself, after these were asked.
    Home(Mirrors),
    /// The registry of this name.
    Mirror(String),
}

/// What a `HEAD` of a manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// The manifest's digest as the upstream claims it. `None` when it names none or does not answer `HEAD`: then
    /// only a `GET` can tell.
    pub digest: Option<Digest>,
    /// `Content-Type` without parameters.
    pub media_type: Option<String>,
    /// The manifest's length in bytes.
    pub size: Option<u64>,
}

/// A manifest as it was sent. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    /// The exact bytes, at most 4 MiB.
    pub bytes: Bytes,
    /// `Content-Type` without parameters.
    pub media_type: Option<String>,
    /// The digest that the upstream claims.
    pub claimed: Option<Digest>,
    /// Whether a mirror of the upstream sent it, so that the upstream counts no pull.
    pub from_mirror: bool,
}

/// One page of a repository's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagList {
    /// The tags in the upstream's order; what is not a tag by the grammar is left out.
    pub tags: Vec<String>,
    /// Where the next page begins, when there is one.
    pub next_last: Option<String>,
}

impl Upstream {
    /// An upstream that runs its shared work as tasks of `tasks`, and takes up what `memo` knows of its rate limit.
    ///
    /// # Errors
    /// The settings are of no use.
    pub fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        memo: Arc<dyn Memo>,
    ) -> Result<Self, BuildError> {
        let tls = tls::client_config(&settings.ca)?;
        let mirror = |url| {
            let (settings, place) = (settings.of_mirror(url), Place::Mirror(settings.namespace()));
            Self::connect(
                settings,
                place,
                &tls,
                Arc::clone(&clock),
                tasks.clone(),
                None,
            )
        };
        let mirrors: Result<Vec<_>, _> = settings.mirrors.iter().map(mirror).collect();
        let place = Place::Home(Mirrors::new(mirrors?, &clock));
        Self::connect(settings, place, &tls, clock, tasks, Some(memo))
    }

    fn connect(
        settings: Settings,
        place: Place,
        tls: &ClientConfig,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        memo: Option<Arc<dyn Memo>>,
    ) -> Result<Self, BuildError> {
        let limit = place.connect_limit(&settings);
        let base = base_url(&settings.url)?;
        let token_url = settings.token_url.as_ref().map(endpoint_url).transpose()?;
        let tally = Arc::new(Tally::default());
        let proxies = Proxies::new(&settings.proxy)?;
        let door = Arc::new(Door::new(
            Arc::clone(&settings.name),
            host_of(&base),
            Manner {
                offline: settings.offline,
                suspends: matches!(place, Place::Home(_)),
            },
            Arc::clone(&clock),
        ));
        let ping = ping_url(&base)?;
        let control = Control::new(
            tls.clone(),
            limit,
            proxies.clone(),
            Arc::clone(&door),
            Arc::clone(&tally),
        )?;
        let blobs = Blobs::new(
            tls.clone(),
            limit,
            proxies,
            settings.max_connections,
            Arc::clone(&door),
            Arc::clone(&tally),
        );
        let builder = AuthBuilder {
            trust: Trust {
                registry: base.clone(),
                token_url,
            },
            service: settings.known_service(),
            control: control.clone(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            limits: Limits {
                timeout: settings.timeout,
                stall: settings.stall,
                retries: settings.retries,
            },
        };
        let users = settings.logins.iter().map(|login| &*login.username);
        let governors = Governors::new(&settings.name, memo, &clock, users);
        Ok(Self(Arc::new_cyclic(|this| {
            let mut inner = Inner {
                logins: Logins::new(&settings, &builder),
                settings,
                base,
                control,
                blobs,
                place,
                anonymous: None,
                door,
                ping,
                tasks,
                this: Weak::clone(this),
                governors,
                tally,
                clock,
            };
            let nobody = Arc::new(inner.without(&builder, this));
            inner.anonymous = Some(Self(nobody));
            inner
        })))
    }

    /// Whether `name` is asked for with credentials: what comes of it need not be for everybody. Of Docker's logins it
    /// is supposed before they are first read.
    pub fn has_credentials_for(&self, name: &RepositoryName) -> bool {
        self.credentials_for(name) != Credentials::Nobody
    }

    /// As whom `name` would be asked for now.
    pub fn credentials_for(&self, name: &RepositoryName) -> Credentials {
        self.0.logins.credentials_for(name.as_str())
    }

    /// Whether there is or may come a login for anything of it.
    pub fn has_logins(&self) -> bool {
        self.0.settings.has_logins()
    }

    /// The host of the registry's API, with its port unless that is the usual one.
    pub fn host(&self) -> String {
        host_of(&self.0.base)
    }

    /// Whether the API that is asked is Docker Hub's own, whatever the registry is called here.
    pub fn is_docker_hub(&self) -> bool {
        let host = self.0.base.host_str();
        host.is_some_and(|host| HUB_HOSTS.contains(&host))
    }

    /// The registry itself, asked without any credentials: what it answers is for everybody. It shares connections and
    /// counters; its rate limit is another, and so is its ledger.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        self.0.anonymous.as_ref().unwrap_or(self).clone()
    }

    /// The registry's name as clients write it.
    pub fn name(&self) -> &Arc<str> {
        &self.0.settings.name
    }

    /// Asks which manifest `reference` names. Docker Hub does not count this as a pull.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated.
    pub async fn head_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        match self.0.mirrors().head_manifest(name, reference).await {
            Some(head) => Ok(head),
            None => self.0.head_manifest(name, reference).await,
        }
    }

    /// The same of the registry alone, and of no mirror.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated.
    pub async fn head_own_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        self.0.head_manifest(name, reference).await
    }

    /// Fetches the manifest that `reference` names. Docker Hub counts this as a pull.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated. An answer of more than 4 MiB is a
    /// [`BadAnswer`](UpstreamError::BadAnswer), known as such before it is read where its length is told.
    pub async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBody, UpstreamError> {
        match self.0.mirrors().get_manifest(name, reference).await {
            Some(manifest) => Ok(ManifestBody {
                from_mirror: true,
                ..manifest
            }),
            None => self.0.get_manifest(name, reference).await,
        }
    }

    /// Asks whether the repository has a blob; yields its length in bytes where that is told.
    ///
    /// A registry that redirects has it. Its CDN is asked for the length, but may refuse to answer `HEAD`.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated.
    pub async fn head_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        match self.0.mirrors().head_blob(name, digest).await {
            Some(length) => Ok(length),
            None => self.0.head_blob(name, digest).await,
        }
    }

    /// The same of the registry alone, and of no mirror.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated.
    pub async fn head_own_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        self.0.head_blob(name, digest).await
    }

    /// Opens a blob at `offset`: one attempt, apart from one new token when the registry refuses the one in use.
    ///
    /// The body holds one of the upstream's transfer slots until it ends or is dropped.
    ///
    /// # Errors
    /// [`UpstreamError`]; nothing was repeated.
    pub async fn open_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
        offset: u64,
    ) -> Result<BlobBody, UpstreamError> {
        match self.0.mirrors().open_blob(name, digest, offset).await {
            Some(body) => Ok(body),
            None => self.0.open_blob(name, digest, offset).await,
        }
    }

    /// One page of the repository's tags: at most `n`, after `last`.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        n: Option<u64>,
        last: Option<&str>,
    ) -> Result<TagList, UpstreamError> {
        let mut url = self.0.url(name, "tags/list")?;
        if let Some(n) = n {
            url.query_pairs_mut().append_pair("n", &n.to_string());
        }
        if let Some(last) = last {
            url.query_pairs_mut().append_pair("last", last);
        }
        let question = Question::new(Kind::Tags, url, name, "application/json");
        let answer = self.0.ask(&question, TAGS_LIMIT).await?;
        let listed: Listed = serde_json::from_slice(&answer.bytes)
            .map_err(|_| bad_host(&answer.host, "its list of tags is not JSON".into()))?;
        let tags = listed.tags.unwrap_or_default();
        let link = answer.headers.get(LINK).and_then(|link| link.to_str().ok());
        Ok(TagList {
            next_last: link.and_then(|link| next_last(link, &tags)),
            tags: tags
                .into_iter()
                .filter(|tag| tag.parse::<Tag>().is_ok())
                .collect(),
        })
    }

    /// The index of what refers to a manifest, or `None` when the upstream has no such list: then the referrers tag
    /// may tell.
    ///
    /// # Errors
    /// [`UpstreamError`]; passing ones were repeated.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<Bytes>, UpstreamError> {
        let url = self.0.url(name, &format!("referrers/{digest}"))?;
        let question = Question::new(Kind::Referrers, url, name, INDEX);
        match self.0.ask(&question, MANIFEST_LIMIT).await {
            Ok(answer) => {
                // A front end that answers everything with some page of its own has no list either.
                let media_type = media_type(&answer.headers).map(MediaType::parse);
                Ok((media_type == Some(MediaType::OciIndex)).then_some(answer.bytes))
            }
            Err(
                UpstreamError::NotFound { .. }
                | UpstreamError::Status {
                    status: 405 | 501, ..
                },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The present moment, for [`suspect`](Self::suspect).
    pub fn watch(&self) -> Watch {
        self.0.door.watch()
    }

    /// Somebody has waited for [`waited`](Duration) since `watch` for where `reference` points, in vain. Unless the
    /// upstream has answered anything since then it is asked nothing more but probes: questions fail at once with
    /// [`UpstreamError::Suspended`]. The one that is waited for goes on, and its answer ends this.
    pub fn suspect(
        &self,
        watch: Watch,
        name: &RepositoryName,
        reference: &Reference,
        waited: Duration,
    ) {
        let question = self.0.manifest(Kind::ManifestHead, name, reference);
        if let Ok(question) = question.map(Question::head)
            && self.0.door.suspect(&question, watch, waited)
        {
            self.0.begin_probing();
        }
    }

    /// Waits until a suspended upstream answers a probe.
    pub async fn recovered(&self) {
        self.0.door.recovered().await;
    }

    /// Whether the upstream is asked nothing but probes now, since it does not answer.
    pub fn is_suspended(&self) -> bool {
        self.0.door.is_suspended()
    }

    /// How many questions were refused here, without asking the upstream.
    pub fn refused(&self) -> u64 {
        self.0.door.refused()
    }

    /// The rate limit as of the upstream's last answer to who asks as the login without a prefix, or as nobody.
    pub fn ledger(&self) -> Ledger {
        self.0.main_governor().ledger(self.0.clock.wall())
    }

    /// By how much the freshness of `name` is to be stretched, since its pulls become few: 1 with half of them left,
    /// or when nothing is known, 2 below half, 4 below a quarter, 8 below a tenth, 16 with none; 1 while a limit is in
    /// force.
    pub fn stretch(&self, name: &RepositoryName) -> u32 {
        let governor = self.0.governor(name.as_str());
        let ledger = governor.ledger(self.0.clock.wall());
        governor::stretch(&ledger, governor.is_limiting())
    }

    /// Whether enough pulls are left for work that no client waits for.
    pub fn affords_background(&self) -> bool {
        let governor = self.0.main_governor();
        let left = governor.ledger(self.0.clock.wall()).remaining;
        let spare = left.is_none_or(|left| left > self.0.settings.rate_reserve);
        spare && !governor.is_limiting() && !self.0.settings.offline
    }

    /// The rate limit by credential, and whether anything is refused for its sake.
    pub(crate) fn ledgers(&self) -> Vec<(Arc<str>, Ledger, bool)> {
        let now = self.0.clock.wall();
        let shown = |governor: Arc<Governor>| {
            let credential = governor.credential();
            (credential, governor.ledger(now), governor.is_limiting())
        };
        self.0.governors.all().into_iter().map(shown).collect()
    }

    /// How much was asked of each mirror, by its host, and how it was answered.
    pub fn mirror_counters(&self) -> Vec<(String, Counters)> {
        self.0.mirrors().counters()
    }

    /// How much was asked, and how it was answered.
    pub fn counters(&self) -> Counters {
        self.0.tally.snapshot()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("settings", &self.0.settings)
            .field("logins", &self.0.logins)
            .finish_non_exhaustive()
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Place {
    /// How long connecting may take.
    fn connect_limit(&self, settings: &Settings) -> Duration {
        let limit = connect_limit(settings.timeout);
        match self {
            Self::Home(_) => limit,
            Self::Mirror(_) => limit.min(mirrors::CONNECT_LIMIT),
        }
    }
}

impl Inner {
    /// Who is asked before.
    fn mirrors(&self) -> &Mirrors {
        static NONE: Mirrors = Mirrors::none();
        match &self.place {
            Place::Home(mirrors) => mirrors,
            Place::Mirror(_) => &NONE,
        }
    }

    /// Who governs what is asked for `repository`.
    fn governor(&self, repository: &str) -> Arc<Governor> {
        self.governors
            .of(self.logins.user_of(repository).as_deref())
    }

    /// Who governs what no login's prefix is for.
    fn main_governor(&self) -> Arc<Governor> {
        self.governors.of(self.logins.main_user().as_deref())
    }

    /// The same registry as nobody asks it.
    fn without(&self, builder: &AuthBuilder, this: &Weak<Self>) -> Self {
        let settings = Settings {
            logins: Vec::new(),
            docker_config: None,
            mirrors: Vec::new(),
            ..self.settings.clone()
        };
        Self {
            logins: Logins::new(&settings, builder),
            settings,
            base: self.base.clone(),
            control: self.control.clone(),
            blobs: self.blobs.clone(),
            place: Place::Home(Mirrors::default()),
            anonymous: None,
            door: Arc::clone(&self.door),
            ping: self.ping.clone(),
            tasks: self.tasks.clone(),
            this: Weak::clone(this),
            governors: Arc::clone(&self.governors),
            tally: Arc::clone(&self.tally),
            clock: Arc::clone(&self.clock),
        }
    }

    async fn head_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        let question = self.manifest(Kind::ManifestHead, name, reference)?.head();
        match self.ask(&question, 0).await {
            Ok(answer) => Ok(ManifestHead {
                digest: claimed(&answer.headers),
                media_type: media_type(&answer.headers).map(Into::into),
                size: content_length(&answer.headers),
            }),
            Err(UpstreamError::Status {
                status: 405 | 501, ..
            }) => Ok(ManifestHead {
                digest: None,
                media_type: None,
                size: None,
            }),
            Err(error) => Err(error),
        }
    }

    async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBody, UpstreamError> {
        let question = self.manifest(Kind::ManifestGet, name, reference)?;
        let answer = self.ask(&question, MANIFEST_LIMIT).await?;
        not_html(&answer.host, &answer.headers)?;
        Ok(ManifestBody {
            claimed: claimed(&answer.headers),
            media_type: media_type(&answer.headers).map(Into::into),
            bytes: answer.bytes,
            from_mirror: false,
        })
    }

    async fn head_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let url = self.url(name, &format!("blobs/{digest}"))?;
        let question = Question::new(Kind::BlobHead, url, name, "*/*").head();
        self.attended(&question, async |errand| {
            let deadline = self.deadline().on(errand);
            let attempt = || async {
                match self.attempt(&question, 0, &deadline).await {
                    Ok(answer) => {
                        not_html(&answer.host, &answer.headers)?;
                        Ok(content_length(&answer.headers))
                    }
                    Err(failure) if failure.is_only_the_cdns() => Ok(None),
                    Err(failure) => Err(failure),
                }
            };
            retried(self.settings.retries, &deadline, attempt).await
        })
        .await
    }

    fn manifest(
        &self,
        kind: Kind,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Question, UpstreamError> {
        let url = self.url(name, &format!("manifests/{reference}"))?;
        Ok(Question::new(kind, url, name, ACCEPT_MANIFESTS))
    }

    /// `<base>/v2/<name>/<rest>`; every part is of a grammar that needs no escapes. A mirror is told what it is asked to
    /// stand for, as containerd does: it may stand for several.
    fn url(&self, name: &RepositoryName, rest: &str) -> Result<Url, UpstreamError> {
        let base = self.base.as_str().trim_end_matches('/');
        let mut url = Url::parse(&format!("{base}/v2/{name}/{rest}"))
            .map_err(|_| bad_host(&host_of(&self.base), "its URL is unusable".into()))?;
        if let Place::Mirror(namespace) = &self.place {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

/// Where a registry says that it is one.
fn ping_url(base: &Url) -> Result<Url, BuildError> {
    let text = format!("{}/v2/", base.as_str().trim_end_matches('/'));
    Url::parse(&text).map_err(|_| BuildError::Url { url: text })
}

/// A page of tags; `null` where a repository has none.
#[derive(Deserialize)]
struct Listed {
    tags: Option<Vec<String>>,
}

/// Where the page after `tags` begins. Some registries put a token of their own into the link instead of `last`.
fn next_last(link: &str, tags: &[String]) -> Option<String> {
    match next_link(link) {
        Some(next) => Some(next.last),
        None if link.contains("rel=\"next\"") => tags.last().cloned(),
        None => None,
    }
}

/// `Docker-Content-Digest`, when it is a digest.
fn claimed(headers: &http::HeaderMap) -> Option<Digest> {
    headers
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

//! Who may see a repository: what needs our credentials is not for anonymous clients (`access.anonymous_private`).
//!
//! Invariants:
//! - whether a repository is public is learnt by asking for what the client wants, without credentials, by `HEAD` or
//!   for a page of tags: nothing that counts as a pull;
//! - of a private repository nothing is looked up here and nothing is asked with our credentials, and it is answered
//!   like one that does not exist;
//! - a decision outlives outages and restarts: only another decision replaces it;
//! - a decision is renewed with the tag or list it is needed for. Clients that pull by digest alone renew it too, in
//!   the background, and cause no question while somebody pulls by tag.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tracing::{info, warn};

use super::Inner;
use super::failure::{Failure, Wanted};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::registry::{Answer, MEMO_LIMIT, MemoError, Noted, RegistryError, Topic};
use crate::sys::clock::Timestamp;
use crate::sys::{clock, tasks};
use crate::upstream::{Upstream, UpstreamError};

/// The registry whose official images anyone may see.
const DOCKER_HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";

/// How often, at most, a decision is renewed for clients that pull by digest.
const DIGEST_PERIOD: Duration = Duration::from_hours(1);

/// How long nothing is asked after a renewal that brought nothing.
const PERIOD: Duration = Duration::from_secs(4);

/// Whether anyone may see a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    Public,
    Private,
}

impl Visibility {
    const fn label(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }

    fn parse(label: &str) -> Option<Self> {
        [Self::Public, Self::Private]
            .into_iter()
            .find(|it| it.label() == label)
    }
}

/// What was found out about a repository, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    visibility: Visibility,
    at: Timestamp,
}

/// What is known of repositories.
pub(super) struct Decisions {
    /// What the index holds.
    known: Cache<RepositoryName, Decision>,
    /// When the decision was last asked about again, and stayed as it was for want of an answer. Monotonic.
    tried: Cache<RepositoryName, Duration>,
}

impl Decisions {
    pub(super) fn new() -> Self {
        fn cache<V: Clone + Send + Sync + 'static>() -> Cache<RepositoryName, V> {
            let cache = Cache::builder().max_capacity(MEMO_LIMIT);
            cache.eviction_policy(EvictionPolicy::lru()).build()
        }
        Self {
            known: cache(),
            tried: cache(),
        }
    }
}

/// What a client wants of a repository, and so what is asked for without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Probe {
    Manifest(Reference),
    Blob(Digest),
    Tags,
    Referrers(Digest),
}

impl Probe {
    fn wanted<'a>(&'a self, name: &'a RepositoryName) -> Wanted<'a> {
        match self {
            Self::Manifest(reference) => Wanted::Manifest(name, reference),
            Self::Blob(digest) => Wanted::Blob(name, *digest),
            Self::Tags | Self::Referrers(_) => Wanted::List(name),
        }
    }

    /// Asks for it without fetching it.
    async fn ask(&self, upstream: &Upstream, name: &RepositoryName) -> Result<(), UpstreamError> {
        let reference = match self {
            Self::Manifest(reference) => reference.clone(),
            Self::Referrers(digest) => Reference::Digest(*digest),
            Self::Blob(digest) => return upstream.head_blob(name, *digest).await.map(drop),
            Self::Tags => return upstream.tags(name, Some(1), None).await.map(drop),
        };
        let head = upstream.head_manifest(name, &reference).await?;
        match head.digest {
            Some(_) => Ok(()),
            // It may not answer `HEAD` at all, whoever asks.
            None => upstream.tags(name, Some(1), None).await.map(drop),
        }
    }
}

/// What the upstream answered to somebody without credentials.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Decided(Visibility),
    /// It does not have what was asked for; of the repository that says nothing.
    Absent,
    Undecided(Failure),
}

/// What a flight found out, and what it asked for.
pub(super) type Probed = (Probe, Verdict);

/// What may be done for a client.
enum Admission {
    /// Anything.
    Open,
    /// Anything, while the decision is renewed.
    Renewing,
    /// Nothing.
    Closed(RegistryError),
}

impl Inner {
    /// Does `work` for a client without an account, if it may see the repository.
    pub(super) async fn guarded<T>(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: Probe,
        work: impl Future<Output = Result<Answer<T>, RegistryError>>,
    ) -> Result<Answer<T>, RegistryError> {
        if !self.is_guarded(name) {
            return work.await;
        }
        match self.admission(name, &probe).await {
            Admission::Open => work.await,
            Admission::Closed(error) => Err(error),
            // Together: an upstream that is silent is waited for once.
            Admission::Renewing => match join(self.renewed(name, &probe), work).await {
                (Some(Visibility::Private), _) => Err(probe.wanted(name).unknown()),
                (_, answer) => answer,
            },
        }
    }

    /// Whether there can be something in the repository that not everybody may see.
    fn is_guarded(&self, name: &RepositoryName) -> bool {
        let official =
            || &**self.upstream_name() == DOCKER_HUB && name.as_str().starts_with(OFFICIAL);
        !self.settings.anonymous_private
            && self.parts.upstream.has_credentials_for(name)
            && !official()
    }

    async fn admission(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Admission {
        let Some(decision) = self.decision(name).await else {
            return self.first_admission(name, probe).await;
        };
        let age = self.parts.clock.wall().since(decision.at);
        let older = |limit: Duration| age.is_none_or(|age| age >= limit);
        let ttl = self.visibility_ttl(probe);
        let hidden = || Admission::Closed(probe.wanted(name).unknown());
        match decision.visibility {
            Visibility::Public if older(ttl) && self.is_due(name, probe).await => {
                if self.is_doubtful(name, probe) {
                    Admission::Open
                } else {
                    Admission::Renewing
                }
            }
            Visibility::Public => {
                if older(ttl.saturating_mul(2).max(DIGEST_PERIOD)) && !self.is_doubtful(name, probe)
                {
                    self.probe_behind(name, probe);
                }
                Admission::Open
            }
            Visibility::Private if older(ttl) && !self.is_doubtful(name, probe) => {
                match self.renewed(name, probe).await {
                    Some(Visibility::Public) => Admission::Open,
                    Some(Visibility::Private) | None => hidden(),
                }
            }
            Visibility::Private => hidden(),
        }
    }

    /// How long a decision is not renewed.
    fn visibility_ttl(&self, probe: &Probe) -> Duration {
        match probe {
            Probe::Manifest(Reference::Tag(tag)) => self.tag_ttl(tag),
            _ => self.list_ttl(),
        }
    }

    /// Whether the upstream is to be asked for this anyway.
    async fn is_due(&self, name: &RepositoryName, probe: &Probe) -> bool {
        match probe {
            Probe::Manifest(Reference::Tag(tag)) => {
                let record = self.tag_record(name, tag).await;
                let age = record.and_then(|record| self.parts.clock.wall().since(record.checked));
                !self.is_fresh(age, name, tag)
            }
            Probe::Manifest(Reference::Digest(_)) | Probe::Blob(_) => false,
            Probe::Tags | Probe::Referrers(_) => true,
        }
    }

    /// Whether the last renewal brought nothing: then no client waits for the next, which goes on behind them.
    fn is_doubtful(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> bool {
        let Some(tried) = self.decisions.tried.get(name) else {
            return false;
        };
        let now = self.parts.clock.monotonic();
        if now.saturating_sub(tried) >= PERIOD {
            self.decisions.tried.insert(name.clone(), now);
            self.probe_behind(name, probe);
        }
        true
    }

    fn probe_behind(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) {
        // The flight is a task of its own from its first poll on.
        drop(self.probed(name, probe).now_or_never());
    }

    /// Finds out about a repository of which nothing is known.
    async fn first_admission(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Admission {
        match self.probed(name, probe).await {
            Verdict::Decided(Visibility::Public) => Admission::Open,
            Verdict::Decided(Visibility::Private) | Verdict::Absent => {
                Admission::Closed(probe.wanted(name).unknown())
            }
            Verdict::Undecided(failure) => Admission::Closed(self.undecided(name, probe, &failure)),
        }
    }

    /// Absence would be final, and is not known.
    fn undecided(&self, name: &RepositoryName, probe: &Probe, failure: &Failure) -> RegistryError {
        let upstream = self.upstream_name();
        let message = format!(
            "whether {upstream}/{name} may be seen without an account there is not known yet: {failure}; try again later"
        );
        match failure.registry_error(probe.wanted(name)) {
            RegistryError::RateLimited { retry_after, .. } => RegistryError::RateLimited {
                message,
                retry_after,
            },
            _ => RegistryError::Unreachable { message },
        }
    }

    /// Asks again about a repository that is decided. When that takes too long for a client the former decision
    /// stands, as it does when there is no other; the question goes on.
    async fn renewed(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Option<Visibility> {
        let limit = self.settings.revalidate_timeout;
        match clock::timeout(limit, self.probed(name, probe)).await {
            Ok(Verdict::Decided(visibility)) => Some(visibility),
            Ok(Verdict::Absent | Verdict::Undecided(_)) => None,
            Err(_) => {
                let now = self.parts.clock.monotonic();
                self.decisions.tried.insert(name.clone(), now);
                None
            }
        }
    }

    /// Asks the upstream without credentials, once for a repository however many ask. A client gains nothing from the
    /// absence of what another wants, and asks for its own then.
    async fn probed(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Verdict {
        let (asked, verdict) = self.probe_once(name, probe, None).await;
        if asked == *probe || !matches!(verdict, Verdict::Absent) {
            return verdict;
        }
        self.probe_once(name, probe, Some(probe.clone())).await.1
    }

    async fn probe_once(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: &Probe,
        alone: Option<Probe>,
    ) -> Probed {
        let question = || {
            let (inner, name, probe) = (Arc::clone(self), name.clone(), probe.clone());
            async move {
                let verdict = inner.find_out(&name, &probe).await;
                Ok((probe, verdict))
            }
        };
        let (answer, _) = self.probing.run((name.clone(), alone), question).await;
        let busy = |failure| (probe.clone(), Verdict::Undecided(failure));
        answer.unwrap_or(Err(Failure::Busy)).unwrap_or_else(busy)
    }

    async fn find_out(&self, name: &RepositoryName, probe: &Probe) -> Verdict {
        let former = self.decision(name).await;
        let now = self.parts.clock.wall();
        // Decided between the look at the decision and the start of this task.
        if let Some(former) = former
            && now
                .since(former.at)
                .is_some_and(|age| age < self.visibility_ttl(probe))
        {
            return Verdict::Decided(former.visibility);
        }
        let former = former.map(|former| former.visibility);
        let verdict = match probe.ask(&self.parts.upstream.anonymous(), name).await {
            Ok(()) => Verdict::Decided(Visibility::Public),
            Err(error) if is_refusal(&error) && former == Some(Visibility::Public) => {
                self.compared(name, probe).await
            }
            Err(UpstreamError::Denied { .. }) => Verdict::Decided(Visibility::Private),
            Err(UpstreamError::NotFound { .. }) => Verdict::Absent,
            Err(error) => Verdict::Undecided(error.into()),
        };
        match verdict {
            Verdict::Decided(visibility) => self.decide(name, visibility, former).await,
            Verdict::Absent | Verdict::Undecided(_) if former.is_some() => {
                let now = self.parts.clock.monotonic();
                self.decisions.tried.insert(name.clone(), now);
            }
            Verdict::Absent | Verdict::Undecided(_) => {}
        }
        verdict
    }

    /// What was public is refused to somebody without credentials. If it is there with ours it is private now; else it
    /// was deleted, for everybody, and what is held of it was public.
    async fn compared(&self, name: &RepositoryName, probe: &Probe) -> Verdict {
        match probe.ask(&self.parts.upstream, name).await {
            Ok(()) => Verdict::Decided(Visibility::Private),
            Err(error) if is_refusal(&error) => Verdict::Absent,
            Err(error) => Verdict::Undecided(error.into()),
        }
    }

    async fn decision(&self, name: &RepositoryName) -> Option<Decision> {
        if let Some(decision) = self.decisions.known.get(name) {
            return Some(decision);
        }
        let (index, key) = (Arc::clone(&self.parts.index), self.memo_key(name));
        let recalled = tasks::blocking(move || index.recall(Topic::Visibility, &key)).await;
        let noted = recalled.unwrap_or_else(|error| {
            warn!(%error, "the index does not answer");
            None
        })?;
        let decision = Decision {
            visibility: Visibility::parse(&noted.value)?,
            at: noted.at,
        };
        self.decisions.known.insert(name.clone(), decision);
        Some(decision)
    }

    async fn decide(
        &self,
        name: &RepositoryName,
        visibility: Visibility,
        former: Option<Visibility>,
    ) {
        if former != Some(visibility) {
            info!(%name, visibility = visibility.label(), "whether anyone may see a repository is known");
        }
        let at = self.parts.clock.wall();
        let decision = Decision { visibility, at };
        self.decisions.known.insert(name.clone(), decision);
        self.decisions.tried.invalidate(name);
        let (index, key) = (Arc::clone(&self.parts.index), self.memo_key(name));
        let value = visibility.label().to_owned();
        let noting = move || index.remember(Topic::Visibility, &key, &Noted { value, at });
        let noted: Result<(), MemoError> = tasks::blocking(noting).await;
        if let Err(error) = noted {
            warn!(%name, %error, "whether anyone may see a repository is kept in memory only");
        }
    }

    fn memo_key(&self, name: &RepositoryName) -> String {
        format!("{}/{name}", self.upstream_name())
    }
}

/// Whether the upstream said for sure that this is not to be had by whoever asked.
fn is_refusal(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::NotFound { .. } | UpstreamError::Denied { .. }
    )
}

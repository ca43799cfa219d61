//! The upstreams: for each a client and a proxy, all of them above the same blobs, downloads and memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::AppError;
use crate::blobs::Blobs;
use crate::config::{
    self, AmbientSettings, ByteSize, CredentialSource, DEFAULT_UPSTREAM, Settings, UpstreamSettings,
};
use crate::directory::{Directory, Entry, Rules};
use crate::fetch::Fetch;
use crate::index::Index;
use crate::proxy::{self, Memory, Proxy, Spending};
use crate::registry::Memo;
use crate::sys::clock::{Clock, Timestamp};
use crate::sys::fs::{Disk, read_small};
use crate::sys::tasks::Tasks;
use crate::upstream::{self, Login, ProxyChoice, ProxyServer, Upstream};

/// The largest file of certificate authorities that is read.
const CA_LIMIT: usize = 16 * 1024 * 1024;

/// What every upstream's proxy stands on.
pub(super) struct Ground {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) index: Arc<dyn Index>,
    pub(super) spending: Spending,
    pub(super) blobs: Blobs,
    pub(super) fetch: Fetch,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
}

/// The upstreams as one configuration wants them.
pub(super) struct Upstreams {
    memory: Memory,
    /// The limit of `memory`.
    bytes: u64,
    members: BTreeMap<String, Member>,
}

/// One upstream, with what it was made of.
struct Member {
    asked_by: upstream::Settings,
    client: Upstream,
    /// The second is the limit of the memory that it shares.
    cached_by: (proxy::Settings, ByteSize),
    proxy: Arc<Proxy>,
    background: Arc<Background>,
    refusals_since: Timestamp,
    rules: Rules,
}

/// What a proxy does without being asked; ends with the last configuration that has that proxy.
struct Background(Tasks);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Upstreams {
    /// Asks no upstream anything. What does not differ from `former` is kept: a client with its connections, tokens
    /// and ledger, a proxy with its questions under way. A client whose settings differ is made anew, and knows nothing
    /// of what was refused to the former one.
    pub(super) fn open(
        ground: &Ground,
        settings: &Settings,
        former: Option<&Self>,
    ) -> Result<Self, AppError> {
        let bytes = settings.cache.memory.as_u64();
        let memory = former
            .filter(|former| former.bytes == bytes)
            .map_or_else(|| Memory::new(bytes), |former| former.memory.clone());
        let mut members = BTreeMap::new();
        for (name, upstream) in configured(settings) {
            let former = former.and_then(|former| former.members.get(&name));
            let member = ground.member(&name, settings, &upstream, &memory, former)?;
            members.insert(name, member);
        }
        Ok(Self {
            memory,
            bytes,
            members,
        })
    }

    pub(super) fn directory(&self) -> Directory {
        let entry = |member: &Member| Entry {
            registry: Arc::<Proxy>::clone(&member.proxy),
            rules: member.rules.clone(),
        };
        let members = self.members.iter();
        Directory::new(
            members
                .map(|(name, it)| (name.clone(), entry(it)))
                .collect(),
        )
    }

    pub(super) fn clients(&self) -> Vec<Upstream> {
        let members = self.members.values();
        members.map(|member| member.client.clone()).collect()
    }
}

/// Docker Hub is there whatever is configured: it is what names without an upstream mean.
fn configured(settings: &Settings) -> BTreeMap<String, UpstreamSettings> {
    let mut upstreams = settings.upstreams.clone();
    upstreams.entry(DEFAULT_UPSTREAM.to_owned()).or_default();
    upstreams
}

impl Ground {
    fn member(
        &self,
        name: &str,
        settings: &Settings,
        upstream: &UpstreamSettings,
        memory: &Memory,
        former: Option<&Member>,
    ) -> Result<Member, AppError> {
        let authorities = self.authorities(upstream)?;
        let asked_by = upstream_settings(name, settings, upstream, authorities);
        let cached_by = proxy_settings(settings, upstream);
        let kept = former.filter(|former| former.asked_by == asked_by);
        let refusals_since = match (former, kept) {
            (_, Some(kept)) => kept.refusals_since,
            // What was refused to nobody in particular is refused to nobody still.
            (None, None) if !asked_by.has_logins() => Timestamp::default(),
            _ => self.clock.wall(),
        };
        let client = match kept {
            Some(former) => former.client.clone(),
            None => self.client(asked_by.clone())?,
        };
        let cached_by = (cached_by, settings.cache.memory);
        let kept = kept.filter(|former| former.cached_by == cached_by);
        let (proxy, background) = kept.map_or_else(
            || self.proxy(&client, memory, &cached_by.0, refusals_since),
            |former| (Arc::clone(&former.proxy), Arc::clone(&former.background)),
        );
        Ok(Member {
            asked_by,
            client,
            cached_by,
            proxy,
            background,
            refusals_since,
            rules: Rules {
                allow: upstream.allow.clone(),
                deny: upstream.deny.clone(),
            },
        })
    }

    fn proxy(
        &self,
        client: &Upstream,
        memory: &Memory,
        settings: &proxy::Settings,
        refusals_since: Timestamp,
    ) -> (Arc<Proxy>, Arc<Background>) {
        let background = Background(self.tasks.branch());
        let parts = proxy::Parts {
            refusals_since,
            background: background.0.clone(),
            upstream: client.clone(),
            memory: memory.clone(),
            spending: self.spending.clone(),
            index: Arc::clone(&self.index),
            blobs: self.blobs.clone(),
            fetch: self.fetch.clone(),
            clock: Arc::clone(&self.clock),
            tasks: self.tasks.clone(),
        };
        let proxy = Proxy::new(parts, settings.clone());
        (Arc::new(proxy), Arc::new(background))
    }

    fn authorities(&self, settings: &UpstreamSettings) -> Result<Option<Vec<u8>>, AppError> {
        let read = |path: &PathBuf| {
            let unreadable = |source| AppError::Authority {
                path: path.clone(),
                source,
            };
            read_small(&*self.disk, path, CA_LIMIT).map_err(unreadable)
        };
        settings.ca.as_ref().map(read).transpose()
    }

    fn client(&self, settings: upstream::Settings) -> Result<Upstream, AppError> {
        let name = settings.name.to_string();
        let (clock, tasks) = (Arc::clone(&self.clock), self.tasks.clone());
        let memo: Arc<dyn Memo> = Arc::<dyn Index>::clone(&self.index);
        let upstream = Upstream::new(settings, clock, tasks, memo);
        upstream.map_err(|source| AppError::Upstream { name, source })
    }
}

fn upstream_settings(
    name: &str,
    settings: &Settings,
    upstream: &UpstreamSettings,
    authorities: Option<Vec<u8>>,
) -> upstream::Settings {
    upstream::Settings {
        name: name.into(),
        url: upstream.url.clone(),
        token_url: upstream.token_url.clone(),
        logins: logins(upstream),
        docker_config: match upstream.credentials {
            Some(CredentialSource::Docker) => settings.ambient.docker_config.clone(),
            None => None,
        },
        mirrors: upstream.mirrors.clone(),
        proxy: proxy_choice(&upstream.proxy, &settings.ambient),
        ca: authorities.into_iter().collect(),
        timeout: upstream.timeout,
        stall: upstream.stall,
        retries: upstream.retries,
        max_connections: usize::try_from(upstream.max_connections).unwrap_or(usize::MAX),
        offline: settings.server.offline,
        rate_reserve: upstream.rate_reserve,
    }
}

fn logins(settings: &UpstreamSettings) -> Vec<Login> {
    let pair = settings.username.clone().zip(settings.password.clone());
    let all = pair.map(|(username, password)| Login {
        prefix: None,
        username,
        password,
    });
    let some = settings.logins.iter().filter_map(|login| {
        Some(Login {
            // The configuration has checked its grammar.
            prefix: Some(login.prefix.parse().ok()?),
            username: login.username.clone(),
            password: login.password.clone(),
        })
    });
    all.into_iter().chain(some).collect()
}

fn proxy_choice(choice: &config::ProxyChoice, ambient: &AmbientSettings) -> ProxyChoice {
    match choice {
        config::ProxyChoice::Environment => ProxyChoice::Environment(ambient.proxy.clone()),
        config::ProxyChoice::Direct => ProxyChoice::Direct,
        config::ProxyChoice::Via(proxy) => ProxyChoice::Via(ProxyServer {
            url: proxy.url.clone(),
            credentials: proxy.credentials.clone(),
        }),
    }
}

fn proxy_settings(settings: &Settings, upstream: &UpstreamSettings) -> proxy::Settings {
    proxy::Settings {
        freshness: freshness(settings, upstream),
        revalidate_timeout: settings.cache.revalidate_timeout,
        never_cache: settings.cache.never_cache.clone(),
        anonymous_private: settings.access.anonymous_private,
        stall: upstream.stall,
        retries: upstream.retries,
    }
}

/// How long what came from one upstream is served.
fn freshness(settings: &Settings, upstream: &UpstreamSettings) -> proxy::Freshness {
    let cache = &settings.cache;
    let rules = upstream.tag_rules.iter();
    proxy::Freshness {
        tag_ttl: upstream.tag_ttl.unwrap_or(cache.tag_ttl),
        tag_rules: rules.map(|rule| (rule.pattern.clone(), rule.ttl)).collect(),
        stale_if_error: cache.stale_if_error,
        stale_if_deleted: cache.stale_if_deleted,
        negative_ttl: cache.negative_ttl,
    }
}

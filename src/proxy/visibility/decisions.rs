//! What is known of repositories: who may see them, and whether they were ever asked for with credentials.
//!
//! Invariants:
//! - a decision belongs to the host that it was learnt from, a login to the upstream: what was fetched with it is held
//!   under that name;
//! - private repositories are noted apart from public ones: anyone can make up names that count as private, and none of
//!   these displaces what is known of a repository that exists;
//! - where memory and disk do not know, everything is undecided, and nothing is open for that.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tracing::{info, warn};

use super::super::Inner;
use super::super::failure::Failure;
use super::{Probe, Visibility};
use crate::index::Index;
use crate::oci::RepositoryName;
use crate::registry::{MEMO_LIMIT, MemoError, Noted, Topic};
use crate::sys::clock::Timestamp;
use crate::sys::tasks;
use crate::upstream::Credentials;

/// How long nothing is asked after a renewal that brought nothing.
const PERIOD: Duration = Duration::from_secs(4);

/// How long clients are told of it. Whoever comes later waits for the next, so that what the upstream says after an
/// outage is known within ten seconds.
const MEMORY: Duration = Duration::from_secs(8);

/// The key under which it is noted that there was a login at all. No repository has this name.
const ANY: &str = "*";

/// What was found out about a repository, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) visibility: Visibility,
    pub(super) at: Timestamp,
}

/// What is known of repositories. All of it is bounded, and may be forgotten.
pub(in crate::proxy) struct Decisions {
    public: Cache<RepositoryName, Timestamp>,
    private: Cache<RepositoryName, Timestamp>,
    /// When a decision was last asked about in vain, and why. Monotonic.
    doubts: Cache<RepositoryName, (Duration, Failure)>,
    /// What was not there, asked for without credentials, and since when. Monotonic.
    absent: Cache<(RepositoryName, Probe), Duration>,
    /// Whether anything was ever asked for with credentials; looked up once, and of use where none will be.
    trusted: OnceLock<bool>,
    /// Whether a repository was ever asked for with credentials.
    entrusted: Cache<RepositoryName, bool>,
    /// The prefixes of logins that the index knows of.
    logins: Cache<Option<RepositoryName>, ()>,
}

impl Decisions {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            public: cache(),
            private: cache(),
            doubts: cache(),
            absent: cache(),
            trusted: OnceLock::new(),
            entrusted: cache(),
            logins: cache(),
        }
    }

    fn known(&self, name: &RepositoryName) -> Option<Decision> {
        let decision = |visibility| move |at| Decision { visibility, at };
        let private = self.private.get(name).map(decision(Visibility::Private));
        private.or_else(|| self.public.get(name).map(decision(Visibility::Public)))
    }

    fn keep(&self, name: &RepositoryName, Decision { visibility, at }: Decision) {
        let (kept, other) = match visibility {
            Visibility::Public => (&self.public, &self.private),
            Visibility::Private => (&self.private, &self.public),
        };
        kept.insert(name.clone(), at);
        other.invalidate(name);
    }
}

/// Least recently used, not moka's default: that one rejects a newcomer to a full cache.
fn cache<K, V>() -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let cache = Cache::builder().max_capacity(MEMO_LIMIT);
    cache.eviction_policy(EvictionPolicy::lru()).build()
}

impl Inner {
    pub(super) async fn decision(&self, name: &RepositoryName) -> Option<Decision> {
        if let Some(decision) = self.decisions.known(name) {
            return Some(decision);
        }
        let key = self.decision_key(name);
        let decision = self
            .memo(move |index| recall_decision(index, &key))
            .await??;
        self.decisions.keep(name, decision);
        Some(decision)
    }

    pub(super) async fn decide(
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
        self.decisions.keep(name, decision);
        self.decisions.doubts.invalidate(name);
        let key = self.decision_key(name);
        self.memo(move |index| note_decision(index, &key, decision))
            .await;
    }

    /// As whom the repository is asked for now. That it is with a login is noted before it is, and outlives the login:
    /// so does what is fetched with it.
    pub(super) async fn credentials(&self, name: &RepositoryName) -> Credentials {
        let credentials = self.parts.upstream.credentials_for(name);
        if let Credentials::Login(prefix) = &credentials
            && !self.decisions.logins.contains_key(prefix)
        {
            self.note_login(prefix.as_ref()).await;
        }
        credentials
    }

    async fn note_login(&self, prefix: Option<&RepositoryName>) {
        let noted = Noted {
            value: String::new(),
            at: self.parts.clock.wall(),
        };
        let keys = [
            self.login_key(Some(ANY)),
            self.login_key(prefix.map(RepositoryName::as_str)),
        ];
        let noting = move |index: &dyn Index| {
            let mut keys = keys.iter();
            keys.try_for_each(|key| index.remember(Topic::Login, key, &noted))
        };
        if self.memo(noting).await.is_some() {
            self.decisions.logins.insert(prefix.cloned(), ());
        }
        self.decisions.entrusted.invalidate_all();
    }

    /// Whether it is known that nothing of the upstream was ever asked for with credentials, and nothing will be.
    pub(in crate::proxy) fn is_open_to_all(&self) -> bool {
        !self.parts.upstream.has_logins() && self.decisions.trusted.get() == Some(&false)
    }

    /// Whether anything of the upstream was ever asked for with credentials, or may have been.
    pub(super) async fn was_trusted(&self) -> bool {
        if let Some(known) = self.decisions.trusted.get() {
            return *known;
        }
        let key = self.login_key(Some(ANY));
        let found = self
            .memo(move |index| index.recall(Topic::Login, &key))
            .await;
        let Some(found) = found.map(|found| found.is_some()) else {
            return true;
        };
        *self.decisions.trusted.get_or_init(|| found)
    }

    /// Whether the repository was ever asked for with credentials, or may have been.
    pub(super) async fn was_asked_with_credentials(&self, name: &RepositoryName) -> bool {
        if let Some(known) = self.decisions.entrusted.get(name) {
            return known;
        }
        let prefixes = prefixes(name.as_str()).map(Some);
        let keys: Vec<_> = [None]
            .into_iter()
            .chain(prefixes)
            .map(|prefix| self.login_key(prefix))
            .collect();
        let looking = move |index: &dyn Index| {
            for key in &keys {
                if index.recall(Topic::Login, key)?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let Some(known) = self.memo(looking).await else {
            return true;
        };
        self.decisions.entrusted.insert(name.clone(), known);
        known
    }

    /// Why the last renewal brought nothing: then no client waits for the next, which goes on behind them.
    pub(super) fn doubt(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Option<Failure> {
        let (tried, failure) = self.decisions.doubts.get(name)?;
        let now = self.parts.clock.monotonic();
        let since = now.saturating_sub(tried);
        if since >= MEMORY {
            return None;
        }
        if since >= PERIOD {
            let again = (now, failure.clone());
            self.decisions.doubts.insert(name.clone(), again);
            self.probe_behind(name, probe);
        }
        Some(failure)
    }

    pub(super) fn note_doubt(&self, name: &RepositoryName, failure: &Failure) {
        let doubt = (self.parts.clock.monotonic(), failure.clone());
        self.decisions.doubts.insert(name.clone(), doubt);
    }

    /// Whether that was not there a moment ago, asked for without credentials.
    pub(super) fn is_probed_absent(&self, name: &RepositoryName, probe: &Probe) -> bool {
        let key = (name.clone(), probe.clone());
        let Some(since) = self.decisions.absent.get(&key) else {
            return false;
        };
        let age = self.parts.clock.monotonic().saturating_sub(since);
        age < self.settings.freshness.negative_ttl
    }

    pub(super) fn note_probed_absent(&self, name: &RepositoryName, probe: &Probe) {
        let key = (name.clone(), probe.clone());
        let now = self.parts.clock.monotonic();
        self.decisions.absent.insert(key, now);
        self.decisions.doubts.invalidate(name);
    }

    /// Asks the index; `None` when it does not answer.
    async fn memo<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Index) -> Result<T, MemoError> + Send + 'static,
    ) -> Option<T> {
        let index = Arc::clone(&self.parts.index);
        let answer = tasks::blocking(move || question(&*index)).await;
        answer
            .inspect_err(|error| warn!(%error, "who may see a repository is known in memory only"))
            .ok()
    }

    /// `docker.io@registry-1.docker.io/alice/app`.
    fn decision_key(&self, name: &RepositoryName) -> String {
        let upstream = &self.parts.upstream;
        format!("{}@{}/{name}", upstream.name(), upstream.host())
    }

    /// `docker.io`, `docker.io/alice`.
    fn login_key(&self, prefix: Option<&str>) -> String {
        let upstream = self.upstream_name();
        prefix.map_or_else(
            || upstream.to_string(),
            |prefix| format!("{upstream}/{prefix}"),
        )
    }
}

/// A repository that is noted as both became private or public just when the process ended: it counts as private.
fn recall_decision(index: &dyn Index, key: &str) -> Result<Option<Decision>, MemoError> {
    for visibility in [Visibility::Private, Visibility::Public] {
        if let Some(noted) = index.recall(visibility.topic(), key)? {
            let at = noted.at;
            return Ok(Some(Decision { visibility, at }));
        }
    }
    Ok(None)
}

fn note_decision(index: &dyn Index, key: &str, decision: Decision) -> Result<(), MemoError> {
    let noted = Noted {
        value: String::new(),
        at: decision.at,
    };
    index.remember(decision.visibility.topic(), key, &noted)?;
    index.forget(decision.visibility.opposite().topic(), key)
}

/// `a`, `a/b` and `a/b/c` of `a/b/c`.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.match_indices('/').map(|(end, _)| end);
    ends.chain([name.len()]).filter_map(|end| name.get(..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flood_of_made_up_names_displaces_what_is_public() {
        let decisions = Decisions::new();
        let keep = |name: &str, visibility| {
            let at = Timestamp::from_millis(7);
            let decision = Decision { visibility, at };
            decisions.keep(&name.parse().unwrap(), decision);
        };
        keep("bob/tool", Visibility::Public);
        for made_up in 0..=MEMO_LIMIT {
            keep(&format!("alice/{made_up}"), Visibility::Private);
        }
        decisions.private.run_pending_tasks();
        assert_eq!(decisions.private.entry_count(), MEMO_LIMIT);
        let known = decisions.known(&"bob/tool".parse().unwrap());
        let public = known.map(|it| it.visibility);
        assert_eq!(public, Some(Visibility::Public));
        assert_ne!(Visibility::Private.topic(), Visibility::Public.topic());
    }

    #[test]
    fn what_became_private_is_not_public_too() {
        let decisions = Decisions::new();
        let name: RepositoryName = "bob/tool".parse().unwrap();
        for visibility in [Visibility::Public, Visibility::Private, Visibility::Public] {
            let at = Timestamp::from_millis(7);
            let decision = Decision { visibility, at };
            decisions.keep(&name, decision);
            assert_eq!(decisions.known(&name), Some(decision));
        }
    }

    #[test]
    fn a_name_is_below_each_of_its_beginnings() {
        let of = |name| prefixes(name).collect::<Vec<_>>();
        assert_eq!(of("a/b/c"), ["a", "a/b", "a/b/c"]);
        assert_eq!(of("a"), ["a"]);
    }
}

//! The pull-through cache of one upstream.
//!
//! Invariants:
//! - nothing is served to a repository that it does not belong to: a manifest we hold there names it, or that
//!   repository's upstream has answered for it;
//! - a tag is served without asking while it is fresh, and stale rather than not at all when the upstream fails;
//! - whatever is asked of the upstream is asked once, however many clients wait for it, and goes on when they leave;
//! - a warm pull asks the upstream nothing and writes nothing;
//! - of what is never to be cached nothing is kept, on disk or in memory;
//! - what only our credentials open is absent for clients without an account, unless the configuration shares it.

mod around;
mod blob;
mod failure;
mod freshness;
mod held;
mod list;
mod manifest;
mod memory;
mod negative;
mod recheck;
mod small;
mod source;
mod spending;
mod tag;
mod visibility;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::blobs::Blobs;
use crate::fetch::Fetch;
use crate::index::{Index, RepositoryKey};
use crate::oci::{ByteRange, Digest, ImagePatterns, Reference, RepositoryName, Tag};
use crate::registry::{
    Answer, BlobContent, BlobFacts, Caller, ManifestContent, PageRequest, ReferrersContent,
    Registry, RegistryError, Reply, TagPage,
};
use crate::sys::clock::{Clock, Timestamp};
use crate::sys::single_flight::SingleFlight;
use crate::sys::tasks::Tasks;
use crate::upstream::Upstream;

pub use freshness::Freshness;
pub use memory::Memory;
pub use spending::{Spending, SpendingCollector, Spent, SpentRow};

use failure::Failure;
use held::Held;
use list::FetchedList;
use memory::Recall;
use negative::Negatives;
use recheck::Troubles;
use spending::Spender;
use tag::Resolved;
use visibility::{Decisions, Probe, Probed, Work};

/// How the cache behaves towards its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long tags and lists are served, by what the upstream says.
    pub freshness: Freshness,
    /// How long a client waits for an expired tag to be confirmed before it gets what is held.
    pub revalidate_timeout: Duration,
    /// What is passed through each time, and not kept.
    pub never_cache: ImagePatterns,
    /// Whether clients without an account get what only our credentials open.
    pub anonymous_private: bool,
    /// How long a blob may yield no byte before its transfer counts as broken.
    pub stall: Duration,
    /// How many failures in a row, without progress, a blob's transfer survives.
    pub retries: u32,
}

/// What a proxy is made of, below it.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The upstream it caches.
    pub upstream: Upstream,
    /// What is kept in memory, shared with the proxies of other upstreams.
    pub memory: Memory,
    /// Who spent what, shared with the proxies of other upstreams.
    pub spending: Spending,
    /// Facts about what is held.
    pub index: Arc<dyn Index>,
    /// The bytes that are held.
    pub blobs: Blobs,
    /// The running downloads.
    pub fetch: Fetch,
    /// Tells what is fresh.
    pub clock: Arc<dyn Clock>,
    /// Owns what goes on after a client has left.
    pub tasks: Tasks,
    /// Owns what nobody waits for. Ends when another proxy takes the place of this one.
    pub background: Tasks,
    /// Since when a refusal of the upstream counts: one of before was of other credentials.
    pub refusals_since: Timestamp,
}

/// A pull-through cache of one upstream. Clones share it.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

/// A question that is asked of the upstream once at a time.
type Once<K, V> = SingleFlight<K, Result<V, Failure>>;

struct Inner {
    parts: Parts,
    settings: Settings,
    memory: Recall,
    negatives: Negatives,
    troubles: Troubles,
    resolving: Once<(RepositoryName, Tag), Resolved>,
    fetching: Once<(RepositoryName, Digest), ManifestContent>,
    passing: Once<(RepositoryName, Reference), ManifestContent>,
    proving_manifests: Once<(RepositoryName, Digest), ()>,
    proving_blobs: Once<(RepositoryName, Digest), Option<u64>>,
    listing: Once<(RepositoryName, String), FetchedList>,
    decisions: Decisions,
    probing: Once<(RepositoryName, Option<Probe>), Probed>,
}

impl Proxy {
    /// A cache of `parts.upstream`.
    pub fn new(parts: Parts, settings: Settings) -> Self {
        let tasks = || parts.tasks.clone();
        let inner = Inner {
            memory: Recall::new(parts.memory.clone(), Arc::clone(parts.upstream.name())),
            negatives: Negatives::new(),
            troubles: Troubles::new(),
            resolving: SingleFlight::new(tasks()),
            fetching: SingleFlight::new(tasks()),
            passing: SingleFlight::new(tasks()),
            proving_manifests: SingleFlight::new(tasks()),
            proving_blobs: SingleFlight::new(tasks()),
            listing: SingleFlight::new(tasks()),
            decisions: Decisions::new(),
            probing: SingleFlight::new(tasks()),
            parts,
            settings,
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Inner {
    fn upstream_name(&self) -> &Arc<str> {
        self.parts.upstream.name()
    }

    fn key(&self, name: &RepositoryName) -> RepositoryKey {
        RepositoryKey {
            upstream: Arc::clone(self.upstream_name()),
            name: name.clone(),
        }
    }

    async fn manifest(
        self: &Arc<Self>,
        name: &RepositoryName,
        reference: &Reference,
        spender: Spender,
    ) -> Result<Answer<ManifestContent>, RegistryError> {
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        if self.passes(name, tag) {
            return self.passed_manifest(name, reference, spender).await;
        }
        match reference {
            Reference::Tag(tag) => self.manifest_by_tag(name, tag, spender).await,
            Reference::Digest(digest) => self.manifest_by_digest(name, *digest, spender).await,
        }
    }

    fn answer<T>(&self, value: T, outcome: crate::registry::Outcome) -> Answer<T> {
        let mut answer = Answer::new(value, outcome);
        answer.upstream = Some(Arc::clone(self.upstream_name()));
        answer
    }
}

impl Proxy {
    /// The one gate of all routes: does `work` if the client may see the repository.
    fn gate<'a, T, W, H, F>(
        &'a self,
        name: &'a RepositoryName,
        probe: impl FnOnce() -> Probe,
        work: Work<W, H>,
    ) -> Reply<'a, T>
    where
        T: Send + 'a,
        W: Future<Output = Result<Answer<T>, RegistryError>> + Send + 'a,
        H: FnOnce(Option<Failure>) -> F + Send + 'a,
        F: Future<Output = Held<T>> + Send + 'a,
    {
        if self.inner.is_open_to_all() {
            return Box::pin(work.anyhow);
        }
        Box::pin(self.inner.guarded(name, probe(), work))
    }
}

impl Registry for Proxy {
    fn manifest<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        reference: &'a Reference,
    ) -> Reply<'a, ManifestContent> {
        let work = Work {
            anyhow: self.inner.manifest(name, reference, Spender::of(caller)),
            held: move |why| self.inner.manifest_as_held(name, reference, why),
        };
        self.gate(name, || Probe::Manifest(reference.clone()), work)
    }

    fn blob_facts<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
    ) -> Reply<'a, BlobFacts> {
        let work = Work {
            anyhow: self.inner.blob_facts(name, digest),
            held: move |_| self.inner.facts_as_held(name, digest),
        };
        self.gate(name, || Probe::Blob(digest), work)
    }

    fn blob<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Reply<'a, BlobContent> {
        let work = Work {
            anyhow: self.inner.blob(name, digest, range),
            held: move |_| self.inner.blob_as_held(name, digest, range),
        };
        self.gate(name, || Probe::Blob(digest), work)
    }

    fn tags<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        page: &'a PageRequest,
    ) -> Reply<'a, TagPage> {
        let work = Work {
            anyhow: self.inner.tags(name, page),
            held: move |why| self.inner.tags_as_held(name, page, why),
        };
        self.gate(name, || Probe::Tags, work)
    }

    fn referrers<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
        artifact_type: Option<&'a str>,
    ) -> Reply<'a, ReferrersContent> {
        let (inner, spender) = (&self.inner, Spender::of(caller));
        let work = Work {
            anyhow: inner.referrers(name, digest, artifact_type, spender),
            held: move |why| inner.referrers_as_held(name, digest, artifact_type, why),
        };
        self.gate(name, || Probe::Referrers(digest), work)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("upstream", self.inner.upstream_name())
            .finish_non_exhaustive()
    }
}

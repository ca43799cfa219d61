//! What the proxy remembers between requests, so that a warm pull touches neither disk nor index.
//!
//! Everything here is derived from the index and may be forgotten at any time. Proxies share it, so that its limit
//! bounds them together: content is kept by digest alone, facts about a repository by upstream and name.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::index::{Membership, RepositoryKey, TagRecord};
use crate::oci::{Digest, RepositoryName, Tag};
use crate::registry::ManifestContent;

const TAGS: u64 = 20_000;
const MEMBERS: u64 = 50_000;
/// What an entry costs beside its bytes.
const OVERHEAD: usize = 512;

/// What proxies remember. Clones share it.
#[derive(Clone)]
pub struct Memory {
    manifests: Cache<Digest, ManifestContent>,
    blobs: Cache<Digest, Bytes>,
    tags: Cache<(RepositoryKey, Tag), TagRecord>,
    members: Cache<(RepositoryKey, Digest), Membership>,
}

/// The memory as the proxy of one upstream sees it.
pub(super) struct Recall {
    memory: Memory,
    upstream: Arc<str>,
}

impl Memory {
    /// Keeps at most `bytes` bytes, half of them manifests and half small blobs.
    pub fn new(bytes: u64) -> Self {
        let half = bytes / 2;
        Self {
            manifests: weighed(half, |manifest: &ManifestContent| manifest.bytes.len()),
            blobs: weighed(half, Bytes::len),
            tags: recent(TAGS),
            members: recent(MEMBERS),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Recall {
    pub(super) const fn new(memory: Memory, upstream: Arc<str>) -> Self {
        Self { memory, upstream }
    }

    fn key(&self, name: &RepositoryName) -> RepositoryKey {
        RepositoryKey {
            upstream: Arc::clone(&self.upstream),
            name: name.clone(),
        }
    }

    pub(super) fn blob(&self, digest: Digest) -> Option<Bytes> {
        self.memory.blobs.get(&digest)
    }

    pub(super) fn keep_blob(&self, digest: Digest, bytes: Bytes) {
        self.memory.blobs.insert(digest, bytes);
    }

    pub(super) fn manifest(&self, digest: Digest) -> Option<ManifestContent> {
        self.memory.manifests.get(&digest)
    }

    pub(super) fn keep_manifest(&self, manifest: &ManifestContent) {
        self.memory
            .manifests
            .insert(manifest.digest, manifest.clone());
    }

    pub(super) fn tag(&self, name: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        self.memory.tags.get(&(self.key(name), tag.clone()))
    }

    pub(super) fn keep_tag(&self, name: &RepositoryName, tag: &Tag, record: TagRecord) {
        self.memory
            .tags
            .insert((self.key(name), tag.clone()), record);
    }

    pub(super) fn member(&self, name: &RepositoryName, digest: Digest) -> Option<Membership> {
        self.memory.members.get(&(self.key(name), digest))
    }

    pub(super) fn keep_member(
        &self,
        name: &RepositoryName,
        digest: Digest,
        membership: Membership,
    ) {
        self.memory
            .members
            .insert((self.key(name), digest), membership);
    }
}

/// Least recently used, not moka's default: that one rejects a newcomer to a full cache.
fn weighed<V>(bytes: u64, size: fn(&V) -> usize) -> Cache<Digest, V>
where
    V: Clone + Send + Sync + 'static,
{
    let weigh = move |_: &Digest, value: &V| {
        u32::try_from(size(value).saturating_add(OVERHEAD)).unwrap_or(u32::MAX)
    };
    Cache::builder()
        .max_capacity(bytes)
        .weigher(weigh)
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

fn recent<K, V>(entries: u64) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(entries)
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

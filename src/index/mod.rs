//! Facts about bytes: which blobs are held, which manifests, where tags point, what belongs to which repository.
//!
//! A method that changes several facts changes all of them or none. Every call blocks; async code goes through
//! [`tasks::blocking`](crate::sys::tasks::blocking).

#[cfg(test)]
mod memory;
mod schema;
mod sqlite;
#[cfg(test)]
mod suite;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::oci::{Checksum, Digest, RepositoryName, Tag};
use crate::registry::Memo;
use crate::sys::clock::Timestamp;

#[cfg(test)]
pub(crate) use memory::MemoryIndex;
pub use sqlite::SqliteIndex;

/// A repository of one upstream: the namespace of tags and of membership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepositoryKey {
    /// The upstream, such as `docker.io`.
    pub upstream: Arc<str>,
    /// The repository's full name there, such as `library/nginx`.
    pub name: RepositoryName,
}

/// A blob that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored.
    pub stored: Timestamp,
    /// The checksum of its bytes.
    pub checksum: Checksum,
    /// The epoch in which its bytes were last known to be right.
    pub epoch: Epoch,
}

/// A time without a power cut. What was written in an earlier one may not have reached the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// The blobs that are held, in sum. A blob counts with the whole 4 KiB blocks that its file takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many blobs.
    pub blobs: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// The part of `bytes` in blobs that were used again after they had been stored.
    pub protected: u64,
    /// The part of `bytes` in blobs that are pinned.
    pub pinned: u64,
}

/// A blob as a walk over all of them sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored.
    pub stored: Timestamp,
    /// When it was last used.
    pub used: Timestamp,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// A tag as a walk over all of them sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkedTag {
    /// Its repository.
    pub repository: RepositoryKey,
    /// The tag.
    pub tag: Tag,
    /// The manifest or index it names.
    pub digest: Digest,
}

/// A blob that may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRecord {
    /// The media type it was first accepted under; never changed by a later answer.
    pub media_type: Arc<str>,
    /// The exact bytes.
    pub bytes: Bytes,
}

/// Where a tag points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The manifest or index it names.
    pub digest: Digest,
    /// When the upstream last confirmed that.
    pub checked: Timestamp,
}

/// That a digest belongs to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The size that a manifest of the repository gives it, in bytes.
    pub size: Option<u64>,
}

/// A verified manifest that a repository's upstream answered with, and what follows from it.
#[derive(Clone, Debug)]
pub struct ManifestArrival<'a> {
    /// The repository.
    pub repository: &'a RepositoryKey,
    /// Digest of the manifest's bytes.
    pub digest: Digest,
    /// The manifest.
    pub record: &'a ManifestRecord,
    /// What the manifest names: manifests, configuration, layers, each with the size it states.
    pub members: &'a [(Digest, u64)],
    /// The tag it was fetched by, and when.
    pub tag: Option<(&'a Tag, Timestamp)>,
}

/// A list that an upstream gave, as bytes that its owner understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRecord {
    /// The list.
    pub bytes: Bytes,
    /// When it was fetched.
    pub fetched: Timestamp,
}

/// Keeps facts. Every call blocks.
pub trait Index: Memo + Debug + Send + Sync {
    /// The blob of this digest, if it is held.
    fn blob(&self, digest: Digest) -> Result<Option<BlobRecord>, IndexError>;

    /// Records that a blob is held; one that is recorded already is replaced.
    fn insert_blob(&self, digest: Digest, record: BlobRecord) -> Result<(), IndexError>;

    /// Forgets a blob; one that is not recorded is fine.
    fn remove_blob(&self, digest: Digest) -> Result<(), IndexError>;

    /// Notes that a blob's bytes were found right in an epoch.
    fn confirm_blob(&self, digest: Digest, epoch: Epoch) -> Result<(), IndexError>;

    /// The next blobs by digest, at most `limit` of them after `after`.
    fn walk_blobs(&self, after: Option<Digest>, limit: u64) -> Result<Vec<Walked>, IndexError>;

    /// Makes exactly these blobs, as far as they are held, the pinned ones: they are never named as victims. Those that
    /// were pinned and are no more count as not used again.
    fn pin_blobs(&self, digests: &[Digest]) -> Result<(), IndexError>;

    /// What the blobs take in sum. Costs the same however many there are.
    fn usage(&self) -> Result<Usage, IndexError>;

    /// Notes that blobs were used at a time. A blob's first use after it was stored protects it: it outlives those
    /// that were stored and never asked for again.
    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), IndexError>;

    /// Takes protection away from the blobs whose last use is longest ago, until those that keep it take at most
    /// `bytes`.
    fn demote(&self, bytes: u64, now: Timestamp) -> Result<(), IndexError>;

    /// The next blobs to evict, at most `limit` of them after the first `skip`: unprotected ones first, by last use.
    fn victims(&self, skip: u64, limit: u64) -> Result<Vec<Victim>, IndexError>;

    /// Forgets blobs, and notes that their files are to go.
    fn doom(&self, digests: &[Digest]) -> Result<(), IndexError>;

    /// The blobs whose files are to go: what an earlier process had no time for.
    fn doomed(&self) -> Result<Vec<Digest>, IndexError>;

    /// Notes that the files of doomed blobs are gone.
    fn bury(&self, digests: &[Digest]) -> Result<(), IndexError>;

    /// The manifest of this digest, if it is held.
    fn manifest(&self, digest: Digest) -> Result<Option<ManifestRecord>, IndexError>;

    /// Records a manifest, its membership and that of what it names, and its tag, all at once. The media type of a
    /// manifest that is held already stays as it is.
    fn insert_manifest(&self, arrival: &ManifestArrival<'_>) -> Result<(), IndexError>;

    /// Where a tag points, if that is known.
    fn tag(&self, repository: &RepositoryKey, tag: &Tag) -> Result<Option<TagRecord>, IndexError>;

    /// Points a tag at a manifest that is a member of the repository.
    fn set_tag(
        &self,
        repository: &RepositoryKey,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), IndexError>;

    /// The next tags by repository and name, at most `limit` of them after `after`.
    fn walk_tags(
        &self,
        after: Option<&WalkedTag>,
        limit: u64,
    ) -> Result<Vec<WalkedTag>, IndexError>;

    /// Whether a digest belongs to a repository.
    fn member(
        &self,
        repository: &RepositoryKey,
        digest: Digest,
    ) -> Result<Option<Membership>, IndexError>;

    /// Records that a digest belongs to a repository. A known size stays unless another one is stated: the newest
    /// manifest counts.
    fn insert_member(
        &self,
        repository: &RepositoryKey,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<(), IndexError>;

    /// What was noted under a key, if anything.
    fn note(&self, key: &str) -> Result<Option<String>, IndexError>;

    /// Notes values under keys, replacing former ones.
    fn set_notes(&self, notes: &[(&str, &str)]) -> Result<(), IndexError>;

    /// The list of this key, if one is kept.
    fn list(&self, repository: &RepositoryKey, key: &str)
    -> Result<Option<ListRecord>, IndexError>;

    /// Keeps a list under a key, replacing the former one. The lists that were fetched longest ago give way.
    fn set_list(
        &self,
        repository: &RepositoryKey,
        key: &str,
        list: &ListRecord,
    ) -> Result<(), IndexError>;
}

/// Why the index does not answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The directory was written by a newer version. Nothing was touched.
    #[error("{path} was written by mirror {written_by}, which is newer than this {version}")]
    Newer {
        /// The index or format file.
        path: PathBuf,
        /// The version that wrote it.
        written_by: String,
        /// This version.
        version: &'static str,
    },
    /// The disk has no space left for what has to be written. Nothing is wrong with the index.
    #[error("the index {path} cannot be written: its disk is full ({source})")]
    Full {
        /// The database file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// The database failed.
    #[error("the index {path} failed: {source}")]
    Database {
        /// The database file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
}

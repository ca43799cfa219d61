//! Bytes, named by their digest. Knows nothing of who may read them or when they were used.
//!
//! A blob enters through a spool: a file that nobody can open by digest. [`Store::publish`] gives it its name once
//! its bytes are verified; the store trusts its caller in that.

mod fs;
#[cfg(test)]
mod suite;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::oci::Digest;
use crate::sys::fs::DiskFile;

pub use fs::{FsStore, Sync};

/// A disk operation of the store that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct StoreError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// A file that is being filled.
#[derive(Debug)]
pub struct Spool {
    /// The digest that its bytes are to have.
    pub digest: Digest,
    /// The file, for writing and for reading what is written already.
    pub file: Arc<dyn DiskFile>,
    path: PathBuf,
}

/// Keeps blobs by digest. Every call blocks.
pub trait Store: Debug + Send + std::marker::Sync {
    /// Starts a file for a blob that is to be stored under `digest`.
    fn spool(&self, digest: Digest) -> Result<Spool, StoreError>;

    /// Makes the spool's file the blob of its digest. The spool name stays until [`retire`](Self::retire).
    fn publish(&self, spool: &Spool) -> Result<(), StoreError>;

    /// Removes the spool's name; open readers of the file go on.
    fn retire(&self, spool: &Spool) -> Result<(), StoreError>;

    /// Opens the blob, or `None` when there is none.
    fn open(&self, digest: Digest) -> Result<Option<Arc<dyn DiskFile>>, StoreError>;

    /// Removes the blob; one that does not exist is fine. Open readers go on.
    fn remove(&self, digest: Digest) -> Result<(), StoreError>;

    /// Moves a blob's file aside, out of the reach of [`open`](Self::open); whether it is kept there. Only a few
    /// are: beyond them the file is removed.
    fn quarantine(&self, digest: Digest) -> Result<bool, StoreError>;

    /// The blobs whose files are kept aside, and their lengths in bytes.
    fn quarantined(&self) -> Result<Vec<(Digest, u64)>, StoreError>;

    /// Removes a file that is kept aside.
    fn remove_quarantined(&self, digest: Digest) -> Result<(), StoreError>;

    /// The blobs whose digests start with `shard`, by their files.
    fn list(&self, shard: u8) -> Result<Vec<Digest>, StoreError>;

    /// The spools that an earlier process left behind.
    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError>;

    /// Removes a leftover's spool name.
    fn sweep(&self, leftover: &Leftover) -> Result<(), StoreError>;
}

/// A spool that an earlier process left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The digest it was to have; `None` for a name that is no spool's.
    pub digest: Option<Digest>,
    path: PathBuf,
}

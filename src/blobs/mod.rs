//! The one door for bytes: store and index change here together, or not at all.
//!
//! A blob enters by [`Blobs::spool`], is filled and verified by its owner, and becomes visible by
//! [`Blobs::commit`]: first the file, then the row, then the spool name goes. A row whose file is gone or has
//! another length is dropped by the read that notices it.

mod directory;
mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tracing::warn;

use crate::index::{BlobRecord, Index, IndexError};
use crate::oci::Digest;
use crate::store::{Spool, Store, StoreError};
use crate::sys::clock::Clock;
use crate::sys::fs::DiskFile;
use crate::sys::tasks;

pub use directory::{DataDirectory, DirectoryError};
pub use read::{CHUNK, FileBody, read_chunk};

/// Keeps blobs. Clones share everything.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn Store>,
    index: Arc<dyn Index>,
    clock: Arc<dyn Clock>,
}

/// A blob that is held, open for reading. It stays readable when the blob is removed.
#[derive(Clone, Debug)]
pub struct HeldBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length in bytes.
    pub size: u64,
}

/// What [`Blobs::open`] found.
#[derive(Debug)]
pub enum Lookup {
    /// The blob.
    Held(HeldBlob),
    /// Nothing.
    Absent,
    /// A row without its file, or with another length; the row is gone now.
    Lost,
}

/// Why bytes could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Blobs {
    /// A door to `store` and `index`.
    pub fn new(store: Arc<dyn Store>, index: Arc<dyn Index>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            index,
            clock,
        }
    }

    /// Removes what an earlier process left unfinished. Its cost grows with the downloads that were running then,
    /// not with the number of blobs.
    pub async fn recover(&self) -> Result<usize, BlobsError> {
        let this = self.clone();
        tasks::blocking(move || this.sweep()).await
    }

    fn sweep(&self) -> Result<usize, BlobsError> {
        let leftovers = self.store.leftovers()?;
        for leftover in &leftovers {
            if let Some(digest) = leftover.digest
                && self.index.blob(digest)?.is_none()
            {
                self.store.remove(digest)?;
            }
            self.store.sweep(leftover)?;
        }
        Ok(leftovers.len())
    }

    /// Opens a blob for reading.
    pub async fn open(&self, digest: Digest) -> Result<Lookup, BlobsError> {
        let this = self.clone();
        tasks::blocking(move || this.lookup(digest)).await
    }

    fn lookup(&self, digest: Digest) -> Result<Lookup, BlobsError> {
        let Some(BlobRecord { size, .. }) = self.index.blob(digest)? else {
            return Ok(Lookup::Absent);
        };
        match self.store.open(digest)? {
            Some(file) if file.size().is_ok_and(|found| found == size) => {
                Ok(Lookup::Held(HeldBlob { file, size }))
            }
            _ => {
                warn!(%digest, size, "a blob's file is gone or has another length; it will be fetched again");
                self.index.remove_blob(digest)?;
                self.store.remove(digest)?;
                Ok(Lookup::Lost)
            }
        }
    }

    /// Drops a blob that turned out to be damaged: its row first, then its file.
    pub async fn forget(&self, digest: Digest) -> Result<(), BlobsError> {
        let this = self.clone();
        tasks::blocking(move || {
            this.index.remove_blob(digest)?;
            Ok(this.store.remove(digest)?)
        })
        .await
    }

    /// The length of a blob that is held, by the index alone.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, BlobsError> {
        let index = Arc::clone(&self.index);
        let record = tasks::blocking(move || index.blob(digest)).await?;
        Ok(record.map(|record| record.size))
    }

    /// Starts a file for a blob that is to have `digest`.
    pub async fn spool(&self, digest: Digest) -> Result<Spool, BlobsError> {
        let store = Arc::clone(&self.store);
        Ok(tasks::blocking(move || store.spool(digest)).await?)
    }

    /// Keeps the spool's bytes, which the caller has verified, as a blob of `size` bytes.
    ///
    /// # Errors
    /// The blob is not held then, and nothing of it stays on disk as far as the disk lets us remove it.
    pub async fn commit(&self, spool: Spool, size: u64) -> Result<(), BlobsError> {
        let this = self.clone();
        tasks::blocking(move || this.publish(&spool, size)).await
    }

    fn publish(&self, spool: &Spool, size: u64) -> Result<(), BlobsError> {
        let record = BlobRecord {
            size,
            stored: self.clock.wall(),
        };
        let published = self.store.publish(spool).map_err(BlobsError::from);
        let recorded = published.and_then(|()| {
            self.index
                .insert_blob(spool.digest, record)
                .map_err(BlobsError::from)
        });
        if recorded.is_err() && self.index.blob(spool.digest)?.is_none() {
            self.store.remove(spool.digest)?;
        }
        self.store.retire(spool)?;
        recorded
    }

    /// Throws a spool away.
    pub async fn discard(&self, spool: Spool) {
        let store = Arc::clone(&self.store);
        tasks::blocking(move || {
            if let Err(error) = store.retire(&spool) {
                warn!(%error, "an unfinished download stays on disk until the next start");
            }
        })
        .await;
    }
}

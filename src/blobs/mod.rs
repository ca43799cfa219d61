//! The one door for bytes: store and index change here together, or not at all.
//!
//! A blob enters by [`Blobs::spool`], is filled and verified by its owner, and becomes visible by
//! [`Blobs::commit`]: first the file, then the row, then the spool name goes. A row whose file is gone or has
//! another length is dropped by the read that notices it.

mod directory;
mod read;
mod space;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::index::{BlobRecord, Index, IndexError};
use crate::oci::Digest;
use crate::store::{Spool, Store, StoreError};
use crate::sys::clock::{Clock, Timestamp};
use crate::sys::fs::{Disk, DiskFile};
use crate::sys::tasks;

pub use directory::{DataDirectory, DirectoryError};
pub use read::{CHUNK, FileBody, read_chunk};
pub use space::{Limits, NoRoom, Reading, Reservation, ReserveError, Share};

use space::Space;

/// When so many uses are noted they are written, whether it is time or not.
const USES: usize = 4096;

/// The part of the cap that blobs used again may hold against newcomers.
const PROTECTED_PERCENT: u64 = 80;

/// Keeps blobs. Clones share everything.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn Store>,
    index: Arc<dyn Index>,
    clock: Arc<dyn Clock>,
    space: Arc<Space>,
    /// Uses that are not written yet, so that a warm pull writes nothing.
    uses: Arc<Mutex<HashMap<Digest, Timestamp>>>,
}

/// A blob that is held, open for reading. It stays readable when the blob is removed.
#[derive(Clone, Debug)]
pub struct HeldBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length in bytes.
    pub size: u64,
    /// Keeps the bytes counted while they are read.
    pub reading: Arc<Reading>,
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
    pub fn new(
        disk: Arc<dyn Disk>,
        directory: &Path,
        store: Arc<dyn Store>,
        index: Arc<dyn Index>,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Self {
        let (counted, files) = (Arc::clone(&index), Arc::clone(&store));
        let space = Arc::new(Space::new(disk, directory, limits, counted, files));
        Self {
            store,
            index,
            clock,
            space,
            uses: Arc::default(),
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
        self.space.unlink(&self.index.doomed()?)?;
        Ok(leftovers.len())
    }

    /// A reservation of no bytes, to be extended.
    pub fn reserve_nothing(&self) -> Reservation {
        Reservation::empty(Arc::clone(&self.space))
    }

    /// Sets `bytes` more aside, evicting what was used longest ago if need be. What was set aside before stays so,
    /// whatever comes of it.
    pub async fn extend(
        &self,
        mut held: Reservation,
        bytes: u64,
    ) -> (Reservation, Result<(), ReserveError>) {
        let this = self.clone();
        tasks::blocking(move || {
            let settled = this.settle_uses().map_err(ReserveError::from);
            let extended = settled.and_then(|()| held.extend(bytes));
            (held, extended)
        })
        .await
    }

    /// What the data directory takes now and may take, in bytes.
    pub async fn figures(&self) -> Result<(u64, u64), ReserveError> {
        let space = Arc::clone(&self.space);
        tasks::blocking(move || space.figures()).await
    }

    /// Notes that a held blob was used. Costs no write; [`write_uses`](Self::write_uses) makes it last. Beyond
    /// what is noted until then, a use of yet another blob is forgotten.
    pub fn note_use(&self, digest: Digest) {
        let now = self.clock.wall();
        let mut uses = self.uses();
        if uses.len() < USES || uses.contains_key(&digest) {
            uses.insert(digest, now);
        }
    }

    /// Writes the uses that were noted since the last time.
    pub async fn write_uses(&self) -> Result<(), IndexError> {
        let this = self.clone();
        tasks::blocking(move || this.settle_uses()).await
    }

    fn settle_uses(&self) -> Result<(), IndexError> {
        let uses: Vec<_> = std::mem::take(&mut *self.uses()).into_iter().collect();
        if uses.is_empty() {
            return Ok(());
        }
        self.index.touch(&uses)?;
        let Ok((_, cap)) = self.space.figures() else {
            return Ok(());
        };
        self.index
            .demote(cap / 100 * PROTECTED_PERCENT, self.clock.wall())
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<Digest, Timestamp>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a blob for reading.
    pub async fn open(&self, digest: Digest) -> Result<Lookup, BlobsError> {
        let this = self.clone();
        tasks::blocking(move || this.lookup(digest)).await
    }

    fn lookup(&self, digest: Digest) -> Result<Lookup, BlobsError> {
        // Before the row is read: from here on an eviction counts the bytes that this reader keeps.
        let reading = self.space.reading(digest);
        let Some(BlobRecord { size, .. }) = self.index.blob(digest)? else {
            return Ok(Lookup::Absent);
        };
        match self.store.open(digest)? {
            Some(file) if file.size().is_ok_and(|found| found == size) => {
                self.note_use(digest);
                if self.uses().len() >= USES
                    && let Err(error) = self.settle_uses()
                {
                    warn!(%error, "the order of eviction is not written");
                }
                let reading = Arc::new(reading);
                Ok(Lookup::Held(HeldBlob {
                    file,
                    size,
                    reading,
                }))
            }
            _ => {
                warn!(%digest, size, "a blob's file is gone or has another length; it will be fetched again");
                self.space.remove(&[digest])?;
                Ok(Lookup::Lost)
            }
        }
    }

    /// Drops a blob that turned out to be damaged: its row first, then its file.
    pub async fn forget(&self, digest: Digest) -> Result<(), BlobsError> {
        let this = self.clone();
        tasks::blocking(move || Ok(this.space.remove(&[digest])?)).await
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
        tasks::blocking(move || this.space.publish(|| this.publish(&spool, size))).await
    }

    /// Counts a reader of a blob that is about to be committed, until the guard goes.
    pub fn reading(&self, digest: Digest) -> Arc<Reading> {
        Arc::new(self.space.reading(digest))
    }

    fn publish(&self, spool: &Spool, size: u64) -> Result<(), BlobsError> {
        let record = BlobRecord {
            size,
            stored: self.clock.wall(),
        };
        let published = self.store.publish(spool).map_err(BlobsError::from);
        let recorded = published.and_then(|()| Ok(self.index.insert_blob(spool.digest, record)?));
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

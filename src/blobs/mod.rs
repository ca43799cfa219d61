//! The one door for bytes: store and index change here together, or not at all.
//!
//! A blob enters by [`Blobs::spool`], is filled and verified by its owner, and becomes visible by
//! [`Blobs::commit`]: first the file, then the row, then the spool name goes. A row whose file is gone or has
//! another length is dropped by the read that notices it.

mod buffers;
mod directory;
mod epoch;
mod guards;
#[cfg(test)]
#[cfg(feature = "interleavings")]
mod interleavings;
mod limits;
mod pins;
mod read;
#[cfg(test)]
mod simulation;
mod space;
#[cfg(test)]
mod tests;
mod trust;
mod upkeep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use tokio::sync::Semaphore;
use tracing::warn;

use crate::index::{BlobRecord, Epoch, Index, IndexError, RepositoryKey};
use crate::oci::pattern::ImagePatterns;
use crate::oci::{Checksum, Digest};
use crate::store::{Spool, Store, StoreError};
use crate::sys::clock::{Clock, Timestamp};
use crate::sys::fs::{Disk, DiskFile};
use crate::sys::sync::{Mutex, MutexGuard};
use crate::sys::tasks;

pub use buffers::CHUNK;
pub use directory::{DataDirectory, DirectoryError};
pub use guards::{Reading, Reservation};
pub use limits::{Limits, NoRoom, ReserveError, Share};
pub use read::{FileBody, read_chunk};
pub use upkeep::Expiry;

use epoch::Current;
use space::Space;
use trust::Trust;

/// When so many uses are noted they are written, whether it is time or not.
const USES: usize = 4096;

/// The part of the cap that blobs used again may hold against newcomers.
const PROTECTED_PERCENT: u64 = 80;

/// How many blobs of an earlier epoch are verified at the same time. Each keeps a processor busy.
const VERIFICATIONS: usize = 2;

/// Keeps blobs. Clones share everything.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn Store>,
    index: Arc<dyn Index>,
    clock: Arc<dyn Clock>,
    space: Arc<Space>,
    /// Uses that are not written yet, so that a warm pull writes nothing.
    uses: Arc<Mutex<HashMap<Digest, Timestamp>>>,
    current: Arc<Mutex<Current>>,
    verifications: Arc<Semaphore>,
}

/// A blob that is held, open for reading. It stays readable when the blob is removed.
#[derive(Clone, Debug)]
pub struct HeldBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length in bytes.
    pub size: u64,
    /// The checksum of its bytes.
    pub checksum: Checksum,
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
    /// A row without its file, or with one that is damaged; the row is gone now.
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
            current: Arc::default(),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS)),
        }
    }

    /// Takes over from an earlier process: finds the epoch and removes what was left unfinished. Its cost grows with
    /// the downloads that were running then, not with the number of blobs. `boot` names the boot of the machine.
    pub async fn recover(&self, boot: Option<&str>) -> Result<usize, BlobsError> {
        let (this, boot) = (self.clone(), boot.map(str::to_owned));
        tasks::blocking(move || {
            this.begin_epoch(boot.as_deref())?;
            this.space.count_quarantine()?;
            this.sweep()
        })
        .await
    }

    fn begin_epoch(&self, boot: Option<&str>) -> Result<(), IndexError> {
        *self.current() = Current::find(&*self.index, boot)?;
        // Without the note nothing is stored; what is stored first tries again.
        if let Err(error) = self.noted_epoch() {
            warn!(%error, "the index cannot be written");
        }
        Ok(())
    }

    /// The epoch, once the index knows of it.
    fn noted_epoch(&self) -> Result<Epoch, IndexError> {
        let mut current = self.current();
        current.note(&*self.index)?;
        Ok(current.epoch)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Says how much may be taken from now on; what is there beyond it goes when room is made.
    pub fn limit(&self, limits: Limits) {
        self.space.limit(limits);
    }

    /// Says which images are pinned: their blobs are never evicted and never too old.
    pub fn pin(&self, patterns: ImagePatterns) {
        self.space.pins.set(patterns);
    }

    /// Says that a tag of a repository moved, or that a manifest of it came: what is pinned may be other blobs now.
    pub fn image_changed(&self, repository: &RepositoryKey) {
        self.space.pins.image_changed(repository);
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
            this.settle_uses_or_warn();
            let extended = held.extend(bytes);
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

    /// For when more depends on what comes next than on the order of eviction.
    fn settle_uses_or_warn(&self) {
        if let Err(error) = self.settle_uses() {
            warn!(%error, "the order of eviction is not written");
        }
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<Digest, Timestamp>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a blob for reading. One of an earlier epoch is verified first.
    pub async fn open(&self, digest: Digest) -> Result<Lookup, BlobsError> {
        let this = self.clone();
        let found = tasks::blocking(move || {
            let found = this.find(digest)?;
            if matches!(found.0, Lookup::Held(_)) {
                this.use_now(digest);
            }
            Ok::<_, BlobsError>(found)
        });
        match found.await? {
            (Lookup::Held(held), Trust::Unverified) => self.verify(digest, held).await,
            (found, _) => Ok(found),
        }
    }

    fn find(&self, digest: Digest) -> Result<(Lookup, Trust), BlobsError> {
        // Before the row is read: from here on an eviction counts the bytes that this reader keeps.
        let reading = self.space.reading(digest);
        let Some(record) = self.index.blob(digest)? else {
            return Ok((Lookup::Absent, Trust::Verified));
        };
        let (size, checksum) = (record.size, record.checksum);
        let file = self.store.open(digest)?;
        // A disk that fails to tell a length has not lost the blob.
        let length = file.as_deref().map(|file| length(file, digest));
        match file {
            Some(file) if length.transpose()? == Some(size) => {
                let reading = Arc::new(reading);
                let held = HeldBlob {
                    file,
                    size,
                    checksum,
                    reading,
                };
                Ok((Lookup::Held(held), self.trust(&record)))
            }
            _ => {
                warn!(%digest, size, "a blob's file is gone or has another length; it will be fetched again");
                self.space.remove(&[digest])?;
                Ok((Lookup::Lost, Trust::Verified))
            }
        }
    }

    /// Notes a use, and writes them all when many are noted.
    fn use_now(&self, digest: Digest) {
        self.note_use(digest);
        if self.uses().len() >= USES {
            self.settle_uses_or_warn();
        }
    }

    /// The length of a blob that is held, from memory or the index.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, IndexError> {
        if let Some(size) = self.space.known_size(digest) {
            return Ok(Some(size));
        }
        let space = Arc::clone(&self.space);
        tasks::blocking(move || space.size(digest)).await
    }

    /// Starts a file for a blob that is to have `digest`.
    pub async fn spool(&self, digest: Digest) -> Result<Spool, BlobsError> {
        let store = Arc::clone(&self.store);
        Ok(tasks::blocking(move || store.spool(digest)).await?)
    }

    /// Keeps the spool's bytes, which the caller has verified, as a blob of `size` bytes that have `checksum`.
    ///
    /// # Errors
    /// The blob is not held then, and nothing of it stays on disk as far as the disk lets us remove it.
    pub async fn commit(
        &self,
        spool: Spool,
        size: u64,
        checksum: Checksum,
    ) -> Result<(), BlobsError> {
        let this = self.clone();
        tasks::blocking(move || this.space.publish(|| this.publish(&spool, size, checksum))).await
    }

    /// Counts a reader of a blob that is about to be committed, until the guard goes.
    pub fn reading(&self, digest: Digest) -> Arc<Reading> {
        Arc::new(self.space.reading(digest))
    }

    fn publish(&self, spool: &Spool, size: u64, checksum: Checksum) -> Result<(), BlobsError> {
        let recorded = self.record(size, checksum).map_err(BlobsError::from);
        let published = recorded.and_then(|record| {
            self.store.publish(spool)?;
            self.index.insert_blob(spool.digest, record)?;
            self.space.pins.stored(spool.digest);
            Ok(())
        });
        if published.is_err() && self.index.blob(spool.digest)?.is_none() {
            self.store.remove(spool.digest)?;
        }
        let retired = self.store.retire(spool);
        published?;
        if let Err(error) = retired {
            warn!(%error, "the spool name of a blob that is held stays until the next start");
        }
        Ok(())
    }

    fn record(&self, size: u64, checksum: Checksum) -> Result<BlobRecord, IndexError> {
        Ok(BlobRecord {
            size,
            stored: self.clock.wall(),
            checksum,
            epoch: self.noted_epoch()?,
        })
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

/// The length of a blob's file in bytes.
fn length(file: &dyn DiskFile, digest: Digest) -> Result<u64, StoreError> {
    file.size().map_err(|source| StoreError {
        operation: "tell the length of",
        path: PathBuf::from(digest.to_string()),
        source,
    })
}

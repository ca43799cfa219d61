//! Space: reserved before bytes arrive, counted exactly, made by evicting what was used longest ago.
//!
//! What counts against the cap: blobs by the index, reservations in full (a spool never outgrows its own), the index's
//! own files, and blobs that were evicted while somebody reads them. Nothing here waits for a download.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::BlobsError;
use super::guards::Reading;
use super::limits::{Limits, NoRoom, ReserveError};
use super::pins::Pins;
use crate::index::{Index, IndexError};
use crate::oci::Digest;
use crate::store::{Store, StoreError};
use crate::sys::fs::{Disk, DiskSpace};
use crate::sys::sync::{Mutex, MutexGuard};

/// What directories take, and what the index may grow by between two looks at it: at most so much, and at most a
/// sixteenth of the cap.
const MARGIN: u64 = 16 * 1024 * 1024;

/// How many candidates for eviction are looked at a time.
const CANDIDATES: u64 = 64;

/// How many blobs are evicted in one transaction. Where the cap was lowered, most of a large cache may have to go.
const BATCH: usize = 1024;

/// How many batches are evicted for one reservation: nobody waits for more.
const BATCHES: usize = 4;

/// How many candidates are passed over, because they are in use, before a pull goes without space.
const CANDIDATES_LIMIT: u64 = 100_000;

/// How many lengths are remembered.
const SIZES: u64 = 20_000;

#[derive(Debug, Default)]
struct State {
    reserved: u64,
    /// The part of `reserved` that is in files already.
    written: u64,
    /// Bytes of evicted blobs that are still read.
    lingering: u64,
    /// Bytes of damaged blobs that are kept aside.
    quarantined: u64,
    open: HashMap<Digest, Open>,
}

impl State {
    /// The bytes that the directory takes, or is to take, and the index does not count; and those of them that are not
    /// on the disk yet.
    const fn set_aside(&self) -> (u64, u64) {
        let beside = self.reserved.saturating_add(self.lingering);
        let unwritten = self.reserved.saturating_sub(self.written);
        (beside.saturating_add(self.quarantined), unwritten)
    }

    /// Counts a file that went while somebody reads it: whoever has it open keeps its bytes on disk.
    fn linger(&mut self, digest: Digest, bytes: u64) {
        if let Some(open) = self.open.get_mut(&digest) {
            open.lingering = open.lingering.saturating_add(bytes);
            self.lingering = self.lingering.saturating_add(bytes);
        }
    }
}

/// A blob that is being read.
#[derive(Debug, Default)]
struct Open {
    readers: usize,
    lingering: u64,
}

/// The space of one data directory.
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    limits: Mutex<Limits>,
    index: Arc<dyn Index>,
    store: Arc<dyn Store>,
    pub(super) pins: Pins,
    state: Mutex<State>,
    /// The lengths of blobs that were asked for, so that a `HEAD` touches no index.
    sizes: Cache<Digest, u64>,
    /// One at a time makes room or removes: two would evict for the same need, or take the room of a file that is still
    /// there. Taken before `publishing`.
    evicting: Mutex<()>,
    /// Held while a blob's file and row come or go together. Taken before `state`.
    publishing: Mutex<()>,
}

impl Space {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        directory: &Path,
        limits: Limits,
        index: Arc<dyn Index>,
        store: Arc<dyn Store>,
    ) -> Self {
        let directory = directory.to_owned();
        let (state, evicting, publishing) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self {
            disk,
            directory,
            limits: Mutex::new(limits),
            index,
            store,
            pins: Pins::default(),
            sizes: sizes(),
            state,
            evicting,
            publishing,
        }
    }

    /// The length of a blob that is held, if it was asked for lately.
    pub(super) fn known_size(&self, digest: Digest) -> Option<u64> {
        self.sizes.get(&digest)
    }

    /// The length of a blob that is held. Blocks.
    pub(super) fn size(&self, digest: Digest) -> Result<Option<u64>, IndexError> {
        // Between the look and the note nobody may remove the blob.
        self.publish(|| {
            let size = self.index.blob(digest)?.map(|record| record.size);
            if let Some(size) = size {
                self.sizes.insert(digest, size);
            }
            Ok(size)
        })
    }

    /// Sets `bytes` more aside, evicting if need be. Blocks, and evicts so many blobs at most that nobody waits long.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), ReserveError> {
        let _one_at_a_time = self.one_at_a_time();
        let (mut skipped, mut batches) = (0, 0);
        loop {
            let short = self.short_of(bytes)?;
            if short == 0 {
                self.state().reserved += bytes;
                return Ok(());
            }
            if self.empty_quarantine() {
                continue;
            }
            // Where others filled the disk, emptying the cache would help nobody.
            self.pins.refresh(&*self.index)?;
            let usage = self.index.usage()?;
            let is_vain = short > usage.bytes.saturating_sub(usage.pinned);
            if !is_vain && batches == BATCHES {
                return Err(NoRoom::NotYet { short }.into());
            }
            batches += 1;
            if is_vain || !self.evict(short, &mut skipped)? {
                return Err(NoRoom::Full { short }.into());
            }
        }
    }

    pub(super) fn limit(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes have to go before `bytes` more fit.
    fn short_of(&self, bytes: u64) -> Result<u64, ReserveError> {
        // First of all: what becomes of a reservation meanwhile, a row or bytes on the disk, then counts twice, not never.
        let (beside, unwritten) = self.state().set_aside();
        let disk = self.disk_space()?;
        let limits = self.limits();
        let cap = limits.max_size.of(disk.total);
        let margin = MARGIN.min(cap / 16);
        let fixed = self.index_bytes().saturating_add(margin);
        if fixed.saturating_add(bytes) > cap {
            return Err(NoRoom::TooLarge { needed: bytes }.into());
        }
        let over_cap = beside
            .saturating_add(self.index.usage()?.bytes)
            .saturating_add(fixed)
            .saturating_add(bytes)
            .saturating_sub(cap);
        let wanted = bytes
            .saturating_add(unwritten)
            .saturating_add(margin)
            .saturating_add(limits.min_free.of(disk.total));
        Ok(over_cap.max(wanted.saturating_sub(disk.available)))
    }

    fn disk_space(&self) -> Result<DiskSpace, ReserveError> {
        let unknown = |source| ReserveError::Unknown {
            path: self.directory.clone(),
            source,
        };
        self.disk.space(&self.directory).map_err(unknown)
    }

    fn index_bytes(&self) -> u64 {
        let size = |name| {
            let file = self
                .disk
                .open(&self.directory.join(name))
                .and_then(|file| file.size());
            file.unwrap_or_default()
        };
        ["index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"]
            .into_iter()
            .map(size)
            .sum()
    }

    /// Evicts at least `short` bytes, or a batch of blobs; whether anything went. Blobs that are read are passed over:
    /// their space would not come back.
    fn evict(&self, short: u64, skipped: &mut u64) -> Result<bool, IndexError> {
        let mut chosen = Vec::new();
        let mut freed = 0_u64;
        while freed < short && chosen.len() < BATCH && *skipped < CANDIDATES_LIMIT {
            let candidates = self
                .index
                .victims(*skipped + chosen.len() as u64, CANDIDATES)?;
            if candidates.is_empty() {
                break;
            }
            for victim in candidates {
                if freed >= short {
                    break;
                }
                if self.is_read(victim.digest) {
                    *skipped += 1;
                } else {
                    freed = freed.saturating_add(blocks(victim.size));
                    chosen.push(victim.digest);
                }
            }
        }
        if chosen.is_empty() {
            return Ok(false);
        }
        self.remove_chosen(&chosen).map(|()| true)
    }

    /// Takes blobs out of the index, then their files off the disk. A process that dies in between leaves a note.
    pub(super) fn remove(&self, digests: &[Digest]) -> Result<(), IndexError> {
        if digests.is_empty() {
            return Ok(());
        }
        // Nobody reserves the room of a file that is still there.
        let _one_at_a_time = self.one_at_a_time();
        self.remove_chosen(digests)
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.evicting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_chosen(&self, digests: &[Digest]) -> Result<(), IndexError> {
        self.index.doom(digests)?;
        self.forget_sizes(digests);
        self.unlink(digests)
    }

    fn forget_sizes(&self, digests: &[Digest]) {
        self.publish(|| {
            for digest in digests {
                self.sizes.invalidate(digest);
            }
        });
    }

    /// Removes the files of doomed blobs.
    pub(super) fn unlink(&self, digests: &[Digest]) -> Result<(), IndexError> {
        let mut buried = Vec::with_capacity(digests.len());
        for digest in digests {
            match self.unlink_one(*digest)? {
                Ok(()) => buried.push(*digest),
                Err(error) => {
                    tracing::warn!(%digest, %error, "an evicted blob's file stays for now");
                }
            }
        }
        self.index.bury(&buried)
    }

    /// Under the lock that [`publish`](Self::publish) holds: a blob that came back in the meantime keeps its file.
    fn unlink_one(&self, digest: Digest) -> Result<Result<(), StoreError>, IndexError> {
        let _no_commit = self.no_commit();
        if self.index.blob(digest)?.is_some() {
            return Ok(Ok(()));
        }
        let size = match self.size_of(digest) {
            Ok(size) => size,
            Err(error) => return Ok(Err(error)),
        };
        let removed = self.store.remove(digest);
        if removed.is_ok() {
            self.state().linger(digest, size);
        }
        Ok(removed)
    }

    /// Takes a damaged blob out of the index and its file aside, where nobody is served from it.
    pub(super) fn quarantine(&self, digest: Digest) -> Result<(), BlobsError> {
        let _one_at_a_time = self.one_at_a_time();
        let _no_commit = self.no_commit();
        let size = self.size_of(digest)?;
        self.index.doom(&[digest])?;
        self.sizes.invalidate(&digest);
        if !self.store.quarantine(digest)? {
            self.state().linger(digest, size);
        }
        self.count_quarantine()?;
        Ok(self.index.bury(&[digest])?)
    }

    /// Counts what is kept aside.
    pub(super) fn count_quarantine(&self) -> Result<(), StoreError> {
        let found = self.store.quarantined()?;
        self.state().quarantined = found.into_iter().map(|(_, size)| blocks(size)).sum();
        Ok(())
    }

    /// Removes what is kept aside; whether that made room.
    fn empty_quarantine(&self) -> bool {
        let before = self.state().quarantined;
        if before == 0 {
            return false;
        }
        if let Err(error) = self
            .remove_quarantined()
            .and_then(|()| self.count_quarantine())
        {
            tracing::warn!(%error, "damaged blobs that were kept aside stay on disk");
        }
        self.state().quarantined < before
    }

    fn remove_quarantined(&self) -> Result<(), StoreError> {
        let _no_commit = self.no_commit();
        for (digest, size) in self.store.quarantined()? {
            self.store.remove_quarantined(digest)?;
            let mut state = self.state();
            state.quarantined = state.quarantined.saturating_sub(blocks(size));
            state.linger(digest, blocks(size));
        }
        Ok(())
    }

    /// The bytes that a blob's file takes on disk.
    fn size_of(&self, digest: Digest) -> Result<u64, StoreError> {
        let file = self.store.open(digest)?;
        file.map_or(Ok(0), |file| super::length(&*file, digest).map(blocks))
    }

    /// Runs `commit` while no file is being removed.
    pub(super) fn publish<T>(&self, commit: impl FnOnce() -> T) -> T {
        let _no_removal = self.no_commit();
        commit()
    }

    fn no_commit(&self) -> MutexGuard<'_, ()> {
        self.publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a reader of a blob until the guard goes.
    pub(super) fn reading(self: &Arc<Self>, digest: Digest) -> Reading {
        self.state().open.entry(digest).or_default().readers += 1;
        Reading::new(Arc::clone(self), digest)
    }

    /// Notes that of reserved bytes `after` instead of `before` are in their file: they are missing from the disk's
    /// free space already.
    pub(super) fn written(&self, before: u64, after: u64) {
        let mut state = self.state();
        state.written = state.written.saturating_sub(before).saturating_add(after);
    }

    /// Gives reserved bytes back, of which `written` are in their file.
    pub(super) fn release(&self, bytes: u64, written: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(bytes);
        state.written = state.written.saturating_sub(written);
    }

    /// Notes that a reader has left. With the last of them goes what an evicted blob still took.
    pub(super) fn left(&self, digest: Digest) {
        let mut state = self.state();
        let Some(open) = state.open.get_mut(&digest) else {
            return;
        };
        open.readers = open.readers.saturating_sub(1);
        if open.readers == 0 {
            let lingering = open.lingering;
            state.open.remove(&digest);
            state.lingering = state.lingering.saturating_sub(lingering);
        }
    }

    /// Whether anybody reads a blob.
    pub(super) fn is_read(&self, digest: Digest) -> bool {
        self.state().open.contains_key(&digest)
    }

    /// How many blobs are being read.
    pub(super) fn readers(&self) -> usize {
        self.state().open.len()
    }

    /// What the cache takes now, and what it may take, in bytes.
    pub(super) fn figures(&self) -> Result<(u64, u64), ReserveError> {
        let total = self.disk_space()?.total;
        let (beside, _) = self.state().set_aside();
        let held = beside.saturating_add(self.index.usage()?.bytes);
        Ok((
            held.saturating_add(self.index_bytes()),
            self.limits().max_size.of(total),
        ))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

fn sizes() -> Cache<Digest, u64> {
    Cache::builder()
        .max_capacity(SIZES)
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

/// The bytes that a file of `size` bytes takes on disk.
pub(super) const fn blocks(size: u64) -> u64 {
    size.div_ceil(4096).saturating_mul(4096)
}

//! What the simulation has to notice: an implementation that errs on purpose.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use crate::index::{BlobRecord, Epoch, Index, MemoryIndex};
use crate::oci::{Checksum, Digest};
use crate::store::{Leftover, Spool, Store, StoreError};
use crate::sys::clock::Timestamp;
use crate::sys::fs::{Disk, DiskFile, DiskSpace, FileSystemKind};

/// An error made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The content of files is never synced.
    NoSync,
    /// A file gets its name before its content is synced.
    NameBeforeSync,
    /// The row is written before the file has its name.
    RowBeforeFile,
    /// Directories are never synced.
    NoDirectorySync,
    /// An abandoned download keeps what was set aside for it.
    LostReservation,
    /// An evicted blob's file goes before its row.
    UnlinkBeforeRow,
}

impl Bug {
    pub(super) const ALL: [Self; 6] = [
        Self::NoSync,
        Self::NameBeforeSync,
        Self::RowBeforeFile,
        Self::NoDirectorySync,
        Self::LostReservation,
        Self::UnlinkBeforeRow,
    ];
}

/// A disk that syncs late or never.
#[derive(Clone, Debug)]
pub(super) struct BuggyDisk {
    inner: Arc<dyn Disk>,
    bug: Option<Bug>,
    /// What is to be synced once it has its name.
    late: Arc<Mutex<Vec<Weak<dyn DiskFile>>>>,
}

impl BuggyDisk {
    pub(super) fn new(inner: Arc<dyn Disk>, bug: Option<Bug>) -> Self {
        Self {
            inner,
            bug,
            late: Arc::default(),
        }
    }

    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(BuggyFile {
            inner,
            disk: self.clone(),
        })
    }

    fn sync_late(&self) -> io::Result<()> {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let mut files = late.iter().filter_map(Weak::upgrade);
        files.try_for_each(|file| file.sync())
    }
}

impl Disk for BuggyDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)?;
        self.sync_late()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        self.sync_late()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.bug {
            Some(Bug::NoDirectorySync) => Ok(()),
            _ => self.inner.sync_dir(path),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<FileSystemKind> {
        self.inner.kind(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.inner.space(path)
    }
}

#[derive(Debug)]
struct BuggyFile {
    inner: Arc<dyn DiskFile>,
    disk: BuggyDisk,
}

impl DiskFile for BuggyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_cached_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        match self.disk.bug {
            Some(Bug::NoSync) => {}
            Some(Bug::NameBeforeSync) => {
                let mut late = self.disk.late.lock().unwrap();
                late.push(Arc::downgrade(&self.inner));
            }
            _ => self.inner.sync()?,
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
}

/// A store that writes the row first.
#[derive(Debug)]
pub(super) struct HastyStore<S> {
    pub(super) inner: S,
    pub(super) index: MemoryIndex,
}

impl<S: Store> Store for HastyStore<S> {
    fn spool(&self, digest: Digest) -> Result<Spool, StoreError> {
        self.inner.spool(digest)
    }

    fn publish(&self, spool: &Spool) -> Result<(), StoreError> {
        let record = BlobRecord {
            size: spool.file.size().unwrap_or_default(),
            stored: Timestamp::default(),
            checksum: Checksum::default(),
            epoch: Epoch::default(),
        };
        // What comes of it shows when the door writes the row once more.
        self.index.insert_blob(spool.digest, record).ok();
        self.inner.publish(spool)
    }

    fn retire(&self, spool: &Spool) -> Result<(), StoreError> {
        self.inner.retire(spool)
    }

    fn open(&self, digest: Digest) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
        self.inner.open(digest)
    }

    fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        self.inner.remove(digest)
    }

    fn quarantine(&self, digest: Digest) -> Result<bool, StoreError> {
        self.inner.quarantine(digest)
    }

    fn quarantined(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        self.inner.quarantined()
    }

    fn remove_quarantined(&self, digest: Digest) -> Result<(), StoreError> {
        self.inner.remove_quarantined(digest)
    }

    fn list(&self, shard: u8) -> Result<Vec<Digest>, StoreError> {
        self.inner.list(shard)
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        self.inner.leftovers()
    }

    fn sweep(&self, leftover: &Leftover) -> Result<(), StoreError> {
        self.inner.sweep(leftover)
    }
}

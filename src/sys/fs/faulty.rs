//! A disk that fails where a test tells it to.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Disk, DiskFile, DiskSpace, FileSystemKind};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The medium is broken (`EIO`).
    Broken,
    /// No space is left (`ENOSPC`). Only operations that take space fail.
    Full,
    /// A write stores half of its bytes and then finds no space. Other operations succeed.
    ShortWrite,
}

#[derive(Debug, Default)]
struct Plan {
    performed: AtomicU64,
    schedule: Mutex<Option<Schedule>>,
}

#[derive(Clone, Copy, Debug)]
struct Schedule {
    fault: Fault,
    first: u64,
    count: u64,
}

/// Wraps a disk, counts its operations and fails those that were scheduled. Clones share count and schedule.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    plan: Arc<Plan>,
    /// What it says it is; `None` for the truth.
    kind: Option<FileSystemKind>,
}

impl FaultyDisk {
    /// A disk that fails nothing yet.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
            kind: None,
        }
    }

    /// Says of every path that it is on a file system of this kind.
    #[must_use]
    pub fn on(self, kind: FileSystemKind) -> Self {
        Self {
            kind: Some(kind),
            ..self
        }
    }

    /// Fails the `n`-th operation from now on (0 is the next) and the `count - 1` after it.
    pub fn fail_at(&self, n: u64, count: u64, fault: Fault) {
        let first = self.performed().saturating_add(n);
        self.set(Some(Schedule {
            fault,
            first,
            count,
        }));
    }

    /// Fails nothing any more.
    pub fn heal(&self) {
        self.set(None);
    }

    /// How many operations were asked for so far.
    pub fn performed(&self) -> u64 {
        self.plan.performed.load(Ordering::SeqCst)
    }

    fn set(&self, schedule: Option<Schedule>) {
        *self
            .plan
            .schedule
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = schedule;
    }
}

/// What an operation needs, as far as faults care.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Space,
    Write,
    Nothing,
}

impl Plan {
    fn due(&self) -> Option<Fault> {
        let number = self.performed.fetch_add(1, Ordering::SeqCst);
        let schedule = (*self.schedule.lock().unwrap_or_else(PoisonError::into_inner))?;
        let past = number.checked_sub(schedule.first)?;
        (past < schedule.count).then_some(schedule.fault)
    }

    fn check(&self, needs: Needs) -> io::Result<()> {
        match self.due() {
            Some(Fault::Broken) => Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            )),
            Some(Fault::Full) if needs != Needs::Nothing => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::ShortWrite) if needs == Needs::Write => {
                Err(io::ErrorKind::WriteZero.into())
            }
            _ => Ok(()),
        }
    }
}

impl FaultyDisk {
    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            inner,
            plan: Arc::clone(&self.plan),
        })
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Needs::Space)?;
        self.inner.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.plan.check(Needs::Space)?;
        Ok(self.file(self.inner.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.plan.check(Needs::Nothing)?;
        Ok(self.file(self.inner.open(path)?))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.check(Needs::Space)?;
        self.inner.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.check(Needs::Space)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Needs::Nothing)?;
        self.inner.remove(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.plan.check(Needs::Nothing)?;
        self.inner.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Needs::Nothing)?;
        self.inner.sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.plan.check(Needs::Nothing)?;
        self.inner.space(path)
    }

    fn kind(&self, path: &Path) -> io::Result<FileSystemKind> {
        self.plan.check(Needs::Nothing)?;
        let found = self.inner.kind(path)?;
        Ok(self.kind.unwrap_or(found))
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    plan: Arc<Plan>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plan.check(Needs::Nothing)?;
        self.inner.read_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plan.check(Needs::Nothing)?;
        self.inner.read_cached_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.plan.check(Needs::Write) {
            Err(error) if error.kind() == io::ErrorKind::WriteZero => {
                let half = data.get(..data.len() / 2).unwrap_or_default();
                self.inner.write_all_at(half, offset)?;
                Err(io::ErrorKind::StorageFull.into())
            }
            Err(error) => Err(error),
            Ok(()) => self.inner.write_all_at(data, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.check(Needs::Nothing)?;
        self.inner.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.plan.check(Needs::Nothing)?;
        self.inner.size()
    }
}

//! Disk access, behind a trait so that tests can fail the n-th operation or forget what was not synced.
//!
//! Every call blocks; async code goes through [`tasks::blocking`](super::tasks::blocking). The exception is
//! [`DiskFile::read_cached_at`], which never waits for the disk.

mod faulty;
#[cfg(test)]
mod forgetful;
mod kind;
mod lock;
mod os;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use faulty::{Fault, FaultyDisk};
#[cfg(test)]
pub(crate) use forgetful::{ForgetfulDisk, Power};
pub use kind::FileSystemKind;
pub use lock::{DirectoryLock, LockError};
pub use os::OsDisk;

/// The operations that the program does on a directory tree.
pub trait Disk: Debug + Send + Sync {
    /// Creates `path` and its missing parents; one that exists is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates the file `path` for reading and writing; it must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens the file `path` for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives the file `from` the second name `to`, which must not exist.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames `from` to `to`, replacing `to` atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the name `path`; readers that have the file open go on reading.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in the directory `path`, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// Makes the names in the directory `path` survive a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The space of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// The kind of the file system that holds `path`.
    fn kind(&self, path: &Path) -> io::Result<FileSystemKind>;
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total: u64,
    /// What this user may still take.
    pub available: u64,
}

/// An open file. Offsets are explicit, so that many readers and one writer share it.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads at `offset` into `buffer`; returns how many bytes, 0 only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Like [`read_at`](Self::read_at) as far as the page cache holds the bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the disk would have to be waited for.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset`.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the content survive a power cut.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// Writes a small file so that `path` holds either its former content or all of `content`, also after a power cut.
///
/// # Errors
/// Whatever the disk says. `path` is untouched then; a temporary file may stay beside it.
pub fn write_atomic(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Reads the file `path`, which may hold at most `limit` bytes.
///
/// # Errors
/// Whatever the disk says; [`io::ErrorKind::FileTooLarge`] above `limit`.
pub fn read_small(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut content = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match file.read_at(&mut chunk, content.len() as u64)? {
            0 => return Ok(content),
            read if content.len() + read > limit => return Err(io::ErrorKind::FileTooLarge.into()),
            read => content.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;

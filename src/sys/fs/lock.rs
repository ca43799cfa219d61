//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::clock;

const POLL: Duration = Duration::from_millis(50);

/// An exclusive lock on a directory, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the directory.
    #[error("{path} is in use by {holder}")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, as far as it can be told.
        holder: String,
    },
    /// The lock file could not be opened or locked.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl DirectoryLock {
    /// Locks `directory` through its file `lock`, waiting up to `wait` for another process to let go.
    ///
    /// # Errors
    /// [`LockError::Held`] with the holder's process id once `wait` has passed.
    pub async fn acquire(directory: &Path, wait: Duration) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let file = open(&path).map_err(|source| LockError::Io {
            path: path.clone(),
            source,
        })?;
        match clock::timeout(wait, lock(&file, &path)).await {
            Ok(Ok(())) => Self::sign(file, path),
            Ok(Err(source)) => Err(LockError::Io { path, source }),
            Err(_) => Err(LockError::Held {
                holder: holder(&file),
                path,
            }),
        }
    }

    fn sign(mut file: File, path: PathBuf) -> Result<Self, LockError> {
        let signed = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        match signed {
            // A full disk cannot hold the number, yet the lock is ours.
            Ok(()) => Ok(Self { _file: file }),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(Self { _file: file }),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

async fn lock(file: &File, path: &Path) -> io::Result<()> {
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) => return Err(source),
            Err(TryLockError::WouldBlock) if !told => {
                tracing::info!(path = %path.display(), "waiting for {} to end", holder(file));
                told = true;
            }
            Err(TryLockError::WouldBlock) => clock::sleep(POLL).await,
        }
    }
}

fn holder(file: &File) -> String {
    let mut text = [0; 32];
    match file.read_at(&mut text, 0) {
        Ok(read @ 1..) => {
            let id = String::from_utf8_lossy(text.get(..read).unwrap_or_default());
            format!("process {}", id.trim())
        }
        _ => "another process".to_owned(),
    }
}

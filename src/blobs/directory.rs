//! Taking possession of a data directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::fs::{DirectoryLock, Disk, LockError, read_small, write_atomic};

/// The on-disk format that this version reads and writes.
const FORMAT: u32 = 1;
const FORMAT_FILE_LIMIT: usize = 4096;
const INDEX: &str = "index.sqlite3";

/// A data directory that belongs to this process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: DirectoryLock,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be created, or not be written to.
    #[error("cannot use the data directory {path}: {source}")]
    Inaccessible {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A newer version wrote it. Nothing was touched.
    #[error(
        "{path} was written by mirror {written_by}, in format {found}; this is mirror {version}, which knows format {FORMAT}"
    )]
    Newer {
        /// The format file.
        path: PathBuf,
        /// The format it names.
        found: u32,
        /// The version that wrote it.
        written_by: String,
        /// This version.
        version: &'static str,
    },
    /// The format file is no format file.
    #[error("{path} does not say which format the data directory has")]
    Unreadable {
        /// The format file.
        path: PathBuf,
    },
}

impl DataDirectory {
    /// Creates `path` if need be, locks it within `wait`, and checks that this version can use it.
    pub async fn open(
        disk: &dyn Disk,
        path: &Path,
        wait: Duration,
    ) -> Result<Self, DirectoryError> {
        let inaccessible = |source| DirectoryError::Inaccessible {
            path: path.to_owned(),
            source,
        };
        disk.create_dir_all(path).map_err(inaccessible)?;
        let lock = DirectoryLock::acquire(path, wait)
            .await
            .map_err(|error| match error {
                LockError::Io { source, .. } => inaccessible(source),
                held @ LockError::Held { .. } => DirectoryError::Lock(held),
            })?;
        check_format(disk, path)?;
        create_index(disk, &path.join(INDEX)).map_err(inaccessible)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the index is.
    pub fn index(&self) -> PathBuf {
        self.path.join(INDEX)
    }
}

/// Makes the index readable by this user alone, as `SQLite` would not; its other files follow its mode.
fn create_index(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map(drop),
    }
}

fn check_format(disk: &dyn Disk, directory: &Path) -> Result<(), DirectoryError> {
    let path = directory.join("format");
    let inaccessible = |source| DirectoryError::Inaccessible {
        path: path.clone(),
        source,
    };
    let text = match read_small(disk, &path, FORMAT_FILE_LIMIT) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!(
                "format = {FORMAT}\nwritten_by = {}\n",
                env!("CARGO_PKG_VERSION")
            );
            return write_atomic(disk, &path, text.as_bytes()).map_err(inaccessible);
        }
        Err(error) => return Err(inaccessible(error)),
    };
    match field(&text, "format").and_then(|number| number.parse().ok()) {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(DirectoryError::Newer {
            path,
            found,
            written_by: field(&text, "written_by")
                .unwrap_or("of an unknown version")
                .to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }),
        _ => Err(DirectoryError::Unreadable { path }),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = |line: &'a str| line.split_once('=').filter(|(key, _)| key.trim() == name);
    text.lines().find_map(line).map(|(_, value)| value.trim())
}

//! How much the cache may take, and what is said when that is not enough.

use std::io;
use std::path::PathBuf;

use crate::index::IndexError;

/// An amount of space: absolute, or a part of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system.
    Percent(u8),
}

impl Share {
    /// The amount in bytes on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

/// How much the cache may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The data directory never takes more.
    pub max_size: Share,
    /// The file system always keeps so much free, whatever `max_size` says.
    pub min_free: Share,
}

/// Why no space can be had. The pull goes on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The blob is larger than the whole cache may be.
    #[error("the blob's {needed} bytes are more than the cache may take")]
    TooLarge {
        /// What was asked for, in bytes.
        needed: u64,
    },
    /// So much has to be evicted that nobody should wait for it. What was evicted is gone: asking again helps.
    #[error("{short} bytes are missing, and are still being evicted")]
    NotYet {
        /// What is missing, in bytes.
        short: u64,
    },
    /// Evicting all that nobody reads would not be enough.
    #[error("{short} bytes are missing, more than eviction can give")]
    Full {
        /// What is missing, in bytes.
        short: u64,
    },
}

/// Why a reservation failed.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// No space is left.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The file system does not tell its size.
    #[error("the free space of {path} is unknown: {source}")]
    Unknown {
        /// The data directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

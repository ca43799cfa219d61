//! The memory that file contents pass through on their way to clients.
//!
//! One pool for the process. It lends large buffers while it has them; when it runs short it lends smaller ones, so
//! that many slow clients cost little memory each and nobody waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The length of a pooled buffer in bytes: the most that one read returns.
pub const CHUNK: usize = 256 * 1024;

/// How many pooled buffers are lent at most: 16 MiB.
const POOLED: usize = 64;

/// How many pooled buffers are kept for the next time: 4 MiB.
const KEPT: usize = 16;

/// What is lent beyond them, and how many of these until only the smallest are lent.
const SHORT: usize = 64 * 1024;
const SHORT_LENT: usize = 256;
const SHORTEST: usize = 16 * 1024;

static POOL: Pool = Pool {
    kept: Mutex::new(Vec::new()),
    pooled: AtomicUsize::new(0),
    short: AtomicUsize::new(0),
};

struct Pool {
    kept: Mutex<Vec<Box<[u8]>>>,
    pooled: AtomicUsize,
    short: AtomicUsize,
}

/// Borrowed memory; it goes back when this, or the last of the bytes made of it, goes.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    size: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Pooled,
    Short,
    Shortest,
}

/// Lends a buffer of at most `wanted` bytes, which may be shorter.
pub(super) fn lend(wanted: usize) -> Buffer {
    let size = POOL.size(wanted);
    let bytes = match size {
        Size::Pooled => POOL.kept().pop(),
        Size::Short | Size::Shortest => None,
    };
    let length = match size {
        Size::Pooled => CHUNK,
        Size::Short => SHORT.min(wanted),
        Size::Shortest => SHORTEST.min(wanted),
    };
    Buffer {
        bytes: bytes.unwrap_or_else(|| vec![0; length].into_boxed_slice()),
        filled: wanted.min(length),
        size,
    }
}

impl Pool {
    fn size(&self, wanted: usize) -> Size {
        if wanted > SHORTEST && take(&self.pooled, POOLED) {
            Size::Pooled
        } else if wanted > SHORTEST && take(&self.short, SHORT_LENT) {
            Size::Short
        } else {
            Size::Shortest
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one of `limit`, if one is left.
fn take(count: &AtomicUsize, limit: usize) -> bool {
    let more = |lent| (lent < limit).then_some(lent + 1);
    count
        .try_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

impl Buffer {
    /// The memory, as much of it as was asked for or can be had.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let filled = self.filled;
        self.bytes.get_mut(..filled).unwrap_or_default()
    }

    /// The first `length` bytes.
    pub(super) fn freeze(mut self, length: usize) -> Bytes {
        self.filled = length.min(self.filled);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.size {
            Size::Pooled => {
                let mut kept = POOL.kept();
                if kept.len() < KEPT {
                    kept.push(std::mem::take(&mut self.bytes));
                }
                drop(kept);
                POOL.pooled.fetch_sub(1, Ordering::Relaxed);
            }
            Size::Short => {
                POOL.short.fetch_sub(1, Ordering::Relaxed);
            }
            Size::Shortest => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Other tests of this process borrow as well, so lengths are bounded here, not fixed.
    #[test]
    fn when_the_pool_runs_short_buffers_shrink_and_come_back() {
        let lent: Vec<_> = (0..POOLED + SHORT_LENT + 10).map(|_| lend(CHUNK)).collect();
        let lengths: Vec<_> = lent.iter().map(|buffer| buffer.filled).collect();
        assert!(lengths.iter().filter(|length| **length == CHUNK).count() <= POOLED);
        assert!(lengths.iter().filter(|length| **length == SHORT).count() <= SHORT_LENT);
        assert_eq!(lengths.last(), Some(&SHORTEST));
        assert!(lengths.is_sorted_by(|longer, shorter| longer >= shorter));
        drop(lent);
        assert!(POOL.kept().len() <= KEPT);
        assert!(lend(CHUNK).filled > SHORTEST);
    }

    #[test]
    fn a_buffer_holds_what_was_put_there() {
        let mut buffer = lend(10);
        assert_eq!(buffer.space().len(), 10);
        buffer.space().copy_from_slice(b"0123456789");
        assert_eq!(buffer.freeze(4), "0123");
    }
}

//! What keeps a simulated machine going.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The power that all parts of a machine draw on, once for each operation. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Power(Arc<Supply>);

#[derive(Debug)]
struct Supply {
    performed: AtomicU64,
    /// The first operation that there is no power for.
    end: AtomicU64,
    off: AtomicBool,
}

impl Power {
    /// Power for as long as nobody takes it away.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Supply {
            performed: AtomicU64::new(0),
            end: AtomicU64::new(u64::MAX),
            off: AtomicBool::new(false),
        }))
    }

    /// Goes at the `n`-th operation from now on (0 is the next): that one and all later ones fail.
    pub(crate) fn stop_at(&self, n: u64) {
        let end = self.performed().saturating_add(n);
        self.0.end.store(end, Ordering::SeqCst);
    }

    /// Comes back, for as long as nobody takes it away.
    pub(crate) fn restore(&self) {
        self.0.end.store(u64::MAX, Ordering::SeqCst);
        self.0.off.store(false, Ordering::SeqCst);
    }

    /// Whether an operation has failed for want of power.
    pub(crate) fn is_off(&self) -> bool {
        self.0.off.load(Ordering::SeqCst)
    }

    /// How many operations were asked for so far.
    pub(crate) fn performed(&self) -> u64 {
        self.0.performed.load(Ordering::SeqCst)
    }

    /// Takes what one operation needs.
    pub(crate) fn draw(&self) -> io::Result<()> {
        let number = self.0.performed.fetch_add(1, Ordering::SeqCst);
        if number < self.0.end.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.0.off.store(true, Ordering::SeqCst);
        Err(io::Error::other("the power is off"))
    }
}

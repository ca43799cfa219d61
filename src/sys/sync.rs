//! Locks of the standard library. In tests with the feature `interleavings` they are those of a scheduler that tries one
//! order of their use after the other.

#[cfg(not(all(test, feature = "interleavings")))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(all(test, feature = "interleavings"))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};

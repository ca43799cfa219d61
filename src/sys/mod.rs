//! Sole owner of time, randomness, spawning and disk.
//!
//! Everything above asks this module what time it is, starts its tasks here and touches the disk through
//! [`fs::Disk`], so that a test can own the clock, drain every task and make the n-th disk operation fail.

pub mod clock;
pub mod command;
pub mod current;
pub mod fs;
pub mod process;
pub mod random;
pub mod secret;
pub mod signals;
pub mod single_flight;
pub(crate) mod sync;
pub mod tasks;
pub mod telemetry;

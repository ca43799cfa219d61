//! The one integration binary: a file per behaviour.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stand outside the program and use the system directly"
)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod boot;
mod budget;
mod cap;
mod cli;
mod client;
mod clock;
mod disk;
mod documents;
mod drain;
mod du;
mod evict;
mod fake_hub;
mod faults;
mod freshness;
mod full;
mod herd;
mod http;
mod kill;
mod lists;
mod memory;
mod mirror;
mod never_cache;
mod offline;
mod private;
mod process;
mod pull;
mod reload;
mod rot;
mod routing;
mod scale;
mod slots;
mod space;
mod stats;
mod upstream;
mod ways_out;

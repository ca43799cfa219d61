//! The one integration binary: a file per behaviour.

#![expect(
    clippy::disallowed_methods,
    reason = "tests stand outside the program and use the system directly"
)]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod mirror;

mod cli;
mod documents;
mod fake_hub;
mod http;
mod pull;
mod upstream;

//! The one integration binary: a file per behaviour.

#[path = "../support/mod.rs"]
mod support;

mod fake_hub;

//! `mirror`: a pull-through caching mirror for container registries, and a registry for a team's own images.
//!
//! The modules form floors; a module imports only floors below its own. `ARCHITECTURE.md` holds the table and
//! `tests/floors.rs` checks it.

pub mod app;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod directory;
pub mod fetch;
pub mod http;
pub mod index;
pub mod oci;
pub mod proxy;
pub mod registry;
pub mod store;
pub mod sys;
pub mod upstream;

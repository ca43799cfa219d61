//! What the integration tests and the examples share: a scripted Docker Hub ([`fake_hub`]), the
//! images it holds ([`image`]), the certificates it shows ([`tls`]) and a proxy before it
//! ([`proxy`]).
//!
//! Nothing here imports the `mirror` crate. It is an independent witness: what it sends and what
//! it says it saw is computed with the plain libraries, so that an error in our own digests,
//! names or ranges cannot hide itself.
#![allow(
    dead_code,
    unused_imports,
    reason = "two crates include this by path and each uses a part of it"
)]
#![allow(
    unreachable_pub,
    reason = "included by path: `pub` marks what the including crates may use"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a witness owns its time, tasks and files; `mirror::sys` is what it watches"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test double that cannot go on fails the test"
)]

pub mod fake_hub;
pub mod image;
pub mod proxy;
pub mod tls;

pub use fake_hub::{
    Armed, At, Builder, FakeHub, Fault, Gate, Origin, Outage, Outcome, Recorded, Rule, Target,
};
pub use image::{Blob, Format, Image, ImageSpec, Platform, PlatformImage, digest_of};
pub use proxy::{Asked, TestProxy};

//! The registry protocol as pure types: no I/O, no clock, no allocation without a limit.
//!
//! Everything here reads text that strangers wrote. Nothing panics on any input, nothing indexes or
//! computes unchecked, and every parser knows the longest input it will look at.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod challenge;
pub mod checksum;
pub mod descriptor;
pub mod digest;
pub mod error;
pub mod link;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod pattern;
pub mod range;
pub mod request;
pub mod scope;

mod bounded;
mod query;

pub use challenge::{Bearer, Challenge, parse_challenges};
pub use checksum::{Checksum, Checksummer};
pub use descriptor::{Descriptor, Platform};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error::{Code, ErrorBody};
pub use link::{NextLink, next_link};
pub use manifest::{Kind, MANIFEST_LIMIT, Manifest, ManifestError};
pub use media_type::{ACCEPT_MANIFESTS, MediaType};
pub use name::{NameError, Reference, ReferenceError, RepositoryName, Tag, TagError};
pub use pattern::{ImagePattern, ImagePatterns, PatternError, PatternsError, TagPattern};
pub use range::{ByteRange, ContentRange, Span, Unsatisfiable};
pub use request::{Parsed, Request, RequestError, UploadId};
pub use scope::{Scope, ScopeError};

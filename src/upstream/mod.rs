//! The client of a remote registry.

mod body;
mod error;

pub use body::BlobBody;
pub use error::{Phase, UpstreamError};

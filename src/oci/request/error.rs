//! Why a request is refused at the door, and the answer it gets.

use http::StatusCode;

use crate::oci::digest::DigestError;
use crate::oci::error::{Code, ErrorBody};
use crate::oci::name::{NameError, ReferenceError, TagError};

/// A request that no repository ever sees. [`RequestError::status`] and [`RequestError::body`] are the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The path is longer than any path of the protocol.
    #[error("the path is longer than any request of the registry protocol")]
    PathTooLong,
    /// The path holds a `%`; nothing in the protocol's paths needs one.
    #[error("percent-encoding is not allowed in a path")]
    PercentEncoded,
    /// The path is none of the protocol's.
    #[error("there is no such endpoint")]
    UnknownRoute,
    /// The path is right, the method is not.
    #[error("the method is not offered here, only {allow}")]
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// The repository's name is outside the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A digest in the path or the query is outside the grammar or of an unknown algorithm.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// An upload cannot be finished without a digest.
    #[error("the digest parameter is missing")]
    DigestMissing,
    /// A manifest cannot be pushed under this tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// No manifest can have this reference, so none is found: what clients understand, and what the conformance
    /// suite asks for.
    #[error("no manifest can have this reference: {0}")]
    Reference(ReferenceError),
    /// No upload can have this identifier, so none is found.
    #[error("there is no such upload")]
    UploadUnknown,
    /// More `tag` parameters than a push may carry.
    #[error("a manifest can be pushed with at most {limit} tags at once")]
    TooManyTags {
        /// The number of tags that would do.
        limit: usize,
    },
    /// The query as a whole cannot be read.
    #[error("the query is too long or malformed")]
    Query,
    /// One parameter of the query is malformed, or given twice.
    #[error("the parameter {name} is malformed or given twice")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
    },
}

impl RequestError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownRoute | Self::Reference(_) | Self::UploadUnknown => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyTags { .. } => StatusCode::URI_TOO_LONG,
            Self::PathTooLong
            | Self::PercentEncoded
            | Self::Name(_)
            | Self::Digest(_)
            | Self::DigestMissing
            | Self::Tag(_)
            | Self::Query
            | Self::Parameter { .. } => StatusCode::BAD_REQUEST,
        }
    }

    /// The code in the answer's body.
    pub fn code(&self) -> Code {
        match self {
            Self::PathTooLong | Self::PercentEncoded | Self::Name(_) => Code::NameInvalid,
            Self::UnknownRoute => Code::NameUnknown,
            Self::MethodNotAllowed { .. } | Self::Query | Self::Parameter { .. } => {
                Code::Unsupported
            }
            Self::Digest(_) | Self::DigestMissing => Code::DigestInvalid,
            Self::Tag(_) | Self::TooManyTags { .. } => Code::TagInvalid,
            Self::Reference(_) => Code::ManifestUnknown,
            Self::UploadUnknown => Code::BlobUploadUnknown,
        }
    }

    /// The answer's body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody::new(self.code(), self.to_string())
    }
}

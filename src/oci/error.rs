//! The error body of the distribution specification: `{"errors":[{"code","message","detail"}]}`.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// What stands in `code`: the specification's list, and the legacy and general codes that clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The blob is not in this repository.
    BlobUnknown,
    /// An upload went wrong and must be begun again.
    BlobUploadInvalid,
    /// There is no such upload.
    BlobUploadUnknown,
    /// The digest is malformed, or the content does not match it.
    DigestInvalid,
    /// A manifest names a blob or manifest that is not in this repository.
    ManifestBlobUnknown,
    /// The manifest is malformed.
    ManifestInvalid,
    /// The manifest is not in this repository.
    ManifestUnknown,
    /// The repository name is outside the grammar.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// The length is wrong or over a limit.
    SizeInvalid,
    /// The tag is outside the grammar (not in the current specification, still understood).
    TagInvalid,
    /// Credentials are needed.
    Unauthorized,
    /// The credentials do not allow it.
    Denied,
    /// The operation is not offered here.
    Unsupported,
    /// A rate limit was met.
    TooManyRequests,
    /// Something failed that the client has no part in: goes with a 5xx.
    Unknown,
}

impl Code {
    /// The code as the specification spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An error body with one error in it.
///
/// ```
/// use mirror::oci::{Code, ErrorBody};
///
/// let body = ErrorBody::new(Code::BlobUnknown, "blob unknown to registry");
/// let json = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#;
/// assert_eq!(body.to_bytes(), json);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBody {
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Value>,
}

impl ErrorBody {
    /// The `Content-Type` of the body.
    pub const CONTENT_TYPE: &'static str = "application/json";

    /// An error with a message for a human.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
        }
    }

    /// Adds structured data, such as the name that was not found.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Value>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The error's code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The error's message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The JSON document.
    pub fn to_bytes(&self) -> Bytes {
        #[derive(Serialize)]
        struct Document<'a> {
            errors: [&'a ErrorBody; 1],
        }
        let json = serde_json::to_vec(&Document { errors: [self] });
        // Strings and JSON values always serialize; an empty list is the answer that stays well-formed.
        json.map_or(Bytes::from_static(br#"{"errors":[]}"#), Bytes::from)
    }
}

#[cfg(test)]
mod tests;

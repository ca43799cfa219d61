//! Descriptors: how a document names content (image specification `descriptor.md`).
//!
//! Reading is lenient about what a mirror does not need, since it serves the document's own bytes; it is strict
//! about what it acts on: type, digest and size.

use std::collections::BTreeMap;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::bounded;
use super::digest::Digest;
use super::media_type::MediaType;

/// The most URLs of one descriptor.
const URLS_LIMIT: usize = 64;

/// The most annotations of one descriptor or manifest.
pub(super) const ANNOTATIONS_LIMIT: usize = 1024;

/// The largest size: what a signed 64-bit integer holds, since that is how everybody else reads it.
const SIZE_LIMIT: u64 = i64::MAX.unsigned_abs();

/// Names some content by type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content.
    pub media_type: MediaType,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content in bytes, at most [`i64::MAX`].
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// Where else the content may be found. Never followed by this program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "bounded::list::<URLS_LIMIT, _, _>")]
    pub urls: Vec<String>,
    /// The type of the artifact that the content is the manifest of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The platform that the content runs on; in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Box<Platform>>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(deserialize_with = "bounded::map::<ANNOTATIONS_LIMIT, _>")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of an index's entry (image specification `image-index.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `GOARCH`: `amd64`, `arm64`; `unknown` for attestations.
    #[serde(default)]
    pub architecture: String,
    /// `GOOS`: `linux`, `windows`; `unknown` for attestations.
    #[serde(default)]
    pub os: String,
    /// The version of Windows.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// The variant of the processor: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Descriptor {
    /// Whether a registry need not have the content: it may not be distributed, or is found at a URL.
    pub fn is_foreign(&self) -> bool {
        self.media_type.is_nondistributable() || !self.urls.is_empty()
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if size <= SIZE_LIMIT {
        Ok(size)
    } else {
        Err(D::Error::custom("the size of a descriptor exceeds 63 bits"))
    }
}

#[cfg(test)]
mod tests;

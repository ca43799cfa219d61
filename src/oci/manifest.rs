//! Manifests and indexes: parsed to know what they name, kept byte for byte to be served.
//!
//! One document must mean one thing to every reader (CVE-2021-41190): a type in the body must be the type in the
//! header, an index has no layers, an image has no manifests, and a key that differs from a known one only in case
//! is refused, because some clients would read it as that one.

mod document;

use std::collections::BTreeMap;

use bytes::Bytes;

use self::document::Document;
use super::descriptor::Descriptor;
use super::digest::{Algorithm, Digest};
use super::media_type::MediaType;

/// The largest manifest in bytes: what every registry and client accepts, and none exceeds by much.
pub const MANIFEST_LIMIT: usize = 4_194_304;

/// The most manifests of an index, or layers of an image.
pub const DESCRIPTORS_LIMIT: usize = 10_000;

/// A manifest or an index, with the exact bytes that its digest is of.
///
/// ```
/// use bytes::Bytes;
/// use mirror::oci::{Manifest, MediaType};
///
/// let body = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
/// let manifest = Manifest::parse(body.clone(), Some("application/vnd.oci.image.index.v1+json")).unwrap();
/// assert_eq!(manifest.media_type(), &MediaType::OciIndex);
/// assert_eq!(manifest.bytes(), &body);
/// assert!(Manifest::parse(body, Some("text/html")).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    bytes: Bytes,
    media_type: MediaType,
    kind: Kind,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// What a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An index or manifest list.
    Index {
        /// The manifests, by platform or not; they may be indexes themselves.
        manifests: Vec<Descriptor>,
    },
    /// An image, or any other artifact.
    Image {
        /// The config; the empty JSON object for most artifacts.
        config: Box<Descriptor>,
        /// The layers, lowest first.
        layers: Vec<Descriptor>,
    },
}

/// Why some bytes are not a manifest that can be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MANIFEST_LIMIT`].
    #[error("a manifest has at most {MANIFEST_LIMIT} bytes, not {length}")]
    TooLarge {
        /// The length of the body in bytes.
        length: usize,
    },
    /// The header names a type that no manifest has: most likely this is another server's page.
    #[error("{media_type} is not the type of a manifest")]
    MediaType {
        /// The type in the header or, without one, in the body.
        media_type: MediaType,
    },
    /// The header and the body name different types.
    #[error("the body is a {body} but was sent as {header}")]
    MediaTypeMismatch {
        /// The type in the header.
        header: MediaType,
        /// The type in the body.
        body: MediaType,
    },
    /// Docker's schema 1, which neither current clients nor this program read.
    #[error("schema 1 manifests are not supported, push the image again with a current client")]
    Schema1,
    /// `schemaVersion` is absent or not 2.
    #[error("the schemaVersion of a manifest must be 2")]
    SchemaVersion,
    /// The document can be read both as an index and as an image.
    #[error("the document is ambiguous: {reason}")]
    Ambiguous {
        /// What could be read in two ways.
        reason: &'static str,
    },
    /// The document lacks what its type needs.
    #[error("a {media_type} without {key}")]
    Incomplete {
        /// The type of the document.
        media_type: MediaType,
        /// The key that is absent.
        key: &'static str,
    },
    /// Not JSON, or a value of the wrong type or outside its limits.
    #[error("the manifest cannot be read: {0}")]
    Json(Box<str>),
}

impl Manifest {
    /// Reads `body`, which was sent with `content_type`.
    ///
    /// The header decides the type; without one the body's `mediaType` does, and without that its keys do. Types
    /// that are not known (`application/*+json`) are read by their keys.
    ///
    /// # Errors
    /// [`ManifestError`]: nothing of the body may be kept.
    pub fn parse(body: Bytes, content_type: Option<&str>) -> Result<Self, ManifestError> {
        if body.len() > MANIFEST_LIMIT {
            return Err(ManifestError::TooLarge { length: body.len() });
        }
        let header = content_type
            .map(MediaType::parse)
            .map(possible)
            .transpose()?;
        let mut document = Document::parse(&body)?;
        let media_type = document.media_type(header)?;
        let kind = document.kind(&media_type)?;
        Ok(Self {
            bytes: body,
            media_type,
            kind,
            subject: document.subject,
            artifact_type: document.artifact_type.filter(|text| !text.is_empty()),
            annotations: document.annotations,
        })
    }

    /// The exact bytes that were parsed.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The type to serve the bytes as.
    pub fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// What this names.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The manifest that this one refers to, which need not exist.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// The `artifactType` as the document has it.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref()
    }

    /// The document's annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// The manifests of an index; none of an image.
    pub fn children(&self) -> &[Descriptor] {
        match &self.kind {
            Kind::Index { manifests } => manifests,
            Kind::Image { .. } => &[],
        }
    }

    /// The config and the layers of an image; none of an index. A digest may appear more than once.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match &self.kind {
            Kind::Index { .. } => (None, [].as_slice()),
            Kind::Image { config, layers } => (Some(config.as_ref()), layers.as_slice()),
        };
        config.into_iter().chain(layers)
    }

    /// The digest of the exact bytes.
    pub fn digest(&self, algorithm: Algorithm) -> Digest {
        Digest::of(algorithm, &self.bytes)
    }

    /// This manifest as an entry of a referrers list (distribution specification, "Listing Referrers"): with its
    /// annotations, and with the config's type where an image has no artifact type of its own.
    pub fn referrer(&self, algorithm: Algorithm) -> Descriptor {
        let artifact_type = self.artifact_type.clone().or_else(|| match &self.kind {
            Kind::Index { .. } => None,
            Kind::Image { config, .. } => Some(config.media_type.as_str().into()),
        });
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest(algorithm),
            size: u64::try_from(self.bytes.len()).unwrap_or(u64::MAX),
            urls: Vec::new(),
            artifact_type,
            platform: None,
            annotations: self.annotations.clone(),
        }
    }
}

/// Lets through the types that a manifest can have.
fn possible(media_type: MediaType) -> Result<MediaType, ManifestError> {
    match &media_type {
        schema_1 if schema_1.is_schema_1() => Err(ManifestError::Schema1),
        MediaType::Other(text) if !is_json_of_a_vendor(text) => {
            Err(ManifestError::MediaType { media_type })
        }
        _ => Ok(media_type),
    }
}

/// `application/<something>+json`
fn is_json_of_a_vendor(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("application/") && text.ends_with("+json")
}

#[cfg(test)]
mod tests;

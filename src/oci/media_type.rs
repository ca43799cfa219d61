//! Media types of manifests, and the few facts about other media types that a mirror needs.
//!
//! Sources: image specification `media-types.md`, Docker "Image Manifest Version 2, Schema 2".

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The manifest types that are asked of an upstream: what `Accept` carries, whoever the client is.
pub const ACCEPT_MANIFESTS: &str = concat!(
    "application/vnd.oci.image.index.v1+json, ",
    "application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.docker.distribution.manifest.v2+json"
);

/// The longest media type that is kept: 127 characters each side of the slash, RFC 6838 section 4.2.
const LIMIT: usize = 255;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// A media type without its parameters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaType {
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerManifestList,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// Any other type, as it was written, cut after 255 bytes.
    Other(Box<str>),
}

impl MediaType {
    /// Reads a `Content-Type` or a `mediaType`; parameters are ignored, the known types match in any case.
    ///
    /// ```
    /// use mirror::oci::MediaType;
    ///
    /// let parsed = MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8");
    /// assert_eq!(parsed, MediaType::OciIndex);
    /// ```
    pub fn parse(text: &str) -> Self {
        let essence = text.split(';').next().unwrap_or_default().trim();
        [
            Self::OciIndex,
            Self::OciManifest,
            Self::DockerManifestList,
            Self::DockerManifest,
        ]
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(essence))
        .unwrap_or_else(|| Self::Other(cut(essence).into()))
    }

    /// The type as it goes into a header.
    pub fn as_str(&self) -> &str {
        match self {
            Self::OciIndex => OCI_INDEX,
            Self::OciManifest => OCI_MANIFEST,
            Self::DockerManifestList => DOCKER_MANIFEST_LIST,
            Self::DockerManifest => DOCKER_MANIFEST,
            Self::Other(text) => text,
        }
    }

    /// Whether this is an index or a manifest list: a document that names manifests.
    pub fn is_index(&self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerManifestList)
    }

    /// Whether this is an image manifest: a document that names a config and layers.
    pub fn is_manifest(&self) -> bool {
        matches!(self, Self::OciManifest | Self::DockerManifest)
    }

    /// Whether this is Docker's withdrawn schema 1, signed or not.
    pub fn is_schema_1(&self) -> bool {
        DOCKER_SCHEMA_1
            .iter()
            .any(|known| known.eq_ignore_ascii_case(self.as_str()))
    }

    /// Whether this is a layer that a registry may not have: clients fetch it from the descriptor's `urls`.
    pub fn is_nondistributable(&self) -> bool {
        let text = self.as_str();
        text.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
            || text.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
    }
}

impl From<&str> for MediaType {
    fn from(text: &str) -> Self {
        Self::parse(text)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer).map(|text| Self::parse(&text))
    }
}

fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(LIMIT);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! The JSON document inside a manifest, before it is known to make sense.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{DESCRIPTORS_LIMIT, Kind, ManifestError, possible};
use crate::oci::bounded;
use crate::oci::descriptor::{ANNOTATIONS_LIMIT, Descriptor};
use crate::oci::media_type::MediaType;

/// The longest message that is taken over from the JSON parser, in bytes; it may quote the document.
const MESSAGE_LIMIT: usize = 256;

/// The keys whose meaning decides what a document is.
const DECISIVE: [&str; 7] = [
    "schemaVersion",
    "mediaType",
    "manifests",
    "config",
    "layers",
    "subject",
    "fsLayers",
];

/// Every key that is read from a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Descriptors>,
    config: Option<Box<Descriptor>>,
    layers: Option<Descriptors>,
    fs_layers: Option<IgnoredAny>,
    pub(super) subject: Option<Descriptor>,
    pub(super) artifact_type: Option<String>,
    #[serde(default, deserialize_with = "bounded::map::<ANNOTATIONS_LIMIT, _>")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Descriptors(
    #[serde(deserialize_with = "bounded::list::<DESCRIPTORS_LIMIT, _, _>")] Vec<Descriptor>,
);

impl Document {
    /// Reads the document and refuses what is no manifest of schema 2.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ManifestError> {
        let Keys { odd } = serde_json::from_slice(body).map_err(|error| json(&error))?;
        if odd {
            return Err(ManifestError::Ambiguous {
                reason: "a key differs from a known one only in case",
            });
        }
        let document: Self = serde_json::from_slice(body).map_err(|error| json(&error))?;
        match document.schema_version {
            Some(1) => Err(ManifestError::Schema1),
            _ if document.fs_layers.is_some() => Err(ManifestError::Schema1),
            Some(2) => Ok(document),
            _ => Err(ManifestError::SchemaVersion),
        }
    }

    /// The type of the document, which `header` and body must agree about.
    pub(super) fn media_type(&self, header: Option<MediaType>) -> Result<MediaType, ManifestError> {
        let body = self
            .media_type
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(MediaType::parse);
        match (header, body) {
            (Some(header), Some(body)) if header == body => Ok(header),
            (Some(header), Some(body)) => Err(ManifestError::MediaTypeMismatch { header, body }),
            (Some(header), None) => Ok(header),
            (None, Some(body)) => possible(body),
            (None, None) if self.manifests.is_some() => Ok(MediaType::OciIndex),
            (None, None) => Ok(MediaType::OciManifest),
        }
    }

    /// Takes out what the document names, which must be what its type needs and nothing else.
    pub(super) fn kind(&mut self, media_type: &MediaType) -> Result<Kind, ManifestError> {
        let (manifests, config, layers) = (
            self.manifests.take(),
            self.config.take(),
            self.layers.take(),
        );
        if manifests.is_some() && (config.is_some() || layers.is_some()) {
            return Err(ManifestError::Ambiguous {
                reason: "it has both manifests and a config or layers",
            });
        }
        let incomplete = |key| ManifestError::Incomplete {
            media_type: media_type.clone(),
            key,
        };
        let index = media_type.is_index() || (manifests.is_some() && !media_type.is_manifest());
        if index {
            let Descriptors(manifests) = manifests.ok_or_else(|| incomplete("manifests"))?;
            return Ok(Kind::Index { manifests });
        }
        let config = config.ok_or_else(|| incomplete("config"))?;
        let layers = layers.map_or_else(Vec::new, |Descriptors(layers)| layers);
        Ok(Kind::Image { config, layers })
    }
}

/// Whether a document has a key that only a reader without regard to case takes for a decisive one.
struct Keys {
    odd: bool,
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Keys, A::Error> {
        let mut odd = false;
        while let Some((key, IgnoredAny)) = entries.next_entry::<std::borrow::Cow<'_, str>, _>()? {
            odd |= DECISIVE
                .iter()
                .any(|known| *known != key && folds_to(&key, known));
        }
        Ok(Keys { odd })
    }
}

/// Whether the keys are equal to a reader that folds case as Go's `encoding/json` does: `\u{17f}` is an `s` to it,
/// and `\u{212a}` a `k`.
fn folds_to(key: &str, known: &str) -> bool {
    let fold = |text: &str| -> String {
        text.chars()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect()
    };
    key.len() <= known.len().saturating_mul(2) && fold(key) == fold(known)
}

/// The parser's message, cut: it may quote a text of any length.
fn json(error: &serde_json::Error) -> ManifestError {
    let mut message = error.to_string();
    message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
    ManifestError::Json(message.into())
}

//! Repository names, tags and references: the grammar of the distribution specification, "Pulling manifests".
//!
//! A value of these types is inside its grammar: no `..`, no empty component, no upper case in a name, nothing
//! that needs quoting in a path. File names are still never made from them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestError};

/// The longest repository name in characters.
pub const NAME_LIMIT: usize = 255;

/// The longest tag in characters.
pub const TAG_LIMIT: usize = 128;

/// The namespace that Docker Hub gives to names of one component.
const LIBRARY: &str = "library";

/// A repository's name: `/`-separated components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, at most
/// [`NAME_LIMIT`] characters. A clone shares the text.
///
/// ```
/// use mirror::oci::RepositoryName;
///
/// let name: RepositoryName = "nginx".parse().unwrap();
/// assert_eq!(name.with_library().as_str(), "library/nginx");
/// assert!("../etc/passwd".parse::<RepositoryName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(Arc<str>);

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

/// What stands after `/manifests/`: a tag, or a digest (which alone has a colon).
///
/// ```
/// use mirror::oci::Reference;
///
/// assert!(matches!("latest".parse(), Ok(Reference::Tag(_))));
/// assert!("sha256:latest".parse::<Reference>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// Why a text is not a repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than [`NAME_LIMIT`].
    #[error("a repository name has at most {NAME_LIMIT} characters, not {length}")]
    TooLong {
        /// The length of the text in bytes.
        length: usize,
    },
    /// One component (empty for `//`, or a slash at an end) is outside the grammar.
    #[error(
        "{component:?} cannot be a component of a repository name: lower-case letters and digits, separated by '.', '_', '__' or dashes"
    )]
    Component {
        /// The first component that is wrong.
        component: Box<str>,
    },
}

/// Why a text is not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tag has 1 to {TAG_LIMIT} letters, digits, '_', '.' and '-', and starts with none of the last two"
)]
pub struct TagError;

/// Why a text is neither a tag nor a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has no colon and is not a tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// It has a colon and is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl RepositoryName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components from left to right; there is at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The name as Docker Hub knows it: `library/<name>` for a single component, else the same.
    ///
    /// A name that would become longer than [`NAME_LIMIT`] stays as it is; no such repository can exist.
    #[must_use]
    pub fn with_library(&self) -> Self {
        if self.0.contains('/') {
            return self.clone();
        }
        format!("{LIBRARY}/{}", self.0)
            .parse()
            .unwrap_or_else(|_| self.clone())
    }

    /// The first component, and the name that the others form, if there are others.
    ///
    /// ```
    /// use mirror::oci::RepositoryName;
    ///
    /// let name: RepositoryName = "ghcr.io/owner/image".parse().unwrap();
    /// let (host, rest) = name.strip_first();
    /// assert_eq!((host, rest.unwrap().as_str()), ("ghcr.io", "owner/image"));
    /// ```
    pub fn strip_first(&self) -> (&str, Option<Self>) {
        match self.0.split_once('/') {
            Some((first, rest)) => (first, Some(Self(rest.into()))),
            None => (&self.0, None),
        }
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LIMIT {
            return Err(NameError::TooLong { length: text.len() });
        }
        match text.split('/').find(|component| !is_component(component)) {
            Some(component) => Err(NameError::Component {
                component: component.into(),
            }),
            None => Ok(Self(text.into())),
        }
    }
}

impl Tag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let mut bytes = text.bytes();
        let first = bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let rest =
            bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
        if first && rest && text.len() <= TAG_LIMIT {
            Ok(Self(text.into()))
        } else {
            Err(TagError)
        }
    }
}

impl Reference {
    /// The digest, if it is one.
    pub const fn digest(&self) -> Option<Digest> {
        match self {
            Self::Tag(_) => None,
            Self::Digest(digest) => Some(*digest),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

macro_rules! text {
    ($type:ty, $error:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.as_str().into()
            }
        }
    };
}

text!(RepositoryName, NameError);
text!(Tag, TagError);

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |byte: char| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separators = text.split(is_word);
    // Splitting at every word character leaves the separators, and an empty text before, between and after words.
    separators.next() == Some("")
        && separators.next_back() == Some("")
        && separators.all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

#[cfg(test)]
mod tests;

//! Content digests: `<algorithm>:<lower-case hex>`, as in the image specification's `descriptor.md`.
//!
//! A [`Digest`] is always of a registered algorithm and of that algorithm's exact length, so that it can be
//! compared, used as a key and turned into a file name without another check.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// The longest algorithm name that is reported back in an error.
const ALGORITHM_LIMIT: usize = 32;

/// A registered digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 64 hex characters: what everybody uses.
    Sha256,
    /// SHA-512, 128 hex characters.
    Sha512,
}

/// The digest of some content.
///
/// ```
/// use mirror::oci::{Algorithm, Digest};
///
/// let digest = Digest::of(Algorithm::Sha256, b"{}");
/// let text = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
/// assert_eq!(digest.to_string(), text);
/// assert_eq!(text.parse(), Ok(digest));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Value);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// A running hash. A clone continues from the same state, which lets a broken transfer resume.
///
/// ```
/// use mirror::oci::{Algorithm, Digest, Hasher};
///
/// let mut hasher = Hasher::new(Algorithm::Sha512);
/// hasher.update(b"{");
/// hasher.update(b"}");
/// assert_eq!(hasher.finish(), Digest::of(Algorithm::Sha512, b"{}"));
/// ```
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text is not `<algorithm>:<encoded>` at all.
    #[error("a digest is written <algorithm>:<hex>")]
    Malformed,
    /// The text may well be a digest, but not of an algorithm that is known here.
    #[error("digest algorithm {0} is not supported, use sha256 or sha512")]
    UnknownAlgorithm(Box<str>),
    /// The encoded part is not lower-case hex of the algorithm's length.
    #[error("a {algorithm} digest has {} lower-case hex characters", algorithm.encoded_len())]
    Encoded {
        /// The algorithm that the text names.
        algorithm: Algorithm,
    },
}

impl Algorithm {
    /// The registered name: `sha256` or `sha512`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of the encoded part in characters.
    pub fn encoded_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other if is_algorithm_name(other) => Err(DigestError::UnknownAlgorithm(other.into())),
            _ => Err(DigestError::Malformed),
        }
    }
}

impl Digest {
    /// Hashes `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// The digest with these raw bytes, or `None` when their number is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let value = match algorithm {
            Algorithm::Sha256 => Value::Sha256(bytes.try_into().ok()?),
            Algorithm::Sha512 => Value::Sha512(bytes.try_into().ok()?),
        };
        Some(Self(value))
    }

    /// The algorithm that made this digest.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Value::Sha256(_) => Algorithm::Sha256,
            Value::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes: 32 of SHA-256, 64 of SHA-512.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Value::Sha256(bytes) => bytes,
            Value::Sha512(bytes) => bytes,
        }
    }

    /// The part after the colon: lower-case hex, safe as a file name.
    pub fn encoded(&self) -> String {
        self.as_bytes().iter().flat_map(|&byte| hex(byte)).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.encoded())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let algorithm: Algorithm = algorithm.parse()?;
        let wrong = DigestError::Encoded { algorithm };
        let value = match algorithm {
            Algorithm::Sha256 => unhex(encoded).map(Value::Sha256),
            Algorithm::Sha512 => unhex(encoded).map(Value::Sha512),
        };
        value.map(Self).ok_or(wrong)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Hasher {
    /// A hasher that has seen no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Takes in the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything that was taken in.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            State::Sha256(state) => Value::Sha256(state.finalize().into()),
            State::Sha512(state) => Value::Sha512(state.finalize().into()),
        })
    }
}

/// `[a-z0-9]+([+._-][a-z0-9]+)*` of the specification, without the care for where separators stand.
fn is_algorithm_name(text: &str) -> bool {
    (1..=ALGORITHM_LIMIT).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'.' | b'_' | b'-'))
}

fn hex(byte: u8) -> [char; 2] {
    [byte >> 4, byte & 0x0f].map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('0'))
}

/// Exactly `N` bytes of lower-case hex.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (nibble(*high)? << 4) | nibble(*low)?;
    }
    Some(bytes)
}

fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => character.checked_sub(b'0'),
        b'a'..=b'f' => character.checked_sub(b'a')?.checked_add(10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

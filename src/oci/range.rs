//! Byte ranges: what a client asks for (RFC 9110 section 14.2) and what an upstream says it sends (section 14.4).
//!
//! Only a single range is understood. Everything that RFC 9110 lets a server ignore is ignored, so that the
//! client gets the whole blob instead of an error.

use std::fmt;

/// One range of bytes as a client asks for it, before the length of the content is known.
///
/// ```
/// use mirror::oci::{ByteRange, Span};
///
/// let range = ByteRange::parse("bytes=100-").unwrap();
/// let span = range.resolve(150).unwrap();
/// assert_eq!(span, Span { start: 100, end: 150 });
/// assert_eq!(span.content_range(150), "bytes 100-149/150");
/// assert_eq!(ByteRange::parse("bytes=0-1,5-6"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=a-b`: both ends are included, `a <= b`.
    FromTo(u64, u64),
    /// `bytes=a-`: everything from offset `a`.
    From(u64),
    /// `bytes=-n`: the last `n` bytes.
    Suffix(u64),
}

/// A part of some content in bytes: `start` is included, `end` is not. Never empty when it came from
/// [`ByteRange::resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
}

/// No byte of the content lies in the range: answer 416 with [`Unsatisfiable::content_range`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range lies outside the {total} bytes of the content")]
pub struct Unsatisfiable {
    /// The length of the content in bytes.
    pub total: u64,
}

/// The `Content-Range` of a 206.
///
/// ```
/// use mirror::oci::ContentRange;
///
/// let range = ContentRange::parse("bytes 5-9/10").unwrap();
/// assert_eq!((range.start, range.end_inclusive, range.total), (5, 9, Some(10)));
/// assert_eq!(ContentRange::parse("bytes 5-10/10"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// Offset of the first byte that is sent.
    pub start: u64,
    /// Offset of the last byte that is sent.
    pub end_inclusive: u64,
    /// The length of the whole content, unless the sender did not know it (`*`).
    pub total: Option<u64>,
}

impl ByteRange {
    /// Reads a `Range` header. `None` means: serve the whole content with 200 (another unit, several ranges,
    /// a malformed or reversed range).
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, range) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix(number(length)?)),
            (first, "") => Some(Self::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::FromTo(first, last))
            }
        }
    }

    /// The bytes that are meant, now that the content's length is known: `0 <= start < end <= total`.
    ///
    /// # Errors
    /// [`Unsatisfiable`] when that is no byte at all.
    pub fn resolve(self, total: u64) -> Result<Span, Unsatisfiable> {
        let (start, end) = match self {
            Self::FromTo(first, last) => (first, last.saturating_add(1).min(total)),
            Self::From(first) => (first, total),
            Self::Suffix(length) => (total.saturating_sub(length), total),
        };
        if start < end {
            Ok(Span { start, end })
        } else {
            Err(Unsatisfiable { total })
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromTo(first, last) => write!(f, "bytes={first}-{last}"),
            Self::From(first) => write!(f, "bytes={first}-"),
            Self::Suffix(length) => write!(f, "bytes=-{length}"),
        }
    }
}

impl Span {
    /// The number of bytes.
    pub fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The `Content-Range` of a 206 that sends this part of `total` bytes.
    pub fn content_range(&self, total: u64) -> String {
        format!(
            "bytes {}-{}/{total}",
            self.start,
            self.end.saturating_sub(1)
        )
    }
}

impl Unsatisfiable {
    /// The `Content-Range` of a 416.
    pub fn content_range(&self) -> String {
        format!("bytes */{}", self.total)
    }
}

impl ContentRange {
    /// Reads a `Content-Range` header. `None` for another unit, for an unsatisfied range (`bytes */n`), and for
    /// one that contradicts itself.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, range) = header.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (span, total) = range.trim_start().split_once('/')?;
        let (start, end) = span.split_once('-')?;
        let range = Self {
            start: exact(start)?,
            end_inclusive: exact(end)?,
            total: if total == "*" {
                None
            } else {
                Some(exact(total)?)
            },
        };
        let inside = range.total.is_none_or(|total| range.end_inclusive < total);
        (range.start <= range.end_inclusive && inside).then_some(range)
    }
}

/// `1*DIGIT`. A number that is too large for any content is as good as the largest one.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// `1*DIGIT` that must be the number it says.
fn exact(text: &str) -> Option<u64> {
    number(text)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests;

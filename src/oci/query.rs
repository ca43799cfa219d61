//! Query strings: bounded, percent-decoded, and strict about what is ambiguous.

use std::borrow::Cow;

/// The longest query in bytes.
const LIMIT: usize = 8 * 1024;

/// The most `name=value` pairs in one query.
const PAIRS_LIMIT: usize = 64;

/// A parsed query: the pairs in their order.
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// The query is too long, has too many pairs, a bad escape, text that is not UTF-8, or a control character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A parameter that may be given once was given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeated;

impl<'a> Query<'a> {
    pub(super) fn parse(query: &'a str) -> Result<Self, Malformed> {
        if query.len() > LIMIT || query.split('&').count() > PAIRS_LIMIT {
            return Err(Malformed);
        }
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            });
        pairs.collect::<Result<_, Malformed>>().map(Self)
    }

    /// The value of a parameter that may be given once; an empty value is no value.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Repeated> {
        let mut values = self.all(name);
        let value = values.next();
        if values.next().is_some() {
            Err(Repeated)
        } else {
            Ok(value.filter(|value| !value.is_empty()))
        }
    }

    /// Every value of a parameter that may be repeated.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_ref())
    }
}

/// Percent-decoding. A plus stays a plus: no value here ever holds a space, but media types hold pluses that some
/// clients forget to encode.
fn decode(text: &str) -> Result<Cow<'_, str>, Malformed> {
    if !text.contains('%') {
        return if text.contains(char::is_control) {
            Err(Malformed)
        } else {
            Ok(Cow::Borrowed(text))
        };
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            escaped(bytes.next(), bytes.next())?
        } else {
            byte
        });
    }
    let decoded = String::from_utf8(decoded).map_err(|_| Malformed)?;
    if decoded.contains(char::is_control) {
        Err(Malformed)
    } else {
        Ok(Cow::Owned(decoded))
    }
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Result<u8, Malformed> {
    let digit = |byte: Option<u8>| {
        let value = char::from(byte?).to_digit(16)?;
        u8::try_from(value).ok()
    };
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok((high << 4) | low),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests;

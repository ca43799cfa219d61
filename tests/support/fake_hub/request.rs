//! A request as it came over the wire, and what it asks for.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A parsed request head. Bodies are read and dropped: nothing a client asks of a hub has one.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
}

impl Request {
    /// Reads a head that ends with an empty line; `None` when it is not HTTP/1.1.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(head).ok()?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        if !words.next()?.starts_with("HTTP/1.") {
            return None;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = HeaderMap::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_str(value.trim()).ok()?);
        }
        Some(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every value of a query parameter, decoded, in order.
    pub(super) fn parameters(&self, name: &str) -> Vec<String> {
        parameters(&self.query, name)
    }

    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).into_iter().next()
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// How many body bytes follow the head.
    pub(super) fn content_length(&self) -> usize {
        self.header("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    pub(super) fn wants_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Every value of a query parameter, decoded, in order.
pub(super) fn parameters(query: &str, name: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
        .collect()
}

/// Undoes `%41` and `+`; what is not an escape stays as it is.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(if bytes[at] == b'+' { b' ' } else { bytes[at] }));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a request asks for, read from its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `GET /v2/`.
    Ping,
    /// `/v2/<repository>/manifests/<tag or digest>`.
    Manifest {
        /// The repository, with `library/`.
        repository: String,
        /// A tag or a digest.
        reference: String,
    },
    /// `/v2/<repository>/blobs/<digest>`.
    Blob {
        /// The repository, with `library/`.
        repository: String,
        /// The digest.
        digest: String,
    },
    /// `/v2/<repository>/tags/list`.
    Tags {
        /// The repository, with `library/`.
        repository: String,
    },
    /// `/v2/<repository>/referrers/<digest>`.
    Referrers {
        /// The repository, with `library/`.
        repository: String,
        /// The digest of the subject.
        digest: String,
    },
    /// `/token`.
    Token,
    /// A signed address of a blob at the CDN.
    SignedBlob {
        /// The digest.
        digest: String,
    },
    /// Nothing this hub knows.
    Unknown,
}

/// The CDN's path of a blob, without the signature.
pub(super) fn signed_path(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    let shard = hex.get(..2).unwrap_or("__");
    format!("/registry-v2/docker/registry/v2/blobs/{shard}/{digest}/data")
}

impl Target {
    pub(super) fn parse(path: &str) -> Self {
        let path = decode(&path.replace('+', "%2B"));
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let owned = |parts: &[&str]| parts.join("/");
        match segments.as_slice() {
            ["token"] => Self::Token,
            ["v2"] | ["v2", ""] => Self::Ping,
            ["v2", name @ .., "manifests", reference] if !name.is_empty() => Self::Manifest {
                repository: owned(name),
                reference: (*reference).to_owned(),
            },
            ["v2", name @ .., "blobs", digest] if !name.is_empty() => Self::Blob {
                repository: owned(name),
                digest: (*digest).to_owned(),
            },
            ["v2", name @ .., "referrers", digest] if !name.is_empty() => Self::Referrers {
                repository: owned(name),
                digest: (*digest).to_owned(),
            },
            ["v2", name @ .., "tags", "list"] if !name.is_empty() => Self::Tags {
                repository: owned(name),
            },
            ["registry-v2", .., digest, "data"] => Self::SignedBlob {
                digest: (*digest).to_owned(),
            },
            _ => Self::Unknown,
        }
    }

    /// The repository, where the path names one.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. } => Some(repository),
            Self::Ping | Self::Token | Self::SignedBlob { .. } | Self::Unknown => None,
        }
    }

    /// The tag or digest of a manifest.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::Manifest { reference, .. } => Some(reference),
            _ => None,
        }
    }

    /// The digest, where the path names one.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::Manifest { reference, .. } => Some(reference).filter(|it| it.contains(':')),
            Self::Blob { digest, .. }
            | Self::Referrers { digest, .. }
            | Self::SignedBlob { digest } => Some(digest),
            Self::Ping | Self::Token | Self::Tags { .. } | Self::Unknown => None,
        }
        .map(String::as_str)
    }
}

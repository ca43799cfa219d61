//! How much was asked of an upstream, and how it answered.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A token from the token endpoint.
    Token,
    /// `HEAD` of a manifest.
    ManifestHead,
    /// `GET` of a manifest; what Docker Hub counts as a pull.
    ManifestGet,
    /// `HEAD` of a blob.
    BlobHead,
    /// `GET` of a blob.
    BlobGet,
    /// The target of a redirect, usually a CDN.
    Redirected,
    /// A page of the list of tags.
    Tags,
    /// The referrers of a manifest.
    Referrers,
    /// Whether the registry answers at all.
    Ping,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 2xx
    Success,
    /// 3xx
    Redirect,
    /// 401 and 403
    Refused,
    /// 429
    RateLimited,
    /// Any other 4xx
    ClientError,
    /// 5xx, and what is not a status at all
    ServerError,
    /// No answer: the host could not be reached, or was silent.
    Failed,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Token,
        Self::ManifestHead,
        Self::ManifestGet,
        Self::BlobHead,
        Self::BlobGet,
        Self::Redirected,
        Self::Tags,
        Self::Referrers,
        Self::Ping,
    ];

    /// Whether it is about a manifest.
    pub(super) const fn is_manifest(self) -> bool {
        matches!(self, Self::ManifestHead | Self::ManifestGet)
    }

    /// Whether it is about a blob.
    pub(super) const fn is_blob(self) -> bool {
        matches!(self, Self::BlobHead | Self::BlobGet)
    }

    /// The kind's name as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::ManifestHead => "manifest_head",
            Self::ManifestGet => "manifest_get",
            Self::BlobHead => "blob_head",
            Self::BlobGet => "blob_get",
            Self::Redirected => "redirected",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Ping => "ping",
        }
    }
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::Redirect,
        Self::Refused,
        Self::RateLimited,
        Self::ClientError,
        Self::ServerError,
        Self::Failed,
    ];

    /// The class's name as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Redirect => "redirect",
            Self::Refused => "refused",
            Self::RateLimited => "rate_limited",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Failed => "failed",
        }
    }

    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            401 | 403 => Self::Refused,
            429 => Self::RateLimited,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// Counts since the upstream was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by kind and by how they ended; only those that happened.
    pub requests: Vec<(Kind, Class, u64)>,
    /// Bytes of blob bodies received.
    pub blob_bytes: u64,
}

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: [[AtomicU64; Class::ALL.len()]; Kind::ALL.len()],
    blob_bytes: AtomicU64,
}

impl Tally {
    /// Counts a request; `None` when it was not answered.
    pub(super) fn request(&self, kind: Kind, status: Option<StatusCode>) {
        let class = status.map_or(Class::Failed, Class::of);
        if let Some(count) = self.cell(kind, class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn blob_bytes(&self, length: usize) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.blob_bytes.fetch_add(length, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Counters {
        let pairs = Kind::ALL
            .into_iter()
            .flat_map(|kind| Class::ALL.map(|class| (kind, class)));
        let requests = pairs
            .filter_map(|(kind, class)| {
                let count = self.cell(kind, class)?.load(Ordering::Relaxed);
                (count > 0).then_some((kind, class, count))
            })
            .collect();
        Counters {
            requests,
            blob_bytes: self.blob_bytes.load(Ordering::Relaxed),
        }
    }

    fn cell(&self, kind: Kind, class: Class) -> Option<&AtomicU64> {
        let row = Kind::ALL.iter().position(|known| *known == kind)?;
        let column = Class::ALL.iter().position(|known| *known == class)?;
        self.requests.get(row)?.get(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_listed() {
        let tally = Tally::default();
        tally.request(Kind::Token, Some(StatusCode::OK));
        tally.request(Kind::BlobGet, Some(StatusCode::TOO_MANY_REQUESTS));
        tally.request(Kind::BlobGet, Some(StatusCode::TOO_MANY_REQUESTS));
        tally.request(Kind::Redirected, None);
        tally.blob_bytes(7);
        let expected = Counters {
            requests: vec![
                (Kind::Token, Class::Success, 1),
                (Kind::BlobGet, Class::RateLimited, 2),
                (Kind::Redirected, Class::Failed, 1),
            ],
            blob_bytes: 7,
        };
        assert_eq!(tally.snapshot(), expected);
    }
}

//! What a registry is to the rest of the program: the questions it answers, and the words for its answers.
//!
//! Every kind of repository (proxy, hosted, group) is a [`Registry`]; the HTTP floor knows no other. Each answer
//! carries an [`Outcome`], the one list of decisions that becomes response header, log field and metric label.

mod memo;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::oci::digest::Digest;
use crate::oci::name::{Reference, RepositoryName};
use crate::oci::range::{ByteRange, Span};

pub use memo::{MEMO_LIMIT, Memo, MemoError, Noted, Topic};

/// Who asks, from where, and under which request id.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer's address; `None` on a unix socket.
    pub address: Option<IpAddr>,
    /// The id under which this request is logged, at most 64 visible ASCII characters.
    pub request_id: Arc<str>,
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Served from the cache, no upstream involved.
    Hit,
    /// Served from the cache after the upstream confirmed it.
    Revalidated,
    /// Served from the cache past its freshness.
    Stale(StaleReason),
    /// Joined a download that another request had started.
    Coalesced,
    /// Fetched from the upstream.
    Miss(MissReason),
    /// Passed through without being kept.
    Bypass(BypassReason),
    /// Known to be absent.
    Negative,
    /// Held because it was pushed here.
    Hosted,
    /// Not served.
    Error(ErrorReason),
}

/// Why a stale copy was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleReason {
    /// The upstream asked for fewer requests.
    RateLimited,
    /// The upstream did not answer in time.
    Timeout,
    /// The upstream could not be reached.
    Unreachable,
    /// The upstream answered with an error, or with something unusable.
    UpstreamError,
    /// The upstream refused access.
    Denied,
    /// The upstream no longer has it.
    Deleted,
    /// No upstream is asked: the configuration says so.
    Offline,
}

/// Why the cache could not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MissReason {
    /// Never seen, or evicted since.
    Absent,
    /// The tag has moved to content that is not held.
    Moved,
    /// The index had it, the disk did not.
    Lost,
}

/// Why an answer was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BypassReason {
    /// The disk refused the write.
    DiskError,
    /// Nothing could be evicted to make room.
    NoRoom,
    /// The configuration says that it is not kept.
    NeverCache,
}

/// Why nothing was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorReason {
    /// The request itself is wrong.
    BadRequest,
    /// It does not exist, or the caller may not know that it does.
    NotFound,
    /// Not allowed.
    Denied,
    /// Not something this repository does.
    Unsupported,
    /// The range lies outside the content.
    Range,
    /// The upstream's rate limit is used up and no copy is held.
    RateLimited,
    /// The upstream cannot be reached and no copy is held.
    Unreachable,
    /// The upstream did not answer in time and no copy is held.
    Timeout,
    /// The upstream answered with something unusable.
    BadUpstream,
    /// A fault of this server.
    Internal,
}

impl Outcome {
    /// The outcome's name: header value, log field and metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidated => "revalidated",
            Self::Stale(_) => "stale",
            Self::Coalesced => "coalesced",
            Self::Miss(_) => "miss",
            Self::Bypass(_) => "bypass",
            Self::Negative => "negative",
            Self::Hosted => "hosted",
            Self::Error(_) => "error",
        }
    }

    /// The reason's name, for the outcomes that have one.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Stale(reason) => Some(reason.label()),
            Self::Miss(reason) => Some(reason.label()),
            Self::Bypass(reason) => Some(reason.label()),
            Self::Error(reason) => Some(reason.label()),
            Self::Hit | Self::Revalidated | Self::Coalesced | Self::Negative | Self::Hosted => None,
        }
    }
}

/// `hit`, `stale; reason=timeout`: the form of the `X-Mirror-Cache` header.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        match self.reason() {
            Some(reason) => write!(f, "; reason={reason}"),
            None => Ok(()),
        }
    }
}

impl StaleReason {
    const fn label(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::UpstreamError => "upstream_error",
            Self::Denied => "denied",
            Self::Deleted => "deleted",
            Self::Offline => "offline",
        }
    }
}

impl MissReason {
    const fn label(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Moved => "moved",
            Self::Lost => "lost",
        }
    }
}

impl BypassReason {
    const fn label(self) -> &'static str {
        match self {
            Self::DiskError => "disk_error",
            Self::NoRoom => "no_room",
            Self::NeverCache => "never_cache",
        }
    }
}

impl ErrorReason {
    const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::Range => "range",
            Self::RateLimited => "rate_limited",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::BadUpstream => "bad_upstream",
            Self::Internal => "internal",
        }
    }
}

/// A value, and how it came about.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// The decision behind it.
    pub outcome: Outcome,
    /// How long ago the upstream last confirmed it, where that is known.
    pub age: Option<Duration>,
    /// The upstream it belongs to, such as `docker.io`.
    pub upstream: Option<Arc<str>>,
    /// A sentence for the person who pulls, sent as `Warning: 299`.
    pub warning: Option<String>,
}

impl<T> Answer<T> {
    /// An answer with neither age nor warning.
    pub const fn new(value: T, outcome: Outcome) -> Self {
        Self {
            value,
            outcome,
            age: None,
            upstream: None,
            warning: None,
        }
    }
}

/// A manifest or index, byte for byte as it was published.
#[derive(Clone, Debug)]
pub struct ManifestContent {
    /// Digest of `bytes`, computed here.
    pub digest: Digest,
    /// The media type it was published under, without parameters.
    pub media_type: Arc<str>,
    /// The exact bytes.
    pub bytes: Bytes,
}

/// The facts that a `HEAD` of a blob tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobFacts {
    /// The blob's digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A blob, or a part of one, about to be streamed.
pub struct BlobContent {
    /// The blob's digest.
    pub digest: Digest,
    /// Length of the whole blob in bytes; `None` while an upstream that names no length is still sending.
    pub size: Option<u64>,
    /// The part that `body` yields; `None` for the whole blob.
    pub span: Option<Span>,
    /// The bytes.
    pub body: Pin<Box<dyn BlobRead>>,
}

impl fmt::Debug for BlobContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            digest,
            size,
            span,
            body: _,
        } = self;
        f.debug_struct("BlobContent")
            .field("digest", digest)
            .field("size", size)
            .field("span", span)
            .finish_non_exhaustive()
    }
}

/// Bytes of a blob, pulled by whoever sends them on.
pub trait BlobRead: Send {
    /// The next bytes, or `None` after the last.
    ///
    /// The last bytes of a whole blob are handed out only once the digest of all of it matched.
    ///
    /// # Errors
    /// [`Cut`] ends the stream early. The connection must then be broken, so that no client takes what it has
    /// for the whole.
    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>>;
}

/// A blob that ends before its end, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the blob was cut short: {reason}")]
pub struct Cut {
    /// What broke, in words.
    pub reason: String,
}

/// One page of a repository's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in byte order.
    pub tags: Vec<String>,
    /// Whether tags follow after the last one of this page.
    pub more: bool,
}

/// Which page of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// At most this many entries.
    pub limit: Option<u64>,
    /// Only entries after this one, in byte order; it need not exist.
    pub last: Option<String>,
}

/// An image index that lists the referrers of a manifest.
#[derive(Clone, Debug)]
pub struct ReferrersContent {
    /// The index, `application/vnd.oci.image.index.v1+json`.
    pub bytes: Bytes,
    /// Whether only the artifact type asked for is listed.
    pub filtered: bool,
}

/// Why a registry does not answer. The HTTP floor maps each to a status and an OCI error code in one place.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such manifest, as far as this caller may know.
    #[error("manifest {reference} is unknown to {name}")]
    ManifestUnknown {
        /// The repository.
        name: RepositoryName,
        /// The tag or digest.
        reference: Reference,
    },
    /// No such blob, as far as this caller may know.
    #[error("blob {digest} is unknown to {name}")]
    BlobUnknown {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// No such repository, as far as this caller may know.
    #[error("repository {name} is unknown")]
    NameUnknown {
        /// The repository.
        name: RepositoryName,
    },
    /// No such upstream. It was not asked.
    #[error(
        "this mirror has no upstream {host:?}: its configuration needs a table [upstreams.{host:?}]"
    )]
    UpstreamUnknown {
        /// The host that a client named.
        host: String,
    },
    /// Not allowed.
    #[error("{message}")]
    Denied {
        /// What is refused, and which key of the configuration refuses it.
        message: String,
    },
    /// The range starts after the blob's end.
    #[error("the range lies outside the blob's {size} bytes")]
    RangeNotSatisfiable {
        /// The blob's length in bytes.
        size: u64,
    },
    /// Known to be absent: the upstream said so a moment ago, and was not asked again.
    #[error("{unknown}")]
    Negative {
        /// What the client is told.
        unknown: Box<Self>,
    },
    /// Not something this repository does.
    #[error("{message}")]
    Unsupported {
        /// What is not done here, and where it is.
        message: String,
    },
    /// The upstream's rate limit is used up, and no copy is held.
    #[error("{message}")]
    RateLimited {
        /// Who limits, and what to do.
        message: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The upstream cannot be reached, and no copy is held.
    #[error("{message}")]
    Unreachable {
        /// Which host, and why.
        message: String,
    },
    /// The upstream did not answer in time, and no copy is held.
    #[error("{message}")]
    Timeout {
        /// Which host, and how long it was given.
        message: String,
    },
    /// The upstream answered with something unusable.
    #[error("{message}")]
    BadUpstream {
        /// Which host, and what was wrong.
        message: String,
    },
    /// A fault of this server.
    #[error("{message}")]
    Internal {
        /// What failed; holds no secret.
        message: String,
    },
}

impl RegistryError {
    /// The decision that this error is, for header, log and metric.
    pub const fn outcome(&self) -> Outcome {
        Outcome::Error(match self {
            Self::Negative { .. } => return Outcome::Negative,
            Self::ManifestUnknown { .. }
            | Self::BlobUnknown { .. }
            | Self::NameUnknown { .. }
            | Self::UpstreamUnknown { .. } => ErrorReason::NotFound,
            Self::Denied { .. } => ErrorReason::Denied,
            Self::RangeNotSatisfiable { .. } => ErrorReason::Range,
            Self::Unsupported { .. } => ErrorReason::Unsupported,
            Self::RateLimited { .. } => ErrorReason::RateLimited,
            Self::Unreachable { .. } => ErrorReason::Unreachable,
            Self::Timeout { .. } => ErrorReason::Timeout,
            Self::BadUpstream { .. } => ErrorReason::BadUpstream,
            Self::Internal { .. } => ErrorReason::Internal,
        })
    }
}

/// An answer that takes time.
pub type Reply<'a, T> = BoxFuture<'a, Result<Answer<T>, RegistryError>>;

/// A set of repositories that can be pulled from.
pub trait Registry: Send + Sync {
    /// The manifest or index that `reference` names.
    fn manifest<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        reference: &'a Reference,
    ) -> Reply<'a, ManifestContent>;

    /// The facts about a blob.
    fn blob_facts<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
    ) -> Reply<'a, BlobFacts>;

    /// A blob, or the part of it that `range` selects.
    fn blob<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Reply<'a, BlobContent>;

    /// One page of the repository's tags.
    fn tags<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        page: &'a PageRequest,
    ) -> Reply<'a, TagPage>;

    /// The referrers of a manifest, optionally of one artifact type only.
    fn referrers<'a>(
        &'a self,
        caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
        artifact_type: Option<&'a str>,
    ) -> Reply<'a, ReferrersContent>;
}

//! The requests of the registry protocol (distribution specification 1.1, and the endpoints of 1.2 that clients
//! use already), parsed once at the door into a closed enum.
//!
//! A path is read from the right, because a repository's name may hold the words `manifests`, `blobs` and `tags`.
//! Percent-encoding in a path is refused altogether: nothing in the grammar needs it, and decoding is how path
//! traversal begins. What comes out of here is inside the grammar; below it there are no path strings.

mod error;
mod route;

use http::Method;

pub use self::error::RequestError;
use self::route::{Endpoint, is_host, one, split_prefix};
use super::digest::{Algorithm, Digest};
use super::name::{Reference, RepositoryName, Tag};
use super::query::Query;
use super::range::ByteRange;

/// The longest path in bytes: the longest prefix, name and digest fit with room to spare.
pub const PATH_LIMIT: usize = 1024;

/// The most tags that one push can set; the specification asks for at least ten.
pub const TAGS_LIMIT: usize = 32;

/// The longest upload identifier in characters.
const UPLOAD_ID_LIMIT: usize = 128;

/// A request, and how it says which upstream it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What is asked for.
    pub request: Request,
    /// `?ns=`: the registry that a containerd client believes to talk to. A key to look up, never to dial.
    pub namespace: Option<String>,
    /// `/<host>/v2/...`: the segment before `/v2`, as dockerd and containerd send it for a mirror with a path.
    pub upstream_prefix: Option<String>,
}

/// The identifier of an upload: 1 to 128 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(Box<str>);

/// Everything that can be asked of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `GET` or `HEAD /v2/`: is this a registry, and must one log in?
    Version,
    /// `GET /v2/<name>/manifests/<reference>`
    ManifestGet {
        /// The repository.
        name: RepositoryName,
        /// The tag or digest.
        reference: Reference,
    },
    /// `HEAD /v2/<name>/manifests/<reference>`
    ManifestHead {
        /// The repository.
        name: RepositoryName,
        /// The tag or digest.
        reference: Reference,
    },
    /// `PUT /v2/<name>/manifests/<reference>[?tag=a&tag=b]`
    ManifestPut {
        /// The repository.
        name: RepositoryName,
        /// The tag or digest.
        reference: Reference,
        /// Tags to set as well; only with a digest, at most [`TAGS_LIMIT`].
        tags: Vec<Tag>,
    },
    /// `DELETE /v2/<name>/manifests/<reference>`
    ManifestDelete {
        /// The repository.
        name: RepositoryName,
        /// The tag (only it is removed) or digest (its tags go with it).
        reference: Reference,
    },
    /// `GET /v2/<name>/blobs/<digest>`
    BlobGet {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The part that is asked for; `None` for all of it.
        range: Option<ByteRange>,
    },
    /// `HEAD /v2/<name>/blobs/<digest>`
    BlobHead {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// `DELETE /v2/<name>/blobs/<digest>`
    BlobDelete {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// `POST /v2/<name>/blobs/uploads/`
    UploadStart {
        /// The repository.
        name: RepositoryName,
        /// The digest of the blob that is this request's body.
        digest: Option<Digest>,
        /// The digest of a blob that may be here already.
        mount: Option<Digest>,
        /// The repository that it can be taken from.
        from: Option<RepositoryName>,
        /// The algorithm of the digest that will finish the upload.
        algorithm: Option<Algorithm>,
    },
    /// `PATCH /v2/<name>/blobs/uploads/<id>`
    UploadChunk {
        /// The repository.
        name: RepositoryName,
        /// The upload.
        id: UploadId,
    },
    /// `PUT /v2/<name>/blobs/uploads/<id>?digest=<digest>`
    UploadFinish {
        /// The repository.
        name: RepositoryName,
        /// The upload.
        id: UploadId,
        /// What the content must hash to.
        digest: Digest,
    },
    /// `GET /v2/<name>/blobs/uploads/<id>`
    UploadStatus {
        /// The repository.
        name: RepositoryName,
        /// The upload.
        id: UploadId,
    },
    /// `DELETE /v2/<name>/blobs/uploads/<id>`
    UploadCancel {
        /// The repository.
        name: RepositoryName,
        /// The upload.
        id: UploadId,
    },
    /// `GET /v2/<name>/tags/list[?n=&last=]`
    TagsList {
        /// The repository.
        name: RepositoryName,
        /// The size of a page; unchecked.
        n: Option<u64>,
        /// The tag after which the page begins.
        last: Option<String>,
    },
    /// `GET /v2/<name>/referrers/<digest>[?artifactType=]`
    Referrers {
        /// The repository.
        name: RepositoryName,
        /// The manifest that is referred to.
        digest: Digest,
        /// The only type of referrer that is wanted.
        artifact_type: Option<String>,
    },
    /// `GET /v2/_catalog[?n=&last=]`
    Catalog {
        /// The size of a page; unchecked.
        n: Option<u64>,
        /// The repository after which the page begins.
        last: Option<String>,
    },
}

impl Request {
    /// Reads a request line's method, path and query, and the `Range` header where there is one.
    ///
    /// ```
    /// use http::Method;
    /// use mirror::oci::Request;
    ///
    /// let parsed = Request::parse(&Method::GET, "/v2/library/nginx/tags/list", Some("n=10&ns=docker.io"), None).unwrap();
    /// assert_eq!(parsed.request.name().unwrap().as_str(), "library/nginx");
    /// assert_eq!(parsed.namespace.as_deref(), Some("docker.io"));
    /// assert!(Request::parse(&Method::GET, "/v2/..%2F..%2Fetc/manifests/x", None, None).is_err());
    /// ```
    ///
    /// # Errors
    /// [`RequestError`], which knows the answer to give.
    pub fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
        range: Option<&str>,
    ) -> Result<Parsed, RequestError> {
        if path.len() > PATH_LIMIT {
            return Err(RequestError::PathTooLong);
        }
        if path.contains('%') {
            return Err(RequestError::PercentEncoded);
        }
        let (upstream_prefix, path) = split_prefix(path).ok_or(RequestError::UnknownRoute)?;
        let endpoint = Endpoint::parse(path).ok_or(RequestError::UnknownRoute)?;
        let query = Query::parse(query.unwrap_or_default()).map_err(|_| RequestError::Query)?;
        let namespace = match one(&query, "ns")? {
            Some(host) if !is_host(host) => return Err(RequestError::Parameter { name: "ns" }),
            host => host.map(Into::into),
        };
        let request = endpoint.request(method, &query, range)?;
        Ok(Parsed {
            request,
            namespace,
            upstream_prefix: upstream_prefix.map(Into::into),
        })
    }

    /// The repository that is asked, if the request is about one.
    pub fn name(&self) -> Option<&RepositoryName> {
        match self {
            Self::Version | Self::Catalog { .. } => None,
            Self::ManifestGet { name, .. }
            | Self::ManifestHead { name, .. }
            | Self::ManifestPut { name, .. }
            | Self::ManifestDelete { name, .. }
            | Self::BlobGet { name, .. }
            | Self::BlobHead { name, .. }
            | Self::BlobDelete { name, .. }
            | Self::UploadStart { name, .. }
            | Self::UploadChunk { name, .. }
            | Self::UploadFinish { name, .. }
            | Self::UploadStatus { name, .. }
            | Self::UploadCancel { name, .. }
            | Self::TagsList { name, .. }
            | Self::Referrers { name, .. } => Some(name),
        }
    }

    /// A word for logs and metric labels: the kind of thing that is asked about.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::ManifestGet { .. }
            | Self::ManifestHead { .. }
            | Self::ManifestPut { .. }
            | Self::ManifestDelete { .. } => "manifest",
            Self::BlobGet { .. } | Self::BlobHead { .. } | Self::BlobDelete { .. } => "blob",
            Self::UploadStart { .. }
            | Self::UploadChunk { .. }
            | Self::UploadFinish { .. }
            | Self::UploadStatus { .. }
            | Self::UploadCancel { .. } => "upload",
            Self::TagsList { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Catalog { .. } => "catalog",
        }
    }
}

impl UploadId {
    /// The identifier, or `None` when the text is outside the grammar.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let good = (1..=UPLOAD_ID_LIMIT).contains(&text.len()) && text.bytes().all(allowed);
        good.then(|| Self(text.into()))
    }

    /// The identifier's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;

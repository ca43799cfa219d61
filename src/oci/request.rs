//! The requests of the registry protocol (distribution specification 1.1, and the endpoints of 1.2 that clients
//! use already), parsed once at the door into a closed enum.
//!
//! A path is read from the right, because a repository's name may hold the words `manifests`, `blobs` and `tags`.
//! Percent-encoding in a path is refused altogether: nothing in the grammar needs it, and decoding is how path
//! traversal begins. What comes out of here is inside the grammar; below it there are no path strings.

mod error;

use http::Method;

pub use self::error::RequestError;
use super::digest::{Algorithm, Digest};
use super::name::{Reference, ReferenceError, RepositoryName, Tag};
use super::query::Query;
use super::range::ByteRange;

/// The longest path in bytes: the longest prefix, name and digest fit with room to spare.
pub const PATH_LIMIT: usize = 1024;

/// The most tags that one push can set; the specification asks for at least ten.
pub const TAGS_LIMIT: usize = 32;

/// The longest upload identifier in characters.
const UPLOAD_ID_LIMIT: usize = 128;

/// The longest host name with a port in characters.
const HOST_LIMIT: usize = 255;

/// The longest `last` or `artifactType` in bytes.
const TEXT_LIMIT: usize = 1024;

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

/// A path without its parameters: the endpoint, and the repository where there is one.
enum Endpoint<'a> {
    Version,
    Catalog,
    Tags(&'a str),
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Referrers(&'a str, &'a str),
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

impl<'a> Endpoint<'a> {
    /// Reads what follows `/v2`, from the right.
    fn parse(path: &'a str) -> Option<Self> {
        let path = match path {
            "" | "/" => return Some(Self::Version),
            "/_catalog" => return Some(Self::Catalog),
            path => path.strip_prefix('/')?,
        };
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some(Self::Tags(name));
        }
        if let Some(name) = path
            .strip_suffix("/blobs/uploads/")
            .or_else(|| path.strip_suffix("/blobs/uploads"))
        {
            return Some(Self::Uploads(name));
        }
        let (rest, last) = path.rsplit_once('/')?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Some(Self::Upload(name, last));
        }
        match rest.rsplit_once('/')? {
            (name, "manifests") => Some(Self::Manifest(name, last)),
            (name, "blobs") => Some(Self::Blob(name, last)),
            (name, "referrers") => Some(Self::Referrers(name, last)),
            _ => None,
        }
    }

    fn request(
        self,
        method: &Method,
        query: &Query<'_>,
        range: Option<&str>,
    ) -> Result<Request, RequestError> {
        match self {
            Self::Version => allowed(method, &[Method::GET, Method::HEAD], "GET, HEAD")
                .map(|()| Request::Version),
            Self::Catalog => {
                allowed(method, &[Method::GET], "GET")?;
                Ok(Request::Catalog {
                    n: number(query)?,
                    last: text(query, "last")?,
                })
            }
            Self::Tags(name) => {
                allowed(method, &[Method::GET], "GET")?;
                Ok(Request::TagsList {
                    name: name.parse()?,
                    n: number(query)?,
                    last: text(query, "last")?,
                })
            }
            Self::Referrers(name, digest) => {
                allowed(method, &[Method::GET], "GET")?;
                let artifact_type = text(query, "artifactType")?;
                Ok(Request::Referrers {
                    name: name.parse()?,
                    digest: digest.parse()?,
                    artifact_type,
                })
            }
            Self::Manifest(name, reference) => manifest(method, name, reference, query),
            Self::Blob(name, digest) => blob(method, name, digest, range),
            Self::Uploads(name) => upload_start(method, name, query),
            Self::Upload(name, id) => upload(method, name, id, query),
        }
    }
}

fn manifest(
    method: &Method,
    name: &str,
    reference: &str,
    query: &Query<'_>,
) -> Result<Request, RequestError> {
    let name: RepositoryName = name.parse()?;
    let existing = || match reference.parse() {
        Ok(reference) => Ok(reference),
        Err(ReferenceError::Digest(error)) => Err(RequestError::Digest(error)),
        Err(error) => Err(RequestError::Reference(error)),
    };
    match *method {
        Method::GET => Ok(Request::ManifestGet {
            name,
            reference: existing()?,
        }),
        Method::HEAD => Ok(Request::ManifestHead {
            name,
            reference: existing()?,
        }),
        Method::DELETE => Ok(Request::ManifestDelete {
            name,
            reference: existing()?,
        }),
        Method::PUT => manifest_put(name, reference, query),
        _ => Err(RequestError::MethodNotAllowed {
            allow: "GET, HEAD, PUT, DELETE",
        }),
    }
}

fn manifest_put(
    name: RepositoryName,
    reference: &str,
    query: &Query<'_>,
) -> Result<Request, RequestError> {
    let reference = reference.parse().map_err(|error| match error {
        ReferenceError::Digest(error) => RequestError::Digest(error),
        ReferenceError::Tag(error) => RequestError::Tag(error),
    })?;
    if query.all("tag").count() > TAGS_LIMIT {
        return Err(RequestError::TooManyTags { limit: TAGS_LIMIT });
    }
    let tags = query
        .all("tag")
        .map(str::parse)
        .collect::<Result<Vec<Tag>, _>>()?;
    if matches!(reference, Reference::Tag(_)) && !tags.is_empty() {
        return Err(RequestError::Parameter { name: "tag" });
    }
    Ok(Request::ManifestPut {
        name,
        reference,
        tags,
    })
}

fn blob(
    method: &Method,
    name: &str,
    digest: &str,
    range: Option<&str>,
) -> Result<Request, RequestError> {
    let name: RepositoryName = name.parse()?;
    let digest: Digest = digest.parse()?;
    match *method {
        Method::GET => Ok(Request::BlobGet {
            name,
            digest,
            range: range.and_then(ByteRange::parse),
        }),
        Method::HEAD => Ok(Request::BlobHead { name, digest }),
        Method::DELETE => Ok(Request::BlobDelete { name, digest }),
        _ => Err(RequestError::MethodNotAllowed {
            allow: "GET, HEAD, DELETE",
        }),
    }
}

fn upload_start(method: &Method, name: &str, query: &Query<'_>) -> Result<Request, RequestError> {
    allowed(method, &[Method::POST], "POST")?;
    Ok(Request::UploadStart {
        name: name.parse()?,
        digest: digest(query, "digest")?,
        mount: digest(query, "mount")?,
        from: one(query, "from")?.map(str::parse).transpose()?,
        algorithm: one(query, "digest-algorithm")?
            .map(str::parse::<Algorithm>)
            .transpose()?,
    })
}

fn upload(
    method: &Method,
    name: &str,
    id: &str,
    query: &Query<'_>,
) -> Result<Request, RequestError> {
    let name: RepositoryName = name.parse()?;
    let id = UploadId::new(id).ok_or(RequestError::UploadUnknown)?;
    match *method {
        Method::GET => Ok(Request::UploadStatus { name, id }),
        Method::PATCH => Ok(Request::UploadChunk { name, id }),
        Method::PUT => {
            let digest = digest(query, "digest")?.ok_or(RequestError::DigestMissing)?;
            Ok(Request::UploadFinish { name, id, digest })
        }
        Method::DELETE => Ok(Request::UploadCancel { name, id }),
        _ => Err(RequestError::MethodNotAllowed {
            allow: "GET, PATCH, PUT, DELETE",
        }),
    }
}

/// Splits `/v2/...` or `/<host>/v2/...` into the host and what follows `/v2`.
fn split_prefix(path: &str) -> Option<(Option<&str>, &str)> {
    if let Some(rest) = after_version(path) {
        return Some((None, rest));
    }
    let path = path.strip_prefix('/')?;
    let (prefix, rest) = path.split_at_checked(path.find('/')?)?;
    let rest = after_version(rest)?;
    is_host(prefix).then_some((Some(prefix), rest))
}

/// What follows `/v2`, when that is a whole segment.
fn after_version(path: &str) -> Option<&str> {
    path.strip_prefix("/v2")
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Characters of a host name, an address or a path segment; `..` and the like are not.
fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
    };
    text.len() <= HOST_LIMIT
        && text.bytes().all(allowed)
        && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

fn allowed(method: &Method, methods: &[Method], allow: &'static str) -> Result<(), RequestError> {
    if methods.contains(method) {
        Ok(())
    } else {
        Err(RequestError::MethodNotAllowed { allow })
    }
}

fn one<'a>(query: &'a Query<'_>, name: &'static str) -> Result<Option<&'a str>, RequestError> {
    query
        .one(name)
        .map_err(|_| RequestError::Parameter { name })
}

fn digest(query: &Query<'_>, name: &'static str) -> Result<Option<Digest>, RequestError> {
    Ok(one(query, name)?.map(str::parse::<Digest>).transpose()?)
}

/// The size of a page. A number that is too large for us is as good as the largest one: pages are capped anyway.
fn number(query: &Query<'_>) -> Result<Option<u64>, RequestError> {
    let Some(text) = one(query, "n")? else {
        return Ok(None);
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(Some(text.parse().unwrap_or(u64::MAX)))
    } else {
        Err(RequestError::Parameter { name: "n" })
    }
}

fn text(query: &Query<'_>, name: &'static str) -> Result<Option<String>, RequestError> {
    match one(query, name)? {
        Some(text) if text.len() > TEXT_LIMIT => Err(RequestError::Parameter { name }),
        text => Ok(text.map(Into::into)),
    }
}

#[cfg(test)]
mod tests;

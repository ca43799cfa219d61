//! From a path to a request: which endpoint it is, whether the method fits, what the query adds.

use http::Method;

use super::{Request, RequestError, TAGS_LIMIT, UploadId};
use crate::oci::digest::{Algorithm, Digest};
use crate::oci::name::{Reference, ReferenceError, RepositoryName, Tag};
use crate::oci::query::Query;
use crate::oci::range::ByteRange;

/// The longest host name with a port in characters.
pub(super) const HOST_LIMIT: usize = 255;

/// The longest `last` or `artifactType` in bytes.
pub(super) const TEXT_LIMIT: usize = 1024;

/// A path without its parameters: the endpoint, and the repository where there is one.
pub(super) enum Endpoint<'a> {
    Version,
    Catalog,
    Tags(&'a str),
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Referrers(&'a str, &'a str),
}

impl<'a> Endpoint<'a> {
    /// Reads what follows `/v2`, from the right.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
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

    pub(super) fn request(
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
pub(super) fn split_prefix(path: &str) -> Option<(Option<&str>, &str)> {
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
pub(super) fn is_host(text: &str) -> bool {
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

pub(super) fn one<'a>(
    query: &'a Query<'_>,
    name: &'static str,
) -> Result<Option<&'a str>, RequestError> {
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

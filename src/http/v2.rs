//! The registry protocol's endpoints: a registry's answers as replies.
//!
//! `Accept` is not looked at: by digest there is but one content, and a tag's content is never converted, so a
//! client that could not read it would be no better off with a refusal.

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, LINK};
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Serialize;

use super::body::Content;
use super::conditional::{entity_tag, is_held, range_holds};
use super::error;
use super::reply::{DOCKER_CONTENT_DIGEST, Reply};
use crate::directory::{Directory, Route};
use crate::oci::digest::Digest;
use crate::oci::media_type::MediaType;
use crate::oci::name::{Reference, RepositoryName};
use crate::oci::range::{ByteRange, Span};
use crate::oci::request::{Parsed, Request};
use crate::registry::{BlobContent, Caller, PageRequest, RegistryError, TagPage};

const DOCKER_DISTRIBUTION_API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Blobs never change under their digest.
const FOREVER: &str = "max-age=31536000";

/// The most tags on a page that names its size.
const PAGE_LIMIT: u64 = 10_000;

/// A request to a registry, with what the handlers need beside it.
pub(super) struct Ask<'a> {
    pub(super) directory: &'a Directory,
    pub(super) caller: &'a Caller,
    /// The upstream that a name without one means where the request came in.
    pub(super) listener: Option<&'a str>,
    pub(super) parsed: &'a Parsed,
    /// The path as the client sent it, for links.
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
}

type Answered = Result<Reply, RegistryError>;

/// The reply to any request of the protocol.
pub(super) async fn reply(ask: &Ask<'_>) -> Reply {
    let reply = match &ask.parsed.request {
        Request::Version => return version(),
        Request::ManifestGet { reference, .. } | Request::ManifestHead { reference, .. } => {
            manifest(ask, reference).await
        }
        Request::BlobGet { digest, range, .. } => blob(ask, *digest, *range).await,
        Request::BlobHead { digest, .. } => blob_head(ask, *digest).await,
        Request::TagsList { name, n, last } => tags(ask, name, *n, last.clone()).await,
        Request::Referrers {
            digest,
            artifact_type,
            ..
        } => referrers(ask, *digest, artifact_type.as_deref()).await,
        Request::ManifestPut { .. }
        | Request::ManifestDelete { .. }
        | Request::BlobDelete { .. }
        | Request::UploadStart { .. }
        | Request::UploadChunk { .. }
        | Request::UploadFinish { .. }
        | Request::UploadStatus { .. }
        | Request::UploadCancel { .. }
        | Request::Catalog { .. } => ask.route().and_then(|_| not_served()),
    };
    reply.unwrap_or_else(|error| error::of_registry(&error, &ask.parsed.request))
}

impl Ask<'_> {
    fn route(&self) -> Result<Route<'_>, RegistryError> {
        self.directory
            .route(self.caller, self.parsed, self.listener)
    }
}

/// `GET /v2/`. Always 200: a challenge here is what decides whether clients send credentials.
fn version() -> Reply {
    Reply::text("application/json", "{}").with(DOCKER_DISTRIBUTION_API_VERSION, "registry/2.0")
}

/// What no registry here does yet, should the directory let it through.
fn not_served() -> Answered {
    let message = "this registry cannot be written to".into();
    Err(RegistryError::Unsupported { message })
}

async fn manifest(ask: &Ask<'_>, reference: &Reference) -> Answered {
    let route = ask.route()?;
    let answer = route
        .registry
        .manifest(ask.caller, &route.name, reference)
        .await?;
    let (reply, manifest) = begin(&route).decided(answer);
    let reply = identified(reply, &manifest.digest);
    if is_held(ask.headers, &manifest.digest) {
        return Ok(not_modified(reply));
    }
    Ok(reply
        .with(CONTENT_TYPE, &manifest.media_type)
        .content(Content::Full(manifest.bytes)))
}

async fn blob_head(ask: &Ask<'_>, digest: Digest) -> Answered {
    let route = ask.route()?;
    let answer = route
        .registry
        .blob_facts(ask.caller, &route.name, digest)
        .await?;
    let (reply, facts) = begin(&route).decided(answer);
    let reply = immutable(identified(reply, &facts.digest));
    if is_held(ask.headers, &facts.digest) {
        return Ok(not_modified(reply));
    }
    Ok(octets(reply).length(facts.size))
}

async fn blob(ask: &Ask<'_>, digest: Digest, range: Option<ByteRange>) -> Answered {
    if is_held(ask.headers, &digest) {
        // Whether the blob is here and may be known is decided all the same, without opening it.
        return blob_head(ask, digest).await;
    }
    let range = range.filter(|_| range_holds(ask.headers, &digest));
    let route = ask.route()?;
    let answer = route
        .registry
        .blob(ask.caller, &route.name, digest, range)
        .await?;
    let (reply, blob) = begin(&route).decided(answer);
    let reply = octets(immutable(identified(reply, &blob.digest)));
    Ok(streamed(reply, blob))
}

/// The blob's bytes: all of them, or the part that `span` tells.
fn streamed(mut reply: Reply, blob: BlobContent) -> Reply {
    let BlobContent {
        size, span, body, ..
    } = blob;
    if let Some(span) = span {
        reply.status = StatusCode::PARTIAL_CONTENT;
        reply = reply.with(CONTENT_RANGE, content_range(span, size));
    }
    reply.content(Content::Blob {
        read: body,
        remaining: span.map(|span| span.length()).or(size),
    })
}

async fn tags(
    ask: &Ask<'_>,
    name: &RepositoryName,
    n: Option<u64>,
    last: Option<String>,
) -> Answered {
    #[derive(Serialize)]
    struct TagList<'a> {
        name: &'a str,
        tags: &'a [String],
    }
    let limit = n.map(|n| n.min(PAGE_LIMIT));
    let page = PageRequest { limit, last };
    let route = ask.route()?;
    let answer = route.registry.tags(ask.caller, &route.name, &page).await?;
    let (mut reply, page) = begin(&route).decided(answer);
    if let Some(link) = next_page(ask, limit, &page) {
        reply = reply.with(LINK, link);
    }
    let document = TagList {
        name: name.as_str(),
        tags: &page.tags,
    };
    Ok(reply
        .with(CONTENT_TYPE, "application/json")
        .content(Content::Full(json(&document)?)))
}

async fn referrers(ask: &Ask<'_>, digest: Digest, artifact_type: Option<&str>) -> Answered {
    let route = ask.route()?;
    let answer = route
        .registry
        .referrers(ask.caller, &route.name, digest, artifact_type)
        .await?;
    let (mut reply, index) = begin(&route).decided(answer);
    if index.filtered {
        reply = reply.with(OCI_FILTERS_APPLIED, "artifactType");
    }
    Ok(reply
        .with(CONTENT_TYPE, MediaType::OciIndex.as_str())
        .content(Content::Full(index.bytes)))
}

fn begin(route: &Route<'_>) -> Reply {
    let reply = Reply::new(StatusCode::OK);
    match &route.namespace_echo {
        Some(namespace) => reply.with(OCI_NAMESPACE, namespace),
        None => reply,
    }
}

fn identified(reply: Reply, digest: &Digest) -> Reply {
    reply
        .with(DOCKER_CONTENT_DIGEST, digest.to_string())
        .with(ETAG, entity_tag(digest))
}

fn immutable(reply: Reply) -> Reply {
    reply.with(CACHE_CONTROL, FOREVER)
}

fn octets(reply: Reply) -> Reply {
    reply
        .with(ACCEPT_RANGES, "bytes")
        .with(CONTENT_TYPE, "application/octet-stream")
}

fn not_modified(mut reply: Reply) -> Reply {
    reply.status = StatusCode::NOT_MODIFIED;
    reply
}

fn content_range(span: Span, size: Option<u64>) -> String {
    match size {
        Some(size) => span.content_range(size),
        None => format!("bytes {}-{}/*", span.start, span.end.saturating_sub(1)),
    }
}

/// The `Link` to the page after this one (RFC 8288), under the path that the client used.
fn next_page(ask: &Ask<'_>, limit: Option<u64>, page: &TagPage) -> Option<String> {
    let last = page.tags.last().filter(|_| page.more)?;
    let mut query = limit.map(|n| format!("n={n}&")).unwrap_or_default();
    query.push_str("last=");
    query.extend(last.bytes().map(encoded));
    if let Some(namespace) = &ask.parsed.namespace {
        query.push_str("&ns=");
        query.extend(namespace.bytes().map(encoded));
    }
    Some(format!("<{}?{query}>; rel=\"next\"", ask.path))
}

/// A byte of a query's value (RFC 3986 section 2).
fn encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
        char::from(byte).into()
    } else {
        format!("%{byte:02X}")
    }
}

fn json(value: &impl Serialize) -> Result<Bytes, RegistryError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| RegistryError::Internal {
            message: format!("cannot write a list as JSON: {error}"),
        })
}

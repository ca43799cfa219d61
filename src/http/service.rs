//! From a request's head to its answer: the server's own pages, and the door to the registry protocol.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{EXPECT, HOST, RANGE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, Response, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prometheus_client::registry::Registry as MetricRegistry;

use super::access_log::AccessSink;
use super::body::Body;
use super::connection::Peer;
use super::exchange::Exchange;
use super::metrics::{self, HttpMetrics};
use super::reply::Reply;
use super::{error, v2};
use crate::directory::Directory;
use crate::oci::request::Request;
use crate::registry::Caller;
use crate::sys::clock::{self, Clock};
use crate::sys::current::Current;

/// How much of a body that nobody asked for is read, so that the client gets to see the answer.
const DRAIN_LIMIT: usize = 64 * 1024;

/// How long such a body may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What the server answers from, and where it tells about it.
pub struct Service {
    /// The registries. A request goes on with those that it began with.
    pub directory: Arc<Current<Directory>>,
    /// Metrics and log.
    pub telemetry: Telemetry,
    /// Dates and measures requests.
    pub clock: Arc<dyn Clock>,
}

/// Where the server tells what it does.
pub struct Telemetry {
    /// The numbers of this floor.
    pub metrics: HttpMetrics,
    /// All numbers of the process, for `/metrics`.
    pub registry: Arc<MetricRegistry>,
    /// The access log; `None` writes none.
    pub access: Arc<Current<Option<AccessSink>>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Answers one request.
pub(super) async fn respond(
    service: Arc<Service>,
    peer: Peer,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let mut exchange = Exchange::begin(
        Arc::clone(&service),
        peer.address,
        &head.method,
        &head.uri,
        &head.headers,
    );
    let mut reply = match ill_formed(&head) {
        Some(reason) => error::bad_request(reason).close(),
        None => service.reply(&peer, &head, &mut exchange).await,
    };
    if head.version < Version::HTTP_11 && reply.has_unknown_length() {
        // There the end of the connection is the end of the body: a blob that is cut would look whole.
        reply = error::version_not_supported();
    }
    if !drained(&head.headers, body).await {
        reply = reply.close();
    }
    Ok(reply.send(exchange, head.method == Method::HEAD))
}

impl Service {
    async fn reply(&self, peer: &Peer, head: &Parts, exchange: &mut Exchange) -> Reply {
        let path = head.uri.path();
        let (operation, page): (_, fn(&Self) -> Reply) = match path {
            "/" => ("root", |_| root()),
            "/livez" | "/healthz" | "/readyz" | "/startupz" => ("health", |_| healthy()),
            "/metrics" => ("metrics", Self::metrics),
            _ => return self.registry(peer, head, exchange).await,
        };
        exchange.operation(operation);
        match head.method {
            Method::GET | Method::HEAD => page(self),
            _ => error::method_not_allowed("GET, HEAD"),
        }
    }

    async fn registry(&self, peer: &Peer, head: &Parts, exchange: &mut Exchange) -> Reply {
        let (path, query) = (head.uri.path(), head.uri.query());
        let parsed = match Request::parse(&head.method, path, query, single_range(&head.headers)) {
            Ok(parsed) => parsed,
            Err(error) => return error::of_request(&error),
        };
        exchange.about(&parsed.request);
        let caller = Caller {
            address: peer.address,
            request_id: exchange.request_id(),
        };
        let directory = self.directory.get();
        v2::reply(&v2::Ask {
            directory: &directory,
            caller: &caller,
            listener: peer.repository.as_deref(),
            parsed: &parsed,
            path,
            headers: &head.headers,
        })
        .await
    }

    fn metrics(&self) -> Reply {
        match metrics::encode(&self.telemetry.registry) {
            Ok(page) => Reply::text(metrics::CONTENT_TYPE, page),
            Err(fmt::Error) => error::internal("the metrics cannot be written"),
        }
    }
}

fn root() -> Reply {
    const TEXT: &str = concat!(
        "mirror ",
        env!("CARGO_PKG_VERSION"),
        "\n\nA mirror of container registries. Registry: /v2/  Health: /livez, /readyz  Metrics: /metrics\n"
    );
    Reply::text("text/plain; charset=utf-8", TEXT)
}

/// The server that answers is alive, started and ready: it binds its listeners after everything else is open, and
/// neither an upstream nor a disk that fails keeps it from serving what it can.
fn healthy() -> Reply {
    Reply::text("text/plain; charset=utf-8", "ok\n")
}

/// What makes a request's framing or target ambiguous, so that nothing after it on the connection is believed.
fn ill_formed(head: &Parts) -> Option<&'static str> {
    // Nothing here takes a body of unknown length, and with a Content-Length beside it this is how requests are
    // smuggled past a proxy (RFC 9112 section 6.1).
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Some("a body with a Transfer-Encoding is not taken here");
    }
    // RFC 9112 section 3.2.
    if head.version == Version::HTTP_11 && head.headers.get_all(HOST).iter().count() != 1 {
        return Some("a request needs one Host header");
    }
    None
}

/// The `Range` header; several of them are as good as none (RFC 9110 section 14.2).
fn single_range(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(RANGE).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line)
}

/// Reads a body that nobody asked for to its end, if that is near. Otherwise the connection cannot be used again.
async fn drained(headers: &HeaderMap, mut body: Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if headers.contains_key(EXPECT) {
        return false;
    }
    let drain = async {
        let mut left = DRAIN_LIMIT;
        while let Some(frame) = body.frame().await {
            let length = frame.ok()?.data_ref().map_or(0, bytes::Bytes::len);
            left = left.checked_sub(length)?;
        }
        Some(())
    };
    matches!(clock::timeout(DRAIN_TIME, drain).await, Ok(Some(())))
}

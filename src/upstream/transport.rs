//! The two HTTP clients of an upstream, and the limits of each.
//!
//! Control requests (tokens, manifests, lists, every `HEAD`) and blob transfers share a TLS configuration and
//! nothing else: neither connections nor slots, so a tag check never waits behind a download. Blob transfers speak
//! HTTP/1.1 alone, where one transfer owns one connection. Neither client follows redirects or decodes content.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::Url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connector::Connector;
use super::counters::{Kind, Tally};
use super::door::{Door, Errand};
use super::failure::broken;
use super::governor::Governor;
use super::proxy::{Proxies, Proxy};
use super::redirect::host_of;
use super::trials::RUNNING;
use super::{BuildError, Phase, UpstreamError};
use crate::sys::clock::{self, Clock, Elapsed};

/// How many control requests run at once.
const CONTROL_SLOTS: usize = 8;
/// How many requests of probes run at once.
const PROBE_SLOTS: usize = 2;
/// How many requests of questions run at once that find out whether they are answered: all of an outage, and those of
/// a rate limit.
const TRIAL_SLOTS: usize = RUNNING + 2;
/// How often a request is sent before it fails that others overtake.
const ATTEMPTS: usize = 2;
/// The longest that connecting may take, so that a silent address leaves time for another attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
/// How often a silent connection is probed by TCP.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// The most that one read of a blob's connection takes, and the most that its headers may need.
const READ_BUFFER: usize = 512 * 1024;
/// The most of an unwanted body that is read so that its connection can be used again.
const DRAIN_LIMIT: usize = 16 * 1024;
/// The longest that an unwanted body is waited for.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// The moment at which a question must have been answered, and what for it is asked.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    clock: Arc<dyn Clock>,
    at: Duration,
    allowed: Duration,
    errand: Errand,
}

impl Deadline {
    /// `allowed` from now.
    pub(super) fn after(allowed: Duration, clock: Arc<dyn Clock>) -> Self {
        let at = clock.monotonic().saturating_add(allowed);
        Self {
            clock,
            at,
            allowed,
            errand: Errand::Question,
        }
    }

    /// The same, for what is sent on `errand`.
    pub(super) fn on(self, errand: Errand) -> Self {
        Self { errand, ..self }
    }

    /// What for the question is asked.
    pub(super) const fn errand(&self) -> Errand {
        self.errand
    }

    /// Whether it has passed.
    pub(super) fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs `work` until the deadline.
    pub(super) async fn limit<F: Future>(&self, work: F) -> Result<F::Output, Elapsed> {
        clock::timeout(self.remaining(), work).await
    }

    /// What to say of `host` when the deadline passes in `phase`.
    pub(super) fn missed(&self, host: &str, phase: Phase) -> UpstreamError {
        let what = match phase {
            Phase::Slot => "no free connection",
            _ => "no complete answer",
        };
        UpstreamError::Unreachable {
            host: host.into(),
            phase,
            reason: format!("{what} within {}", humantime::format_duration(self.allowed)),
        }
    }

    fn remaining(&self) -> Duration {
        self.at.saturating_sub(self.clock.monotonic())
    }
}

/// One request to one host.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Who has to agree once more before it is sent.
    pub(super) governor: Option<Arc<Governor>>,
    /// What it is about.
    pub(super) repository: String,
}

/// The head of an answer, with its body still to come.
#[derive(Debug)]
pub(super) struct Arrived<B> {
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: B,
}

impl<B> Arrived<B> {
    fn new(url: Url, response: http::Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            url,
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    /// The host that answered.
    pub(super) fn host(&self) -> String {
        host_of(&self.url)
    }
}

impl<B> Arrived<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    /// Reads a small body that nobody wants, since its connection is cheaper kept than made anew.
    pub(super) async fn discard(self) -> Arrived<()> {
        let Self {
            url,
            status,
            headers,
            body,
        } = self;
        let drained = Limited::new(body, DRAIN_LIMIT).collect();
        if !matches!(clock::timeout(DRAIN_WAIT, drained).await, Ok(Ok(_))) {
            tracing::trace!(host = host_of(&url), "an unwanted body was cut");
        }
        Arrived {
            url,
            status,
            headers,
            body: (),
        }
    }
}

/// Sends one request: no redirect followed, nothing repeated.
pub(super) trait Transport: Send + Sync {
    /// What answers come with.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin;

    /// The answer's head, within `deadline`.
    fn send(
        &self,
        request: Outgoing,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Arrived<Self::Body>, UpstreamError>> + Send;
}

/// Tokens, manifests, lists and `HEAD`s: HTTP/2 where offered, at most [`CONTROL_SLOTS`] at once.
#[derive(Clone, Debug)]
pub(super) struct Control {
    client: reqwest::Client,
    line: Line,
    slots: Arc<Semaphore>,
    trial_slots: Arc<Semaphore>,
    probe_slots: Arc<Semaphore>,
}

impl Control {
    pub(super) fn new(
        mut tls: rustls::ClientConfig,
        connect: Duration,
        proxies: Proxies,
        door: Arc<Door>,
        tally: Arc<Tally>,
    ) -> Result<Self, BuildError> {
        let by = proxies.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // The `no_` settings hold even if another crate turns on the features that they switch off.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| by.url_of(url)))
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .referer(false)
            .connect_timeout(connect)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(CONTROL_SLOTS)
            .build()
            .map_err(|error| BuildError::Tls {
                reason: error.to_string(),
            })?;
        Ok(Self {
            client,
            line: Line {
                proxies,
                door,
                tally,
            },
            slots: Arc::new(Semaphore::new(CONTROL_SLOTS)),
            trial_slots: Arc::new(Semaphore::new(TRIAL_SLOTS)),
            probe_slots: Arc::new(Semaphore::new(PROBE_SLOTS)),
        })
    }

    /// What every request passes.
    pub(super) fn door(&self) -> &Door {
        &self.line.door
    }
}

impl Control {
    /// Sends `request` once; `None` when a later question was answered before this one.
    async fn sent(
        &self,
        request: &Outgoing,
        deadline: &Deadline,
    ) -> Result<Option<reqwest::Response>, UpstreamError> {
        let (kind, errand, host) = (request.kind, deadline.errand(), host_of(&request.url));
        self.line
            .door
            .pass(kind, errand, &host, &request.repository)?;
        if let Some(governor) = &request.governor
            && errand == Errand::Question
        {
            governor.pass(kind, &host, self.line.door.now())?;
        }
        let sent = self
            .client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .send();
        let sent = sent.map_err(reqwest::Error::without_url);
        self.line
            .answer(request, deadline, sent, reqwest::Response::status)
            .await
    }
}

impl Transport for Control {
    type Body = Slotted<reqwest::Body>;

    async fn send(
        &self,
        request: Outgoing,
        deadline: &Deadline,
    ) -> Result<Arrived<Self::Body>, UpstreamError> {
        let host = host_of(&request.url);
        self.line.door.online(&host)?;
        let slots = match deadline.errand() {
            Errand::Question => &self.slots,
            Errand::Trial => &self.trial_slots,
            Errand::Probe => &self.probe_slots,
        };
        let slot = slot(slots, deadline, &host).await?;
        let mut answer = None;
        for _ in 0..ATTEMPTS {
            answer = self.sent(&request, deadline).await?;
            if answer.is_some() {
                break;
            }
        }
        let answer = answer.ok_or_else(|| overtaken(&host))?;
        let response = http::Response::<reqwest::Body>::from(answer);
        Ok(Arrived::new(
            request.url,
            response.map(|body| Slotted { body, _slot: slot }),
        ))
    }
}

/// Blob bodies: HTTP/1.1. Slots are taken by the caller, since a transfer holds one to its end.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    client: Client<HttpsConnector<Connector>, Empty<Bytes>>,
    line: Line,
    slots: Arc<Semaphore>,
}

impl Blobs {
    pub(super) fn new(
        tls: rustls::ClientConfig,
        connect: Duration,
        proxies: Proxies,
        max_connections: usize,
        door: Arc<Door>,
        tally: Arc<Tally>,
    ) -> Self {
        let max_connections = max_connections.clamp(1, Semaphore::MAX_PERMITS);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(connect));
        let hops = Connector::new(tcp, tls.clone(), proxies.clone(), connect);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(hops);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(max_connections)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        Self {
            client,
            line: Line {
                proxies,
                door,
                tally,
            },
            slots: Arc::new(Semaphore::new(max_connections)),
        }
    }

    /// A slot for one transfer to `host`.
    pub(super) async fn slot(
        &self,
        deadline: &Deadline,
        host: &str,
    ) -> Result<OwnedSemaphorePermit, UpstreamError> {
        slot(&self.slots, deadline, host).await
    }
}

impl Blobs {
    fn built(&self, request: &Outgoing) -> Result<http::Request<Empty<Bytes>>, UpstreamError> {
        let mut built = http::Request::new(Empty::new());
        *built.method_mut() = request.method.clone();
        *built.headers_mut() = request.headers.clone();
        // By https it is for the one who connects: the target would see it here.
        let proxy = self.line.proxies.of(&request.url);
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref())
            && request.url.scheme() == "http"
        {
            built
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let uri = request.url.as_str().parse();
        *built.uri_mut() = uri.map_err(|_| UpstreamError::BadAnswer {
            host: host_of(&request.url),
            reason: "it redirects to something that is not a URI".into(),
        })?;
        Ok(built)
    }

    /// Sends `request` once; `None` when a later question was answered before this one.
    async fn sent(
        &self,
        request: &Outgoing,
        deadline: &Deadline,
    ) -> Result<Option<http::Response<Incoming>>, UpstreamError> {
        let sent = self.client.request(self.built(request)?);
        self.line
            .answer(request, deadline, sent, http::Response::status)
            .await
    }
}

impl Transport for Blobs {
    type Body = Incoming;

    async fn send(
        &self,
        request: Outgoing,
        deadline: &Deadline,
    ) -> Result<Arrived<Incoming>, UpstreamError> {
        let host = host_of(&request.url);
        self.line.door.online(&host)?;
        let mut answer = None;
        for _ in 0..ATTEMPTS {
            answer = self.sent(&request, deadline).await?;
            if answer.is_some() {
                break;
            }
        }
        let answer = answer.ok_or_else(|| overtaken(&host))?;
        Ok(Arrived::new(request.url, answer))
    }
}

/// What both clients do with a request on its way.
#[derive(Clone, Debug)]
struct Line {
    proxies: Proxies,
    door: Arc<Door>,
    tally: Arc<Tally>,
}

impl Line {
    /// Waits for the answer to `request`, which has been `sent`, and counts it; `None` when a later question was
    /// answered before this one.
    async fn answer<A, E: Error + 'static>(
        &self,
        request: &Outgoing,
        deadline: &Deadline,
        sent: impl Future<Output = Result<A, E>>,
        status: impl Fn(&A) -> StatusCode,
    ) -> Result<Option<A>, UpstreamError> {
        let (kind, host) = (request.kind, host_of(&request.url));
        let sent = self.door.unless_overtaken(kind, deadline.errand(), sent);
        let answer = match deadline.limit(sent).await {
            Ok(Some(answer)) => answer.map_err(|error| broken(&host, Phase::Body, &error)),
            Ok(None) => {
                self.tally.request(kind, None);
                return Ok(None);
            }
            Err(_) => Err(deadline.missed(&host, Phase::FirstByte)),
        };
        let proxy = self.proxies.of(&request.url);
        let answer = blamed(proxy, &host, answer, &status);
        self.tally.request(kind, answer.as_ref().ok().map(status));
        answer.map(Some)
    }
}

/// `answer` of `host`, with `proxy` named where it was in the way.
fn blamed<A>(
    proxy: Option<&Arc<Proxy>>,
    host: &str,
    answer: Result<A, UpstreamError>,
    status: impl Fn(&A) -> StatusCode,
) -> Result<A, UpstreamError> {
    let Some(proxy) = proxy else { return answer };
    match answer {
        Ok(answer) if status(&answer) == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Err(proxy.refused(host))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(proxy.blamed(error)),
    }
}

/// What to say of a question that was given up since a later one was answered.
fn overtaken(host: &str) -> UpstreamError {
    UpstreamError::Unreachable {
        host: host.into(),
        phase: Phase::FirstByte,
        reason: "it was asked during an outage that is over".into(),
    }
}

/// A body that holds a slot until it is dropped.
#[derive(Debug)]
pub(super) struct Slotted<B> {
    body: B,
    _slot: OwnedSemaphorePermit,
}

impl<B: Body + Unpin> Body for Slotted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn slot(
    slots: &Arc<Semaphore>,
    deadline: &Deadline,
    host: &str,
) -> Result<OwnedSemaphorePermit, UpstreamError> {
    match deadline.limit(Arc::clone(slots).acquire_owned()).await {
        Ok(Ok(slot)) => Ok(slot),
        // The semaphore is never closed; what would follow from that is the same.
        Ok(Err(_)) | Err(_) => Err(deadline.missed(host, Phase::Slot)),
    }
}

/// Connecting may take most of `timeout`: what is left tells a host that is silent from one that is not there.
pub(super) fn connect_limit(timeout: Duration) -> Duration {
    CONNECT_LIMIT.min(timeout * 3 / 4)
}

//! One question to the registry: authorised, led through redirects, judged and read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RANGE,
    USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use reqwest::Url;

use super::auth::{Access, Auth};
use super::breaker::speaks;
use super::failure::{Failure, broken};
use super::ledger::retry_after;
use super::redirect::{Trail, host_of, is_redirect};
use super::retry::retried;
use super::transport::{Arrived, Deadline, Outgoing, Transport};
use super::{Inner, Kind, Phase, Place, UpstreamError};
use crate::oci::name::RepositoryName;
use crate::oci::scope::Scope;
use crate::sys::clock;

/// How this program introduces itself.
const PRODUCT: &str = concat!("mirror/", env!("CARGO_PKG_VERSION"));

/// A question to the registry.
#[derive(Clone, Debug)]
pub(super) struct Question {
    kind: Kind,
    method: Method,
    url: Url,
    scope: Scope,
    accept: &'static str,
    /// Where in the content the answer should begin.
    offset: u64,
}

impl Question {
    /// A `GET` of `url`, which belongs to the repository `name`.
    pub(super) fn new(kind: Kind, url: Url, name: &RepositoryName, accept: &'static str) -> Self {
        Self {
            kind,
            method: Method::GET,
            url,
            scope: Scope::pull(name),
            accept,
            offset: 0,
        }
    }

    /// The same as a `HEAD`.
    pub(super) fn head(self) -> Self {
        Self {
            method: Method::HEAD,
            ..self
        }
    }

    /// The same, for what begins at `offset`.
    pub(super) fn starting_at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The same as a probe asks it: never for a blob, and never for what is counted as a pull.
    pub(super) fn into_probe(self, ping: &Url) -> Self {
        match self.kind {
            Kind::ManifestGet => Self {
                kind: Kind::ManifestHead,
                ..self.head()
            },
            Kind::BlobGet => self.into_ping(ping),
            _ => self,
        }
    }

    /// Whether the registry answers who may ask this.
    pub(super) fn into_ping(self, ping: &Url) -> Self {
        Self {
            kind: Kind::Ping,
            method: Method::GET,
            url: ping.clone(),
            offset: 0,
            ..self
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The repository that it is about.
    pub(super) fn repository(&self) -> &str {
        &self.scope.name
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it goes on with a transfer that was begun before.
    pub(super) const fn is_resumption(&self) -> bool {
        self.offset > 0
    }

    fn headers(&self, access: Option<&Access>) -> HeaderMap {
        let mut headers = base_headers();
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        if self.offset > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.offset))
        {
            headers.insert(RANGE, range);
        }
        if let Some(authorization) = access.and_then(Access::header) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        headers
    }
}

/// The head of an answer, and whether the registry's own origin gave it.
#[derive(Debug)]
pub(super) struct Answered<B> {
    pub(super) arrived: Arrived<B>,
    at_home: bool,
}

impl<B> Answered<B> {
    /// Whether the registry itself wants to be asked with something else.
    fn is_unauthorized(&self) -> bool {
        self.at_home && self.arrived.status == StatusCode::UNAUTHORIZED
    }

    /// What an answer other than a success means, to a question of `kind`.
    fn refusal(&self, kind: Kind, now: clock::Timestamp) -> Option<UpstreamError> {
        let host = self.arrived.host();
        let status = self.arrived.status.as_u16();
        match status {
            200..=299 => None,
            // The registry has let us in; what its CDN refuses is the signature, which the next request renews.
            401 | 403 if self.at_home => Some(UpstreamError::Denied { host, status }),
            // A registry that redirects has the blob: its CDN lacks a copy, which it may have by the next request.
            // Of manifests and lists the target's word counts: some registries only redirect to another.
            404 | 410 if self.at_home || !kind.is_blob() => Some(UpstreamError::NotFound { host }),
            429 => Some(UpstreamError::RateLimited {
                host,
                retry_after: retry_after(&self.arrived.headers, now),
            }),
            _ => Some(UpstreamError::Status { host, status }),
        }
    }
}

impl<B> Answered<B> {
    /// The same, as the failure of `question` and where it happened.
    pub(super) fn failure(&self, question: &Question, now: clock::Timestamp) -> Option<Failure> {
        let refusal = self.refusal(question.kind, now);
        refusal.map(|error| Failure::at(error, self.at_home))
    }
}

/// A small answer, read completely.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) host: String,
    pub(super) headers: HeaderMap,
    pub(super) bytes: Bytes,
}

impl Inner {
    /// Asks a control question, with repetitions, for an answer of at most `limit` bytes.
    pub(super) async fn ask(
        &self,
        question: &Question,
        limit: usize,
    ) -> Result<Answer, UpstreamError> {
        self.attended(question, async |errand| {
            let deadline = self.deadline().on(errand);
            let attempt = || self.attempt(question, limit, &deadline);
            retried(self.settings.retries, &deadline, attempt).await
        })
        .await
    }

    /// Asks once.
    pub(super) async fn attempt(
        &self,
        question: &Question,
        limit: usize,
        deadline: &Deadline,
    ) -> Result<Answer, Failure> {
        let answered = self.walk(&self.control, question, deadline).await?;
        let failure = answered.failure(question, self.clock.wall());
        let Answered { arrived, at_home } = answered;
        if let Some(failure) = failure {
            arrived.discard().await;
            return Err(failure);
        }
        let host = arrived.host();
        let headers = arrived.headers.clone();
        let bytes = if question.method == Method::HEAD {
            Bytes::new()
        } else {
            not_encoded(&arrived)?;
            let bytes = read(arrived, limit, self.settings.stall, deadline).await;
            bytes.map_err(|error| Failure::at(error, at_home))?
        };
        Ok(Answer {
            host,
            headers,
            bytes,
        })
    }

    /// Sends `question` as who is to ask it.
    pub(super) async fn walk<T: Transport>(
        &self,
        transport: &T,
        question: &Question,
        deadline: &Deadline,
    ) -> Result<Answered<T::Body>, Failure> {
        let repository = &question.scope.name;
        let asker = deadline.limit(self.logins.of(repository)).await;
        let auth = asker.ok().flatten();
        let auth = auth.ok_or_else(|| Failure::settled(self.has_no_login_in_time(deadline)))?;
        let walked = self.walk_as(&auth, transport, question, deadline).await;
        let refused =
            |failure: &Failure| matches!(failure.error, UpstreamError::CredentialsRefused { .. });
        if !walked.as_ref().is_err_and(refused) {
            return walked;
        }
        let another = deadline
            .limit(self.logins.instead_of(&auth, repository))
            .await;
        match another.ok().flatten() {
            Some(auth) => self.walk_as(&auth, transport, question, deadline).await,
            None => walked,
        }
    }

    fn has_no_login_in_time(&self, deadline: &Deadline) -> UpstreamError {
        deadline.missed(&host_of(&self.base), Phase::Slot)
    }

    /// Sends `question` with what authorises it, and once more if the registry answers with a challenge.
    async fn walk_as<T: Transport>(
        &self,
        auth: &Auth,
        transport: &T,
        question: &Question,
        deadline: &Deadline,
    ) -> Result<Answered<T::Body>, Failure> {
        let access = auth.access(&question.scope, deadline).await;
        let access = access.map_err(|error| self.no_token(auth, error))?;
        let answered = self
            .follow(transport, question, (auth, &access), deadline)
            .await?;
        if !answered.is_unauthorized() {
            auth.accepted(&access);
            return Ok(answered);
        }
        let refusal = answered.arrived.discard().await;
        let better = auth
            .respond(&refusal, &access, &question.scope, deadline)
            .await;
        let better = better.map_err(|error| self.no_token(auth, error));
        if better.as_ref().err().is_none_or(Failure::is_final) {
            self.door.answered(deadline.errand());
        }
        let better = better?;
        let Some(access) = better else {
            return Err(Failure::settled(UpstreamError::Denied {
                host: refusal.host(),
                status: refusal.status.as_u16(),
            }));
        };
        let answered = self
            .follow(transport, question, (auth, &access), deadline)
            .await?;
        if answered.is_unauthorized() {
            self.door.answered(deadline.errand());
        }
        match &access {
            Access::Basic(user) if answered.is_unauthorized() => {
                let host = answered.arrived.discard().await.host();
                return Err(Failure::settled(auth.refused(host, user)));
            }
            _ if answered.is_unauthorized() => {}
            access => auth.learn(access),
        }
        Ok(answered)
    }

    /// Whether a limit is kept here. A mirror that limits the rate is left alone by who asks it.
    fn governs(&self, at_home: bool) -> bool {
        at_home && matches!(self.place, Place::Home(_))
    }

    /// No token is to be had for a question.
    fn no_token(&self, auth: &Auth, error: UpstreamError) -> Failure {
        if let UpstreamError::RateLimited { retry_after, .. } = &error {
            let governor = self.governors.of(auth.username());
            governor.enter_token(*retry_after, self.clock.wall());
        }
        Failure::settled(error)
    }

    async fn follow<T: Transport>(
        &self,
        transport: &T,
        question: &Question,
        (auth, access): (&Auth, &Access),
        deadline: &Deadline,
    ) -> Result<Answered<T::Body>, Failure> {
        let governor = self.governors.of(auth.username());
        let mut trail = Trail::from(question.url.clone());
        let mut url = question.url.clone();
        let mut kind = question.kind;
        loop {
            let at_home = trail.at_home();
            let request = Outgoing {
                kind,
                method: question.method.clone(),
                url,
                headers: question.headers(at_home.then_some(access)),
                governor: self.governs(at_home).then(|| Arc::clone(&governor)),
                repository: question.scope.name.clone(),
            };
            let sent = transport.send(request, deadline).await;
            let arrived = sent.map_err(|error| Failure::at(error, at_home))?;
            if at_home {
                let now = self.clock.wall();
                if self.governs(at_home) {
                    governor.enter(kind, arrived.status, &arrived.headers, now);
                }
                // What comes of a challenge is not known yet.
                if speaks(arrived.status.as_u16()) && arrived.status != StatusCode::UNAUTHORIZED {
                    self.door.answered(deadline.errand());
                }
            }
            if !is_redirect(arrived.status) {
                return Ok(Answered { arrived, at_home });
            }
            let arrived = arrived.discard().await;
            let next = trail.follow(&arrived.url, &arrived.headers);
            url = next.map_err(|reason| bad(&arrived, reason))?;
            kind = Kind::Redirected;
        }
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.settings.timeout, Arc::clone(&self.clock))
    }
}

/// What every request carries: who asks, and that content must come as it is.
pub(super) fn base_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (USER_AGENT, HeaderValue::from_static(PRODUCT)),
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ])
}

/// Refuses content that was encoded though we asked for it as it is: its bytes are not those of the digest.
pub(super) fn not_encoded<B>(arrived: &Arrived<B>) -> Result<(), UpstreamError> {
    let encodings = arrived.headers.get_all(CONTENT_ENCODING);
    let odd = encodings
        .iter()
        .find(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match odd {
        None => Ok(()),
        Some(encoding) => {
            let encoding = String::from_utf8_lossy(encoding.as_bytes());
            Err(bad(
                arrived,
                format!("it sends content encoded as {encoding:?}"),
            ))
        }
    }
}

/// Refuses a web page, which is what captive portals and broken front ends send in place of content.
pub(super) fn not_html(host: &str, headers: &HeaderMap) -> Result<(), UpstreamError> {
    match media_type(headers) {
        Some(media_type) if media_type.eq_ignore_ascii_case("text/html") => {
            Err(UpstreamError::BadAnswer {
                host: host.into(),
                reason: "it sends a web page".into(),
            })
        }
        _ => Ok(()),
    }
}

/// `Content-Type` without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim();
    (!essence.is_empty()).then_some(essence)
}

/// `Content-Length`, when it is a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `limit` bytes, which pauses for no longer than `stall` and is complete by `deadline`.
pub(super) async fn read<B>(
    arrived: Arrived<B>,
    limit: usize,
    stall: Duration,
    deadline: &Deadline,
) -> Result<Bytes, UpstreamError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    let host = arrived.host();
    let too_long = || bad_host(&host, format!("its answer is longer than {limit} bytes"));
    let length = content_length(&arrived.headers).unwrap_or(0);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limit {
        return Err(too_long());
    }
    let mut body = arrived.body;
    let mut bytes = BytesMut::with_capacity(length);
    loop {
        let frame = deadline.limit(clock::timeout(stall, body.frame())).await;
        let frame = match frame {
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) => return Ok(bytes.freeze()),
            Ok(Err(_)) => return Err(stalled(&host, stall)),
            Err(_) => return Err(deadline.missed(&host, Phase::Body)),
        };
        let frame = frame.map_err(|error| broken(&host, Phase::Body, &*error.into()))?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        if bytes.len() + chunk.len() > limit {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// What to say of a body that pauses for too long.
pub(super) fn stalled(host: &str, stall: Duration) -> UpstreamError {
    UpstreamError::Unreachable {
        host: host.into(),
        phase: Phase::Stall,
        reason: format!("no byte for {}", humantime::format_duration(stall)),
    }
}

/// An answer that is not what was asked for.
pub(super) fn bad<B>(arrived: &Arrived<B>, reason: String) -> UpstreamError {
    bad_host(&arrived.host(), reason)
}

pub(super) fn bad_host(host: &str, reason: String) -> UpstreamError {
    UpstreamError::BadAnswer {
        host: host.into(),
        reason,
    }
}

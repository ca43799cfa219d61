//! One request and its answer, from the head's arrival to the last byte: counted and logged when it is over, however
//! it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri};
use prometheus_client::metrics::counter::Counter;

use super::access_log::{AccessSink, Ending, Entry};
use super::request_id::request_id;
use super::service::Service;
use crate::oci::request::Request;
use crate::registry::Outcome;

/// What is logged and counted for a client that left before its answer began.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Follows a request. Dropping it writes the log line.
pub(super) struct Exchange {
    service: Arc<Service>,
    request_id: Arc<str>,
    method: &'static str,
    operation: &'static str,
    started: Duration,
    answer: Option<Answered>,
    bytes: u64,
    complete: bool,
    error: Option<String>,
    /// `None` when nothing is logged.
    entry: Option<(Box<Entry>, Arc<Option<AccessSink>>)>,
}

struct Answered {
    status: StatusCode,
    outcome: Option<Outcome>,
    upstream: Option<Arc<str>>,
    after: Duration,
    bytes: Counter,
}

impl Exchange {
    /// Begins with the request's head.
    pub(super) fn begin(
        service: Arc<Service>,
        client: Option<IpAddr>,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Self {
        let telemetry = &service.telemetry;
        telemetry.metrics.in_flight.inc();
        let access = telemetry.access.get();
        let entry = access.is_some().then(|| {
            let entry = Entry::new(service.clock.wall(), client, uri, headers);
            (Box::new(entry), access)
        });
        Self {
            request_id: request_id(headers),
            method: method_label(method),
            operation: "other",
            started: service.clock.monotonic(),
            answer: None,
            bytes: 0,
            complete: false,
            error: None,
            entry,
            service,
        }
    }

    pub(super) fn request_id(&self) -> Arc<str> {
        Arc::clone(&self.request_id)
    }

    /// Names the kind of request, for those that are none of a registry's.
    pub(super) fn operation(&mut self, operation: &'static str) {
        self.operation = operation;
    }

    /// Notes which of a registry's requests it is.
    pub(super) fn about(&mut self, request: &Request) {
        self.operation = request.operation();
        if let Some((entry, _)) = &mut self.entry {
            entry.about(request);
        }
    }

    /// Notes the answer's head, the moment before it goes out.
    pub(super) fn answered(
        &mut self,
        status: StatusCode,
        outcome: Option<Outcome>,
        upstream: Option<Arc<str>>,
        digest: Option<&str>,
    ) {
        let metrics = &self.service.telemetry.metrics;
        let after = self.elapsed();
        metrics.request(self.operation, self.method, status.as_u16());
        metrics.answer(self.operation, outcome, after.as_secs_f64());
        if let (Some((entry, _)), Some(digest)) = (&mut self.entry, digest) {
            entry.served(digest);
        }
        self.answer = Some(Answered {
            status,
            outcome,
            upstream,
            after,
            bytes: metrics.bytes(self.operation, outcome),
        });
    }

    /// Notes bytes of the body that were handed to the connection.
    pub(super) fn sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(answer) = &self.answer {
            answer.bytes.inc_by(bytes);
        }
    }

    /// Notes that all of the body was handed to the connection.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Notes what went wrong, for the log.
    pub(super) fn failed(&mut self, reason: impl Into<String>) {
        self.error = Some(reason.into());
    }

    fn elapsed(&self) -> Duration {
        self.service.clock.monotonic().saturating_sub(self.started)
    }

    fn ending(&self) -> Ending<'_> {
        let answer = self.answer.as_ref();
        Ending {
            request_id: &self.request_id,
            method: self.method,
            operation: self.operation,
            status: answer.map_or(CLIENT_CLOSED_REQUEST, |answer| answer.status.as_u16()),
            bytes: self.bytes,
            duration: self.elapsed(),
            first_byte: answer.map(|answer| answer.after),
            outcome: answer.and_then(|answer| answer.outcome.map(|outcome| outcome.to_string())),
            upstream: answer.and_then(|answer| answer.upstream.as_deref()),
            complete: self.complete,
            error: self.error.as_deref(),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let telemetry = &self.service.telemetry;
        telemetry.metrics.in_flight.dec();
        if self.answer.is_none() {
            let metrics = &telemetry.metrics;
            metrics.request(self.operation, self.method, CLIENT_CLOSED_REQUEST);
        }
        if let Some((entry, access)) = &self.entry
            && let Some(sink) = &**access
        {
            sink(entry.line(&self.ending()));
        }
    }
}

/// The method as a label; a client cannot make up new ones.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

//! One line of JSON per request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::USER_AGENT;
use http::{HeaderMap, Uri};
use serde::Serialize;

use crate::oci::name::Reference;
use crate::oci::request::Request;
use crate::sys::clock::Timestamp;

/// Takes the lines of the access log, without a line end. It must not block: a log that nobody reads never stops
/// pulls.
pub type AccessSink = Arc<dyn Fn(String) + Send + Sync>;

/// The longest path and user agent that are logged, in bytes.
const TEXT_LIMIT: usize = 1024;

/// What is known of a request before it is answered. Holds no credentials: of the headers only `User-Agent` is
/// looked at, and of the query nothing.
#[derive(Debug)]
pub(super) struct Entry {
    ts: Timestamp,
    client: Option<IpAddr>,
    path: String,
    image: Option<String>,
    digest: Option<String>,
    ua: Option<String>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) request_id: &'a str,
    pub(super) method: &'a str,
    pub(super) operation: &'a str,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) duration: Duration,
    pub(super) first_byte: Option<Duration>,
    pub(super) outcome: Option<String>,
    pub(super) upstream: Option<&'a str>,
    pub(super) complete: bool,
    pub(super) error: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    req_id: &'a str,
    client: Option<IpAddr>,
    method: &'a str,
    path: &'a str,
    op: &'a str,
    image: Option<&'a str>,
    digest: Option<&'a str>,
    status: u16,
    bytes: u64,
    dur_ms: f64,
    ttfb_ms: Option<f64>,
    cache: Option<&'a str>,
    upstream: Option<&'a str>,
    ua: Option<&'a str>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Entry {
    pub(super) fn new(
        ts: Timestamp,
        client: Option<IpAddr>,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Self {
        let ua = headers
            .get(USER_AGENT)
            .map(|value| limited(&String::from_utf8_lossy(value.as_bytes())));
        Self {
            ts,
            client,
            path: limited(uri.path()),
            image: None,
            digest: None,
            ua,
        }
    }

    /// Notes what the request is about.
    pub(super) fn about(&mut self, request: &Request) {
        let name = request.name().map(ToString::to_string);
        match request {
            Request::ManifestGet { reference, .. }
            | Request::ManifestHead { reference, .. }
            | Request::ManifestPut { reference, .. }
            | Request::ManifestDelete { reference, .. } => match reference {
                Reference::Tag(tag) => self.image = name.map(|name| format!("{name}:{tag}")),
                Reference::Digest(digest) => {
                    (self.image, self.digest) = (name, Some(digest.to_string()));
                }
            },
            Request::BlobGet { digest, .. }
            | Request::BlobHead { digest, .. }
            | Request::BlobDelete { digest, .. }
            | Request::UploadFinish { digest, .. }
            | Request::Referrers { digest, .. } => {
                (self.image, self.digest) = (name, Some(digest.to_string()));
            }
            Request::Version
            | Request::Catalog { .. }
            | Request::TagsList { .. }
            | Request::UploadStart { .. }
            | Request::UploadChunk { .. }
            | Request::UploadStatus { .. }
            | Request::UploadCancel { .. } => self.image = name,
        }
    }

    /// Notes the digest of what was served.
    pub(super) fn served(&mut self, digest: &str) {
        self.digest = Some(digest.to_owned());
    }

    /// The line.
    pub(super) fn line(&self, ending: &Ending<'_>) -> String {
        let line = Line {
            ts: rfc3339(self.ts),
            req_id: ending.request_id,
            client: self.client,
            method: ending.method,
            path: &self.path,
            op: ending.operation,
            image: self.image.as_deref(),
            digest: self.digest.as_deref(),
            status: ending.status,
            bytes: ending.bytes,
            dur_ms: millis(ending.duration),
            ttfb_ms: ending.first_byte.map(millis),
            cache: ending.outcome.as_deref(),
            upstream: ending.upstream,
            ua: self.ua.as_deref(),
            complete: ending.complete,
            error: ending.error,
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

fn rfc3339(ts: Timestamp) -> String {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(ts.as_millis()))
        .map(|time| humantime::format_rfc3339_millis(time).to_string())
        .unwrap_or_default()
}

fn limited(text: &str) -> String {
    let mut text = text.to_owned();
    text.truncate(text.floor_char_boundary(TEXT_LIMIT));
    text
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;

    #[test]
    fn a_line_holds_the_request_and_its_ending() {
        let uri = Uri::from_static("/v2/library/nginx/manifests/latest?ns=docker.io");
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("docker/29"));
        let parsed = Request::parse(&Method::GET, uri.path(), uri.query(), None).unwrap();
        let ts = Timestamp::from_millis(1_700_000_000_123);
        let mut entry = Entry::new(ts, Some([127, 0, 0, 1].into()), &uri, &headers);
        entry.about(&parsed.request);
        entry.served("sha256:abc");
        let line = entry.line(&Ending {
            request_id: "r1",
            method: "GET",
            operation: parsed.request.operation(),
            status: 200,
            bytes: 7,
            duration: Duration::from_micros(1_500),
            first_byte: Some(Duration::from_micros(250)),
            outcome: Some("hit".into()),
            upstream: Some("docker.io"),
            complete: true,
            error: None,
        });
        assert_eq!(
            line,
            concat!(
                r#"{"ts":"2023-11-14T22:13:20.123Z","req_id":"r1","client":"127.0.0.1","method":"GET","#,
                r#""path":"/v2/library/nginx/manifests/latest","op":"manifest","image":"library/nginx:latest","#,
                r#""digest":"sha256:abc","status":200,"bytes":7,"dur_ms":1.5,"ttfb_ms":0.25,"cache":"hit","#,
                r#""upstream":"docker.io","ua":"docker/29","complete":true}"#
            )
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(limited(&"ä".repeat(TEXT_LIMIT)).len(), TEXT_LIMIT);
        assert_eq!(
            limited(&format!("x{}", "ä".repeat(TEXT_LIMIT))).len(),
            TEXT_LIMIT - 1
        );
    }
}

//! An answer before it is sent, and the headers that every answer carries.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::{Body, Content};
use super::exchange::Exchange;
use super::request_id::X_REQUEST_ID;
use crate::registry::{Answer, Outcome};

/// Tells what the cache decided.
const X_MIRROR_CACHE: HeaderName = HeaderName::from_static("x-mirror-cache");

/// The digest of the content, computed here.
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName =
    HeaderName::from_static("docker-content-digest");

/// The longest `Warning` header, in bytes (distribution specification, "Warnings").
const WARNING_LIMIT: usize = 4096;

/// An answer: status, headers, content, and the decision behind it.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    content: Content,
    /// The length that a `HEAD` announces when there is no content to take it from.
    length: Option<u64>,
    decision: Option<Decision>,
    /// What went wrong, for the log.
    error: Option<String>,
}

struct Decision {
    outcome: Outcome,
    age: Option<Duration>,
    upstream: Option<Arc<str>>,
    warning: Option<String>,
}

impl Reply {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(16),
            content: Content::Empty,
            length: None,
            decision: None,
            error: None,
        }
    }

    /// A text that was made here.
    pub(super) fn text(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK)
            .with(CONTENT_TYPE, content_type)
            .content(Content::Full(text.into()))
    }

    /// Adds a header. A value that cannot be one is left out.
    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        } else {
            tracing::debug!(%name, "a value that cannot be a header is left out");
        }
        self
    }

    pub(super) fn content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }

    /// Announces a length without content, as the answer to a `HEAD`.
    pub(super) fn length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    /// Names the methods that would have been right.
    pub(super) fn allow(self, methods: &'static str) -> Self {
        self.with(ALLOW, methods)
    }

    /// Ends the connection after this answer.
    pub(super) fn close(self) -> Self {
        self.with(CONNECTION, "close")
    }

    /// Tells how the answer came about, and returns its value.
    pub(super) fn decided<T>(self, answer: Answer<T>) -> (Self, T) {
        let Answer {
            value,
            outcome,
            age,
            upstream,
            warning,
        } = answer;
        let decision = Some(Decision {
            outcome,
            age,
            upstream,
            warning,
        });
        (Self { decision, ..self }, value)
    }

    /// Tells that nothing was served, and why.
    pub(super) fn refused(mut self, outcome: Outcome, reason: String) -> Self {
        self.decision = Some(Decision {
            outcome,
            age: None,
            upstream: None,
            warning: None,
        });
        self.error = Some(reason);
        self
    }

    /// Whether only the end of the content tells its length.
    pub(super) fn has_unknown_length(&self) -> bool {
        self.content.length().is_none()
    }

    /// The response, whose body ends the exchange. A `HEAD` gets the headers alone.
    pub(super) fn send(mut self, mut exchange: Exchange, is_head: bool) -> Response<Body> {
        self.common_headers(&exchange);
        if is_head {
            self.announce_length();
            self.content = Content::Empty;
        }
        if let Some(error) = self.error {
            exchange.failed(error);
        }
        let (outcome, upstream) = self
            .decision
            .map_or((None, None), |it| (Some(it.outcome), it.upstream));
        let digest = self
            .headers
            .get(DOCKER_CONTENT_DIGEST)
            .and_then(|digest| digest.to_str().ok());
        exchange.answered(self.status, outcome, upstream, digest);
        let mut response = Response::new(Body::new(self.content, exchange));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// What `Content-Length` the `GET` would have; a 304 has none (RFC 9110 section 8.6).
    fn announce_length(&mut self) {
        let length = self.length.or(self.content.length());
        if let (Some(length), true) = (length, self.status != StatusCode::NOT_MODIFIED) {
            self.headers.insert(CONTENT_LENGTH, length.into());
        }
    }

    fn common_headers(&mut self, exchange: &Exchange) {
        if let Ok(id) = HeaderValue::from_str(&exchange.request_id()) {
            self.headers.insert(X_REQUEST_ID, id);
        }
        let Some(decision) = &self.decision else {
            return;
        };
        if let Ok(cache) = HeaderValue::from_str(&decision.header()) {
            self.headers.insert(X_MIRROR_CACHE, cache);
        }
        if let Some(warning) = decision.warning.as_deref().and_then(warning) {
            self.headers.insert(WARNING, warning);
        }
    }
}

impl Decision {
    /// `hit; age=41; upstream=docker.io`
    fn header(&self) -> String {
        let mut header = self.outcome.to_string();
        // Writing to a string does not fail.
        if let Some(age) = self.age {
            _ = write!(header, "; age={}", age.as_secs());
        }
        if let Some(upstream) = &self.upstream {
            _ = write!(header, "; upstream={upstream}");
        }
        header
    }
}

/// `299 - "text"`, with what a quoted string cannot hold escaped or replaced (RFC 9110 section 5.6.4).
fn warning(text: &str) -> Option<HeaderValue> {
    const PREFIX: &str = "299 - \"";
    let mut value = String::from(PREFIX);
    for character in text.chars() {
        let mut plain = [0; 4];
        let escaped = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            ' '..='~' => character.encode_utf8(&mut plain),
            _ => "?",
        };
        if value.len() + escaped.len() >= WARNING_LIMIT {
            break;
        }
        value.push_str(escaped);
    }
    value.push('"');
    HeaderValue::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::StaleReason;

    #[test]
    fn the_decision_is_told_with_what_is_known() {
        let mut decision = Decision {
            outcome: Outcome::Hit,
            age: Some(Duration::from_millis(41_900)),
            upstream: Some("docker.io".into()),
            warning: None,
        };
        assert_eq!(decision.header(), "hit; age=41; upstream=docker.io");
        decision.outcome = Outcome::Stale(StaleReason::Timeout);
        (decision.age, decision.upstream) = (None, None);
        assert_eq!(decision.header(), "stale; reason=timeout");
    }

    #[test]
    fn a_warning_is_quoted() {
        let value = warning("say \"a\\b\"\r\nto ä").unwrap();
        assert_eq!(value, r#"299 - "say \"a\\b\"??to ?""#);
    }

    #[test]
    fn a_warning_is_at_most_4096_bytes_and_closed() {
        for text in [
            "x".repeat(10_000),
            "\"".repeat(10_000),
            format!("x{}", "\\".repeat(10_000)),
        ] {
            let value = warning(&text).unwrap();
            let value = value.to_str().unwrap();
            assert!(
                (WARNING_LIMIT - 1..=WARNING_LIMIT).contains(&value.len()),
                "{}",
                value.len()
            );
            let backslashes = value
                .trim_end_matches('"')
                .chars()
                .rev()
                .take_while(|&c| c == '\\')
                .count();
            assert!(value.ends_with('"') && backslashes % 2 == 0 || text.starts_with('"'));
        }
    }
}

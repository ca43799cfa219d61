//! What the hub saw: one [`Recorded`] for each request, in the order of arrival.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use http::HeaderMap;
use serde_json::{Value, json};

use super::request::{Request, Target, parameters};

/// A listener of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// `registry-1.docker.io`: manifests, tags, redirects to blobs.
    Registry,
    /// `auth.docker.io`: tokens.
    Token,
    /// The host that holds the blobs.
    Cdn,
    /// A host that is none of the hub's, over the hub's own scheme. It grants tokens and serves
    /// blobs, so that a client that goes there is seen to succeed.
    Foreign,
    /// As [`Self::Foreign`], always over plain http.
    Plain,
}

impl Origin {
    /// Every origin, in the order of their ports when those are fixed.
    pub const ALL: [Self; 5] = [
        Self::Registry,
        Self::Token,
        Self::Cdn,
        Self::Foreign,
        Self::Plain,
    ];
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Registry => "registry",
            Self::Token => "token",
            Self::Cdn => "cdn",
            Self::Foreign => "foreign",
            Self::Plain => "plain",
        })
    }
}

/// How far the answer to a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is still being written, or held.
    Pending,
    /// Everything the hub meant to send was sent: for a truncated answer that is the short body.
    Sent,
    /// The connection ended first: by a reset of ours, or because the peer left.
    Cut,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The listener it came to.
    pub origin: Origin,
    /// As sent, for example `GET`.
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    /// As sent, without the question mark.
    pub query: String,
    /// As sent; names in lower case, repeated lines kept apart.
    pub headers: HeaderMap,
    /// What the path asks for.
    pub target: Target,
    /// When the head was read.
    pub at: Instant,
    /// The number of the connection it came on, unique in this hub.
    pub connection: u64,
    /// The status of the answer; 0 when no answer was begun (a black hole).
    pub status: u16,
    /// Bytes of the body that were written to the socket.
    pub sent: u64,
    /// How far the answer came.
    pub outcome: Outcome,
}

impl Recorded {
    pub(super) fn new(origin: Origin, connection: u64, request: &Request) -> Self {
        Self {
            origin,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request.headers.clone(),
            target: Target::parse(&request.path),
            at: Instant::now(),
            connection,
            status: 0,
            sent: 0,
            outcome: Outcome::Pending,
        }
    }

    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every value of a query parameter, decoded, in order.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        parameters(&self.query, name)
    }

    /// The user of a Basic `Authorization`, if there was one that can be read.
    pub fn basic_user(&self) -> Option<String> {
        super::token::basic(self.header("authorization")?).map(|(user, _)| user)
    }

    /// The stable line of [`super::FakeHub::summary`]. Digests are shown by their alias, or by
    /// their first 12 hex digits.
    pub fn describe(&self, names: &Names) -> String {
        let mut line = format!("{} {} {}", self.origin, self.method, self.subject(names));
        if let Some(range) = self.header("range") {
            line.push(' ');
            line.push_str(range);
        }
        line
    }

    fn subject(&self, names: &Names) -> String {
        let query = if self.query.is_empty() { "" } else { "?" };
        match &self.target {
            Target::Ping => "/v2/".to_owned(),
            Target::Manifest {
                repository,
                reference,
            } => format!("{repository}/manifests/{}", names.short(reference)),
            Target::Blob { repository, digest } => {
                format!("{repository}/blobs/{}", names.short(digest))
            }
            Target::Tags { repository } => format!("{repository}/tags/list{query}{}", self.query),
            Target::Referrers { repository, digest } => {
                let digest = names.short(digest);
                format!("{repository}/referrers/{digest}{query}{}", self.query)
            }
            Target::SignedBlob { digest } => names.short(digest),
            Target::Token => self.token_subject(),
            Target::Unknown => format!("{}{query}{}", self.path, self.query),
        }
    }

    /// The scopes without their `repository:`, and the user when one was named.
    fn token_subject(&self) -> String {
        let scopes = self.parameters("scope");
        let scopes: Vec<_> = scopes
            .iter()
            .flat_map(|value| value.split(' '))
            .map(|scope| scope.strip_prefix("repository:").unwrap_or(scope))
            .collect();
        let scopes = if scopes.is_empty() {
            "(no scope)".to_owned()
        } else {
            scopes.join(" ")
        };
        match self.basic_user() {
            Some(user) => format!("{scopes} ({user})"),
            None => scopes,
        }
    }

    /// The record as the control port of the example shows it.
    pub fn to_json(&self, names: &Names, start: Instant) -> Value {
        let headers: HashMap<&str, Vec<String>> = self
            .headers
            .keys()
            .map(|name| {
                let values = self.headers.get_all(name).iter();
                let text = |it: &http::HeaderValue| String::from_utf8_lossy(it.as_bytes()).into();
                (name.as_str(), values.map(text).collect())
            })
            .collect();
        let at = self.at.saturating_duration_since(start);
        json!({
            "line": self.describe(names),
            "origin": self.origin.to_string(),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": headers,
            "status": self.status,
            "sent": self.sent,
            "outcome": format!("{:?}", self.outcome).to_lowercase(),
            "at_seconds": at.as_secs_f64(),
            "connection": self.connection,
        })
    }
}

/// Short names for digests.
#[derive(Clone, Debug, Default)]
pub struct Names {
    by_digest: HashMap<String, String>,
}

impl Names {
    /// Names a digest; a later name replaces the earlier.
    pub(super) fn set(&mut self, digest: &str, name: &str) {
        self.by_digest.insert(digest.to_owned(), name.to_owned());
    }

    /// Names a digest that has no name yet. A name that another digest has gets `#2`, `#3`, …
    pub(super) fn suggest(&mut self, digest: &str, name: &str) {
        if self.by_digest.contains_key(digest) {
            return;
        }
        let mut candidate = name.to_owned();
        let mut number = 2;
        while self.by_digest.values().any(|taken| *taken == candidate) {
            candidate = format!("{name}#{number}");
            number += 1;
        }
        self.by_digest.insert(digest.to_owned(), candidate);
    }

    /// The name of a digest, or its first 12 hex digits; a tag as it is.
    pub fn short(&self, reference: &str) -> String {
        if let Some(name) = self.by_digest.get(reference) {
            return name.clone();
        }
        match reference.split_once(':') {
            Some((_, hex)) => hex.chars().take(12).collect(),
            None => reference.to_owned(),
        }
    }
}

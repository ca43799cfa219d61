//! Faults: what goes wrong, for which requests, and how often.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::gate::{Barrier, Gate};
use super::record::Origin;
use super::request::{Request, Target};
use super::state::State;
use super::{FakeHub, Shared};

/// A place in the body of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before the status line.
    Head,
    /// After the head and that many bytes of this answer's body.
    Byte(u64),
    /// After that share of this answer's body, 0 to 100.
    Percent(u8),
}

/// One thing that goes wrong with an answer. Several rules may match the same request; their
/// faults are applied in the order in which they were armed.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Flips the lowest bit of the byte at that offset of the whole blob or manifest, in every
    /// answer that covers it.
    FlipBit {
        /// Offset from the start of the entity, whatever range was asked for.
        at: u64,
    },
    /// 200 with this body in place of the right one; other headers, the digest among them, stay.
    Body {
        /// The `Content-Type`.
        content_type: String,
        /// The body.
        bytes: Bytes,
    },
    /// 200 with the sign-in page of a captive portal.
    Html,
    /// Pads the body with spaces to that many bytes: JSON stays valid.
    Pad {
        /// The length of the padded body.
        bytes: usize,
    },
    /// The body really compressed, with `Content-Encoding: gzip`, whatever was accepted.
    Gzip,
    /// Sets a header.
    SetHeader(&'static str, String),
    /// Leaves a header out.
    WithoutHeader(&'static str),
    /// Leaves a field out of a JSON object.
    WithoutField(&'static str),

    /// Declares the full length and ends the connection early, in order (FIN).
    Truncate(At),
    /// Chunked, and properly ended too early.
    TruncateChunked(At),
    /// Neither length nor chunks: the end of the connection is the end, and comes too early.
    TruncateUntilClose(At),
    /// Declares that many bytes more (or fewer) than are sent; then the connection ends.
    WrongLength(i64),
    /// The right body, chunked, without `Content-Length`.
    Chunked,
    /// The right body, without `Content-Length`, ended by the end of the connection.
    UntilClose,
    /// RST once the peer has everything up to there.
    Reset(At),
    /// No byte more, until the peer leaves or the origin stops. For one that ends see
    /// [`Rule::hold`].
    Stall(At),
    /// Takes the request and never answers: `Stall(At::Head)`.
    BlackHole,
    /// The body in small pieces.
    Drip {
        /// The size of a piece.
        bytes: usize,
        /// The pause after each piece.
        every: Duration,
    },
    /// The body at that speed.
    Pace {
        /// Bytes in a second.
        bytes_per_second: usize,
    },
    /// Waits before the status line.
    Delay(Duration),

    /// Answers a range request with 200 and everything.
    IgnoreRange,
    /// 206 whose `Content-Range` and bytes both begin that many bytes further on (or earlier)
    /// than was asked for.
    ShiftRange(i64),
    /// 206 with the right `Content-Range`, and bytes from that many bytes further on.
    WrongRangeBytes(usize),

    /// That status, with `Retry-After` in seconds when given.
    Status {
        /// The status.
        code: u16,
        /// The seconds of `Retry-After`.
        retry_after: Option<u64>,
    },
    /// 307 to the very address that was asked for.
    RedirectLoop,
    /// 307 to that address.
    RedirectTo(String),
    /// 307 to [`Origin::Foreign`], which would serve the blob to anyone.
    RedirectToForeign,
    /// 307 to [`Origin::Plain`], which would serve the blob to anyone over http.
    RedirectToPlain,
    /// 401 with exactly this `WWW-Authenticate`.
    Challenge(String),
    /// Every 401 names the token endpoint of [`Origin::Foreign`] as the realm.
    ForeignRealm,
    /// A token that looks good and is refused by the registry from the start.
    DeadToken,
}

impl Fault {
    /// That status, without `Retry-After`.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            retry_after: None,
        }
    }

    /// 200 with this body in place of the right one.
    pub fn body(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        Self::Body {
            content_type: content_type.to_owned(),
            bytes: bytes.into(),
        }
    }
}

/// What a rule does to an answer.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Fault(Fault),
    Hold(At, Barrier),
}

/// Which requests a rule is for. Everything that is set must match.
#[derive(Clone, Debug)]
struct Matcher {
    origin: Origin,
    method: Option<&'static str>,
    repository: Option<String>,
    reference: Option<String>,
    digest: Option<String>,
    kind: Option<Kind>,
    ranged: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Token,
}

impl Matcher {
    fn matches(&self, origin: Origin, request: &Request, target: &Target) -> bool {
        fn agrees(wanted: Option<&String>, found: Option<&str>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted))
        }
        self.origin == origin
            && self.method.is_none_or(|it| it == request.method)
            && self
                .ranged
                .is_none_or(|it| it == request.headers.contains_key("range"))
            && self.kind.is_none_or(|it| kind_of(target) == Some(it))
            && agrees(self.repository.as_ref(), target.repository())
            && agrees(self.reference.as_ref(), target.reference())
            && agrees(self.digest.as_ref(), target.digest())
    }
}

fn kind_of(target: &Target) -> Option<Kind> {
    Some(match target {
        Target::Ping => Kind::Ping,
        Target::Manifest { .. } => Kind::Manifest,
        Target::Blob { .. } | Target::SignedBlob { .. } => Kind::Blob,
        Target::Tags { .. } => Kind::Tags,
        Target::Referrers { .. } => Kind::Referrers,
        Target::Token => Kind::Token,
        Target::Unknown => return None,
    })
}

/// A rule in force.
#[derive(Debug)]
pub(super) struct ArmedRule {
    number: u64,
    matcher: Matcher,
    skip: usize,
    times: usize,
    hits: usize,
    effect: Effect,
}

/// The effects on this request, in the order in which the rules were armed. Counts them.
pub(super) fn effects(state: &mut State, origin: Origin, request: &Request) -> Vec<Effect> {
    let target = Target::parse(&request.path);
    let mut effects = Vec::new();
    for rule in &mut state.rules {
        if rule.times == 0 || !rule.matcher.matches(origin, request, &target) {
            continue;
        }
        if rule.skip > 0 {
            rule.skip -= 1;
            continue;
        }
        rule.times -= 1;
        rule.hits += 1;
        effects.push(rule.effect.clone());
    }
    effects
}

/// A rule being written: `hub.on(Origin::Cdn).digest(&d).times(1).fault(Fault::FlipBit { at: 7 })`.
/// Without further words it matches every request to the origin, for ever.
#[must_use = "a rule is in force from `fault` or `hold` on"]
pub struct Rule<'a> {
    hub: &'a FakeHub,
    matcher: Matcher,
    skip: usize,
    times: usize,
}

impl<'a> Rule<'a> {
    pub(super) fn new(hub: &'a FakeHub, origin: Origin) -> Self {
        let matcher = Matcher {
            origin,
            method: None,
            repository: None,
            reference: None,
            digest: None,
            kind: None,
            ranged: None,
        };
        Self {
            hub,
            matcher,
            skip: 0,
            times: usize::MAX,
        }
    }

    /// Only requests with that method.
    pub fn method(mut self, method: &'static str) -> Self {
        self.matcher.method = Some(method);
        self
    }

    /// Only paths of that repository (not at the CDN, whose paths name none).
    pub fn repository(mut self, name: &str) -> Self {
        self.matcher.repository = Some(name.to_owned());
        self
    }

    /// Only manifests asked for by that tag or digest.
    pub fn reference(mut self, reference: &str) -> Self {
        self.matcher.reference = Some(reference.to_owned());
        self
    }

    /// Only paths with that digest: a manifest asked for by digest, a blob at the registry or
    /// at the CDN, the referrers of a subject.
    pub fn digest(mut self, digest: &str) -> Self {
        self.matcher.digest = Some(digest.to_owned());
        self
    }

    /// Only `GET /v2/`.
    pub fn ping(self) -> Self {
        self.kind(Kind::Ping)
    }

    /// Only manifests.
    pub fn manifests(self) -> Self {
        self.kind(Kind::Manifest)
    }

    /// Only blobs, at the registry or at the CDN.
    pub fn blobs(self) -> Self {
        self.kind(Kind::Blob)
    }

    /// Only lists of tags.
    pub fn tags(self) -> Self {
        self.kind(Kind::Tags)
    }

    /// Only referrers.
    pub fn referrers(self) -> Self {
        self.kind(Kind::Referrers)
    }

    /// Only tokens: of use at [`Origin::Foreign`].
    pub fn tokens(self) -> Self {
        self.kind(Kind::Token)
    }

    fn kind(mut self, kind: Kind) -> Self {
        self.matcher.kind = Some(kind);
        self
    }

    /// Only requests with a `Range`, or only those without.
    pub fn ranged(mut self, ranged: bool) -> Self {
        self.matcher.ranged = Some(ranged);
        self
    }

    /// Leaves the first `count` matching requests alone.
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Ends after `count` requests.
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    /// Puts the rule in force. Dropping what is returned does not end it.
    pub fn fault(self, fault: Fault) -> Armed {
        self.arm(Effect::Fault(fault))
    }

    /// Makes matching answers wait there until the gate is released or dropped.
    pub fn hold(self, at: At) -> Gate {
        let (gate, barrier) = Gate::new();
        self.arm(Effect::Hold(at, barrier));
        gate
    }

    fn arm(self, effect: Effect) -> Armed {
        let shared = Arc::clone(&self.hub.shared);
        let mut state = shared.state();
        let number = state.number();
        state.rules.push(ArmedRule {
            number,
            matcher: self.matcher,
            skip: self.skip,
            times: self.times,
            hits: 0,
            effect,
        });
        drop(state);
        Armed { shared, number }
    }
}

/// A rule in force.
pub struct Armed {
    shared: Arc<Shared>,
    number: u64,
}

impl Armed {
    /// How many requests the rule was applied to.
    pub fn hits(&self) -> usize {
        let state = self.shared.state();
        let mut rules = state.rules.iter();
        rules
            .find(|it| it.number == self.number)
            .map_or(0, |it| it.hits)
    }

    /// Ends the rule; later requests are answered as they should be.
    pub fn disarm(&self) {
        let mut state = self.shared.state();
        let mut rules = state.rules.iter_mut();
        if let Some(rule) = rules.find(|it| it.number == self.number) {
            rule.times = 0;
        }
    }
}

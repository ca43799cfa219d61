//! The plan of one answer: what is sent, where it stops, how fast it goes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write as _;

use super::answer::{Answer, Framing};
use super::faults::{At, Effect, Fault};
use super::gate::Barrier;
use super::record::Origin;
use super::request::{Request, Target};
use super::state::State;
use super::{cdn, registry, token};

/// What happens when the body has come to a stop.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Wait until the gate opens, then go on.
    Hold(Barrier),
    /// Wait until the peer leaves.
    Stall,
    /// End the connection with RST.
    Reset,
    /// End the connection with FIN.
    Close,
    /// End the body in order.
    End,
}

/// The body in pieces, with a pause after each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) bytes: usize,
    pub(super) every: Duration,
}

/// The plan of one answer.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) answer: Answer,
    pub(super) pace: Option<Pace>,
    pub(super) delay: Duration,
    pub(super) close: bool,
    stops: Vec<(At, Step)>,
    flips: Vec<u64>,
}

impl Plan {
    /// Answers a request, with the faults that are in force for it.
    pub(super) fn new(state: &mut State, origin: Origin, request: &Request) -> Self {
        let effects = super::faults::effects(state, origin, request);
        let replaced = effects.iter().find_map(|effect| match effect {
            Effect::Fault(fault) => replacement(state, origin, request, fault),
            Effect::Hold(..) => None,
        });
        let mut plan = Self {
            answer: replaced.unwrap_or_else(|| right_answer(state, origin, request)),
            pace: None,
            delay: Duration::ZERO,
            close: request.wants_close(),
            stops: Vec::new(),
            flips: Vec::new(),
        };
        for effect in effects {
            match effect {
                Effect::Fault(fault) => plan.apply(state, request, fault),
                Effect::Hold(at, barrier) => plan.stops.push((at, Step::Hold(barrier))),
            }
        }
        plan
    }

    /// What must happen before the head.
    pub(super) fn stops_before_head(&self) -> Vec<Step> {
        let before = self.stops.iter().filter(|(at, _)| *at == At::Head);
        before.map(|(_, step)| step.clone()).collect()
    }

    /// What must happen in the body, by offset; those at the same place in the order of arming.
    pub(super) fn stops_in_body(&self, len: usize) -> Vec<(usize, Step)> {
        let mut stops: Vec<_> = self
            .stops
            .iter()
            .filter_map(|(at, step)| Some((offset(*at, len)?, step.clone())))
            .collect();
        stops.sort_by_key(|(at, _)| *at);
        stops
    }

    /// The body, with the bits flipped.
    pub(super) fn body(&self) -> Bytes {
        let window = &self.answer.window;
        let flips: Vec<usize> = self
            .flips
            .iter()
            .filter_map(|at| usize::try_from(*at).ok())
            .filter(|at| window.contains(at))
            .collect();
        if flips.is_empty() {
            return self.answer.body();
        }
        let mut body = BytesMut::from(&self.answer.body()[..]);
        for at in flips {
            body[at - window.start] ^= 1;
        }
        body.freeze()
    }

    fn apply(&mut self, state: &mut State, request: &Request, fault: Fault) {
        match fault {
            Fault::FlipBit { at } => self.flips.push(at),
            Fault::Truncate(at) => self.stops.push((at, Step::Close)),
            Fault::TruncateChunked(at) => {
                self.answer.framing = Framing::Chunked;
                self.stops.push((at, Step::End));
            }
            Fault::TruncateUntilClose(at) => {
                self.answer.framing = Framing::Close;
                self.stops.push((at, Step::Close));
            }
            Fault::WrongLength(by) => self.answer.framing = Framing::Length(by),
            Fault::Chunked => self.answer.framing = Framing::Chunked,
            Fault::UntilClose => self.answer.framing = Framing::Close,
            Fault::Reset(at) => self.stops.push((at, Step::Reset)),
            Fault::Stall(at) => self.stops.push((at, Step::Stall)),
            Fault::BlackHole => self.stops.push((At::Head, Step::Stall)),
            Fault::Drip { bytes, every } => self.pace = Some(Pace { bytes, every }),
            Fault::Pace { bytes_per_second } => {
                self.pace = Some(Pace {
                    bytes: (bytes_per_second / 50).max(1),
                    every: Duration::from_millis(20),
                });
            }
            Fault::Delay(delay) => self.delay += delay,
            Fault::DeadToken => kill_token(state, &self.answer),
            other => change(&mut self.answer, state, request, other),
        }
    }
}

fn right_answer(state: &mut State, origin: Origin, request: &Request) -> Answer {
    match origin {
        Origin::Registry => registry::answer(state, request),
        Origin::Token => token::answer(state, request),
        Origin::Cdn => cdn::answer(state, request),
        Origin::Foreign | Origin::Plain => match Target::parse(&request.path) {
            Target::Token => token::foreign(state, request),
            _ => cdn::foreign(state, request),
        },
    }
}

/// The answer in place of the right one, where the fault leaves nothing of it.
fn replacement(
    state: &mut State,
    origin: Origin,
    request: &Request,
    fault: &Fault,
) -> Option<Answer> {
    let elsewhere = |state: &mut State, origin| {
        let digest = Target::parse(&request.path).digest().map(str::to_owned);
        let digest = digest.unwrap_or_default();
        Answer::redirect(&state.signed_url(origin, &digest))
    };
    Some(match fault {
        Fault::Status { code, retry_after } => status(*code, *retry_after),
        Fault::Html => Answer::new(
            200,
            "text/html; charset=utf-8",
            "<!doctype html><html><title>Sign in</title><p>Welcome to the guest network.</html>\n",
        ),
        Fault::RedirectLoop => {
            let query = if request.query.is_empty() { "" } else { "?" };
            let (base, path) = (state.url(origin), &request.path);
            Answer::redirect(&format!("{base}{path}{query}{}", request.query))
        }
        Fault::RedirectTo(location) => Answer::redirect(location),
        Fault::RedirectToForeign => elsewhere(state, Origin::Foreign),
        Fault::RedirectToPlain => elsewhere(state, Origin::Plain),
        Fault::Challenge(value) => {
            registry::challenge("", None, "").with("www-authenticate", value)
        }
        _ => return None,
    })
}

fn status(code: u16, retry_after: Option<u64>) -> Answer {
    let name = match code {
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    let answer = Answer::error(code, name, "injected by the test");
    match retry_after {
        Some(seconds) => answer.with("retry-after", &seconds.to_string()),
        None => answer,
    }
}

/// Faults that change a part of the right answer.
fn change(answer: &mut Answer, state: &State, request: &Request, fault: Fault) {
    match fault {
        Fault::Body {
            content_type,
            bytes,
        } => {
            answer.status = 200;
            answer.remove("content-range");
            answer.set("content-type", &content_type);
            answer.set_entity(bytes);
        }
        Fault::Pad { bytes } => {
            let mut padded = answer.entity.to_vec();
            padded.resize(bytes.max(padded.len()), b' ');
            answer.set_entity(padded.into());
        }
        Fault::Gzip => {
            answer.set_entity(gzip(&answer.body()));
            answer.set("content-encoding", "gzip");
        }
        Fault::SetHeader(name, value) => answer.set(name, &value),
        Fault::WithoutHeader(name) => answer.remove(name),
        Fault::WithoutField(name) => remove_field(answer, name),
        Fault::ForeignRealm if answer.status == 401 => {
            let realm = format!("{}/token", state.url(Origin::Foreign));
            let target = Target::parse(&request.path);
            *answer = registry::challenge(&realm, target.repository(), "");
        }
        range_fault if answer.status == 206 => change_range(answer, &range_fault),
        _ => {}
    }
}

fn change_range(answer: &mut Answer, fault: &Fault) {
    let len = answer.entity.len();
    match fault {
        Fault::IgnoreRange => {
            answer.status = 200;
            answer.remove("content-range");
            answer.window = 0..len;
        }
        Fault::ShiftRange(by) => {
            let by = isize::try_from(*by).expect("an offset fits in memory");
            let start = answer.window.start.saturating_add_signed(by);
            answer.set_window(start.min(len.saturating_sub(1))..len.max(1));
        }
        Fault::WrongRangeBytes(by) => {
            let window = answer.window.clone();
            let wrong: Vec<u8> = window.map(|at| answer.entity[(at + by) % len]).collect();
            answer.set_entity(wrong.into());
        }
        _ => {}
    }
}

fn remove_field(answer: &mut Answer, name: &str) {
    let mut value: Value = serde_json::from_slice(&answer.entity).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove(name);
        answer.set_entity(value.to_string().into());
    }
}

/// Takes the token of this answer out of force.
fn kill_token(state: &mut State, answer: &Answer) {
    let value: Value = serde_json::from_slice(&answer.entity).unwrap_or_default();
    if let Some(token) = value["token"].as_str() {
        state.tokens.remove(token);
    }
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything").into()
}

/// The offset in a body of that length; `None` before the head.
fn offset(at: At, len: usize) -> Option<usize> {
    match at {
        At::Head => None,
        At::Byte(at) => Some(usize::try_from(at).unwrap_or(usize::MAX).min(len)),
        At::Percent(share) => Some(len * usize::from(share.min(100)) / 100),
    }
}

//! An answer before it is written: a status, headers and a window into an entity.

use std::ops::Range;

use bytes::Bytes;
use serde_json::json;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// `Content-Length`, and the number added to the truth.
    Length(i64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Neither: the connection's end is the body's.
    Close,
}

/// What will be sent, when nothing interferes.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// The whole entity, of which `window` is sent.
    pub(super) entity: Bytes,
    pub(super) window: Range<usize>,
    pub(super) framing: Framing,
}

impl Answer {
    /// An answer with that body.
    pub(super) fn new(status: u16, content_type: &str, entity: impl Into<Bytes>) -> Self {
        let entity = entity.into();
        let mut answer = Self {
            status,
            headers: Vec::new(),
            window: 0..entity.len(),
            entity,
            framing: Framing::Length(0),
        };
        answer.set("content-type", content_type);
        answer
    }

    /// A JSON answer.
    pub(super) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    /// An error in the distribution specification's form.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let error = json!({"errors": [{"code": code, "message": message, "detail": null}]});
        Self::json(status, &error)
    }

    /// An empty answer that points elsewhere.
    pub(super) fn redirect(location: &str) -> Self {
        Self::new(307, "text/html; charset=utf-8", "").with("location", location)
    }

    /// Replaces a header.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Replaces a header.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Replaces the entity and sends all of it.
    pub(super) fn set_entity(&mut self, entity: Bytes) {
        self.window = 0..entity.len();
        self.entity = entity;
    }

    /// The bytes of the body.
    pub(super) fn body(&self) -> Bytes {
        self.entity.slice(self.window.clone())
    }

    /// Answers a range of the entity with 206, or 416 when it lies outside.
    pub(super) fn with_range(mut self, range: Option<&str>) -> Self {
        let len = self.entity.len();
        match range.and_then(|text| parse_range(text, len)) {
            None => self,
            Some(Err(Unsatisfiable)) => {
                Self::new(416, "text/plain", "").with("content-range", &format!("bytes */{len}"))
            }
            Some(Ok(window)) => {
                self.status = 206;
                self.set_window(window);
                self
            }
        }
    }

    /// Sends that window and says so.
    pub(super) fn set_window(&mut self, window: Range<usize>) {
        let (first, last) = (window.start, window.end.saturating_sub(1));
        let total = self.entity.len();
        self.set("content-range", &format!("bytes {first}-{last}/{total}"));
        self.window = window;
    }

    /// The head as it goes over the wire.
    pub(super) fn head(&self) -> String {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Unknown");
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status);
        for (name, value) in &self.headers {
            head += &[name, ": ", value, "\r\n"].concat();
        }
        head.push_str(&self.framing_line());
        head.push_str("\r\n");
        head
    }

    fn framing_line(&self) -> String {
        match self.framing {
            Framing::Length(wrong_by) => {
                let len = u64::try_from(self.window.len()).expect("a length fits in 64 bits");
                format!(
                    "content-length: {}\r\n",
                    len.saturating_add_signed(wrong_by)
                )
            }
            Framing::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
            Framing::Close => "connection: close\r\n".to_owned(),
        }
    }
}

/// The range begins after the end.
struct Unsatisfiable;

/// One range of `bytes=`; `None` for what a server may ignore (several ranges, another unit).
fn parse_range(text: &str, len: usize) -> Option<Result<Range<usize>, Unsatisfiable>> {
    let spec = text.strip_prefix("bytes=")?;
    let (first, last) = spec.split_once('-')?;
    let window = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Err(_), Ok(suffix)) if first.is_empty() => len.saturating_sub(suffix)..len,
        (Ok(first), Err(_)) if last.is_empty() => first..len,
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(len),
        _ => return None,
    };
    Some(if window.start < window.end {
        Ok(window)
    } else {
        Err(Unsatisfiable)
    })
}

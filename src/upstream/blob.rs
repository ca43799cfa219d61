//! Opening a blob: one attempt, and a body that knows where it starts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::CONTENT_RANGE;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::counters::Tally;
use super::door::Errand;
use super::failure::{Failure, broken};
use super::redirect::host_of;
use super::request::{Question, bad_host, content_length, not_encoded, not_html, stalled};
use super::{BlobBody, Inner, Kind, Phase, UpstreamError};
use crate::oci::digest::Digest;
use crate::oci::name::RepositoryName;
use crate::oci::range::ContentRange;
use crate::sys::clock;

impl Inner {
    pub(super) async fn open_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
        offset: u64,
    ) -> Result<BlobBody, UpstreamError> {
        let url = self.url(name, &format!("blobs/{digest}"))?;
        let question = Question::new(Kind::BlobGet, url, name, "*/*").starting_at(offset);
        self.attended(&question, |errand| self.open(&question, errand))
            .await
    }

    async fn open(&self, question: &Question, errand: Errand) -> Result<BlobBody, Failure> {
        // The wait for a slot has its own limit: a busy mirror must not look like a slow upstream.
        let registry = host_of(&self.base);
        let slot = self.blobs.slot(&self.deadline(), &registry).await?;
        let deadline = self.deadline().on(errand);
        let answered = self.walk(&self.blobs, question, &deadline).await?;
        if let Some(failure) = answered.failure(question, self.clock.wall()) {
            answered.arrived.discard().await;
            return Err(failure);
        }
        let arrived = answered.arrived;
        let host = arrived.host();
        not_encoded(&arrived)?;
        not_html(&host, &arrived.headers)?;
        let part = part(arrived.status, &arrived.headers, question.offset());
        let part = part.map_err(|reason| bad_host(&host, reason))?;
        let transfer = Transfer {
            body: arrived.body,
            host: host.clone(),
            stall: self.settings.stall,
            tally: Arc::clone(&self.tally),
            _slot: slot,
        };
        let chunks = transfer.chunks();
        Ok(BlobBody::new(host, part.start, part.total, chunks))
    }
}

/// Which part of the blob an answer holds.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    total: Option<u64>,
}

/// Reads the head of a successful answer to a request for everything from `offset` on.
fn part(status: StatusCode, headers: &HeaderMap, offset: u64) -> Result<Part, String> {
    match status {
        // A range may be ignored (RFC 9110 section 14.2): then the whole blob follows.
        StatusCode::OK => Ok(Part {
            start: 0,
            total: content_length(headers),
        }),
        StatusCode::PARTIAL_CONTENT => partial(headers, offset),
        _ => Err(format!(
            "it answers HTTP {} without the blob",
            status.as_u16()
        )),
    }
}

fn partial(headers: &HeaderMap, offset: u64) -> Result<Part, String> {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(ContentRange::parse)
        .ok_or("it sends a part without saying which")?;
    if range.start != offset {
        return Err(format!(
            "it sends the part from {} where {offset} was asked for",
            range.start
        ));
    }
    Ok(Part {
        start: offset,
        total: range.total,
    })
}

/// A body on its way, with the slot that it holds.
struct Transfer {
    body: Incoming,
    host: String,
    stall: Duration,
    tally: Arc<Tally>,
    _slot: OwnedSemaphorePermit,
}

impl Transfer {
    /// The chunks; dropped, with connection and slot, at the first error.
    fn chunks(self) -> impl Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static {
        stream::unfold(Some(self), |transfer| async {
            let mut transfer = transfer?;
            match transfer.next().await? {
                Ok(chunk) => Some((Ok(chunk), Some(transfer))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let frame = match clock::timeout(self.stall, self.body.frame()).await {
                Ok(frame) => frame?,
                Err(_) => return Some(Err(stalled(&self.host, self.stall))),
            };
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(chunk)) if chunk.is_empty() => {}
                Ok(Ok(chunk)) => {
                    self.tally.blob_bytes(chunk.len());
                    return Some(Ok(chunk));
                }
                // Trailers say nothing that a digest would not.
                Ok(Err(_)) => {}
                Err(error) => return Some(Err(broken(&self.host, Phase::Body, &error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CONTENT_LENGTH, HeaderName};

    use super::*;

    fn read(
        status: u16,
        offset: u64,
        pairs: &[(HeaderName, &'static str)],
    ) -> Result<Part, String> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        part(StatusCode::from_u16(status).unwrap(), &headers, offset)
    }

    #[test]
    fn an_answer_starts_where_it_says() {
        let whole = Part {
            start: 0,
            total: Some(100),
        };
        assert_eq!(read(200, 0, &[(CONTENT_LENGTH, "100")]), Ok(whole));
        assert_eq!(
            read(200, 0, &[]),
            Ok(Part {
                start: 0,
                total: None
            })
        );
        let rest = Part {
            start: 40,
            total: Some(100),
        };
        let range = (CONTENT_RANGE, "bytes 40-99/100");
        assert_eq!(read(206, 40, &[range, (CONTENT_LENGTH, "60")]), Ok(rest));
        let open = Part {
            start: 40,
            total: None,
        };
        assert_eq!(read(206, 40, &[(CONTENT_RANGE, "bytes 40-99/*")]), Ok(open));
    }

    #[test]
    fn a_range_that_was_ignored_starts_at_the_beginning() {
        let whole = Part {
            start: 0,
            total: Some(100),
        };
        assert_eq!(read(200, 40, &[(CONTENT_LENGTH, "100")]), Ok(whole));
    }

    #[test]
    fn a_part_that_was_not_asked_for_is_refused() {
        let lied = "it sends the part from 41 where 40 was asked for";
        assert_eq!(
            read(206, 40, &[(CONTENT_RANGE, "bytes 41-99/100")]),
            Err(lied.into())
        );
        let silent = "it sends a part without saying which";
        assert_eq!(read(206, 40, &[(CONTENT_LENGTH, "60")]), Err(silent.into()));
        assert_eq!(
            read(206, 40, &[(CONTENT_RANGE, "40 to 99")]),
            Err(silent.into())
        );
        assert_eq!(
            read(204, 0, &[]),
            Err("it answers HTTP 204 without the blob".into())
        );
    }
}

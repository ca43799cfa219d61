//! The body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::exchange::Exchange;
use crate::registry::{BlobRead, Cut};

/// A body that counts what it hands out, and whose end is the end of its [`Exchange`].
pub(super) struct Body {
    content: Content,
    exchange: Exchange,
}

/// The bytes of an answer.
pub(super) enum Content {
    /// None.
    Empty,
    /// All in memory.
    Full(Bytes),
    /// A blob or a part of it.
    Blob {
        /// The bytes.
        read: Pin<Box<dyn BlobRead>>,
        /// How many are still to come, where that is known.
        remaining: Option<u64>,
    },
}

impl Body {
    pub(super) fn new(content: Content, mut exchange: Exchange) -> Self {
        if content.is_finished() {
            exchange.complete();
        }
        Self { content, exchange }
    }

    /// Ends the body early; the error that follows breaks the connection.
    fn broken(&mut self, cut: &Cut) {
        self.exchange.failed(cut.reason.clone());
        self.content = Content::Empty;
    }
}

impl Content {
    /// The length in bytes, where it is known before the end.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => u64::try_from(bytes.len()).ok(),
            Self::Blob { remaining, .. } => *remaining,
        }
    }

    fn is_finished(&self) -> bool {
        self.length() == Some(0)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Self::Blob { read, remaining } => {
                let next = ready!(read.as_mut().poll_chunk(cx));
                Poll::Ready(within(remaining, next))
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Ready(match ready!(self.content.poll_next(cx)) {
            Some(Ok(bytes)) => {
                self.exchange.sent(bytes.len());
                if self.content.is_finished() {
                    self.exchange.complete();
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(cut)) => {
                self.broken(&cut);
                Some(Err(cut))
            }
            None => {
                self.exchange.complete();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_finished()
    }

    fn size_hint(&self) -> SizeHint {
        self.content
            .length()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Holds a blob to the length that was announced: a shorter one must not look complete, a longer one must not be
/// taken for the start of the next answer.
fn within(
    remaining: &mut Option<u64>,
    next: Option<Result<Bytes, Cut>>,
) -> Option<Result<Bytes, Cut>> {
    let cut = |reason: &str| {
        let reason = reason.into();
        Some(Err(Cut { reason }))
    };
    match (next, remaining) {
        (Some(Ok(bytes)), Some(left)) => {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            match left.checked_sub(length) {
                Some(rest) => {
                    *left = rest;
                    Some(Ok(bytes))
                }
                None => cut("more bytes than announced"),
            }
        }
        (None, Some(1..)) => cut("fewer bytes than announced"),
        (next, _) => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(length: usize) -> Bytes {
        Bytes::from(vec![0; length])
    }

    #[test]
    fn a_blob_is_held_to_its_announced_length() {
        let mut remaining = Some(10);
        assert!(matches!(
            within(&mut remaining, Some(Ok(chunk(6)))),
            Some(Ok(_))
        ));
        assert_eq!(remaining, Some(4));
        assert!(
            matches!(within(&mut remaining, None), Some(Err(_))),
            "short"
        );
        assert!(
            matches!(within(&mut remaining, Some(Ok(chunk(5)))), Some(Err(_))),
            "long"
        );
        assert!(matches!(
            within(&mut remaining, Some(Ok(chunk(4)))),
            Some(Ok(_))
        ));
        assert!(within(&mut remaining, None).is_none());
    }

    #[test]
    fn a_blob_of_unknown_length_ends_where_it_ends() {
        assert!(matches!(within(&mut None, Some(Ok(chunk(6)))), Some(Ok(_))));
        assert!(within(&mut None, None).is_none());
    }
}

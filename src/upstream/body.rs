//! The body of a blob as it arrives.

use std::fmt;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, Stream};

use super::{Doubt, UpstreamError};

/// A blob body that has started: where it starts, how long the whole blob is said to be, and its chunks.
///
/// Nothing here is verified. `total` is what the answer claims; a caller compares it with what it knows and
/// hashes the bytes.
pub struct BlobBody {
    /// The host that sends it: the registry or where its redirects led.
    pub host: String,
    /// Offset in the blob of the first byte that [`next_chunk`](Self::next_chunk) yields. It is smaller than the
    /// offset asked for when the upstream ignored the range.
    pub start: u64,
    /// Length of the whole blob in bytes, when the answer names one.
    pub total: Option<u64>,
    chunks: BoxStream<'static, Result<Bytes, UpstreamError>>,
    doubt: Option<Doubt>,
}

impl BlobBody {
    /// A body from `host` that starts at `start` of a blob of `total` bytes.
    pub fn new(
        host: String,
        start: u64,
        total: Option<u64>,
        chunks: impl Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static,
    ) -> Self {
        Self {
            host,
            start,
            total,
            chunks: chunks.boxed(),
            doubt: None,
        }
    }

    /// The same, from a source that is not asked again once `doubt` is raised.
    pub(super) fn doubted(self, doubt: Doubt) -> Self {
        Self {
            doubt: Some(doubt),
            ..self
        }
    }

    /// What to raise when this turns out not to be the blob, or not all of it: another source is asked then. `None`
    /// where there is no other, at the upstream itself.
    pub fn take_doubt(&mut self) -> Option<Doubt> {
        self.doubt.take()
    }

    /// The next chunk, or `None` at the end of a body that was framed completely.
    ///
    /// # Errors
    /// The connection broke, or the framing was not completed. No chunk follows an error.
    pub async fn next_chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        self.chunks.next().await
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("host", &self.host)
            .field("start", &self.start)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

//! Reading files without holding up anyone else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use super::HeldBlob;
use crate::oci::Span;
use crate::registry::{BlobRead, Cut};
use crate::sys::fs::DiskFile;
use crate::sys::tasks;

/// The most that one read returns, and so the most that one reader holds in memory.
pub const CHUNK: usize = 128 * 1024;

/// After so many bytes a reader lets others run, even if it never had to wait.
const TURN: u64 = 1024 * 1024;

/// Reads up to [`CHUNK`] bytes of `start..end`: from the page cache at once, else on the blocking pool.
///
/// # Errors
/// Whatever the disk says; [`io::ErrorKind::UnexpectedEof`] when the file ends before `start`.
pub async fn read_chunk(file: &Arc<dyn DiskFile>, start: u64, end: u64) -> io::Result<Bytes> {
    let length = usize::try_from(end.saturating_sub(start))
        .unwrap_or(CHUNK)
        .min(CHUNK);
    let mut buffer = BytesMut::zeroed(length);
    let read = match file.read_cached_at(&mut buffer, start) {
        Ok(read) if read > 0 || length == 0 => read,
        _ => {
            let file = Arc::clone(file);
            let (filled, result) = tasks::blocking(move || {
                let result = file.read_at(&mut buffer, start);
                (buffer, result)
            })
            .await;
            buffer = filled;
            result?
        }
    };
    if read == 0 && length > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(read);
    Ok(buffer.freeze())
}

/// A span of a held blob, as a body.
pub struct FileBody(BoxStream<'static, Result<Bytes, Cut>>);

impl FileBody {
    /// The bytes of `span` of `blob`.
    pub fn new(blob: HeldBlob, span: Span) -> Self {
        let chunks = stream::unfold((blob, span.start), move |(blob, at)| async move {
            if at >= span.end {
                return None;
            }
            if at > span.start && at / TURN != at.saturating_sub(CHUNK as u64) / TURN {
                tokio::task::yield_now().await;
            }
            match read_chunk(&blob.file, at, span.end).await {
                Ok(chunk) => {
                    let next = at.saturating_add(chunk.len() as u64);
                    Some((Ok(chunk), (blob, next)))
                }
                Err(error) => {
                    let cut = Cut {
                        reason: format!("the cached file cannot be read: {error}"),
                    };
                    Some((Err(cut), (blob, span.end)))
                }
            }
        });
        Self(chunks.boxed())
    }
}

impl BlobRead for FileBody {
    fn poll_chunk(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        self.0.poll_next_unpin(cx)
    }
}

//! Small blobs, configurations for the most part: kept in memory, verified when they are read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::Inner;
use crate::blobs::{HeldBlob, read_chunk};
use crate::oci::{ByteRange, Digest};
use crate::registry::{BlobContent, BlobRead, Cut, RegistryError};

/// The largest blob that is kept in memory, in bytes.
const SMALL: u64 = 64 * 1024;

/// What came of reading a held blob into memory.
pub(super) enum Small {
    /// Its bytes, verified, and kept for the next time.
    Kept(Bytes),
    /// It is larger than what is kept.
    Large,
    /// Its file does not have its bytes, and is out of the way.
    Damaged,
}

impl Inner {
    /// Reads a small blob into memory.
    pub(super) async fn read_small(&self, digest: Digest, held: &HeldBlob) -> Small {
        if held.size > SMALL {
            return Small::Large;
        }
        match whole(held).await {
            Ok(bytes) if Digest::of(digest.algorithm(), &bytes) == digest => {
                self.memory.keep_blob(digest, bytes.clone());
                Small::Kept(bytes)
            }
            _ => {
                held.reading.condemn("it does not have its digest").await;
                Small::Damaged
            }
        }
    }
}

async fn whole(held: &HeldBlob) -> io::Result<Bytes> {
    let (mut bytes, mut at) = (BytesMut::new(), 0);
    while at < held.size {
        let chunk = read_chunk(&held.file, at, held.size).await?;
        at = at.saturating_add(chunk.len() as u64);
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// A small blob, or the part of it that `range` selects.
pub(super) fn content(
    digest: Digest,
    bytes: &Bytes,
    range: Option<ByteRange>,
) -> Result<BlobContent, RegistryError> {
    let size = bytes.len() as u64;
    let span = super::blob::span(range, size)?;
    let part = match &span {
        Some(span) => bytes.slice(offset(span.start)..offset(span.end)),
        None => bytes.clone(),
    };
    let body = Box::pin(MemoryBody(Some(part)));
    Ok(BlobContent {
        digest,
        size: Some(size),
        span,
        body,
    })
}

/// An offset in a blob of at most [`SMALL`] bytes.
fn offset(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Bytes that are there already.
struct MemoryBody(Option<Bytes>);

impl BlobRead for MemoryBody {
    fn poll_chunk(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(Ok))
    }
}

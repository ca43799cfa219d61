//! Reading files without holding up anyone else, and noticing when a file is not what it was.
//!
//! A blob that is read as a whole is checked against its checksum on the way, and its last bytes are handed out only
//! if that is right: a client never gets a wrong blob whole. A part of a blob is not checked.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};

use super::buffers::{Buffer, CHUNK, lend};
use super::{HeldBlob, Reading};
use crate::oci::{Checksummer, Hasher, Span};
use crate::registry::{BlobRead, Cut};
use crate::sys::fs::DiskFile;
use crate::sys::tasks;

/// After so many bytes a reader lets others run, even if it never had to wait.
const TURN: usize = 4 * 1024 * 1024;

/// Reads the next bytes of `start..end`, at most [`CHUNK`]: from the page cache at once, else on the blocking pool.
///
/// # Errors
/// Whatever the disk says; [`io::ErrorKind::UnexpectedEof`] when the file ends before `start`.
pub async fn read_chunk(file: &Arc<dyn DiskFile>, start: u64, end: u64) -> io::Result<Bytes> {
    match read_cached(&**file, start, end) {
        Some(chunk) => Ok(chunk),
        None => Ok(read_waiting(file, start, end).await?.0),
    }
}

/// The next bytes of `start..end`, if the page cache has them.
fn read_cached(file: &dyn DiskFile, start: u64, end: u64) -> Option<Bytes> {
    let mut buffer = buffer(start, end);
    match file.read_cached_at(buffer.space(), start) {
        Ok(0) if start < end => None,
        Ok(read) => Some(buffer.freeze(read)),
        Err(_) => None,
    }
}

/// Begins to read the next bytes of `start..end` on the blocking pool; yields whether the disk had to be waited for.
fn read_waiting(
    file: &Arc<dyn DiskFile>,
    start: u64,
    end: u64,
) -> BoxFuture<'static, io::Result<(Bytes, bool)>> {
    let file = Arc::clone(file);
    let read = move || {
        if let Some(chunk) = read_cached(&*file, start, end) {
            return Ok((chunk, false));
        }
        let mut buffer = buffer(start, end);
        match file.read_at(buffer.space(), start)? {
            0 if start < end => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok((buffer.freeze(read), true)),
        }
    };
    tasks::begin_blocking(read).boxed()
}

/// Hashes `start..end` of a file. Blocks.
///
/// # Errors
/// Whatever the disk says; [`io::ErrorKind::UnexpectedEof`] when the file ends before `end`.
pub(super) fn hash(
    file: &dyn DiskFile,
    hasher: &mut Hasher,
    mut start: u64,
    end: u64,
) -> io::Result<()> {
    while start < end {
        let mut buffer = buffer(start, end);
        let read = file.read_at(buffer.space(), start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(buffer.freeze(read).as_ref());
        start = start.saturating_add(read as u64);
    }
    Ok(())
}

fn buffer(start: u64, end: u64) -> Buffer {
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(CHUNK);
    lend(length.min(CHUNK))
}

/// A span of a held blob, as a body.
pub struct FileBody(BoxStream<'static, Result<Bytes, Cut>>);

impl FileBody {
    /// The bytes of `span` of `blob`.
    pub fn new(blob: HeldBlob, span: Span) -> Self {
        let is_whole = span.start == 0 && span.end == blob.size;
        let stretch = Stretch {
            blob,
            at: span.start,
            end: span.end,
            turn: 0,
            ahead: None,
            check: is_whole.then(Checksummer::default),
        };
        let chunks = stream::unfold(Some(stretch), |stretch| async move {
            let mut stretch = stretch?;
            match stretch.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(stretch))),
                Ok(None) => None,
                Err(cut) => Some((Err(cut), None)),
            }
        });
        Self(chunks.boxed())
    }
}

/// What is still to be read of a blob.
struct Stretch {
    blob: HeldBlob,
    at: u64,
    end: u64,
    /// How many bytes were read since others could run.
    turn: usize,
    /// The chunk after this one, while the disk is what everybody waits for.
    ahead: Option<BoxFuture<'static, io::Result<(Bytes, bool)>>>,
    /// `None` for a part of a blob.
    check: Option<Checksummer>,
}

impl Stretch {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        let chunk = match self.read().await {
            Ok(chunk) => chunk,
            Err(error) => return Err(damaged(&self.blob.reading, error.to_string()).await),
        };
        self.turn = self.turn.saturating_add(chunk.len());
        self.at = self.at.saturating_add(chunk.len() as u64);
        self.check(&chunk).await?;
        Ok(Some(chunk))
    }

    async fn read(&mut self) -> io::Result<Bytes> {
        let (chunk, waited) = match self.ahead.take() {
            Some(ahead) => ahead.await?,
            None => match read_cached(&*self.blob.file, self.at, self.end) {
                Some(chunk) => (chunk, false),
                None => read_waiting(&self.blob.file, self.at, self.end).await?,
            },
        };
        let next = self.at.saturating_add(chunk.len() as u64);
        if waited && next < self.end {
            self.ahead = Some(read_waiting(&self.blob.file, next, self.end));
        }
        Ok(chunk)
    }

    async fn check(&mut self, chunk: &[u8]) -> Result<(), Cut> {
        if let Some(check) = &mut self.check {
            check.update(chunk);
        }
        if self.at < self.end {
            return Ok(());
        }
        match self.check.take().map(Checksummer::finish) {
            Some(found) if found != self.blob.checksum => {
                let expected = self.blob.checksum;
                let reason = format!("its checksum is {found} instead of {expected}");
                Err(damaged(&self.blob.reading, reason).await)
            }
            _ => Ok(()),
        }
    }
}

async fn damaged(reading: &Reading, reason: String) -> Cut {
    reading.condemn(&reason).await;
    Cut {
        reason: format!("the cached file is damaged: {reason}"),
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

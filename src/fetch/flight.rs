//! A running download as its readers see it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::direct::Direct;
use super::{FetchError, Role, SPARE_SOURCES, Source};
use crate::blobs::{Reading, Reservation, read_chunk};
use crate::oci::{Digest, Hasher, Span};
use crate::registry::{BlobRead, BypassReason, Cut};
use crate::sys::fs::DiskFile;
use crate::sys::tasks;

/// How far a flight is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// No upstream has answered yet.
    Opening,
    /// Bytes arrive.
    Streaming {
        file: Arc<dyn DiskFile>,
        total: Option<u64>,
        published: u64,
    },
    /// All bytes are there and have the digest.
    Complete {
        file: Arc<dyn DiskFile>,
        size: u64,
        _reading: Arc<Reading>,
    },
    /// It ended without the blob. Bytes that were published before stay readable unless they are wrong.
    Failed {
        error: FetchError,
        total: Option<u64>,
        readable: Option<(Arc<dyn DiskFile>, u64)>,
        _space: Option<Arc<Reservation>>,
    },
}

/// Who can be asked, each with the length that a manifest of its repository states. The first is in use.
type Sources = VecDeque<(Arc<dyn Source>, Option<u64>)>;

/// A running download.
pub(super) struct Flight {
    pub(super) digest: Digest,
    pub(super) progress: watch::Sender<Progress>,
    /// Signalled when the last reader leaves.
    pub(super) unread: Notify,
    readers: AtomicUsize,
    sources: Mutex<Sources>,
}

impl Flight {
    pub(super) fn new(digest: Digest, size: Option<u64>, source: Arc<dyn Source>) -> Self {
        Self {
            digest,
            progress: watch::Sender::new(Progress::Opening),
            unread: Notify::new(),
            readers: AtomicUsize::new(0),
            sources: Mutex::new(VecDeque::from([(source, size)])),
        }
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::SeqCst)
    }

    /// Remembers a further source, for when the present one is refused.
    pub(super) fn offer(&self, source: Arc<dyn Source>, size: Option<u64>) {
        let mut sources = self.sources();
        let name = source.name();
        if sources.len() < SPARE_SOURCES && sources.iter().all(|(known, _)| known.name() != name) {
            sources.push_back((source, size));
        }
    }

    /// The source in use, and the length that its repository states.
    pub(super) fn source(&self) -> Option<(Arc<dyn Source>, Option<u64>)> {
        self.sources().front().cloned()
    }

    /// Gives up the source in use; whether another one is there.
    pub(super) fn next_source(&self) -> bool {
        let mut sources = self.sources();
        sources.pop_front();
        !sources.is_empty()
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place at a flight. While it exists, the flight has a reader.
pub struct Reader {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
    role: Role,
    /// This reader's own right to the blob, for when the disk cannot take part.
    source: Arc<dyn Source>,
    /// The length that a manifest of its repository states.
    size: Option<u64>,
    /// The transfer around the cache that has been opened already.
    direct: Option<Direct>,
    bypass: Option<BypassReason>,
}

impl Reader {
    pub(super) fn join(
        flight: Arc<Flight>,
        role: Role,
        source: Arc<dyn Source>,
        size: Option<u64>,
    ) -> Self {
        flight.readers.fetch_add(1, Ordering::SeqCst);
        let progress = flight.progress.subscribe();
        Self {
            flight,
            progress,
            role,
            source,
            size,
            direct: None,
            bypass: None,
        }
    }

    /// Why this reader goes around the cache, if it is known to by now.
    pub const fn bypass(&self) -> Option<BypassReason> {
        self.bypass
    }

    /// Whether this reader started the flight.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Waits until an upstream has answered; yields the blob's length in bytes, if it is known.
    ///
    /// Where the disk cannot take part, this reader asks the upstream for itself.
    ///
    /// # Errors
    /// The flight ended before that.
    pub async fn opened(&mut self) -> Result<Option<u64>, FetchError> {
        let answered = |progress: &Progress| !matches!(progress, Progress::Opening);
        let (failed, total) = match self.progress.wait_for(answered).await.as_deref() {
            Ok(Progress::Streaming { total, .. }) => return Ok(*total),
            Ok(Progress::Complete { size, .. }) => return Ok(Some(*size)),
            Ok(Progress::Failed { error, total, .. }) => (error.clone(), *total),
            Ok(Progress::Opening) | Err(_) => (FetchError::Closing, None),
        };
        self.bypass = Some(failed.bypass().ok_or(failed)?);
        if total.is_some() {
            return Ok(total);
        }
        let hasher = Hasher::new(self.flight.digest.algorithm());
        self.direct
            .insert(self.around(0, Some(hasher)))
            .opened()
            .await
    }

    /// As [`opened`](Self::opened) for a reader that goes around the cache and wants `span` alone: the upstream is
    /// asked from there on.
    ///
    /// # Errors
    /// The upstream does not answer.
    pub async fn opened_at(&mut self, span: Span) -> Result<Option<u64>, FetchError> {
        let part = self.around(span.start, None);
        self.direct.insert(part).opened().await
    }

    /// A transfer of its own from `offset` on, after the bytes that `hasher` has.
    fn around(&self, offset: u64, hasher: Option<Hasher>) -> Direct {
        let source = Arc::clone(&self.source);
        Direct::new(source, self.flight.digest, self.size, offset, hasher)
    }

    /// Waits until all bytes are there and verified; yields the blob's length in bytes.
    ///
    /// # Errors
    /// The flight ended without the blob.
    pub async fn completed(&mut self) -> Result<u64, FetchError> {
        let ended = |progress: &Progress| {
            matches!(
                progress,
                Progress::Complete { .. } | Progress::Failed { .. }
            )
        };
        match self.progress.wait_for(ended).await.as_deref() {
            Ok(Progress::Complete { size, .. }) => Ok(*size),
            Ok(Progress::Failed { error, .. }) => Err(error.clone()),
            _ => Err(FetchError::Closing),
        }
    }

    /// Streams the whole blob, or `span` of it, as it arrives. `promised` is the length that was told to the
    /// client: a blob that turns out to have another is cut.
    pub fn stream(mut self, span: Option<Span>, promised: Option<u64>) -> FlightBody {
        let (at, end) = span.map_or((0, None), |span| (span.start, Some(span.end)));
        // A part of a blob has no digest to wait for: what was opened for the whole does not serve it.
        let direct = self.direct.take();
        let direct = direct.filter(|direct| direct.is_part() == span.is_some());
        let follower = Follower {
            reader: self,
            at,
            end,
            promised,
            direct,
        };
        let chunks = stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(follower))),
                Ok(None) => None,
                Err(cut) => Some((Err(cut), None)),
            }
        });
        FlightBody(chunks.boxed())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.flight.readers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.flight.unread.notify_one();
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("digest", &self.flight.digest)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// A reader on its way through the blob.
struct Follower {
    reader: Reader,
    at: u64,
    /// Where to stop; the end of the blob unless a span was asked for.
    end: Option<u64>,
    promised: Option<u64>,
    /// Its own transfer, once the disk cannot take part any more.
    direct: Option<Direct>,
}

/// What a follower may do now.
enum Readable {
    /// Read up to this offset.
    UpTo(Arc<dyn DiskFile>, u64),
    /// Go on without the disk. The file has the bytes so far.
    Around(Option<Arc<dyn DiskFile>>),
    /// Nothing is left.
    End,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            if self.direct.is_some() {
                return self.next_around().await.map_err(|error| cut(&error));
            }
            match self.readable().await? {
                Readable::End => return Ok(None),
                Readable::UpTo(file, end) => match read_chunk(&file, self.at, end).await {
                    Ok(chunk) => {
                        self.at = self.at.saturating_add(chunk.len() as u64);
                        return Ok(Some(chunk));
                    }
                    Err(error) => {
                        warn!(%error, "a spool cannot be read; its reader goes around the cache");
                        self.leave(Some(file)).await?;
                    }
                },
                Readable::Around(file) => self.leave(file).await?,
            }
        }
    }

    /// Goes on with a transfer of its own from where it is.
    async fn leave(&mut self, file: Option<Arc<dyn DiskFile>>) -> Result<(), Cut> {
        let hasher = match (self.end, file) {
            (Some(_), _) => None,
            (None, file) => Some(hash_again(file, self.reader.flight.digest, self.at).await?),
        };
        self.direct = Some(self.reader.around(self.at, hasher));
        Ok(())
    }

    async fn next_around(&mut self) -> Result<Option<Bytes>, FetchError> {
        let left = self.end.map(|end| end.saturating_sub(self.at));
        let Some(direct) = self.direct.as_mut().filter(|_| left != Some(0)) else {
            return Ok(None);
        };
        let total = direct.opened().await?;
        if let (Some(promised), Some(found)) = (self.promised, total)
            && promised != found
        {
            let host = self.reader.source.name();
            return Err(FetchError::Length {
                host,
                expected: promised,
                found,
            });
        }
        let Some(mut chunk) = direct.next().await? else {
            return Ok(None);
        };
        chunk.truncate(
            left.and_then(|left| usize::try_from(left).ok())
                .unwrap_or(usize::MAX),
        );
        self.at = self.at.saturating_add(chunk.len() as u64);
        Ok(Some(chunk))
    }

    /// Waits until there is something to do at `self.at`.
    async fn readable(&mut self) -> Result<Readable, Cut> {
        let (at, end, promised) = (self.at, self.end, self.promised);
        if end.is_some_and(|end| at >= end) {
            return Ok(Readable::End);
        }
        let mut found = None;
        let decided = self.reader.progress.wait_for(|progress| {
            found = decide(progress, at, end, promised);
            found.is_some()
        });
        match decided.await {
            Ok(_) => found.unwrap_or(Ok(Readable::End)),
            Err(_) => Err(cut(&FetchError::Closing)),
        }
    }
}

/// The hash state of the bytes before `end`, read from the file once more.
async fn hash_again(
    file: Option<Arc<dyn DiskFile>>,
    digest: Digest,
    end: u64,
) -> Result<Hasher, Cut> {
    let (mut hasher, mut at) = (Hasher::new(digest.algorithm()), 0);
    while at < end {
        let Some(file) = &file else {
            return Err(cut(&FetchError::Closing));
        };
        let chunk = read_chunk(file, at, end)
            .await
            .map_err(|error| unreadable(&error))?;
        at = at.saturating_add(chunk.len() as u64);
        let update = move || {
            hasher.update(&chunk);
            hasher
        };
        hasher = tasks::blocking(update).await;
    }
    Ok(hasher)
}

fn cut(error: &FetchError) -> Cut {
    Cut {
        reason: error.to_string(),
    }
}

fn unreadable(error: &std::io::Error) -> Cut {
    Cut {
        reason: format!("the cached file cannot be read: {error}"),
    }
}

/// What a follower at `at` may do, or `None` while it has to wait.
fn decide(
    progress: &Progress,
    at: u64,
    end: Option<u64>,
    promised: Option<u64>,
) -> Option<Result<Readable, Cut>> {
    let up_to = |file: &Arc<dyn DiskFile>, limit: u64| {
        let limit = end.map_or(limit, |end| end.min(limit));
        (at < limit).then(|| Ok(Readable::UpTo(Arc::clone(file), limit)))
    };
    match progress {
        Progress::Opening => None,
        Progress::Streaming {
            file, published, ..
        } => up_to(file, *published),
        Progress::Complete { size, .. } if promised.is_some_and(|promised| promised != *size) => {
            let reason =
                format!("the blob has {size} bytes, the upstream had claimed another length");
            Some(Err(Cut { reason }))
        }
        Progress::Complete { file, size, .. } => up_to(file, *size).or(Some(Ok(Readable::End))),
        Progress::Failed {
            error, readable, ..
        } => {
            let rest = readable
                .as_ref()
                .and_then(|(file, published)| up_to(file, *published));
            let then = || match error.bypass() {
                Some(_) => Ok(Readable::Around(
                    readable.as_ref().map(|(file, _)| Arc::clone(file)),
                )),
                None => Err(cut(error)),
            };
            Some(rest.unwrap_or_else(then))
        }
    }
}

/// A blob, or a span of it, streamed while it arrives.
pub struct FlightBody(BoxStream<'static, Result<Bytes, Cut>>);

impl BlobRead for FlightBody {
    fn poll_chunk(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        self.0.poll_next_unpin(cx)
    }
}

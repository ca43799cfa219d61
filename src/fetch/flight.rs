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

use super::{FetchError, Role, SPARE_SOURCES, Source};
use crate::blobs::read_chunk;
use crate::oci::{Digest, Span};
use crate::registry::{BlobRead, Cut};
use crate::sys::fs::DiskFile;

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
    Complete { file: Arc<dyn DiskFile>, size: u64 },
    /// It ended without the blob. Bytes that were published before stay readable unless they are wrong.
    Failed {
        error: FetchError,
        readable: Option<(Arc<dyn DiskFile>, u64)>,
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
}

impl Reader {
    pub(super) fn join(flight: Arc<Flight>, role: Role) -> Self {
        flight.readers.fetch_add(1, Ordering::SeqCst);
        let progress = flight.progress.subscribe();
        Self {
            flight,
            progress,
            role,
        }
    }

    /// Whether this reader started the flight.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Waits until an upstream has answered; yields the blob's length in bytes, if it is known.
    ///
    /// # Errors
    /// The flight ended before that.
    pub async fn opened(&mut self) -> Result<Option<u64>, FetchError> {
        let answered = |progress: &Progress| !matches!(progress, Progress::Opening);
        match self.progress.wait_for(answered).await.as_deref() {
            Ok(Progress::Streaming { total, .. }) => Ok(*total),
            Ok(Progress::Complete { size, .. }) => Ok(Some(*size)),
            Ok(Progress::Failed { error, .. }) => Err(error.clone()),
            Ok(Progress::Opening) | Err(_) => Err(FetchError::Closing),
        }
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
    pub fn stream(self, span: Option<Span>, promised: Option<u64>) -> FlightBody {
        let (at, end) = span.map_or((0, None), |span| (span.start, Some(span.end)));
        let follower = Follower {
            reader: self,
            at,
            end,
            promised,
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
}

/// What a follower may do now.
enum Readable {
    /// Read up to this offset.
    UpTo(Arc<dyn DiskFile>, u64),
    /// Nothing is left.
    End,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        match self.readable().await? {
            Readable::End => Ok(None),
            Readable::UpTo(file, end) => {
                let chunk = read_chunk(&file, self.at, end).await.map_err(|error| Cut {
                    reason: format!("the cached file cannot be read: {error}"),
                })?;
                self.at = self.at.saturating_add(chunk.len() as u64);
                Ok(Some(chunk))
            }
        }
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
            Err(_) => Err(Cut {
                reason: FetchError::Closing.to_string(),
            }),
        }
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
        Progress::Complete { file, size } => up_to(file, *size).or(Some(Ok(Readable::End))),
        Progress::Failed { error, readable } => {
            let rest = readable
                .as_ref()
                .and_then(|(file, published)| up_to(file, *published));
            rest.or_else(|| {
                Some(Err(Cut {
                    reason: error.to_string(),
                }))
            })
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

//! One download per digest, for any number of readers.
//!
//! [`Fetch::join`] starts a flight or joins the running one. A flight is owned by the process: it appends what the
//! upstream sends to a spool, hashes it off the async workers, and publishes how far readers may go. Readers follow
//! the spool at their own pace. Invariants:
//! - at most one flight per digest, and a flight ends only after its blob is committed, so that whoever comes later
//!   finds either the flight or the blob;
//! - the tail of a blob is published only after the digest of all of it matched, and waits for nothing else;
//! - a reader that is slow or gone changes nothing for the others;
//! - `fetch` never sees a repository or an upstream, only [`Source`]s.

mod direct;
mod drive;
mod flight;
mod machine;
mod metrics;
mod part;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::blobs::Blobs;
use crate::oci::Digest;
use crate::registry::BypassReason;
use crate::sys::current::Current;
use crate::sys::tasks::Tasks;
use crate::upstream::{BlobBody, UpstreamError};

use flight::{Flight, Progress};
pub use flight::{FlightBody, Reader};
use metrics::Ends;
use part::Parts;

/// How many sources a flight remembers beside the one it uses.
const SPARE_SOURCES: usize = 64;

/// Opens one blob at an upstream, with one repository's rights.
pub trait Source: Send + Sync {
    /// Asks the upstream for the blob from `offset` on. One attempt; the flight decides about more.
    fn open(&self, offset: u64) -> BoxFuture<'_, Result<BlobBody, UpstreamError>>;

    /// What tells this source from another: sources with the same right have the same name.
    fn name(&self) -> String;

    /// How long a body may yield no byte before it counts as broken.
    fn stall(&self) -> Duration;

    /// How many failures in a row, without progress, a download survives.
    fn retries(&self) -> u32;
}

/// How downloads behave, whichever upstream they come from.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A download that nobody reads any more is finished when at most so many bytes are missing.
    pub finish_abandoned: u64,
}

/// Why a download ended without its blob.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No source has a right to the blob, or none has it. The last answer.
    #[error("{0}")]
    Refused(UpstreamError),
    /// The upstream failed more often than it may.
    #[error("{0}")]
    Upstream(UpstreamError),
    /// The bytes do not have the digest. Nothing of them is kept.
    #[error("{host} sent {found} for {expected}")]
    Mismatch {
        /// The host that sent the last of them.
        host: String,
        /// The digest asked for.
        expected: Box<Digest>,
        /// The digest of what came.
        found: Box<Digest>,
    },
    /// The length is not the one that the manifest or an earlier answer stated.
    #[error("{host} sent {found} bytes for a blob of {expected}")]
    Length {
        /// The host that sent or claimed it.
        host: String,
        /// The length in bytes that was stated first.
        expected: u64,
        /// The length in bytes that came or was claimed.
        found: u64,
    },
    /// The upstream resumed beyond the place it was asked for.
    #[error("{host} resumed at byte {found} instead of {expected}")]
    Gap {
        /// The host that sent it.
        host: String,
        /// The offset asked for.
        expected: u64,
        /// The offset answered.
        found: u64,
    },
    /// The local disk failed.
    #[error("the cache cannot be written: {reason}")]
    Disk {
        /// The cause, in words.
        reason: String,
    },
    /// The cache has no room for the blob.
    #[error("the cache has no room: {reason}")]
    NoRoom {
        /// What is missing, in words.
        reason: String,
    },
    /// The blob is none to be kept.
    #[error("the blob is passed through")]
    PassedThrough,
    /// Nobody read on and much was missing; what came is kept for a while.
    #[error("the download was abandoned")]
    Abandoned,
    /// The process is closing.
    #[error("the server is shutting down")]
    Closing,
}

impl FetchError {
    /// The end's name, as log field and metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Upstream(_) => "upstream",
            Self::Mismatch { .. } => "mismatch",
            Self::Length { .. } => "length",
            Self::Gap { .. } => "gap",
            Self::Disk { .. } => "disk",
            Self::NoRoom { .. } => "no_room",
            Self::PassedThrough => "passed_through",
            Self::Abandoned => "abandoned",
            Self::Closing => "closing",
        }
    }
}

impl FetchError {
    /// Why readers go around the cache instead of failing: the upstream has the blob, and it is only not kept here.
    pub const fn bypass(&self) -> Option<BypassReason> {
        match self {
            Self::Disk { .. } => Some(BypassReason::DiskError),
            Self::NoRoom { .. } => Some(BypassReason::NoRoom),
            Self::PassedThrough => Some(BypassReason::NeverCache),
            _ => None,
        }
    }
}

/// Whether a reader started its flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Started it.
    Leader,
    /// Joined it.
    Follower,
}

/// The running downloads. Clones share them.
#[derive(Clone)]
pub struct Fetch {
    shared: Arc<Shared>,
}

struct Shared {
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    parts: Parts,
    blobs: Blobs,
    tasks: Tasks,
    settings: Current<Settings>,
    ends: Ends,
}

impl Fetch {
    /// Keeps what it fetches in `blobs` and runs its downloads as tasks of `tasks`.
    pub fn new(blobs: Blobs, tasks: Tasks, settings: Settings) -> Self {
        let parts = Parts::new(blobs.clone());
        let flights = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                flights,
                parts,
                blobs,
                tasks,
                settings: Current::new(settings),
                ends: Ends::default(),
            }),
        }
    }

    /// Behaves by `settings` from now on.
    pub fn set(&self, settings: Settings) {
        self.shared.settings.replace(settings);
    }

    /// Joins the flight for `digest`, starting it from `source` when there is none. `size` is the length that a
    /// manifest states.
    pub fn join(&self, digest: Digest, size: Option<u64>, source: Arc<dyn Source>) -> Reader {
        let mut flights = self.shared.flights();
        if let Some(flight) = flights.get(&digest) {
            flight.offer(Arc::clone(&source), size);
            return Reader::join(Arc::clone(flight), Role::Follower, source, size);
        }
        let own = Arc::clone(&source);
        let flight = Arc::new(Flight::new(digest, size, source));
        flights.insert(digest, Arc::clone(&flight));
        let reader = Reader::join(Arc::clone(&flight), Role::Leader, own, size);
        drop(flights);
        let shared = Arc::clone(&self.shared);
        self.shared
            .tasks
            .spawn("flight", async move { drive::run(shared, flight).await });
        reader
    }

    /// A reader of a transfer of its own, of which nothing is kept and that nobody joins.
    pub fn around(&self, digest: Digest, source: Arc<dyn Source>) -> Reader {
        let flight = Flight::new(digest, None, Arc::clone(&source));
        flight.progress.send_replace(Progress::Failed {
            error: FetchError::PassedThrough,
            total: None,
            readable: None,
            _space: None,
        });
        Reader::join(Arc::new(flight), Role::Leader, source, None)
    }

    /// How many flights are under way.
    pub fn running(&self) -> usize {
        self.shared.flights().len()
    }

    /// Throws away the parts that are kept for resuming.
    pub async fn forget_parts(&self) {
        self.shared.parts.clear().await;
    }
}

impl Shared {
    fn flights(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the flight off the list, so that the next request starts afresh.
    fn land(&self, flight: &Arc<Flight>) {
        take_off(&mut self.flights(), flight);
    }

    /// Gives up the source in use; whether another one is there. If not, the flight is off the list in the same
    /// moment: nobody joins it with a source of his own that would not be asked.
    fn next_source(&self, flight: &Arc<Flight>) -> bool {
        let mut flights = self.flights();
        let another = flight.next_source();
        if !another {
            take_off(&mut flights, flight);
        }
        another
    }

    /// Takes the flight off the list if nobody reads it, running `meanwhile` while nobody can join.
    fn land_if_unread<T>(&self, flight: &Arc<Flight>, meanwhile: impl FnOnce() -> T) -> Option<T> {
        let mut flights = self.flights();
        (flight.readers() == 0).then(|| {
            flights.remove(&flight.digest);
            meanwhile()
        })
    }
}

fn take_off(flights: &mut HashMap<Digest, Arc<Flight>>, flight: &Arc<Flight>) {
    let listed = flights.get(&flight.digest);
    if listed.is_some_and(|listed| Arc::ptr_eq(listed, flight)) {
        flights.remove(&flight.digest);
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

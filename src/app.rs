//! The one assembly function: build, run, drain.
//!
//! Building asks no upstream anything and reads nothing whose size grows with the cache, so the mirror starts, and
//! serves what it has, with no network at all. Modules get their settings here; none of them reads a file or the
//! environment.

mod reload;
pub(crate) mod stats;
mod upstreams;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use prometheus_client::registry::Registry as Metrics;
use tracing::{info, warn};

use crate::blobs::{Blobs, BlobsError, DataDirectory, DirectoryError};
use crate::config::{CacheSettings, Fsync, Settings};
use crate::fetch::{self, Fetch};
use crate::http::{
    AccessSink, AdminSocket, BindError, Drained, HttpMetrics, Listen, ListenAddress, Server,
    Service, Telemetry, Timeouts,
};
use crate::index::{Index, IndexError, SqliteIndex};
use crate::proxy::{Spending, SpendingCollector};
use crate::store::{FsStore, StoreError, Sync};
use crate::sys::clock::{self, Anchor, Clock, Jump, Timeline};
use crate::sys::current::Current;
use crate::sys::fs::{Disk, FileSystemKind, OsDisk};
use crate::sys::process;
use crate::sys::tasks::{self, Tasks};
use crate::sys::telemetry::{AccessLog, TelemetryError};
use crate::upstream::{self, UpstreamCollector};
use reload::{Cells, Reloading};
use upstreams::{Ground, Upstreams};

pub use reload::Reload;

/// What downloads get to end themselves once no client is left.
const LANDING_TIME: Duration = Duration::from_secs(5);

/// How long a use may stay unwritten.
const USES_PERIOD: Duration = Duration::from_secs(10);

/// The note of the timeline's anchor.
const TIMELINE: &str = "timeline";

/// A mirror that is bound and ready, and serves nobody yet.
pub struct App {
    server: Server,
    fetch: Fetch,
    tasks: Tasks,
    reloading: Reloading,
    data: DataDirectory,
}

/// Why the mirror does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The index cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The blobs cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What an earlier process left cannot be tidied up.
    #[error(transparent)]
    Recovery(#[from] BlobsError),
    /// An upstream's certificate authorities cannot be read.
    #[error("cannot read {path}: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An upstream's settings are of no use.
    #[error("upstreams.{name:?} cannot be used: {source}")]
    Upstream {
        /// The upstream.
        name: String,
        /// The cause.
        source: upstream::BuildError,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A log cannot be written.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

impl AppError {
    /// Whether a newer version wrote the data directory: no restart helps, only that version.
    pub const fn is_newer_format(&self) -> bool {
        matches!(
            self,
            Self::Directory(DirectoryError::Newer { .. }) | Self::Index(IndexError::Newer { .. })
        )
    }

    /// Whether the disk has no space left. Nothing is wrong with the data directory then.
    fn is_full(&self) -> bool {
        let cause = match self {
            Self::Index(error) | Self::Recovery(BlobsError::Index(error)) => {
                return matches!(error, IndexError::Full { .. });
            }
            Self::Directory(DirectoryError::Inaccessible { source, .. }) => source,
            Self::Store(error) | Self::Recovery(BlobsError::Store(error)) => &error.source,
            _ => return false,
        };
        matches!(
            cause.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// The next step for whoever started the mirror.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            error if error.is_full() => Some(
                "free space on that disk, or choose a directory on another one with --dir or storage.dir",
            ),
            Self::Directory(DirectoryError::Inaccessible { .. })
            | Self::Store(_)
            | Self::Recovery(BlobsError::Store(_)) => Some(
                "make the directory writable for this user, or choose another with --dir or storage.dir",
            ),
            Self::Directory(DirectoryError::Lock(_)) => {
                Some("stop that process, or choose another directory with --dir or storage.dir")
            }
            Self::Directory(DirectoryError::Unreadable { .. }) => Some(
                "if this really is a data directory of mirror, restore its file `format`; else choose another with --dir",
            ),
            Self::Directory(DirectoryError::Newer { .. })
            | Self::Index(IndexError::Newer { .. }) => Some(
                "run that version or a newer one, or choose another directory with --dir; nothing was changed",
            ),
            Self::Index(_) | Self::Recovery(BlobsError::Index(_)) => Some(
                "if this goes on, move the data directory away: what was cached is fetched again",
            ),
            Self::Authority { .. } | Self::Upstream { .. } => Some("mend that key of mirror.toml"),
            _ => None,
        }
    }
}

impl App {
    /// Takes the data directory, opens what is in it, and binds the listeners.
    pub async fn build(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let files = process::raise_open_file_limit().unwrap_or_else(|error| {
            warn!(%error, "the limit on open files stays as it is");
            None
        });
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let (dir, wait) = (&settings.storage.dir, settings.server.lock_wait);
        // Before the lock and the index, which may be what fails there.
        report_file_system(Arc::clone(&disk), dir).await;
        let data = DataDirectory::open(&*disk, dir, wait).await?;
        let index: Arc<dyn Index> = Arc::new(SqliteIndex::open(&data.index())?);
        let boot = process::boot();
        let timeline = timeline(&*index, &clock, boot.as_deref())?;
        let store = FsStore::open(Arc::clone(&disk), dir, sync(settings.storage.fsync))?;
        let blobs = Blobs::new(
            Arc::clone(&disk),
            dir,
            Arc::new(store),
            Arc::clone(&index),
            Arc::clone(&timeline),
            settings.cache.limits,
        );
        blobs.pin(settings.cache.pin.clone());
        let swept = blobs.recover(boot.as_deref()).await?;
        if swept > 0 {
            info!(swept, "unfinished downloads of an earlier run were removed");
        }

        let tasks = Tasks::new();
        tend(&blobs, &tasks);
        let upkeep = Upkeep::begin(&blobs, &tasks, &settings.cache);
        let fetch = Fetch::new(blobs.clone(), tasks.clone(), fetch_settings(settings));
        let spending = spending(settings, &index, &timeline, &tasks);
        let ground = Ground {
            disk,
            index,
            spending: spending.clone(),
            blobs,
            fetch: fetch.clone(),
            clock: timeline,
            tasks: tasks.clone(),
        };
        let upstreams = Upstreams::open(&ground, settings, None)?;

        let access = AccessLog::open(&settings.log.access)?;
        let cells = Cells {
            directory: Arc::new(Current::new(upstreams.directory())),
            clients: Arc::new(Current::new(upstreams.clients())),
            sink: Arc::new(Current::new(sink(&access))),
        };
        let service = Service {
            directory: Arc::clone(&cells.directory),
            telemetry: telemetry(&cells, &fetch, &spending),
            clock,
        };
        let server = Server::bind(server_settings(settings, files), service).await?;
        administer(dir, &cells, spending, &tasks);
        let reloading = Reloading {
            ground,
            settings: settings.clone(),
            upstreams,
            upkeep,
            access,
            cells,
        };
        Ok(Self {
            server,
            fetch,
            tasks,
            reloading,
            data,
        })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    pub fn addresses(&self) -> io::Result<Vec<ListenAddress>> {
        self.server.local_addresses()
    }

    /// Serves until `shutdown`; then running transfers get the drain time, and downloads that nobody reads end. Takes
    /// on the configurations that come from `reloads` meanwhile, one after the other.
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        reloads: impl Stream<Item = Reload>,
    ) -> Drained {
        let mut reloads = pin!(reloads.fuse());
        let mut serving = pin!(self.server.serve(shutdown));
        let drained = loop {
            tokio::select! {
                drained = &mut serving => break drained,
                Some(reload) = reloads.next() => reload.answer(&mut self.reloading),
            }
        };
        let left = self.tasks.drain(LANDING_TIME).await;
        if left > 0 {
            warn!(
                left,
                "downloads did not end in time; what they wrote is removed at the next start"
            );
        }
        self.fetch.forget_parts().await;
        self.reloading.access.flush();
        // The index closes before the lock goes: the next process may take over at once.
        drop(self.fetch);
        drop(self.reloading);
        drop(self.data);
        drained
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// The counts of who spent what, gone on from what the last process wrote.
fn spending(
    settings: &Settings,
    index: &Arc<dyn Index>,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Spending {
    let spending = Spending::new(Arc::<dyn Index>::clone(index), Arc::clone(clock));
    for upstream in settings.upstreams.keys() {
        if let Err(error) = spending.restore(upstream) {
            warn!(%upstream, %error, "who pulled what is counted anew");
        }
    }
    let writing = stats::write_always(spending.clone(), tasks.closing());
    tasks.spawn("spending", writing);
    spending
}

/// Lets commands of this program ask. Without that the mirror works all the same.
fn administer(dir: &Path, cells: &Cells, spending: Spending, tasks: &Tasks) {
    let socket = match AdminSocket::bind(&AdminSocket::path_in(dir)) {
        Ok(socket) => socket,
        Err(error) => {
            warn!(%error, "`mirror stats` will not reach this mirror");
            return;
        }
    };
    let clients = Arc::clone(&cells.clients);
    let page = move || {
        let page = stats::page(&clients.get(), &spending);
        let failed = |error: &serde_json::Error| warn!(%error, "no statistics");
        page.inspect_err(failed).ok()
    };
    let serving = socket.serve(Arc::new(page), tasks.closing());
    tasks.spawn("admin", serving);
}

/// Time as ages are measured by, gone on from what the last process noted, whatever the clock was set to since.
fn timeline(
    index: &dyn Index,
    clock: &Arc<dyn Clock>,
    boot: Option<&str>,
) -> Result<Arc<dyn Clock>, IndexError> {
    let noted = index.note(TIMELINE)?;
    let last: Option<Anchor> = noted.and_then(|noted| noted.parse().ok());
    let timeline = Timeline::resume(Arc::clone(clock), boot, last.as_ref());
    match timeline.jump() {
        Some(jump @ (Jump::Ahead(by) | Jump::Behind(by))) => {
            let by = humantime::format_duration(Duration::from_secs(by.as_secs()));
            warn!(?jump, %by, "the clock was set; what is cached keeps its age");
        }
        None => {}
    }
    if let Some(anchor) = timeline.anchor(boot)
        && let Err(error) = index.set_notes(&[(TIMELINE, &anchor.to_string())])
    {
        warn!(%error, "a clock that is set before the next start will not be noticed");
    }
    Ok(Arc::new(timeline))
}

/// Starts what is done to blobs in the background.
fn tend(blobs: &Blobs, tasks: &Tasks) {
    let [room, uses, strays] = [(); 3].map(|()| blobs.clone());
    let closing = tasks.closing();
    // Nobody waits for it: where the cap was lowered, most of a large cache may have to go.
    let reporting = async move { tasks::until(closing, report_room(&room)).await };
    tasks.spawn("room", reporting);
    tasks.spawn("uses", write_uses(uses, tasks.closing()));
    tasks.spawn("strays", strays.tidy_up(tasks.closing()));
}

/// What is done to blobs by the configuration's clock. Ends when it is dropped.
struct Upkeep(Tasks);

impl Upkeep {
    fn begin(blobs: &Blobs, tasks: &Tasks, settings: &CacheSettings) -> Self {
        let own = Tasks::new();
        let closing = || tasks::until(own.closing(), tasks.closing());
        let (expiry, scrub) = (blobs.clone(), blobs.clone());
        tasks.spawn("expiry", expiry.expire_always(settings.expiry, closing()));
        tasks.spawn("scrub", scrub.scrub_always(settings.scrub, closing()));
        Self(own)
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Writes what was used from time to time, so that the order of eviction outlives the process.
async fn write_uses(blobs: Blobs, closing: impl Future<Output = ()>) {
    let mut closing = pin!(closing);
    loop {
        let over = clock::timeout(USES_PERIOD, &mut closing).await.is_ok();
        if let Err(error) = blobs.write_uses().await {
            warn!(%error, "the order of eviction is not written");
        }
        if over {
            return;
        }
    }
}

/// Says once when the data directory is not on a local disk: it may work, and may lose or damage what is kept.
async fn report_file_system(disk: Arc<dyn Disk>, dir: &Path) {
    let below = dir.to_owned();
    // Before the first start only some directory above it is there.
    let asked = move || below.ancestors().find_map(|path| disk.kind(path).ok());
    if let Some(FileSystemKind::Remote(name)) = tasks::blocking(asked).await {
        warn!(
            dir = %dir.display(),
            "the data directory is on {name}: locks and SQLite's write-ahead log need a local disk, and fsync and rename promise less elsewhere; set storage.dir to a directory on a local disk"
        );
    }
}

/// Says once when the cache starts without room: it works, but keeps nothing.
async fn report_room(blobs: &Blobs) {
    match (blobs.make_room().await, blobs.figures().await) {
        (Ok(()), _) => {}
        (Err(reason), Ok((used, limit))) => warn!(
            used, limit, %reason,
            "the cache has no room: pulls pass through and are not kept; raise cache.max_size, lower cache.min_free, or free space on the disk"
        ),
        (Err(reason), Err(_)) => {
            warn!(%reason, "the cache has no room: pulls pass through and are not kept");
        }
    }
}

const fn sync(fsync: Fsync) -> Sync {
    match fsync {
        Fsync::Always => Sync::Always,
        // What can be fetched again need not survive a power cut.
        Fsync::Hosted | Fsync::Never => Sync::Never,
    }
}

fn fetch_settings(settings: &Settings) -> fetch::Settings {
    fetch::Settings {
        finish_abandoned: settings.cache.finish_abandoned.as_u64(),
    }
}

/// A connection may need a second file for what it reads; more of them than half of the `files` that may be open
/// would leave none for blobs.
fn server_settings(settings: &Settings, files: Option<u64>) -> crate::http::Settings {
    let affordable = files.map_or(u64::MAX, |files| files / 2).max(1);
    let connections = u64::from(settings.server.max_connections).min(affordable);
    let plain = settings.server.listen.iter().cloned();
    let further = settings.listeners.iter().map(|listener| Listen {
        address: listener.address.clone(),
        repository: listener.repository.as_deref().map(Into::into),
    });
    crate::http::Settings {
        listen: plain.map(Into::into).chain(further).collect(),
        drain: settings.server.drain,
        max_connections: usize::try_from(connections).unwrap_or(usize::MAX),
        timeouts: Timeouts::default(),
    }
}

fn telemetry(cells: &Cells, fetch: &Fetch, spending: &Spending) -> Telemetry {
    let mut registry = Metrics::default();
    let metrics = HttpMetrics::register(&mut registry);
    fetch.register(&mut registry);
    let clients = Arc::clone(&cells.clients);
    let upstreams = UpstreamCollector::new(move || clients.get().to_vec());
    registry.register_collector(Box::new(upstreams));
    registry.register_collector(Box::new(SpendingCollector(spending.clone())));
    Telemetry {
        metrics,
        registry: Arc::new(registry),
        access: Arc::clone(&cells.sink),
    }
}

/// `None` spares everyone the lines.
fn sink(access: &AccessLog) -> Option<AccessSink> {
    let lines = access.clone();
    let sink: AccessSink = Arc::new(move |line: String| lines.line(&line));
    access.is_on().then_some(sink)
}

#[cfg(test)]
mod tests;

//! Another configuration while the mirror runs.
//!
//! Nothing that runs is touched: a request goes on with what it began with, a download with its source, and whoever
//! comes later gets the new settings. Either all of a configuration is taken on, or nothing of it.

use std::sync::Arc;

use tracing::warn;

use super::upstreams::{Ground, Upstreams};
use super::{AppError, Upkeep, fetch_settings, report_room, sink};
use crate::config::{ServerSettings, Settings};
use crate::directory::Directory;
use crate::http::AccessSink;
use crate::sys::current::Current;
use crate::sys::tasks;
use crate::sys::telemetry::{AccessLog, AccessTarget, TelemetryError};
use crate::upstream::Upstream;

/// What follows the configuration, and what it is made of.
pub(super) struct Reloading {
    pub(super) ground: Ground,
    /// The settings in force: those of the start where they need a restart.
    pub(super) settings: Settings,
    pub(super) upstreams: Upstreams,
    pub(super) upkeep: Upkeep,
    pub(super) access: AccessLog,
    pub(super) cells: Cells,
}

/// What others read at each request or scrape.
#[derive(Clone)]
pub(super) struct Cells {
    pub(super) directory: Arc<Current<Directory>>,
    pub(super) clients: Arc<Current<Vec<Upstream>>>,
    pub(super) sink: Arc<Current<Option<AccessSink>>>,
}

impl Reloading {
    /// Takes `settings` on; yields the keys that differ and need a restart.
    ///
    /// # Errors
    /// Something of it cannot be had; everything is as it was.
    pub(super) fn take_on(&mut self, settings: Settings) -> Result<Vec<&'static str>, AppError> {
        let (settings, left) = keep_what_needs_a_restart(&self.settings, settings);
        let upstreams = Upstreams::open(&self.ground, &settings, Some(&self.upstreams))?;
        let access = self.reopened(&settings.log.access)?;

        self.cells.directory.replace(upstreams.directory());
        self.cells.clients.replace(upstreams.clients());
        self.upstreams = upstreams;
        if let Some(access) = access {
            self.cells.sink.replace(sink(&access));
            self.access = access;
        }
        self.ground.fetch.set(fetch_settings(&settings));
        self.tend(&settings);
        self.settings = settings;
        Ok(left)
    }

    /// The access log anew, unless it goes where it went. A file is opened again in any case: it may have been renamed.
    fn reopened(&self, target: &AccessTarget) -> Result<Option<AccessLog>, TelemetryError> {
        let is_file = matches!(target, AccessTarget::File(_));
        let changed = *target != self.settings.log.access;
        (changed || is_file)
            .then(|| AccessLog::open(target))
            .transpose()
    }

    fn tend(&mut self, settings: &Settings) {
        let (blobs, cache) = (&self.ground.blobs, &settings.cache);
        let former = &self.settings.cache;
        if cache.pin != former.pin {
            blobs.pin(cache.pin.clone());
        }
        if cache.limits != former.limits {
            blobs.limit(cache.limits);
            let (room, closing) = (blobs.clone(), self.ground.tasks.closing());
            let making = async move { tasks::until(closing, report_room(&room)).await };
            self.ground.tasks.spawn("room", making);
        }
        if (cache.expiry, cache.scrub) != (former.expiry, former.scrub) {
            self.upkeep = Upkeep::begin(blobs, &self.ground.tasks, cache);
        }
    }
}

/// `new` with what is only read at the start as it was then, and the keys of that which differ.
fn keep_what_needs_a_restart(old: &Settings, mut new: Settings) -> (Settings, Vec<&'static str>) {
    let differing = [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.drain", old.server.drain != new.server.drain),
        (
            "server.max_connections",
            old.server.max_connections != new.server.max_connections,
        ),
        ("listener", old.listeners != new.listeners),
        ("storage.dir", old.storage.dir != new.storage.dir),
        ("storage.fsync", old.storage.fsync != new.storage.fsync),
        ("log.format", old.log.format != new.log.format),
    ];
    new.server = ServerSettings {
        offline: new.server.offline,
        ..old.server.clone()
    };
    new.listeners.clone_from(&old.listeners);
    new.storage = old.storage.clone();
    new.log.format = old.log.format;
    let differing = differing.into_iter().filter(|(_, differs)| *differs);
    (new, differing.map(|(key, _)| key).collect())
}

/// A configuration to be taken on, and where to say what came of it.
#[derive(Debug)]
pub struct Reload {
    /// The settings.
    pub settings: Settings,
    /// Gets the keys that wait for a restart, or why everything is as it was.
    pub taken_on: tokio::sync::oneshot::Sender<Result<Vec<&'static str>, AppError>>,
}

impl Reload {
    pub(super) fn answer(self, reloading: &mut Reloading) {
        let came = reloading.take_on(self.settings);
        if self.taken_on.send(came).is_err() {
            warn!("nobody waits for what became of the configuration");
        }
    }
}

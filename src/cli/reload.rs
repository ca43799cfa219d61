//! The configuration while `mirror serve` runs: read again when it changes and on `SIGHUP`.
//!
//! All sources are read, secrets in files included. What is wrong is logged, and the settings in force stay.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::app::{AppError, Reload};
use crate::config::{Diagnostic, Invalid, Loaded, Settings};
use crate::sys::clock;
use crate::sys::signals::Hangups;
use crate::sys::tasks;
use crate::sys::telemetry;

/// How often the sources are looked at. A change counts once two looks have found the same: whoever writes a file may
/// be in the middle of it.
const PERIOD: Duration = Duration::from_secs(2);

/// Reads the configuration, all of it.
pub(super) type Read = Arc<dyn Fn() -> Result<Loaded, Invalid> + Send + Sync>;

/// What reading the configuration came to.
type Found = Result<Settings, Vec<Diagnostic>>;

/// Follows the configuration.
pub(super) struct Follower<'a> {
    read: Read,
    hangups: Hangups,
    log: &'a telemetry::Guard,
    /// What was found last and dealt with.
    last: Found,
}

impl<'a> Follower<'a> {
    pub(super) const fn new(
        read: Read,
        settings: Settings,
        hangups: Hangups,
        log: &'a telemetry::Guard,
    ) -> Self {
        Self {
            read,
            hangups,
            log,
            last: Ok(settings),
        }
    }

    /// Has every change taken on by whoever receives `reloads`, for as long as they do.
    pub(super) async fn follow(&mut self, reloads: mpsc::Sender<Reload>) {
        loop {
            let loaded = self.changed().await;
            self.last = found(&loaded);
            let took = match loaded {
                Ok(loaded) => self.take_on(loaded, &reloads).await,
                Err(invalid) => {
                    refuse(&invalid);
                    Some(())
                }
            };
            if took.is_none() {
                return;
            }
        }
    }

    /// Waits for a signal, or for sources that say something else than before.
    async fn changed(&mut self) -> Result<Loaded, Invalid> {
        let mut doubted = None;
        loop {
            if clock::timeout(PERIOD, self.hangups.next()).await.is_ok() {
                info!("SIGHUP: reading the configuration again");
                return self.read().await;
            }
            let loaded = self.read().await;
            let now = found(&loaded);
            if now == self.last {
                doubted = None;
            } else if doubted.as_ref() == Some(&now) {
                info!("the configuration has changed");
                return loaded;
            } else {
                doubted = Some(now);
            }
        }
    }

    async fn read(&self) -> Result<Loaded, Invalid> {
        let read = Arc::clone(&self.read);
        tasks::blocking(move || read()).await
    }

    /// `None` when nobody takes anything on any more.
    async fn take_on(&self, loaded: Loaded, reloads: &mpsc::Sender<Reload>) -> Option<()> {
        let level = loaded.settings.log.level.clone();
        for warning in &loaded.warnings {
            say_warning(warning);
        }
        let (taken_on, taken) = oneshot::channel();
        let settings = loaded.settings;
        let reload = Reload { settings, taken_on };
        reloads.send(reload).await.ok()?;
        match taken.await.ok()? {
            Ok(waiting) => {
                if !self.log.set_level(&level) {
                    warn!("the level of the log stays as it is");
                }
                report(&waiting);
            }
            Err(error) => report_failure(&error),
        }
        Some(())
    }
}

fn found(loaded: &Result<Loaded, Invalid>) -> Found {
    match loaded {
        Ok(loaded) => Ok(loaded.settings.clone()),
        Err(invalid) => Err(invalid.errors.clone()),
    }
}

fn refuse(invalid: &Invalid) {
    for warning in &invalid.warnings {
        say_warning(warning);
    }
    for fault in &invalid.errors {
        let place = fault.place.as_ref().map(ToString::to_string);
        error!(place, help = fault.help, "{}", fault.message);
    }
    error!("{invalid}: the settings in force stay");
}

fn report(waiting: &[&str]) {
    for key in waiting {
        warn!(key, "{key} has changed, which waits for a restart");
    }
    info!("the configuration is in force");
}

fn report_failure(error: &AppError) {
    error!(%error, help = error.help(), "the configuration cannot be used: the settings in force stay");
}

fn say_warning(warning: &Diagnostic) {
    let place = warning.place.as_ref().map(ToString::to_string);
    warn!(place, help = warning.help, "{}", warning.message);
}

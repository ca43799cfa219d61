//! `mirror serve`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};

use super::output::Output;
use super::reload::{Follower, Read};
use super::{Exit, Failure, Global};
use crate::app::{App, AppError, Reload};
use crate::config::{Diagnostic, Environment, Loaded, Overrides, Settings};
use crate::sys::clock::SystemClock;
use crate::sys::signals::{Hangups, ShutdownSignals};
use crate::sys::telemetry;

/// What still blocks a thread when all tasks have ended gets this long.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// Where to listen, as often as needed; overrides server.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Ask no upstream, ever; overrides server.offline
    #[arg(long)]
    offline: bool,
}

pub(super) fn run(
    arguments: &ServeArguments,
    global: &Global,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let flags = Overrides {
        listen: arguments.listen.clone(),
        offline: arguments.offline,
        ..Overrides::default()
    };
    let loaded = global.load(flags.clone(), environment)?;
    let log = telemetry::init(&loaded.settings.log, output.is_coloured())
        .map_err(|error| failed(&error))?;
    warn(&loaded, output);
    let (global, environment) = (global.clone(), environment.clone());
    let read: Read = Arc::new(move || global.load(flags.clone(), &environment));
    let ended = start(loaded.settings, read, &log);
    drop(log);
    ended
}

/// Runs the server until it is told to end.
fn start(settings: Settings, read: Read, log: &telemetry::Guard) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?;
    let ended = runtime.block_on(serve(settings, read, log));
    // A disk or resolver that hangs may not keep the process.
    runtime.shutdown_timeout(LEFTOVERS_LIMIT);
    ended
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, Diagnostic::error(error.to_string()))
}

/// From the signal handlers to the end of the last transfer.
async fn serve(settings: Settings, read: Read, log: &telemetry::Guard) -> Result<(), Failure> {
    let mut signals = ShutdownSignals::install().map_err(|error| failed(&error))?;
    let hangups = Hangups::install().map_err(|error| failed(&error))?;
    let app = tokio::select! {
        biased;
        built = App::build(&settings, SystemClock::new()) => built.map_err(|error| not_started(&error))?,
        // The directory may be in use for as long as `server.lock_wait`.
        signal = signals.requested() => {
            tracing::info!(signal, "ended before it was ready");
            return Ok(());
        }
    };
    announce(&app, &settings);
    let mut follower = Follower::new(read, settings, hangups, log);
    let (sender, mut receiver) = mpsc::channel(1);
    let reloads = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let (told, hurry) = oneshot::channel();
    let orderly = async {
        let signal = signals.requested().await;
        tracing::info!(signal, "ending; running transfers may finish");
        // The receiver waits for as long as the server runs.
        drop(told.send(signals));
    };
    tokio::select! {
        drained = app.run(orderly, reloads) => {
            tracing::info!(open = drained.open, cut = drained.cut, "ended");
        }
        () = followed(&mut follower, sender) => {}
        () = again(hurry) => tracing::warn!("ended at once, as asked"),
    }
    Ok(())
}

/// Follows the configuration for as long as the server runs.
async fn followed(follower: &mut Follower<'_>, reloads: mpsc::Sender<Reload>) {
    follower.follow(reloads).await;
    // The server takes nothing on any more: it ends.
    std::future::pending::<()>().await;
}

/// Resolves when a signal comes while the server is ending already.
async fn again(hurry: oneshot::Receiver<ShutdownSignals>) {
    match hurry.await {
        Ok(mut signals) => drop(signals.requested().await),
        Err(_) => std::future::pending().await,
    }
}

fn not_started(error: &AppError) -> Failure {
    let exit = if error.is_newer_format() {
        Exit::Usage
    } else {
        Exit::Failed
    };
    let mut diagnostic = Diagnostic::error(error.to_string());
    diagnostic.help = error.help().map(ToOwned::to_owned);
    Failure::new(exit, diagnostic)
}

/// Says where the mirror is.
fn announce(app: &App, settings: &Settings) {
    let addresses = app.addresses().unwrap_or_default();
    for address in &addresses {
        tracing::info!(%address, dir = %settings.storage.dir.display(), "mirror {} is ready", env!("CARGO_PKG_VERSION"));
    }
}

/// On stderr, in the form that the log has there.
fn warn(loaded: &Loaded, output: Output) {
    for warning in &loaded.warnings {
        if loaded.settings.log.format.is_pretty() {
            output.diagnostic(warning);
        } else {
            let place = warning.place.as_ref().map(ToString::to_string);
            tracing::warn!(place, help = warning.help, "{}", warning.message);
        }
    }
}

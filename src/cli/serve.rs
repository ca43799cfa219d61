//! `mirror serve`.

use std::time::Duration;

use clap::Args;

use super::output::Output;
use super::{Exit, Failure, Global};
use crate::config::{Diagnostic, Environment, Loaded, Settings};
use crate::sys::telemetry;

/// What still blocks a thread when all tasks have ended gets this long.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// Where to listen, as often as needed; overrides server.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
}

pub(super) fn run(
    arguments: &ServeArguments,
    global: &Global,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let loaded = global.load(&arguments.listen, environment)?;
    let log = telemetry::init(&loaded.settings.log, output.is_coloured())
        .map_err(|error| failed(&error))?;
    warn(&loaded, output);
    let ended = start(loaded.settings);
    drop(log);
    ended
}

/// Runs the server until it is told to end.
fn start(settings: Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?;
    let ended = runtime.block_on(app::run(settings));
    // A disk or resolver that hangs may not keep the process.
    runtime.shutdown_timeout(LEFTOVERS_LIMIT);
    ended
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, Diagnostic::error(error.to_string()))
}

mod app {
    use super::{Exit, Failure};
    use crate::config::{Diagnostic, Settings};

    #[expect(clippy::unused_async, reason = "stands in for the assembly")]
    pub(super) async fn run(settings: Settings) -> Result<(), Failure> {
        let dir = settings.storage.dir.display();
        let message = format!("nothing to serve from {dir} yet");
        Err(Failure::new(Exit::Failed, Diagnostic::error(message)))
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

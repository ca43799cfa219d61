//! The command line: definitions, printing and exit codes. What the commands do happens below.
//!
//! Data goes to stdout, everything else to stderr. Every error says what, where and what to do next.

mod config;
mod exit;
mod healthcheck;
mod output;
mod reload;
mod serve;
mod stats;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::{Environment, Invalid, Loaded, Overrides};

pub use exit::{Exit, Failure};
use output::Output;

/// A pull-through caching mirror for container registries.
#[derive(Debug, Parser)]
#[command(
    name = "mirror",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const CONFIG_HELP: &str = "The configuration [default: $MIRROR_CONFIG, \
    $XDG_CONFIG_HOME/mirror/mirror.toml, /etc/mirror/mirror.toml; without any, the built-in defaults]";

#[derive(Clone, Debug, Args)]
struct Global {
    #[arg(short, long, global = true, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    /// The data directory; overrides storage.dir
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Say only what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// When to use colours; auto means on a terminal
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror
    Serve(serve::ServeArguments),
    /// Ask a running mirror whether it is ready
    Healthcheck(healthcheck::HealthcheckArguments),
    /// Show what the upstreams allow, and who pulled what, of the running mirror
    Stats(stats::StatsArguments),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

impl Global {
    /// The configuration that these flags, those of one command and the environment make.
    fn load(&self, flags: Overrides, environment: &Environment) -> Result<Loaded, Invalid> {
        let overrides = Overrides {
            dir: self.dir.clone(),
            log_level: self.log_level(),
            ..flags
        };
        crate::config::load(self.config.as_deref(), environment, &overrides)
    }

    const fn log_level(&self) -> Option<&'static str> {
        match (self.quiet, self.verbose) {
            (true, _) => Some("warn"),
            (false, 0) => None,
            (false, 1) => Some("info,mirror=debug"),
            (false, _) => Some("debug,mirror=trace"),
        }
    }
}

/// Runs the command that `arguments` spell, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(message) => return output::clap_message(&message),
    };
    let output = Output::new(cli.global.color);
    let done = match &cli.command {
        Command::Serve(arguments) => serve::run(arguments, &cli.global, environment, output),
        Command::Healthcheck(arguments) => {
            healthcheck::run(arguments, &cli.global, environment, output)
        }
        Command::Stats(arguments) => stats::run(arguments, &cli.global, environment, output),
        Command::Config(command) => config::run(command, &cli.global, environment, output),
    };
    match done {
        Ok(()) => Exit::Success,
        Err(failure) => {
            for diagnostic in &failure.diagnostics {
                output.diagnostic(diagnostic);
            }
            failure.exit
        }
    }
}

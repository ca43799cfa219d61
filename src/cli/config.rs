//! `mirror config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output::Output;
use super::{Failure, Global};
use crate::config::{self, Environment, Overrides};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration, with what the environment adds to it
    Validate(ValidateArguments),
}

#[derive(Debug, Args)]
pub(super) struct ValidateArguments {
    /// The file to check instead of the one that `serve` would read
    file: Option<PathBuf>,
}

pub(super) fn run(
    command: &ConfigCommand,
    global: &Global,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    match command {
        ConfigCommand::Validate(arguments) => validate(arguments, global, environment, output),
    }
}

fn validate(
    arguments: &ValidateArguments,
    global: &Global,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let file = arguments.file.as_deref().or(global.config.as_deref());
    let overrides = Overrides {
        dir: global.dir.clone(),
        ..Overrides::default()
    };
    let loaded = config::load(file, environment, &overrides)?;
    for warning in &loaded.warnings {
        output.diagnostic(warning);
    }
    if !global.quiet {
        let warnings = config::plural(loaded.warnings.len(), "warning");
        output.data(&match loaded.file {
            Some(file) => format!("{}: valid, {warnings}", file.display()),
            None => format!("no configuration file, the defaults apply: valid, {warnings}"),
        });
    }
    Ok(())
}

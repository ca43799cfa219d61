//! The configuration as its users meet it: files, variables and flags in, settings or messages out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

mod complaints;
mod reference;
mod sources;
mod tables;
mod values;

use super::*;

/// A configuration file in a directory of its own, and an environment that knows of nothing else.
struct Sandbox {
    directory: tempfile::TempDir,
    environment: Environment,
}

impl Sandbox {
    fn new(toml: &str, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = Self {
            environment: environment(directory.path(), variables),
            directory,
        };
        sandbox.write("mirror.toml", toml);
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "a test prepares its files")]
    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn load(&self) -> Result<Loaded, Invalid> {
        let file = self.path("mirror.toml");
        load(Some(&file), &self.environment, &Overrides::default())
    }

    /// Every message, with the directory's name removed.
    fn messages(&self) -> String {
        let (errors, warnings) = match self.load() {
            Ok(loaded) => (Vec::new(), loaded.warnings),
            Err(invalid) => (invalid.errors, invalid.warnings),
        };
        let all: Vec<_> = errors
            .iter()
            .chain(&warnings)
            .map(ToString::to_string)
            .collect();
        let directory = format!("{}/", self.directory.path().display());
        all.join("\n").replace(&directory, "")
    }
}

fn environment(directory: &Path, variables: &[(&str, &str)]) -> Environment {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Environment::new(variables, true).with_system_file(directory.join("none.toml"))
}

fn settings(toml: &str) -> Settings {
    Sandbox::new(toml, &[]).load().unwrap().settings
}

fn messages(toml: &str) -> String {
    Sandbox::new(toml, &[]).messages()
}

/// What a value of a key is answered with, and the help.
fn refusal(table: &str, line: &str) -> (String, String) {
    let messages = messages(&format!("[{table}]\n{line}\n"));
    let help = messages
        .lines()
        .last()
        .unwrap_or_default()
        .trim()
        .to_owned();
    (messages.lines().next().unwrap_or_default().to_owned(), help)
}

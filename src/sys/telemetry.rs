//! Logs that never hold anybody up.
//!
//! Log lines go to stderr, access lines to stdout or a file, each through a bounded [`LineWriter`]: a terminal
//! that is stopped or a full pipe costs lines, which are counted and reported, and never a pull.

mod line_writer;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use line_writer::LineWriter;

/// How long the last lines may take to be written when the process ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Lines waiting to be written take at most this much memory, per writer.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// What is logged, how and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What is worth a line.
    pub level: Level,
    /// The form of a line.
    pub format: Format,
    /// Where a line per request goes.
    pub access: AccessTarget,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Whether lines are for people.
    pub fn is_pretty(self) -> bool {
        match self {
            Self::Auto => io::stderr().is_terminal(),
            Self::Pretty => true,
            Self::Json => false,
        }
    }
}

/// Where access lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessTarget {
    /// Nowhere.
    Off,
    /// To stdout.
    #[default]
    Stdout,
    /// To the end of this file.
    File(PathBuf),
}

/// A level, or levels per target: `info`, `info,mirror::upstream=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level(String);

impl Default for Level {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// Not a log level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log level")]
pub struct InvalidLevel(String);

impl FromStr for Level {
    type Err = InvalidLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        for directive in text.split(',').map(str::trim) {
            // A lone word that is no level would be taken for a target, and everything else fall silent.
            let is_target = directive.contains('=');
            let is_level = directive.parse::<LevelFilter>().is_ok();
            if directive.is_empty() || !(is_target || is_level) {
                return Err(InvalidLevel(directive.to_owned()));
            }
            EnvFilter::try_new(directive).map_err(|_| InvalidLevel(directive.to_owned()))?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl Level {
    fn filter(&self) -> EnvFilter {
        // Checked when it was parsed.
        EnvFilter::try_new(&self.0).unwrap_or_default()
    }
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The file or descriptor cannot be written to.
    #[error("cannot write the log to {target}: {source}")]
    Open {
        /// A path, `stdout` or `stderr`.
        target: String,
        /// Why not.
        source: io::Error,
    },
    /// Another logger was installed in this process before.
    #[error("a logger is already installed")]
    Installed,
}

/// Writes the last log lines when it is dropped, for at most a second.
#[must_use = "the last lines are lost without it"]
pub struct Guard {
    writer: LineWriter,
    set_level: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writer = &self.writer;
        f.debug_struct("Guard")
            .field("writer", writer)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Lines that were lost because stderr did not take them.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    /// Logs from now on what `level` says is worth a line; whether that could be done.
    pub fn set_level(&self, level: &Level) -> bool {
        (self.set_level)(level.filter())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.writer.flush(FLUSH_LIMIT);
    }
}

/// Installs the process's logger, which writes to stderr, in colour if `colour` says so.
///
/// # Errors
/// [`TelemetryError`] when stderr is closed, or a logger is already installed.
pub fn init(settings: &Settings, colour: bool) -> Result<Guard, TelemetryError> {
    let stderr = duplicate(&io::stderr(), "stderr")?;
    let writer = LineWriter::start("log", stderr, MAX_PENDING_BYTES)
        .map_err(|source| open_error("stderr", source))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(settings.level.filter())
        .with_writer(writer.clone());
    let (installed, set_level): (_, Box<dyn Fn(EnvFilter) -> bool + Send + Sync>) =
        if settings.format.is_pretty() {
            let lines = lines.compact().with_ansi(colour).with_filter_reloading();
            let handle = lines.reload_handle();
            (
                lines.try_init(),
                Box::new(move |filter| handle.reload(filter).is_ok()),
            )
        } else {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let handle = lines.reload_handle();
            (
                lines.try_init(),
                Box::new(move |filter| handle.reload(filter).is_ok()),
            )
        };
    match installed {
        Ok(()) => Ok(Guard { writer, set_level }),
        Err(_) => Err(TelemetryError::Installed),
    }
}

/// The access log: one line per request. Clones share the target.
#[derive(Clone, Debug)]
pub struct AccessLog {
    writer: Option<LineWriter>,
}

impl AccessLog {
    /// Opens the target.
    ///
    /// # Errors
    /// [`TelemetryError::Open`] when it cannot be written to.
    pub fn open(target: &AccessTarget) -> Result<Self, TelemetryError> {
        let (file, name) = match target {
            AccessTarget::Off => return Ok(Self { writer: None }),
            AccessTarget::Stdout => (duplicate(&io::stdout(), "stdout")?, "stdout".to_owned()),
            AccessTarget::File(path) => (append_to(path)?, path.display().to_string()),
        };
        let writer = LineWriter::start("access log", file, MAX_PENDING_BYTES)
            .map_err(|source| open_error(&name, source))?;
        Ok(Self {
            writer: Some(writer),
        })
    }

    /// Whether lines go anywhere; spares the caller the formatting.
    pub const fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Takes one line, without its newline. Never blocks: a line for which there is no room is dropped.
    pub fn line(&self, line: &str) {
        if let Some(writer) = &self.writer {
            writer.line(line);
        }
    }

    /// Lines that were lost because the target did not take them.
    pub fn dropped(&self) -> u64 {
        self.writer.as_ref().map_or(0, LineWriter::dropped)
    }

    /// Waits until every line is written, for at most a second.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.flush(FLUSH_LIMIT);
        }
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A descriptor of our own: the standard library's streams hold a lock while a write blocks, and the last line of
/// the process would wait for it.
fn duplicate(stream: &impl AsFd, name: &str) -> Result<File, TelemetryError> {
    let descriptor = stream.as_fd().try_clone_to_owned();
    descriptor
        .map(File::from)
        .map_err(|source| open_error(name, source))
}

fn append_to(path: &Path) -> Result<File, TelemetryError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| open_error(&path.display().to_string(), source))
}

fn open_error(target: &str, source: io::Error) -> TelemetryError {
    let target = target.to_owned();
    TelemetryError::Open { target, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_may_differ_by_target() {
        for text in [
            "info",
            "OFF",
            "info,mirror::upstream=debug",
            "warn, hyper=trace",
        ] {
            assert_eq!(text.parse(), Ok(Level(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_no_target() {
        let error = |text: &str| text.parse::<Level>().unwrap_err().to_string();
        assert_eq!(error("inof"), r#""inof" is not a log level"#);
        assert_eq!(
            error("info,mirror=loud"),
            r#""mirror=loud" is not a log level"#
        );
        assert_eq!(error(""), r#""" is not a log level"#);
        assert_eq!(error("info,"), r#""" is not a log level"#);
    }

    #[test]
    fn access_lines_are_appended_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = AccessTarget::File(dir.path().join("access.log"));
        for line in ["first", "second"] {
            let log = AccessLog::open(&target).unwrap();
            log.line(line);
            log.flush();
        }
        let AccessTarget::File(path) = &target else {
            unreachable!("set above")
        };
        let mut written = String::new();
        let mut file = OpenOptions::new().read(true).open(path).unwrap();
        io::Read::read_to_string(&mut file, &mut written).unwrap();
        assert_eq!(written, "first\nsecond\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let target = AccessTarget::File(PathBuf::from("/nonexistent/access.log"));
        let error = AccessLog::open(&target).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write the log to /nonexistent/access.log: "),
            "{error}"
        );
    }

    #[test]
    fn a_log_that_is_off_takes_lines_and_writes_none() {
        let log = AccessLog::open(&AccessTarget::Off).unwrap();
        log.line("lost");
        log.flush();
        assert!(!log.is_on());
        assert_eq!(log.dropped(), 0);
    }
}

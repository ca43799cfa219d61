//! What is wrong, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const CYAN: Style = AnsiColor::Cyan.on_default().bold();

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing works until it is fixed.
    Error,
    /// It works, though perhaps not as meant.
    Warning,
}

/// A message for the person at the terminal: what, where and the next step.
///
/// `{}` is plain text; `{:#}` adds colours, to be stripped where they do not belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
    /// What to do about it.
    pub help: Option<String>,
}

/// Where a setting was made, or where something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the configuration file.
    Line(SourceLine),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// A file as a whole, or anything else that has a name.
    Path(PathBuf),
}

/// Part of a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// The first character of the part, counted from 1.
    pub column: usize,
    /// The line and how many of its characters to underline; `None` where it might show a secret.
    pub excerpt: Option<Excerpt>,
}

/// A line that is fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, without control characters.
    pub text: String,
    /// How many characters to underline; 0 for none.
    pub width: usize,
}

impl Diagnostic {
    /// An error without place and help.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            help: None,
        }
    }

    /// A warning without place and help.
    pub fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Self {
        self.place = place.into();
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

/// `mirror.toml:3:1`, `environment variable MIRROR_LOG__LEVEL`, `flag --listen`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(at) => write!(f, "{}:{}:{}", at.file.display(), at.line, at.column),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, style) = match self.severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        paint(f, style, word)?;
        paint(f, BOLD, &format!(": {}", self.message))?;
        if let Some(place) = &self.place {
            f.write_str("\n  ")?;
            paint(f, CYAN, "-->")?;
            write!(f, " {place}")?;
            if let Place::Line(at) = place {
                excerpt(f, at, style)?;
            }
        }
        if let Some(help) = &self.help {
            f.write_str("\n  ")?;
            paint(f, CYAN, "help")?;
            write!(f, ": {}", help.replace('\n', "\n        "))?;
        }
        Ok(())
    }
}

fn excerpt(f: &mut fmt::Formatter<'_>, at: &SourceLine, style: Style) -> fmt::Result {
    let Some(Excerpt { text, width }) = &at.excerpt else {
        return Ok(());
    };
    let number = at.line.to_string();
    let margin = " ".repeat(number.len());
    paint(f, CYAN, &format!("\n {margin} |\n {number} | "))?;
    f.write_str(text)?;
    if *width > 0 {
        paint(f, CYAN, &format!("\n {margin} | "))?;
        let indent = " ".repeat(at.column.saturating_sub(1));
        paint(f, style, &format!("{indent}{}", "^".repeat(*width)))?;
    }
    Ok(())
}

fn paint(f: &mut fmt::Formatter<'_>, style: Style, text: &str) -> fmt::Result {
    if f.alternate() {
        write!(f, "{style}{text}{style:#}")
    } else {
        f.write_str(text)
    }
}

/// Diagnostics as they are found.
#[derive(Debug, Default)]
pub(super) struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn has_errors(&self) -> bool {
        let is_error = |it: &Diagnostic| it.severity == Severity::Error;
        self.diagnostics.iter().any(is_error)
    }

    /// Errors and warnings, each in the order they were found.
    pub(super) fn into_parts(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        self.diagnostics
            .into_iter()
            .partition(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

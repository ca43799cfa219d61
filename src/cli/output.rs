//! The one place that prints.
//!
//! A reader that went away (`mirror … | head`) is no error: what nobody reads need not be written.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};

use super::{Color, Exit};
use crate::config::Diagnostic;

/// stdout for data, stderr for everything else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    choice: ColorChoice,
}

impl Output {
    pub(super) const fn new(color: Color) -> Self {
        let choice = match color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        Self { choice }
    }

    /// Whether stderr gets colours.
    pub(super) fn is_coloured(self) -> bool {
        AutoStream::new(io::stderr(), self.choice).current_choice() != ColorChoice::Never
    }

    /// Prints a line of data.
    pub(super) fn data(self, line: &str) {
        let mut stdout = AutoStream::new(io::stdout(), self.choice).lock();
        unread(writeln!(stdout, "{line}"));
    }

    /// Prints a message and an empty line.
    pub(super) fn diagnostic(self, diagnostic: &Diagnostic) {
        let mut stderr = AutoStream::new(io::stderr(), self.choice).lock();
        unread(writeln!(stderr, "{diagnostic:#}\n"));
    }
}

/// Prints what clap has to say: help and version on stdout, an error on stderr.
pub(super) fn clap_message(message: &clap::Error) -> Exit {
    unread(message.print());
    if message.use_stderr() {
        Exit::Usage
    } else {
        Exit::Success
    }
}

/// Nobody is left to be told.
fn unread(_: io::Result<()>) {}

//! How a command ends.

use std::process::{ExitCode, Termination};

use crate::config::{Diagnostic, Invalid};

/// What the exit code says. Scripts rely on the numbers; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Done, or nothing to do.
    Success,
    /// The operation failed.
    Failed,
    /// Wrong usage, or an invalid configuration.
    Usage,
    /// The server or the upstream cannot be reached.
    Unreachable,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 7,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// A command that did not do what it was asked for.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the exit code says.
    pub exit: Exit,
    /// What the person at the terminal reads.
    pub diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// A failure with one message.
    pub fn new(exit: Exit, diagnostic: Diagnostic) -> Self {
        Self {
            exit,
            diagnostics: vec![diagnostic],
        }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        let Invalid { errors, warnings } = invalid;
        Self {
            exit: Exit::Usage,
            diagnostics: warnings.into_iter().chain(errors).collect(),
        }
    }
}

//! What is measured, and how long.

use std::path::PathBuf;
use std::time::Duration;

/// A group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Warm,
    Requests,
    Logged,
    Cold,
    Stalled,
    Herd,
    Idle,
}

impl Part {
    pub(crate) const ALL: [Self; 7] = [
        Self::Warm,
        Self::Requests,
        Self::Logged,
        Self::Cold,
        Self::Stalled,
        Self::Herd,
        Self::Idle,
    ];

    fn of(word: &str) -> Option<Self> {
        let is_named = |part: &Self| format!("{part:?}").eq_ignore_ascii_case(word);
        Self::ALL.into_iter().find(is_named)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) quick: bool,
    /// Another mirror than the one that is built.
    pub(crate) binary: Option<PathBuf>,
    /// Measure docker-registry too.
    pub(crate) registry: bool,
    /// How often each server has its turn.
    pub(crate) rounds: usize,
}

impl Options {
    pub(crate) fn parse(words: Vec<String>) -> Self {
        let mut options = Self {
            parts: Vec::new(),
            quick: false,
            binary: None,
            registry: true,
            rounds: 5,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bench" => {} // cargo adds it
                "--quick" => (options.quick, options.rounds) = (true, 1),
                "--without-registry" => options.registry = false,
                "--binary" => options.binary = words.next().map(PathBuf::from),
                "--rounds" => options.rounds = number(words.next()),
                part => options
                    .parts
                    .push(Part::of(part).unwrap_or_else(|| usage(part))),
            }
        }
        if options.parts.is_empty() {
            options.parts = Part::ALL.to_vec();
        }
        options
    }

    /// A blob of so many bytes, or a small one in a quick round.
    pub(crate) fn size(&self, bytes: usize) -> usize {
        if self.quick { bytes / 20 } else { bytes }
    }

    /// What [`Self::size`] makes of that, in words.
    pub(crate) fn size_in_words(&self, bytes: usize) -> String {
        format!("{} MB", self.size(bytes) / 1_000_000)
    }

    /// How long small requests are sent.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { 1000 })
    }
}

fn number(word: Option<String>) -> usize {
    let number = word.and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| usage("--rounds"))
}

fn usage(word: &str) -> ! {
    eprintln!(
        "{word:?}? Parts: warm requests logged cold stalled herd idle. Options: --quick, --rounds <number>, \
         --binary <path>, --without-registry."
    );
    std::process::exit(2)
}

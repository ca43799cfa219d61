//! The mirror beside nginx (which only serves the same files) and docker-registry 2.8 (which caches the same upstream),
//! on this machine, over loopback:
//!
//! ```text
//! cargo bench --bench against                         # everything, some minutes
//! cargo bench --bench against -- warm requests        # some parts
//! cargo bench --bench against -- --quick              # one short round of everything: does it work?
//! cargo bench --bench against -- --binary <a mirror>  # another build of it
//! ```
//!
//! Every server is a process of its own, and what it costs is read from `/proc`. The servers take turns; what is shown
//! is the median. Upstream requests are counted, and a wrong count fails the run. Times only get a yes or no.
//! `docs/benchmarks.md` explains the figures.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a program that measures: it owns its time and threads, and what it cannot prepare ends it"
)]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people: no count here needs more than 52 bits"
)]

mod client;
mod cold;
mod herd;
mod hub;
mod idle;
mod options;
mod process;
mod requests;
mod servers;
mod stage;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;
mod turns;
mod warm;

use std::process::ExitCode;

use options::{Options, Part};
use stage::Stage;
use table::Table;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == hub::ROLE) {
        hub::run(words.get(1).expect("the directory for files").as_ref());
        return ExitCode::SUCCESS;
    }
    let options = Options::parse(words);
    let stage = Stage::set(options);
    let mut table = Table::default();
    for part in Part::ALL {
        if stage.options.parts.contains(&part) {
            eprintln!("{part:?}");
            measure(part, &stage, &mut table);
        }
    }
    println!("{table}");
    if table.is_wrong() {
        eprintln!("upstream requests were not as they should be");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn measure(part: Part, stage: &Stage, table: &mut Table) {
    match part {
        Part::Warm => warm::measure(stage, table),
        Part::Requests => requests::measure(stage, table),
        Part::Logged => requests::measure_logged(stage, table),
        Part::Cold => cold::measure(stage, table),
        Part::Stalled => cold::measure_stalled(stage, table),
        Part::Herd => herd::measure(stage, table),
        Part::Idle => idle::measure(stage, table),
    }
}

//! A hundred clients at once for a blob that is not held.

use std::time::{Duration, Instant};

use crate::cold::{fetch_directly, fresh};
use crate::servers::Kind;
use crate::stage::Stage;
use crate::table::{Row, Table, Target};
use crate::turns::median;
use crate::warm::load;

const CLIENTS: usize = 100;

const BLOB: usize = 200_000_000;

/// In MiB.
const MEMORY: f64 = 80.0;

struct Sample {
    cold: Duration,
    /// The same clients again.
    warm: Duration,
    cpu: Duration,
    peak: f64,
    fetches: usize,
}

pub(crate) fn measure(stage: &Stage, table: &mut Table) {
    let blob = stage.push_blob(BLOB);
    let size = stage.options.size_in_words(BLOB);
    let (mut direct, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..stage.options.rounds {
        direct.push(fetch_directly(stage, &blob).total);
        ours.push(sample(stage, Kind::Mirror, &blob));
    }
    // It fetches the blob a hundred times: once is enough.
    let theirs = stage
        .has(Kind::Registry)
        .then(|| sample(stage, Kind::Registry, &blob));
    let download = median(direct.iter().map(Duration::as_secs_f64));
    let mut add = |what: &str, figure: fn(&Sample) -> f64, reference: Option<f64>, target| {
        let row = Row::new(
            format!("herd of {CLIENTS} on {size}: {what}"),
            median(ours.iter().map(figure)),
        );
        let row = row.beside(reference, "warm + one download");
        table.add(row.registry(theirs.as_ref().map(figure)).target(target));
    };
    let warm = median(ours.iter().map(|it| it.warm.as_secs_f64()));
    add(
        "s",
        |it| it.cold.as_secs_f64(),
        Some(warm + download),
        Target::Times(1.0),
    );
    add("CPU s", |it| it.cpu.as_secs_f64(), None, Target::None);
    add("peak MiB", |it| it.peak, None, Target::AtMost(MEMORY));
    add(
        "upstream fetches",
        |it| it.fetches as f64,
        None,
        Target::Exactly(1.0),
    );
}

fn sample(stage: &Stage, kind: Kind, blob: &str) -> Sample {
    let server = fresh(stage, kind);
    server.running.forget_peak();
    let cpu = server.running.cpu();
    let cold = time_load(&server, blob);
    let (cpu, peak) = (server.running.cpu_since(cpu), server.running.peak());
    let fetches = stage.hub().take_asked().blobs;
    Sample {
        cold,
        warm: time_load(&server, blob),
        cpu,
        peak,
        fetches,
    }
}

fn time_load(server: &crate::servers::Server, blob: &str) -> Duration {
    let began = Instant::now();
    load(server.address(), blob, CLIENTS, 1);
    began.elapsed()
}

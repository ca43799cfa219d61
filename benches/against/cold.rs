//! A large blob that is not held, for one client.

use std::time::{Duration, Instant};

use crate::client::{self, Connection, Fetched};
use crate::hub::by_tag;
use crate::servers::{Kind, Log, Server};
use crate::stage::{Stage, locate};
use crate::table::{Row, Table, Target};
use crate::turns::{median, milliseconds};

const BLOB: usize = 500_000_000;

/// For the client behind one that stalls.
const SHARED: usize = 300_000_000;

/// What a client takes before it stalls.
const TASTE: u64 = 1024 * 1024;

/// What is done after the last byte was sent, such as naming the file, has its time too.
const AFTERWARDS: Duration = Duration::from_millis(200);

struct Sample {
    fetched: Fetched,
    cpu: Duration,
    /// GETs of the blob that the upstream saw.
    fetches: usize,
}

pub(crate) fn measure(stage: &Stage, table: &mut Table) {
    let blob = stage.push_blob(BLOB);
    let size = stage.options.size_in_words(BLOB);
    let (mut direct, mut ours, mut registry) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.options.rounds {
        direct.push(fetch_directly(stage, &blob));
        ours.push(sample(stage, Kind::Mirror, &blob));
        if stage.has(Kind::Registry) {
            registry.push(sample(stage, Kind::Registry, &blob));
        }
    }
    let figure = |samples: &[Sample], figure: fn(&Sample) -> f64| {
        (!samples.is_empty()).then(|| median(samples.iter().map(figure)))
    };
    let mut add =
        |what: &str, of: fn(&Sample) -> f64, fetched: Option<fn(&Fetched) -> f64>, target| {
            let row = Row::new(format!("cold {size}: {what}"), figure(&ours, of).unwrap());
            let reference = fetched.map(|fetched| median(direct.iter().map(fetched)));
            let row = row
                .beside(reference, "direct")
                .registry(figure(&registry, of));
            table.add(row.target(target));
        };
    let total: fn(&Fetched) -> f64 = |it| it.total.as_secs_f64();
    let first_byte: fn(&Fetched) -> f64 = |it| milliseconds(it.first_byte);
    add(
        "s",
        |it| it.fetched.total.as_secs_f64(),
        Some(total),
        Target::Times(1.3),
    );
    add(
        "CPU s",
        |it| it.cpu.as_secs_f64(),
        None,
        Target::AtMost(0.7),
    );
    add(
        "first byte ms",
        |it| milliseconds(it.fetched.first_byte),
        Some(first_byte),
        Target::Within(2.0),
    );
    add(
        "upstream fetches",
        |it| it.fetches as f64,
        None,
        Target::Exactly(1.0),
    );
}

/// A fetch from the upstream itself, with a token at hand.
pub(crate) fn fetch_directly(stage: &Stage, blob: &str) -> Fetched {
    let bearer = stage.bearer();
    let began = Instant::now();
    let mut registry = Connection::open(stage.registry()).unwrap();
    let redirect = registry.request("GET", blob, &[("Authorization", &bearer)]);
    let location = redirect.unwrap().location.expect("a redirect");
    let (cdn, path) = locate(&location);
    let mut cdn = Connection::open(cdn).unwrap();
    cdn.get_since(began, &path, &[]).unwrap()
}

/// An empty server that has its token: it was asked for a manifest.
pub(crate) fn fresh(stage: &Stage, kind: Kind) -> Server {
    let server = Server::start(kind, stage, Log::Off);
    client::read(server.address(), &by_tag());
    stage.hub().take_asked();
    server
}

fn sample(stage: &Stage, kind: Kind, blob: &str) -> Sample {
    let server = fresh(stage, kind);
    let cpu = server.running.cpu();
    let fetched = client::get(server.address(), blob);
    std::thread::sleep(AFTERWARDS);
    Sample {
        fetched,
        cpu: server.running.cpu_since(cpu),
        fetches: stage.hub().take_asked().blobs,
    }
}

/// A client that asks for what another one, which takes no byte any more, has caused to be fetched.
pub(crate) fn measure_stalled(stage: &Stage, table: &mut Table) {
    let blob = stage.push_blob(SHARED);
    let size = stage.options.size_in_words(SHARED);
    let (mut alone, mut behind, mut registry) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.options.rounds {
        alone.push(sample(stage, Kind::Mirror, &blob));
        behind.push(sample_behind(stage, Kind::Mirror, &blob));
        if stage.has(Kind::Registry) {
            registry.push(sample_behind(stage, Kind::Registry, &blob));
        }
    }
    let figure = |samples: &[Sample], figure: fn(&Sample) -> f64| {
        (!samples.is_empty()).then(|| median(samples.iter().map(figure)))
    };
    let seconds: fn(&Sample) -> f64 = |it| it.fetched.total.as_secs_f64();
    let fetches: fn(&Sample) -> f64 = |it| it.fetches as f64;
    let what = format!("cold {size} behind a stalled client");
    let row = Row::new(format!("{what}: s"), figure(&behind, seconds).unwrap());
    let row = row
        .beside(figure(&alone, seconds), "alone")
        .registry(figure(&registry, seconds));
    table.add(row.target(Target::Times(1.1)));
    let row = Row::new(
        format!("{what}: upstream fetches"),
        figure(&behind, fetches).unwrap(),
    )
    .registry(figure(&registry, fetches));
    table.add(row.target(Target::Exactly(1.0)));
}

fn sample_behind(stage: &Stage, kind: Kind, blob: &str) -> Sample {
    let server = fresh(stage, kind);
    let cpu = server.running.cpu();
    let mut stalled = Connection::open(server.address()).unwrap();
    stalled.request("GET", blob, &[]).unwrap();
    stalled.drop_bytes(TASTE).unwrap();
    let fetched = client::get(server.address(), blob);
    Sample {
        fetched,
        cpu: server.running.cpu_since(cpu),
        fetches: stage.hub().take_asked().blobs,
    }
}

//! Large blobs that are held already.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Connection};
use crate::servers::{Kind, Log, Server};
use crate::stage::Stage;
use crate::table::{Row, Table, Target};
use crate::turns::Samples;

const BLOB: usize = 500_000_000;

/// Connections at a time, how often each gets the blob, and what the mirror may cost in times of nginx.
const LOADS: [(usize, usize, f64); 3] = [(1, 4, 1.0), (8, 1, 1.0), (64, 1, 1.5)];

/// In MiB, however many clients get a large blob.
const MEMORY: f64 = 60.0;

struct Sample {
    bytes: u64,
    time: Duration,
    cpu: Duration,
    peak: f64,
    asked: usize,
}

impl Sample {
    fn cpu_per_gib(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / f64::from(1 << 30))
    }

    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.time.as_secs_f64()
    }
}

pub(crate) fn measure(stage: &Stage, table: &mut Table) {
    let blob = stage.push_blob(BLOB);
    let size = stage.options.size_in_words(BLOB);
    let servers = stage.servers(&[Kind::Mirror, Kind::Nginx, Kind::Registry], Log::Off);
    for server in &servers {
        client::get(server.address(), &blob);
        client::get(server.address(), &blob);
    }
    for (connections, times, cpu_limit) in LOADS {
        let samples = Samples::take(&servers, stage.options.rounds, |server| {
            sample(stage, server, &blob, connections, times)
        });
        let what = format!("warm {size}, connections: {connections}");
        add_rows(table, &what, cpu_limit, &samples);
    }
}

fn sample(stage: &Stage, server: &Server, blob: &str, connections: usize, times: usize) -> Sample {
    stage.hub().take_asked();
    server.running.forget_peak();
    let (cpu, began) = (server.running.cpu(), Instant::now());
    let bytes = load(server.address(), blob, connections, times);
    let time = began.elapsed();
    Sample {
        bytes,
        time,
        cpu: server.running.cpu_since(cpu),
        peak: server.running.peak(),
        asked: stage.hub().take_asked().all,
    }
}

/// Gets the blob over that many connections, and so often over each; returns the bytes in sum.
pub(crate) fn load(address: SocketAddr, blob: &str, connections: usize, times: usize) -> u64 {
    let one = || -> std::io::Result<u64> {
        let mut connection = Connection::open(address)?;
        let got = (0..times).map(|_| Ok(connection.get(blob, &[])?.bytes));
        got.sum()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
        let joined = threads.into_iter().map(|it| it.join().unwrap().unwrap());
        joined.sum()
    })
}

fn add_rows(table: &mut Table, what: &str, cpu_limit: f64, samples: &Samples<Sample>) {
    let mut add = |figure_name: &str, figure: fn(&Sample) -> f64, target: Target| {
        let row = Row::new(format!("{what}: {figure_name}"), samples.ours(figure));
        let row = row.beside(samples.median(Kind::Nginx, figure), "nginx");
        let row = row.registry(samples.median(Kind::Registry, figure));
        table.add(row.target(target));
    };
    add("CPU s/GiB", Sample::cpu_per_gib, Target::Times(cpu_limit));
    add("GB/s", Sample::rate, Target::AtLeastTimes(0.95));
    add("peak MiB", |it| it.peak, Target::AtMost(MEMORY));
    let asked = samples.ours(|it| it.asked as f64);
    let row = Row::new(format!("{what}: upstream requests"), asked);
    table.add(row.target(Target::Exactly(0.0)));
}

//! Small requests over connections that stay open: manifests, heads, small blobs.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{RecvFlags, recv};

use crate::client::{self, Head, request};
use crate::hub::by_tag;
use crate::servers::{Kind, Log, Server};
use crate::stage::Stage;
use crate::table::{Row, Table, Target};
use crate::turns::Samples;

const CONNECTIONS: usize = 32;

/// Large enough that no cache keeps it in memory.
const LARGE: usize = 10_000_000;

struct Case {
    what: &'static str,
    method: &'static str,
    path: String,
    target: Target,
}

struct Sample {
    requests: usize,
    time: Duration,
    cpu: Duration,
    p50: Duration,
    p99: Duration,
    asked: usize,
}

impl Sample {
    fn cpu_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }

    fn rate(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64()
    }
}

fn cases(stage: &Stage) -> [Case; 4] {
    let case = |what, method, path, target| Case {
        what,
        method,
        path,
        target,
    };
    let limit = Target::Times(1.2);
    [
        case("manifest GET by tag", "GET", by_tag(), limit),
        case("manifest GET by digest", "GET", stage.by_digest(), limit),
        case("blob HEAD", "HEAD", stage.push_exactly(LARGE), limit),
        case(
            "1 KiB blob GET",
            "GET",
            stage.push_exactly(1024),
            Target::None,
        ),
    ]
}

pub(crate) fn measure(stage: &Stage, table: &mut Table) {
    let servers = stage.servers(&[Kind::Mirror, Kind::Nginx, Kind::Registry], Log::Off);
    for case in cases(stage) {
        let samples = take(stage, &servers, &case);
        let mut add = |what: &str, figure: fn(&Sample) -> f64, target: Target| {
            add_row(
                table,
                &format!("{}: {what}", case.what),
                &samples,
                figure,
                target,
            );
        };
        add("CPU us", Sample::cpu_per_request, case.target);
        add("requests/s", Sample::rate, Target::None);
        add("p50 ms", |it| it.p50.as_secs_f64() * 1e3, Target::None);
        add("p99 ms", |it| it.p99.as_secs_f64() * 1e3, Target::None);
        add_upstream(table, &case, &samples);
    }
}

/// The same with the access log on, to a file.
pub(crate) fn measure_logged(stage: &Stage, table: &mut Table) {
    let servers = stage.servers(&[Kind::Mirror, Kind::Nginx], Log::On);
    for case in cases(stage) {
        let samples = take(stage, &servers, &case);
        let what = format!("{}, logged: CPU us", case.what);
        add_row(table, &what, &samples, Sample::cpu_per_request, case.target);
    }
}

fn take(stage: &Stage, servers: &[Server], case: &Case) -> Samples<Sample> {
    for server in servers {
        client::get(server.address(), &case.path);
        client::get(server.address(), &case.path);
    }
    Samples::take(servers, stage.options.rounds, |server| {
        sample(stage, server, case)
    })
}

fn add_row(
    table: &mut Table,
    what: &str,
    samples: &Samples<Sample>,
    figure: fn(&Sample) -> f64,
    target: Target,
) {
    let row = Row::new(what, samples.ours(figure));
    let row = row.beside(samples.median(Kind::Nginx, figure), "nginx");
    let row = row.registry(samples.median(Kind::Registry, figure));
    table.add(row.target(target));
}

fn add_upstream(table: &mut Table, case: &Case, samples: &Samples<Sample>) {
    let asked = |it: &Sample| it.asked as f64;
    let what = format!("{}: upstream requests", case.what);
    let row = Row::new(what, samples.ours(asked)).registry(samples.median(Kind::Registry, asked));
    table.add(row.target(Target::Exactly(0.0)));
}

fn sample(stage: &Stage, server: &Server, case: &Case) -> Sample {
    stage.hub().take_asked();
    let mut load = Load::new(server.address(), case);
    let (cpu, began) = (server.running.cpu(), Instant::now());
    load.run(stage.options.duration());
    let time = began.elapsed();
    let cpu = server.running.cpu_since(cpu);
    load.latencies.sort_unstable();
    let requests = load.latencies.len();
    Sample {
        requests,
        time,
        cpu,
        p50: load.latencies[requests / 2],
        p99: load.latencies[requests * 99 / 100],
        asked: stage.hub().take_asked().all,
    }
}

/// One thread, and many connections of which each always has one request under way.
struct Load {
    lines: Vec<Line>,
    request: Vec<u8>,
    has_body: bool,
    buffer: Vec<u8>,
    latencies: Vec<Duration>,
}

struct Line {
    stream: TcpStream,
    sent: Instant,
    head: Vec<u8>,
    /// Of the body, once the head is there.
    left: u64,
}

impl Load {
    fn new(address: SocketAddr, case: &Case) -> Self {
        let line = |_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            Line {
                stream,
                sent: Instant::now(),
                head: Vec::new(),
                left: 0,
            }
        };
        Self {
            lines: (0..CONNECTIONS).map(line).collect(),
            request: request(case.method, &case.path, &[]),
            has_body: case.method == "GET",
            buffer: vec![0; 64 * 1024],
            latencies: Vec::new(),
        }
    }

    fn run(&mut self, duration: Duration) {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let end = Instant::now() + duration;
        for (number, line) in (0..).zip(&mut self.lines) {
            epoll::add(
                &events,
                &line.stream,
                EventData::new_u64(number),
                EventFlags::IN,
            )
            .unwrap();
            line.send(&self.request);
        }
        let mut ready = Vec::with_capacity(CONNECTIONS);
        let mut busy = self.lines.len();
        while busy > 0 {
            epoll::wait(&events, spare_capacity(&mut ready), None).unwrap();
            for event in ready.drain(..) {
                let number = usize::try_from(event.data.u64()).unwrap();
                if !self.lines[number].receive(&mut self.buffer, self.has_body) {
                    continue;
                }
                let line = &mut self.lines[number];
                let now = Instant::now();
                self.latencies.push(now - line.sent);
                if now < end {
                    line.send(&self.request);
                } else {
                    busy -= 1;
                }
            }
        }
    }
}

impl Line {
    fn send(&mut self, request: &[u8]) {
        self.sent = Instant::now();
        self.stream.write_all(request).unwrap();
    }

    /// Reads what is there; whether the answer is complete.
    fn receive(&mut self, buffer: &mut [u8], has_body: bool) -> bool {
        let (_, read) = recv(&self.stream, &mut *buffer, RecvFlags::empty()).unwrap();
        assert!(read > 0, "the server closed a connection");
        if self.left > 0 {
            self.left -= read as u64;
            return self.left == 0;
        }
        self.head.extend_from_slice(&buffer[..read]);
        let Some((head, end)) = Head::parse(&self.head) else {
            return false;
        };
        assert_eq!(head.status, 200);
        let ahead = (self.head.len() - end) as u64;
        self.left = if has_body { head.length - ahead } else { 0 };
        self.head.clear();
        self.left == 0
    }
}

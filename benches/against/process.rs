//! A server as a process: started, watched through `/proc`, ended by its id.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Connection;

const PATIENCE: Duration = Duration::from_secs(30);

/// What `/proc` counts processor time in: `USER_HZ`, 100 on every machine.
const TICK: Duration = Duration::from_millis(10);

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the start to the first answer.
    pub(crate) start: Duration,
}

/// An address that nothing listens on.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Running {
    /// Starts it, and returns when it answers.
    pub(crate) fn start(mut command: Command, address: SocketAddr) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{command:?} does not start: {error}");
        });
        let mut running = Self {
            child,
            address,
            start: Duration::ZERO,
        };
        while !running.answers() {
            assert!(started.elapsed() < PATIENCE, "{command:?} does not answer");
            sleep(Duration::from_micros(200));
        }
        running.start = started.elapsed();
        running
    }

    fn answers(&self) -> bool {
        let connection = Connection::open(self.address);
        connection.is_ok_and(|mut connection| connection.request("GET", "/v2/", &[]).is_ok())
    }

    /// What it and its children have used, in user and system mode.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks: u64 = self.tree().into_iter().map(ticks).sum();
        TICK * u32::try_from(ticks).unwrap()
    }

    /// What it has used since [`Self::cpu`] was `before`.
    pub(crate) fn cpu_since(&self, before: Duration) -> Duration {
        self.cpu().saturating_sub(before)
    }

    /// Starts the peak of its memory anew.
    pub(crate) fn forget_peak(&self) {
        for pid in self.tree() {
            fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        }
    }

    /// The most memory it had resident, in MiB; that of its processes in sum.
    pub(crate) fn peak(&self) -> f64 {
        self.memory("VmHWM:")
    }

    /// The memory it has resident, in MiB.
    pub(crate) fn resident(&self) -> f64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> f64 {
        let kib: u64 = self.tree().into_iter().map(|pid| kib(pid, field)).sum();
        kib as f64 / 1024.0
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn tree(&self) -> Vec<i32> {
        let mut found = vec![self.pid()];
        let mut at = 0;
        while let Some(&pid) = found.get(at) {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            let children = children.split_whitespace();
            found.extend(children.map(|pid| pid.parse::<i32>().unwrap()));
            at += 1;
        }
        found
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid()).unwrap();
        kill_process(pid, Signal::TERM).unwrap_or_default(); // it may have ended by itself
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(1));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

fn kib(pid: i32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().unwrap())
}

//! The program as its own process, as an operator runs it: started, asked, signalled, killed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "support for tests"
)]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::client::{Response, exchange};
use crate::support::FakeHub;

/// How long a condition may take to come true: a guard against hanging, never a measure.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

const POLL: Duration = Duration::from_millis(2);

/// A `mirror serve` that is about to be started, on a port that the system chooses and without any environment but
/// what is said here.
#[derive(Debug)]
pub(crate) struct Launch {
    wrapper: Vec<OsString>,
    data: PathBuf,
    listen: String,
    variables: Vec<(String, String)>,
    stdout: Stdio,
    stderr_is_read: bool,
}

impl Launch {
    /// With its default upstream, Docker Hub.
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            wrapper: Vec::new(),
            data: data.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            variables: Vec::new(),
            stdout: Stdio::null(),
            stderr_is_read: true,
        }
    }

    /// With `hub` in the place of Docker Hub.
    pub(crate) fn of(hub: &FakeHub, data: &Path) -> Self {
        Self::new(data)
            .set("UPSTREAMS__DOCKER_IO__URL", &hub.registry_url())
            .set("UPSTREAMS__DOCKER_IO__TOKEN_URL", &hub.token_url())
    }

    /// Sets a key: `SERVER__DRAIN` is `server.drain`.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.variables
            .push((format!("MIRROR_{key}"), value.to_owned()));
        self
    }

    pub(crate) fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Runs it by way of another command, such as `unshare --net`, that executes its arguments.
    pub(crate) fn within(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(Into::into).collect();
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Leaves stderr to a pipe that nobody reads. It takes a unix socket to find such a process.
    pub(crate) fn stderr_unread(mut self) -> Self {
        self.stderr_is_read = false;
        self
    }

    /// Starts it, and returns when it says that it is ready.
    pub(crate) async fn start(self) -> Process {
        self.spawn().ready().await
    }

    /// Starts it, and returns at once.
    pub(crate) fn spawn(self) -> Process {
        let program = OsString::from(env!("CARGO_BIN_EXE_mirror"));
        let mut words = self.wrapper;
        words.push(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve").arg("--dir");
        command.arg(&self.data).args(["--listen", &self.listen]);
        command.env_clear().envs(self.variables);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.current_dir(std::env::temp_dir());
        command.stdin(Stdio::null()).stdout(self.stdout);
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let log = if self.stderr_is_read {
            Log::read(child.stderr.take().unwrap())
        } else {
            Log::unread()
        };
        Process {
            child,
            address: self.listen.strip_prefix("unix:").map(Address::unix),
            log,
            started,
        }
    }

    /// Runs it until it ends by itself: a start that is refused.
    pub(crate) async fn refused(self) -> Ended {
        self.spawn().ended().await
    }
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    fn unix(path: &str) -> Self {
        Self::Unix(path.into())
    }
}

/// A running `mirror serve`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    address: Option<Address>,
    log: Log,
    started: Instant,
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

/// A connection to a mirror.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Process {
    /// Waits until it says that it is ready, and answers.
    pub(crate) async fn ready(mut self) -> Self {
        if self.address.is_none() {
            self.wait_for_address().await;
        }
        self.wait_for_answer().await;
        self
    }

    pub(crate) fn pid(&self) -> i32 {
        let pid = self.child.id().expect("it runs");
        i32::try_from(pid).unwrap()
    }

    /// The one process that this one started, which does the work when it was wrapped in one that forks.
    pub(crate) fn only_child(&self) -> i32 {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap();
        children.trim().parse().unwrap()
    }

    /// Since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where it listens, for a client of one's own.
    pub(crate) fn tcp_address(&self) -> SocketAddr {
        match self.address {
            Some(Address::Tcp(address)) => address,
            ref other => panic!("it listens on {other:?}"),
        }
    }

    /// A connection, unless it is refused.
    pub(crate) async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        match self.address.as_ref().expect("its address is known") {
            Address::Tcp(address) => Ok(Box::new(TcpStream::connect(address).await?)),
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let mut stream = self.connect().await.expect("the mirror listens");
        exchange(&mut stream, "GET", path, &[]).await
    }

    pub(crate) async fn blob(&self, repository: &str, digest: &str) -> Response {
        self.get(&format!("/v2/{repository}/blobs/{digest}")).await
    }

    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> Response {
        self.get(&format!("/v2/{repository}/manifests/{reference}"))
            .await
    }

    /// The most memory that it had resident at any time, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that it has resident now, in KiB.
    pub(crate) fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let found = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.trim().strip_suffix(" kB"));
        found.expect("Linux tells").parse().unwrap()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        send(self.pid(), Signal::TERM);
    }

    /// Ends it without a warning, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end and waits until it did.
    pub(crate) async fn stop(self) -> Ended {
        self.terminate();
        self.ended().await
    }

    /// Waits until it ends.
    pub(crate) async fn ended(mut self) -> Ended {
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            panic!("it does not end:\n{}", self.log.text());
        };
        Ended {
            code: status.unwrap().code(),
            stderr: self.log.all().await,
        }
    }

    /// Waits for a line on stderr.
    pub(crate) async fn wait_for_log(&self, part: &str) {
        self.log.wait_for(part).await;
    }

    /// How many lines on stderr have said so.
    pub(crate) fn times_logged(&self, part: &str) -> usize {
        let lines = self.log.lines.borrow();
        lines.iter().filter(|line| line.contains(part)).count()
    }

    async fn wait_for_address(&mut self) {
        let line = self.log.wait_for(" is ready\"").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let address = line["address"].as_str().unwrap();
        self.address = Some(Address::Tcp(address.parse().unwrap()));
    }

    async fn wait_for_answer(&self) {
        let ready = async {
            loop {
                if let Ok(mut stream) = self.connect().await {
                    let answer = exchange(&mut stream, "GET", "/readyz", &[]).await;
                    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok\n"[..]));
                    return;
                }
                sleep(POLL).await;
            }
        };
        let in_time = timeout(PATIENCE, ready).await.is_ok();
        assert!(in_time, "it is not ready:\n{}", self.log.text());
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Waits until `condition` is true.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(POLL).await;
        }
    };
    let in_time = timeout(PATIENCE, waiting).await.is_ok();
    assert!(in_time, "never came true: {what}");
}

/// What a process wrote to stderr so far.
#[derive(Debug)]
struct Log {
    lines: watch::Receiver<Vec<String>>,
}

impl Log {
    fn read(stderr: ChildStderr) -> Self {
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self { lines }
    }

    /// Of a process whose stderr nobody reads: it says nothing.
    fn unread() -> Self {
        Self {
            lines: watch::channel(Vec::new()).1,
        }
    }

    fn text(&self) -> String {
        self.lines
            .borrow()
            .iter()
            .fold(String::new(), |mut text, line| {
                writeln!(text, "{line}").unwrap();
                text
            })
    }

    async fn wait_for(&self, part: &str) -> String {
        let mut lines = self.lines.clone();
        let contains = |lines: &Vec<String>| lines.iter().any(|line| line.contains(part));
        let found = timeout(PATIENCE, lines.wait_for(contains)).await;
        let Ok(Ok(lines)) = found else {
            panic!("stderr never said {part:?}:\n{}", self.text());
        };
        let line = lines.iter().find(|line| line.contains(part));
        line.unwrap().clone()
    }

    /// Everything, once the last writer has closed it.
    async fn all(mut self) -> String {
        let closed = async { while self.lines.changed().await.is_ok() {} };
        let in_time = timeout(PATIENCE, closed).await.is_ok();
        assert!(in_time, "stderr stays open:\n{}", self.text());
        self.text()
    }
}

//! `mirror stats`: what the running mirror says of its upstreams, asked through the socket in its data directory.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::output::Output;
use super::{Exit, Failure, Global};
use crate::app::stats::{Pulls, Requests, Stats, Sum, UpstreamStats};
use crate::config::{Diagnostic, Environment, Overrides};
use crate::http::AdminSocket;
use crate::sys::{clock, tasks};

/// As much of the answer as is read, in bytes: a thousand rows of some upstreams.
const ANSWER_LIMIT: u64 = 64 * 1024 * 1024;

/// How long the mirror may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many clients and repositories are shown as text.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(super) struct StatsArguments {
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(
    arguments: &StatsArguments,
    global: &Global,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let loaded = global.load(Overrides::default(), environment)?;
    let dir = loaded.settings.storage.dir;
    let body = ask(AdminSocket::path_in(&dir)).map_err(|why| unreachable(&dir, &why))?;
    match arguments.output {
        Format::Json => output.data(&body),
        Format::Text => {
            let stats: Stats = serde_json::from_str(&body).map_err(|_| foreign(&dir))?;
            output.data(stats.text().trim_end());
        }
    }
    Ok(())
}

fn unreachable(dir: &Path, why: &io::Error) -> Failure {
    let why = match why.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "it is not running".into(),
        io::ErrorKind::PermissionDenied => "only the user who runs it may ask".into(),
        _ => why.to_string(),
    };
    let message = format!(
        "no answer from a mirror with the data directory {}: {why}",
        dir.display()
    );
    let help =
        "start it with: mirror serve, or name the directory of the one that runs with --dir or -c";
    Failure::new(Exit::Unreachable, Diagnostic::error(message).help(help))
}

fn foreign(dir: &Path) -> Failure {
    let message = format!(
        "the mirror with the data directory {} answers in a form that this version does not know",
        dir.display()
    );
    let help = "use the program of the version that is running, or -o json";
    Failure::new(Exit::Failed, Diagnostic::error(message).help(help))
}

fn ask(socket: PathBuf) -> io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let exchange = tasks::blocking(move || exchange(&socket));
    let answer = runtime.block_on(async { clock::timeout(PATIENCE, exchange).await });
    runtime.shutdown_background();
    answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends the request by hand, and reads to the end of the connection: the mirror ends it after one answer.
fn exchange(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_LIMIT).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200 ") {
        let status = head.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("it answers {status}")));
    }
    Ok(body.to_owned())
}

impl Stats {
    fn text(&self) -> String {
        let texts: Vec<String> = self.upstreams.iter().map(UpstreamStats::text).collect();
        texts.join("\n")
    }
}

impl UpstreamStats {
    fn text(&self) -> String {
        let Pulls { total, since, .. } = &self.pulls;
        let requests = |requests: &Requests| {
            let Requests { kind, code, count } = requests;
            format!("{count:>8}  {kind} {code}")
        };
        let paragraphs = [
            ("limit", self.budget()),
            ("state", vec![self.state()]),
            ("requests", self.requests.iter().map(requests).collect()),
            ("pulls", vec![format!("{total:>8}  since {since}")]),
            ("by client", self.pulls.table(&self.pulls.by_client)),
            ("by repository", self.pulls.table(&self.pulls.by_repository)),
        ];
        let mut text = vec![format!("{}\n", self.name)];
        for (label, lines) in paragraphs {
            let labels = std::iter::once(label).chain(std::iter::repeat(""));
            let line = |(label, line)| format!("  {label:<14} {line}\n");
            text.extend(labels.zip(lines).map(line));
        }
        text.concat()
    }

    fn state(&self) -> String {
        if self.suspended {
            format!(
                "does not answer, and is only probed; {} questions were not asked",
                self.refused
            )
        } else {
            "is asked".to_owned()
        }
    }

    fn budget(&self) -> Vec<String> {
        let until = |until: &String| format!("asks not to be asked until {until}");
        let left = match (self.remaining, self.limit) {
            (Some(remaining), Some(limit)) => format!("{remaining} of {limit} pulls left"),
            (Some(remaining), None) => format!("{remaining} pulls left"),
            (None, _) => "none that it tells".to_owned(),
        };
        let window = self.window_seconds.map(|seconds| {
            let window = humantime::format_duration(Duration::from_secs(seconds));
            format!(" in {window}")
        });
        let source = self.counted_to.as_ref();
        let source = source.map(|source| format!(", counted to {source}"));
        let at = self.told_at.as_ref().map(|at| format!(", as of {at}"));
        let parts = [Some(left), window, source, at].into_iter().flatten();
        let told: String = parts.collect();
        let until = self.limited_until.as_ref().map(until);
        [Some(told), until].into_iter().flatten().collect()
    }
}

impl Pulls {
    /// The first of `sums`, and what is left of all pulls.
    fn table(&self, sums: &[Sum]) -> Vec<String> {
        let line = |pulls: u64, name: &str| format!("{pulls:>8}  {name}");
        let shown = sums.iter().take(SHOWN);
        let rest: u64 = sums.iter().skip(SHOWN).map(|sum| sum.pulls).sum();
        let rest = rest.saturating_add(self.other);
        let rest = (rest > 0).then(|| line(rest, "others"));
        shown
            .map(|sum| line(sum.pulls, &sum.name))
            .chain(rest)
            .collect()
    }
}

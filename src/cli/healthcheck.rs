//! `mirror healthcheck`: one request by hand, so that it works in a container that holds nothing but the binary.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Uri;

use super::output::Output;
use super::{Exit, Failure, Global};
use crate::config::{Diagnostic, Environment, ListenAddress, Overrides};
use crate::sys::{clock, tasks};

/// As much of the answer as is read, in bytes.
const MAX_ANSWER: usize = 4096;

const READY_PATH: &str = "/readyz";

#[derive(Debug, Args)]
pub(super) struct HealthcheckArguments {
    #[arg(
        long,
        help = "The mirror to ask: http://host:port or unix:/path [default: the first of server.listen]"
    )]
    url: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(
    arguments: &HealthcheckArguments,
    global: &Global,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let target = if let Some(url) = &arguments.url {
        Target::parse(url)?
    } else {
        let loaded = global.load(Overrides::default(), environment)?;
        Target::of(loaded.settings.server.listen.first())
    };
    let answer =
        ask(target.clone(), arguments.timeout).map_err(|why| unreachable(&target, &why))?;
    answer.judge(&target)?;
    if !global.quiet {
        output.data(&format!("{} is ready", target.name()));
    }
    Ok(())
}

/// The answer, or [`io::ErrorKind::TimedOut`] whatever it is that takes too long: resolver, connection or server.
fn ask(target: Target, limit: Duration) -> io::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let exchange = tasks::blocking(move || target.ask());
    let answer = runtime.block_on(async { clock::timeout(limit, exchange).await });
    runtime.shutdown_background();
    answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn unreachable(target: &Target, why: &io::Error) -> Failure {
    let why = match why.kind() {
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => why.to_string(),
    };
    let message = format!("{} does not answer: {why}", target.name());
    let help = "start it with: mirror serve, or name another with --url";
    Failure::new(Exit::Unreachable, Diagnostic::error(message).help(help))
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp {
        /// For the resolver: no brackets.
        host: String,
        port: u16,
        path: String,
    },
    Unix(PathBuf),
}

impl Target {
    fn parse(url: &str) -> Result<Self, Failure> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let uri: Option<Uri> = url.parse().ok();
        let uri = uri.filter(|uri| uri.scheme_str() == Some("http"));
        let Some((host, uri)) = uri.as_ref().and_then(|uri| Some((uri.host()?, uri))) else {
            let message = format!("--url {url:?} is neither http://host:port nor unix:/path");
            return Err(Failure::new(Exit::Usage, Diagnostic::error(message)));
        };
        Ok(Self::Tcp {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: match uri.path() {
                "/" => READY_PATH.to_owned(),
                path => path.to_owned(),
            },
        })
    }

    /// The address that reaches a listener on this machine.
    fn of(listen: Option<&ListenAddress>) -> Self {
        let (host, port) = match listen {
            Some(ListenAddress::Unix(path)) => return Self::Unix(path.clone()),
            Some(ListenAddress::Tcp { host, port }) => (host.as_str(), *port),
            None => ("127.0.0.1", 5000),
        };
        let host = match host {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        Self::Tcp {
            host: host.to_owned(),
            port,
            path: READY_PATH.to_owned(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp { .. } => format!("http://{}", self.authority()),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// The value of the Host field.
    fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    fn ask(&self) -> io::Result<Answer> {
        let authority = self.authority();
        match self {
            Self::Tcp { host, port, path } => exchange(
                TcpStream::connect((host.as_str(), *port))?,
                &authority,
                path,
            ),
            Self::Unix(socket) => exchange(UnixStream::connect(socket)?, &authority, READY_PATH),
        }
    }
}

/// Sends the request and reads the answer, to its end if it says why the mirror is not ready.
fn exchange(mut stream: impl Read + Write, authority: &str, path: &str) -> io::Result<Answer> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    while bytes.len() < MAX_ANSWER {
        match stream.read(&mut chunk)? {
            0 => break,
            length => bytes.extend_from_slice(&chunk[..length]),
        }
        if Answer::parse(&bytes).is_ready() {
            break;
        }
    }
    Ok(Answer::parse(&bytes))
}

/// What is of interest in an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    /// `None` when it is not HTTP.
    status: Option<u16>,
    /// The first line of the body, if any.
    reason: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let status_line = text.split_once("\r\n").map(|(line, _)| line);
        let status = status_line
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let reason = body.lines().next().unwrap_or_default().trim();
        Self {
            status,
            reason: reason.to_owned(),
        }
    }

    fn is_ready(&self) -> bool {
        self.status == Some(200)
    }

    fn judge(&self, target: &Target) -> Result<(), Failure> {
        let name = target.name();
        let message = match self.status {
            Some(200) => return Ok(()),
            Some(status) if self.reason.is_empty() => format!("{name} is not ready: HTTP {status}"),
            Some(status) => format!("{name} is not ready: HTTP {status}, {}", self.reason),
            None => format!("{name} does not speak HTTP"),
        };
        Err(Failure::new(Exit::Failed, Diagnostic::error(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, path: &str) -> Target {
        Target::Tcp {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        }
    }

    #[test]
    fn a_url_without_a_path_means_readiness() {
        let parse = |url| Target::parse(url).unwrap();
        assert_eq!(
            parse("http://mirror.corp"),
            tcp("mirror.corp", 80, "/readyz")
        );
        assert_eq!(parse("http://[::1]:5000/livez"), tcp("::1", 5000, "/livez"));
        assert_eq!(
            parse("unix:/run/m.sock"),
            Target::Unix("/run/m.sock".into())
        );
        for url in ["https://mirror.corp", "mirror.corp:5000", ""] {
            assert_eq!(Target::parse(url).unwrap_err().exit, Exit::Usage, "{url}");
        }
    }

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        let of = |text: &str| Target::of(Some(&text.parse().unwrap())).name();
        assert_eq!(of("0.0.0.0:5000"), "http://127.0.0.1:5000");
        assert_eq!(of("[::]:80"), "http://[::1]:80");
        assert_eq!(of("mirror.corp:80"), "http://mirror.corp:80");
        assert_eq!(of("unix:/run/m.sock"), "unix:/run/m.sock");
    }

    #[test]
    fn only_a_complete_status_line_counts() {
        let status = |text: &str| Answer::parse(text.as_bytes()).status;
        assert_eq!(status("HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status("HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status("HTTP/1.1 200 OK"), None);
        assert_eq!(status("HTTP/1.1 2000 OK\r\n"), Some(2000));
        assert_eq!(status("SSH-2.0-OpenSSH_9.6\r\n"), None);
        let answer = Answer::parse(b"HTTP/1.1 503 x\r\nA: b\r\n\r\nindex: opening\nmore\n");
        assert_eq!(answer.status, Some(503));
        assert_eq!(answer.reason, "index: opening");
    }
}

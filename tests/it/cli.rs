//! The command line as scripts meet it: exit codes, and what goes to which stream.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// The program, in a directory of its own and with an environment that holds nothing else.
struct Program {
    directory: TempDir,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Program {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn with_config(toml: &str) -> Self {
        let program = Self::new();
        program.write("mirror.toml", toml);
        program
    }

    #[expect(clippy::disallowed_methods, reason = "a test prepares its files")]
    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("HOME", self.directory.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        finish(&mut self.command(arguments))
    }
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

const UNKNOWN_KEY: &str = r#"error: unknown key "lisen" in [server]
  --> mirror.toml:2:1
   |
 2 | lisen = …
   | ^^^^^
  help: did you mean "listen"?

"#;

#[test]
fn version_and_help_are_data() {
    let program = Program::new();
    let version = program.run(&["--version"]);
    assert_eq!(version.code, Some(0));
    let expected = format!("mirror {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((version.stdout, version.stderr), (expected, String::new()));

    let help = program.run(&["serve", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for flag in ["--config", "--listen", "--dir"] {
        assert!(help.stdout.contains(flag), "{flag}: {}", help.stdout);
    }
}

#[test]
fn wrong_usage_is_told_on_stderr_and_exits_with_2() {
    let program = Program::new();
    for arguments in [
        &[][..],
        &["serv"],
        &["serve", "--lisen"],
        &["serve", "-q", "-v"],
    ] {
        let run = program.run(arguments);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(!run.stderr.is_empty(), "{arguments:?}");
    }
    assert!(program.run(&["serv"]).stderr.contains("'serve'"));
}

#[test]
fn no_command_runs_on_an_invalid_configuration() {
    let program = Program::with_config("[server]\nlisen = \"[::]:5000\"\n");
    let expected = Run {
        code: Some(2),
        stdout: String::new(),
        stderr: UNKNOWN_KEY.to_owned(),
    };
    let flag = ["-c", "mirror.toml"];
    assert_eq!(
        program.run(&["config", "validate", "mirror.toml"]),
        expected
    );
    assert_eq!(
        program.run(&[&flag[..], &["config", "validate"]].concat()),
        expected
    );
    assert_eq!(program.run(&[&["serve"][..], &flag].concat()), expected);
    assert_eq!(
        program.run(&[&["healthcheck"][..], &flag].concat()),
        expected
    );
    let mut command = program.command(&["serve"]);
    assert_eq!(
        finish(command.env("MIRROR_CONFIG", "mirror.toml")),
        expected
    );
}

#[test]
fn wrong_flags_and_variables_of_serve_are_named() {
    let run = Program::new().run(&["serve", "--listen", "5000"]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr.contains("\n  --> flag --listen\n"),
        "{}",
        run.stderr
    );

    let program = Program::new();
    let mut command = program.command(&["serve"]);
    let run = finish(command.env("MIRROR_CACHE__TAG_TTL", "soon"));
    assert_eq!(run.code, Some(2));
    assert_eq!(
        run.stderr,
        r#"error: cache.tag_ttl: "soon" is not a duration
  --> environment variable MIRROR_CACHE__TAG_TTL
  help: write a number and a unit, such as "30s", "5m" or "1h 30m"

"#
    );
}

#[test]
fn a_valid_configuration_is_one_line_of_data() {
    let program = Program::with_config("[log]\nlevel = \"debug\"\n");
    let run = program.run(&["config", "validate", "mirror.toml"]);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stdout, "mirror.toml: valid, 0 warnings\n");
    assert_eq!(run.stderr, "");

    let quiet = program.run(&["-q", "config", "validate", "mirror.toml"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(0), ""));
}

#[test]
fn warnings_are_told_and_stop_nothing() {
    let program = Program::with_config("");
    let mut command = program.command(&["config", "validate", "mirror.toml"]);
    let run = finish(command.env("MIRROR_LOG__LEVL", "debug"));
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stdout, "mirror.toml: valid, 1 warning\n");
    assert_eq!(
        run.stderr,
        "warning: MIRROR_LOG__LEVL means nothing to mirror
  --> environment variable MIRROR_LOG__LEVL
  help: did you mean MIRROR_LOG__LEVEL?

"
    );
}

#[test]
fn colours_appear_where_they_are_asked_for() {
    let program = Program::with_config("[server]\nlisen = 1\n");
    let validate = ["config", "validate", "mirror.toml"];
    let coloured = |run: &Run| run.stderr.contains("\u{1b}[");

    assert!(!coloured(&program.run(&validate)));
    assert!(coloured(
        &program.run(&[&["--color", "always"][..], &validate].concat())
    ));
    let mut forced = program.command(&validate);
    assert!(coloured(&finish(forced.env("CLICOLOR_FORCE", "1"))));
    let mut never = program.command(&[&["--color", "never"][..], &validate].concat());
    assert!(!coloured(&finish(never.env("CLICOLOR_FORCE", "1"))));
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let program = Program::with_config("");
    for arguments in [&["--help"][..], &["config", "validate", "mirror.toml"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = finish(program.command(arguments).stdout(writer));
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

/// A server that answers every request with `reply`, or keeps the connection open without a word.
fn answering(reply: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match reply {
                Some(reply) => answer(&mut stream, reply),
                None => open.push(stream),
            }
        }
    };
    thread::Builder::new().spawn(serve).unwrap();
    address
}

fn answer(stream: &mut (impl std::io::Read + std::io::Write), reply: &str) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\n"));
    stream.write_all(reply.as_bytes()).unwrap();
}

fn healthcheck(address: SocketAddr, timeout: &str) -> Run {
    let url = format!("http://{address}");
    Program::new().run(&["healthcheck", "--timeout", timeout, "--url", &url])
}

#[test]
fn a_ready_mirror_is_healthy() {
    let address = answering(Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let run = healthcheck(address, "1m");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(run.stdout, format!("http://{address} is ready\n"));
}

#[test]
fn a_mirror_that_is_not_ready_exits_with_1_and_says_why() {
    let unready =
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nindex: recovering\n";
    let address = answering(Some(unready));
    let run = healthcheck(address, "1m");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    let expected = format!("error: http://{address} is not ready: HTTP 503, index: recovering\n\n");
    assert_eq!(run.stderr, expected);

    let address = answering(Some("220 mail.example ESMTP\r\n"));
    let run = healthcheck(address, "1m");
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.stderr,
        format!("error: http://{address} does not speak HTTP\n\n")
    );
}

#[test]
fn a_mirror_that_cannot_be_reached_exits_with_7() {
    let silent = healthcheck(answering(None), "200ms");
    assert_eq!(silent.code, Some(7));
    assert!(
        silent.stderr.contains("no answer in time"),
        "{}",
        silent.stderr
    );

    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = healthcheck(closed, "1m");
    assert_eq!(refused.code, Some(7));
    assert!(
        refused.stderr.contains("Connection refused"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_listen_address_of_the_configuration_is_asked_first() {
    let program = Program::new();
    let socket = program.path("mirror.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        answer(&mut stream, "HTTP/1.1 200 OK\r\n\r\n");
    };
    let server = thread::Builder::new().spawn(serve).unwrap();
    let toml = format!(
        "[server]\nlisten = [\"unix:{}\", \"[::]:1\"]\n",
        socket.display()
    );
    program.write("mirror.toml", &toml);
    let run = program.run(&["-c", "mirror.toml", "healthcheck"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    server.join().unwrap();
}

#[test]
fn a_url_that_cannot_be_asked_is_wrong_usage() {
    let run = Program::new().run(&["healthcheck", "--url", "https://mirror.corp"]);
    assert_eq!(run.code, Some(2));
    let run = Program::new().run(&["healthcheck", "--timeout", "soon"]);
    assert_eq!(run.code, Some(2));
}

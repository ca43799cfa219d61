//! The configuration as its users meet it: files, variables and flags in, settings or messages out.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A configuration file in a directory of its own, and an environment that knows of nothing else.
struct Sandbox {
    directory: tempfile::TempDir,
    environment: Environment,
}

impl Sandbox {
    fn new(toml: &str, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = Self {
            environment: environment(directory.path(), variables),
            directory,
        };
        sandbox.write("mirror.toml", toml);
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "a test prepares its files")]
    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn load(&self) -> Result<Loaded, Invalid> {
        let file = self.path("mirror.toml");
        load(Some(&file), &self.environment, &Overrides::default())
    }

    /// Every message, with the directory's name removed.
    fn messages(&self) -> String {
        let (errors, warnings) = match self.load() {
            Ok(loaded) => (Vec::new(), loaded.warnings),
            Err(invalid) => (invalid.errors, invalid.warnings),
        };
        let all: Vec<_> = errors
            .iter()
            .chain(&warnings)
            .map(ToString::to_string)
            .collect();
        let directory = format!("{}/", self.directory.path().display());
        all.join("\n").replace(&directory, "")
    }
}

fn environment(directory: &Path, variables: &[(&str, &str)]) -> Environment {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Environment::new(variables, true).with_system_file(directory.join("none.toml"))
}

fn settings(toml: &str) -> Settings {
    Sandbox::new(toml, &[]).load().unwrap().settings
}

fn messages(toml: &str) -> String {
    Sandbox::new(toml, &[]).messages()
}

/// What a value of a key is answered with, and the help.
fn refusal(table: &str, line: &str) -> (String, String) {
    let messages = messages(&format!("[{table}]\n{line}\n"));
    let help = messages
        .lines()
        .last()
        .unwrap_or_default()
        .trim()
        .to_owned();
    (messages.lines().next().unwrap_or_default().to_owned(), help)
}

mod reference {
    use super::*;

    const REFERENCE: &str = include_str!("../../mirror.toml");

    /// A `#` in front of a key hides it; prose has a space there.
    fn uncommented() -> String {
        let active = |line: &'static str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => rest,
            _ => line,
        };
        REFERENCE.lines().map(active).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn as_it_stands_it_is_the_default() {
        assert_eq!(settings(REFERENCE), Settings::default());
    }

    #[test]
    fn with_the_markers_removed_it_sets_every_key_to_its_default() {
        let token = ("DOCKERHUB_TOKEN", "secret");
        let loaded = Sandbox::new(&uncommented(), &[token]).load().unwrap();

        let all = schema::KEYS.iter().map(|key| match key.set {
            Set::Global(_) => key.display(None),
            Set::Upstream(_) => key.display(Some(DEFAULT_UPSTREAM)),
        });
        let set: BTreeSet<_> = loaded.origins.into_keys().collect();
        assert_eq!(set, all.collect::<BTreeSet<_>>());

        let mut settings = loaded.settings;
        let hub = settings.upstreams.get_mut(DEFAULT_UPSTREAM).unwrap();
        assert_eq!(hub.username.take().as_deref(), Some("ci-bot"));
        assert_eq!(hub.password.take().unwrap().expose(), "secret");
        assert_eq!(hub.ca.take(), Some("/etc/ssl/corp-proxy.pem".into()));
        assert_eq!(settings, Settings::default());
    }
}

mod values {
    use super::*;

    #[test]
    fn every_key_takes_effect() {
        let settings = settings(
            r#"
            [server]
            listen = ["[::]:5001", "unix:/run/mirror.sock"]
            drain = "0s"
            lock_wait = "1m 30s"
            max_connections = 1
            [storage]
            dir = "/srv/mirror"
            fsync = "never"
            [cache]
            memory = 0
            tag_ttl = "1h"
            revalidate_timeout = "500ms"
            finish_abandoned = "2GB"
            [upstreams."docker.io"]
            url = "http://127.0.0.1:8080/hub/"
            token_url = "http://127.0.0.1:8081/token"
            username = "bot"
            password = "secret"
            ca = "/ca.pem"
            timeout = "1s"
            stall = "2s"
            retries = 0
            max_connections = 3
            [log]
            level = "warn,mirror=trace"
            format = "json"
            access = "/var/log/mirror.log"
            "#,
        );
        assert_eq!(settings.server.listen[0].to_string(), "[::]:5001");
        assert_eq!(
            settings.server.listen[1].to_string(),
            "unix:/run/mirror.sock"
        );
        assert_eq!(settings.server.drain, Duration::ZERO);
        assert_eq!(settings.server.lock_wait, Duration::from_secs(90));
        assert_eq!(settings.server.max_connections, 1);
        assert_eq!(settings.storage.dir, Path::new("/srv/mirror"));
        assert_eq!(settings.storage.fsync, Fsync::Never);
        assert_eq!(settings.cache.memory.as_u64(), 0);
        assert_eq!(settings.cache.tag_ttl, Duration::from_hours(1));
        assert_eq!(
            settings.cache.revalidate_timeout,
            Duration::from_millis(500)
        );
        assert_eq!(settings.cache.finish_abandoned.as_u64(), 2_000_000_000);
        let hub = &settings.upstreams["docker.io"];
        assert_eq!(hub.url.to_string(), "http://127.0.0.1:8080/hub");
        assert_eq!(hub.token_url.as_ref().unwrap().path(), "/token");
        assert_eq!(hub.username.as_deref(), Some("bot"));
        assert_eq!(hub.password.as_ref().unwrap().expose(), "secret");
        assert_eq!(hub.ca.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(hub.timeout, Duration::from_secs(1));
        assert_eq!(hub.stall, Duration::from_secs(2));
        assert_eq!((hub.retries, hub.max_connections), (0, 3));
        assert_eq!(settings.log.level, "warn,mirror=trace".parse().unwrap());
        assert!(!settings.log.format.is_pretty());
        let access = crate::sys::telemetry::AccessTarget::File("/var/log/mirror.log".into());
        assert_eq!(settings.log.access, access);
    }

    #[test]
    fn values_that_do_not_fit_are_refused_with_what_would() {
        let cases = [
            (
                "server",
                "listen = []",
                "server.listen: names no address",
                "127.0.0.1:5000",
            ),
            (
                "server",
                "listen = 5000",
                "server.listen: expected an address or a list of them, found an integer",
                "127.0.0.1:5000",
            ),
            (
                "server",
                "listen = [5000]",
                "server.listen: expected an address, found an integer",
                "127.0.0.1:5000",
            ),
            (
                "server",
                r#"listen = ["a:1", "a:1"]"#,
                r#"server.listen: "a:1" is listed twice"#,
                "remove one",
            ),
            (
                "server",
                "drain = 30",
                "server.drain: expected a duration, found an integer",
                r#""30s""#,
            ),
            (
                "server",
                r#"drain = "366d""#,
                r#"server.drain: "366d" is too long"#,
                "at most 365 days",
            ),
            (
                "server",
                "max_connections = 0",
                "server.max_connections: is out of range",
                "from 1 to 1000000",
            ),
            (
                "server",
                r#"max_connections = "9""#,
                "server.max_connections: expected a whole number, found a string",
                "from 1 to 1000000",
            ),
            (
                "server",
                "max_connections = -1",
                "server.max_connections: is out of range",
                "from 1 to 1000000",
            ),
            (
                "storage",
                r#"dir = """#,
                "storage.dir: is empty",
                "give it a value",
            ),
            (
                "storage",
                "dir = true",
                "storage.dir: expected a string, found a boolean",
                "quotes",
            ),
            (
                "storage",
                r#"fsync = "allways""#,
                r#"storage.fsync: "allways" is unknown"#,
                r#"did you mean "always"?"#,
            ),
            (
                "storage",
                r#"fsync = "yes""#,
                r#"storage.fsync: "yes" is unknown"#,
                r#"write "hosted", "always" or "never""#,
            ),
            (
                "cache",
                r#"memory = "80%""#,
                r#"cache.memory: "80%" is not a size: unknown unit; the units are B, KiB, MiB, GiB, TiB and KB, MB, GB, TB"#,
                r#""500MiB""#,
            ),
            (
                "cache",
                "memory = -1",
                "cache.memory: -1 is not a size",
                r#""500MiB""#,
            ),
            (
                "cache",
                "memory = 0.5",
                "cache.memory: expected a size, found a fraction",
                r#""500MiB""#,
            ),
            (
                "cache",
                r#"revalidate_timeout = "0s""#,
                r#"cache.revalidate_timeout: "0s" is too short"#,
                "at least 1ms",
            ),
            (
                "log",
                r#"level = "inof""#,
                r#"log.level: "inof" is not a log level"#,
                r#""info""#,
            ),
            (
                "log",
                r#"access = "stdot""#,
                r#"log.access: "stdot" is neither "off" nor "stdout" nor a path"#,
                r#""./stdot""#,
            ),
        ];
        for (table, line, message, help) in cases {
            let (said, helped) = refusal(table, line);
            assert_eq!(said, format!("error: {message}"), "{line}");
            assert!(
                helped.starts_with("help: ") && helped.contains(help),
                "{line}: {helped}"
            );
        }
    }

    #[test]
    fn an_upstream_url_is_an_absolute_url_and_nothing_more() {
        let cases = [
            ("ftp://a", "is not an http or https URL"),
            ("registry-1.docker.io", "is not an http or https URL"),
            ("https://a/?b=c", "has a query or a fragment"),
            ("https://a/#b", "has a query or a fragment"),
            ("https://bot:hunter2@a", "holds credentials"),
            ("https://", "is not a URL"),
            ("", "is not a URL"),
        ];
        for (url, reason) in cases {
            let messages = messages(&format!("[upstreams.\"docker.io\"]\nurl = \"{url}\"\n"));
            let expected = format!("error: upstreams.\"docker.io\".url: {reason}\n");
            assert!(messages.starts_with(&expected), "{url}: {messages}");
            assert!(!messages.contains("hunter2"), "{messages}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_reads_back(seconds in 0..=31_536_000_u64) {
            let duration = Duration::from_secs(seconds);
            let text = humantime::format_duration(duration).to_string();
            let read = Value::Text(text).duration(Duration::ZERO).unwrap();
            prop_assert_eq!(read, duration);
        }

        #[test]
        fn no_file_makes_the_loader_panic(toml in "(\\[?[a-z.\"]{0,9}\\]? ?=? ?[\"'a-z0-9\\[{}\\],\n]{0,12}\n?){0,6}") {
            document::walk(Path::new("mirror.toml"), &toml);
        }
    }
}

mod complaints {
    use super::*;

    #[test]
    fn an_unknown_key_comes_with_line_caret_and_a_guess() {
        assert_eq!(
            messages("[server]\nlisen = \"127.0.0.1:5000\"\n"),
            r#"error: unknown key "lisen" in [server]
  --> mirror.toml:2:1
   |
 2 | lisen = …
   | ^^^^^
  help: did you mean "listen"?"#
        );
    }

    #[test]
    fn a_wrong_value_is_underlined() {
        assert_eq!(
            messages("[cache]\n  tag_ttl = \"7 fortnights\" # two weeks\n"),
            r#"error: cache.tag_ttl: "7 fortnights" is not a duration
  --> mirror.toml:2:13
   |
 2 |   tag_ttl = "7 fortnights" # two weeks
   |             ^^^^^^^^^^^^^^
  help: write a number and a unit, such as "30s", "5m" or "1h 30m""#
        );
    }

    #[test]
    fn everything_that_is_wrong_is_said_in_one_run_in_its_order() {
        let toml = "[cache]\ntag_ttl = 1\n[sever]\nlisten = 5\n[server]\ndrain = \"x\"\nprot = 1\n";
        let invalid = Sandbox::new(toml, &[("MIRROR_LOG__FORMAT", "xml")])
            .load()
            .unwrap_err();
        assert_eq!(invalid.to_string(), "5 errors in the configuration");
        let said: Vec<_> = invalid
            .errors
            .iter()
            .map(|error| error.message.as_str())
            .collect();
        assert_eq!(
            said,
            [
                "cache.tag_ttl: expected a duration, found an integer",
                "unknown table \"sever\"",
                "server.drain: \"x\" is not a duration",
                "unknown key \"prot\" in [server]",
                "log.format: \"xml\" is unknown",
            ]
        );
    }
}

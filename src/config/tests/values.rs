//! What each key takes and refuses.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::oci::ImagePatterns;

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
        never_cache = ["acme/app:dev-*", "{nginx,redis}"]
        pin = "alpine"
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
    let (dev, nginx) = (Some("dev-1"), "library/nginx");
    assert!(is_about(&settings.cache.never_cache, "acme/app", dev));
    assert!(!is_about(&settings.cache.never_cache, "acme/app", None));
    assert!(is_about(&settings.cache.never_cache, nginx, None));
    assert!(is_about(&settings.cache.pin, "library/alpine", None));
    assert!(!is_about(&settings.cache.pin, nginx, None));
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

fn is_about(patterns: &ImagePatterns, repository: &str, tag: Option<&str>) -> bool {
    let tag = tag.map(|tag| tag.parse().unwrap());
    patterns.matches("docker.io", &repository.parse().unwrap(), tag.as_ref())
}

/// A line, what is said about it, and a part of the help.
type Refusal = (&'static str, &'static str, &'static str);

fn assert_refused(table: &str, cases: &[Refusal]) {
    for (line, message, help) in cases {
        let (said, helped) = refusal(table, line);
        assert_eq!(said, format!("error: {table}.{message}"), "{line}");
        assert!(helped.starts_with("help: "), "{line}: {helped}");
        assert!(helped.contains(help), "{line}: {helped}");
    }
}

#[test]
fn addresses_that_do_not_fit_are_refused() {
    const EXAMPLE: &str = "127.0.0.1:5000";
    let cases = [
        ("listen = []", "listen: names no address", EXAMPLE),
        (
            "listen = 1",
            "listen: expected an address or a list of them, found an integer",
            EXAMPLE,
        ),
        (
            "listen = [1]",
            "listen: expected an address, found an integer",
            EXAMPLE,
        ),
        (
            r#"listen = ["a:1", "a:1"]"#,
            r#"listen: "a:1" is listed twice"#,
            "remove one",
        ),
    ];
    assert_refused("server", &cases);
}

#[test]
fn a_port_of_the_systems_choice_may_be_listed_twice() {
    let settings = settings("[server]\nlisten = [\"[::1]:0\", \"[::1]:0\"]\n");
    assert_eq!(settings.server.listen.len(), 2);
}

#[test]
fn durations_and_numbers_that_do_not_fit_are_refused() {
    let cases = [
        (
            "drain = 30",
            "drain: expected a duration, found an integer",
            r#""30s""#,
        ),
        (
            r#"drain = "30""#,
            r#"drain: "30" is not a duration"#,
            r#""30s""#,
        ),
        (
            r#"drain = "366d""#,
            r#"drain: "366d" is too long"#,
            "at most 365 days",
        ),
        (
            "max_connections = 0",
            "max_connections: is out of range",
            "from 1 to 1000000",
        ),
        (
            "max_connections = -1",
            "max_connections: is out of range",
            "from 1 to 1000000",
        ),
        (
            "max_connections = 4294967297",
            "max_connections: is out of range",
            "from 1 to",
        ),
        (
            "max_connections = 9.0",
            "max_connections: expected a whole number, found a fraction",
            "from 1 to",
        ),
        (
            r#"max_connections = "9""#,
            "max_connections: expected a whole number, found a string",
            "from 1 to",
        ),
    ];
    assert_refused("server", &cases);
    let zero = (
        r#"revalidate_timeout = "0s""#,
        r#"revalidate_timeout: "0s" is too short"#,
        "at least 1ms",
    );
    assert_refused("cache", &[zero]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    const UNITS: &str = r#"memory: "80%" is not a size: unknown unit; the units are B, KiB, MiB, GiB, TiB and KB, MB, GB, TB"#;
    let cases = [
        (r#"memory = "80%""#, UNITS, r#""500MiB""#),
        ("memory = -1", "memory: -1 is not a size", r#""500MiB""#),
        (
            "memory = 0.5",
            "memory: expected a size, found a fraction",
            r#""500MiB""#,
        ),
    ];
    assert_refused("cache", &cases);
}

#[test]
fn patterns_that_do_not_fit_are_refused() {
    const EXAMPLE: &str = r#"["nginx:1.*", "acme/**"]"#;
    let cases = [
        (
            "never_cache = 1",
            "never_cache: expected a list of patterns over images, found an integer",
            EXAMPLE,
        ),
        (
            "never_cache = [\"nginx\", 1]",
            "never_cache: expected a pattern over images, found an integer",
            EXAMPLE,
        ),
        (
            "pin = [\"nginx\", \"acme/App\"]",
            "pin: \"acme/App\": 'A' at character 6 is in no image's name: those have lower-case letters, digits, '.', '_' and '-'",
            EXAMPLE,
        ),
        (
            "never_cache = [\"{nginx\"]",
            "never_cache: \"{nginx\": unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
            EXAMPLE,
        ),
    ];
    assert_refused("cache", &cases);
}

#[test]
fn a_pattern_that_does_not_fit_is_shown_in_its_line() {
    assert_eq!(
        messages("[cache]\nnever_cache = [\"nginx:\"]\n"),
        r#"error: cache.never_cache: "nginx:": nothing stands after the colon: leave it out, or write a tag
  --> mirror.toml:2:15
   |
 2 | never_cache = ["nginx:"]
   |               ^^^^^^^^^^
  help: write a list of patterns such as ["nginx:1.*", "acme/**"]"#
    );
}

#[test]
fn a_variable_separates_patterns_by_commas_outside_of_braces() {
    let variable = ("MIRROR_CACHE__NEVER_CACHE", "{nginx,redis}:dev, acme/**");
    let settings = Sandbox::new("", &[variable]).load().unwrap().settings;
    let patterns = &settings.cache.never_cache;
    assert!(is_about(patterns, "library/redis", Some("dev")));
    assert!(is_about(patterns, "acme/a/b", None));
    assert!(!is_about(patterns, "library/dev", None));
}

#[test]
fn words_that_do_not_fit_are_refused() {
    let cases = [
        (r#"dir = """#, "dir: is empty", "give it a value"),
        (
            "dir = true",
            "dir: expected a string, found a boolean",
            "quotes",
        ),
        (
            r#"fsync = "allways""#,
            r#"fsync: "allways" is unknown"#,
            r#"did you mean "always"?"#,
        ),
        (
            r#"fsync = "yes""#,
            r#"fsync: "yes" is unknown"#,
            r#"write "hosted", "always" or "never""#,
        ),
    ];
    assert_refused("storage", &cases);
    let cases = [
        (
            r#"level = "inof""#,
            r#"level: "inof" is not a log level"#,
            r#""info""#,
        ),
        (
            r#"access = "stdot""#,
            r#"access: "stdot" is neither "off" nor "stdout" nor a path"#,
            r#""./stdot""#,
        ),
    ];
    assert_refused("log", &cases);
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

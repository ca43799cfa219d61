//! The exact words for what is wrong.

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

#[test]
fn a_key_in_the_wrong_table_is_sent_to_the_right_one() {
    let said = messages("tag_tll = \"1m\"\n[server]\ndir = \"/srv\"\nport = 1\n");
    let helps: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("  help"))
        .collect();
    assert_eq!(
        helps,
        [
            r#"  help: "tag_ttl" belongs in [cache]"#,
            r#"  help: "dir" belongs in [storage]"#,
            "  help: known here: listen, drain, lock_wait, max_connections, offline",
        ]
    );
}

#[test]
fn docker_hub_has_one_name() {
    for alias in ["index.docker.io", "registry-1.docker.io"] {
        let said = messages(&format!("[upstreams.{alias:?}]\nretries = 1\n"));
        let width = "^".repeat(alias.len() + 2);
        assert_eq!(
            said,
            format!(
                r#"error: upstreams."{alias}" is the same registry as "docker.io"
  --> mirror.toml:1:12
   |
 1 | [upstreams."{alias}"]
   |            {width}
  help: write [upstreams."docker.io"]"#
            )
        );
    }
    let both = "[upstreams.\"index.docker.io\"]\nurl = 5\n[upstreams.\"docker.io\"]\n";
    assert_eq!(
        messages(both),
        r#"error: upstreams."index.docker.io" is the same registry as "docker.io" (line 3)
  --> mirror.toml:1:12
   |
 1 | [upstreams."index.docker.io"]
   |            ^^^^^^^^^^^^^^^^^
  help: merge the two tables"#
    );
}

#[test]
fn a_name_without_quotes_is_two_tables() {
    assert_eq!(
        messages("[upstreams.docker.io]\nretries = 1\n"),
        r#"error: the dot in the upstream's name separates two tables
  --> mirror.toml:1:12
   |
 1 | [upstreams.docker.io]
   |            ^^^^^^
  help: put the name in quotes: [upstreams."docker.io"]"#
    );
}

#[test]
fn an_upstream_without_quotes_is_guessed_in_full() {
    let said = messages("[upstreams.registry.k8s.io]\n");
    assert!(
        said.ends_with(r#"put the name in quotes: [upstreams."registry.k8s.io"]"#),
        "{said}"
    );
}

#[test]
fn an_upstream_is_named_by_its_host() {
    const EXAMPLE: &str =
        r#"write the registry's host, such as "ghcr.io" or "registry.example:5000""#;
    let could = "could be the beginning of a repository's name";
    let cases = [
        ("GHCR.io", "has to be in lower case", r#"write "ghcr.io""#),
        ("https://ghcr.io", "is a URL, not a host", EXAMPLE),
        ("ghcr.io/acme", "is not the host of a registry", EXAMPLE),
        ("ghcr..io", "is not the host of a registry", EXAMPLE),
        ("-ghcr.io", "is not the host of a registry", EXAMPLE),
        ("ghcr.io:", "is not the host of a registry", EXAMPLE),
        ("ghcr.io:65536", "is not the host of a registry", EXAMPLE),
        ("", "is not the host of a registry", EXAMPLE),
        ("locahost", could, r#"did you mean "localhost"?"#),
        ("ghcr", could, "with a dot, a port, or as"),
    ];
    for (name, what, help) in cases {
        let said = messages(&format!("[upstreams.{name:?}]\nretries = \"x\"\n"));
        let first = format!("error: upstream {name:?} {what}\n");
        assert!(said.starts_with(&first), "{name}: {said}");
        assert!(
            said.lines().last().unwrap().contains(help),
            "{name}: {said}"
        );
    }
    assert!(messages("[upstreams]\n\"ghcr.io\" = 5\n").contains("is a table of keys, not a value"));
}

#[test]
fn a_table_is_no_value() {
    assert_eq!(
        messages("server = 5\n"),
        "error: server is a table of keys, not a value
  --> mirror.toml:1:1
   |
 1 | server = …
   | ^^^^^^
  help: write [server] on a line of its own, and keys below"
    );
}

#[test]
fn lines_that_are_no_toml_do_not_hide_other_mistakes() {
    assert_eq!(
        messages(
            "[server]\nlisten = 127.0.0.1:5000\ndrain = \"1s\"\ndrain = \"2s\"\n[cache]\nx = 1\n"
        ),
        r#"error: not TOML: invalid float, expected nothing
  --> mirror.toml:2:15
   |
 2 | listen = 127.0.0.1:5000
   |               ^^^^^^^^^
  help: see https://toml.io for the format
error: not TOML: duplicate key
  --> mirror.toml:4:1
   |
 4 | drain = "2s"
   | ^^^^^
  help: see https://toml.io for the format
error: unknown key "x" in [cache]
  --> mirror.toml:6:1
   |
 6 | x = …
   | ^
  help: known here: max_size, min_free, max_age, unused_for, scrub, memory, tag_ttl, revalidate_timeout, stale_if_error, stale_if_deleted, negative_ttl, finish_abandoned, never_cache, pin"#
    );
}

#[test]
fn no_message_shows_a_secret() {
    let cases = [
        "password = hunter2",
        "password = [\"hunter2\"]",
        "password = \"hunter2",
        "password = \"hunter2\" junk",
        "password \"hunter2\"",
        "pasword = \"hunter2\"",
        "password = { env = \"X\", file = \"hunter2\" }",
        "password = \"\"\"\nhunter2\n",
        "username = \"hun\\u0000\"\npassword = \"hunter2\"",
        "username = \"a:b\"\npassword = \"hunter2\\t\"",
        "url = \"https://ci:hunter2@registry\"",
        "mirrors = [\"https://ci:hunter2@registry\"]",
        "proxy = \"http:/ci:hunter2\"",
        "proxy = \"http://ci:hunter2@proxy/path\"",
        "proxy = [\"hunter2\"]",
        "proxi = \"http://ci:hunter2@proxy\"",
        "logins = [{ prefix = \"A\", username = \"b\", password = \"hunter2\" }]",
        "logins = [{ prefix = \"a\", username = \"b\", pasword = \"hunter2\" }]",
        "logins = [\n  { prefix = \"a\", username = \"b\", password = \"hunter2\\t\" },\n]",
        "logins = [\"hunter2\"]",
        "logins = \"hunter2\"",
        "[[upstreams.\"docker.io\".logins]]\nprefix = \"a\"\npassword = [\"hunter2\"]",
        "[[upstreams.\"docker.io\".logins]]\nprefix = \"a\"\npasword = \"hunter2\"",
    ];
    for line in cases {
        let toml = format!("[upstreams.\"docker.io\"]\nretries = \"\"\n{line}\n");
        let said = messages(&toml);
        assert!(said.matches("error: ").count() > 1, "{line}: {said}");
        assert!(!said.contains("hunter2"), "{line}: {said}");
    }
    let inline = "upstreams = { \"docker.io\" = { password = \"hunter2\", retries = \"x\" } }\n";
    let said = messages(inline);
    assert!(
        said.contains("retries") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn debug_output_of_settings_shows_no_secret() {
    let toml = r#"[upstreams."docker.io"]
        username = "ci"
        password = "hunter2"
        proxy = "http://ci:hunter2@proxy"
        logins = [{ prefix = "a", username = "b", password = "hunter2" }]
    "#;
    let loaded = Sandbox::new(toml, &[]).load().unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn half_a_pair_of_credentials_is_an_error() {
    let table = "[upstreams.\"docker.io\"]\n";
    assert_eq!(
        messages(&format!("{table}username = \"ci\"\n")),
        r#"error: upstreams."docker.io".username is set without a password
  --> mirror.toml:2:12
   |
 2 | username = "ci"
   |            ^^^^
  help: set upstreams."docker.io".password too, or remove the username to pull anonymously"#
    );
    assert_eq!(
        messages(&format!("{table}password = \"hunter2\"\n")),
        r#"error: upstreams."docker.io".password is set without a username
  --> mirror.toml:2:12
   |
 2 | password = …
  help: set upstreams."docker.io".username too, or remove the password to pull anonymously"#
    );
}

#[test]
fn credentials_that_no_header_can_carry_are_refused() {
    let refused = |username: &str, password: &str| {
        let said = messages(&format!(
            "[upstreams.\"docker.io\"]\nusername = {username}\npassword = {password}\n"
        ));
        said.lines().next().unwrap_or_default().to_owned()
    };
    let path = r#"error: upstreams."docker.io""#;
    assert_eq!(
        refused(r#""a:b""#, r#""c""#),
        format!("{path}.username: contains a colon")
    );
    assert_eq!(
        refused(r#""a\n""#, r#""c""#),
        format!("{path}.username: contains a control character")
    );
    assert_eq!(
        refused(r#""a""#, r#""c\r\n""#),
        format!("{path}.password: contains a control character")
    );
}

#[test]
fn credentials_for_everyone_come_with_a_warning() {
    let toml = "[upstreams.\"docker.io\"]\nusername = \"ci\"\npassword = \"hunter2\"\n";
    assert_eq!(messages(toml), "");
    let open = "[access]\nanonymous_private = true\n";
    assert_eq!(messages(open), "");
    assert_eq!(
        messages(&format!("{open}{toml}")),
        r#"warning: everyone who can reach this mirror can pull what "ci" can pull from docker.io, private images included
  --> mirror.toml:5:12
   |
 5 | password = …
  help: remove access.anonymous_private, or use an account that sees public images only"#
    );
    for (key, place) in [
        ("credentials = \"docker\"", "4:15"),
        (
            "logins = [{ prefix = \"a\", username = \"b\", password = \"hunter2\" }]",
            "4:10",
        ),
    ] {
        let said = messages(&format!("{open}[upstreams.\"ghcr.io\"]\n{key}\n"));
        assert!(
            said.contains("pull what its accounts can pull from ghcr.io"),
            "{said}"
        );
        assert!(said.contains(&format!("mirror.toml:{place}")), "{said}");
    }
}

#[test]
fn credentials_are_written_down_or_looked_up() {
    let toml = "[upstreams.\"docker.io\"]\nusername = \"ci\"\npassword = \"hunter2\"\ncredentials = \"docker\"\n";
    assert_eq!(
        Sandbox::new(toml, &[]).messages(),
        r#"error: upstreams."docker.io".credentials contradicts the username at mirror.toml:2:12
  --> mirror.toml:4:15
   |
 4 | credentials = "docker"
   |               ^^^^^^^^
  help: remove one of them"#
    );
}

#[test]
fn a_password_over_http_is_a_warning_except_on_loopback() {
    let said = |url: &str| {
        messages(&format!(
            "[upstreams.\"docker.io\"]\nurl = \"{url}\"\nusername = \"ci\"\npassword = \"hunter2\"\n"
        ))
    };
    let warning = r#"the password travels unencrypted: upstreams."docker.io".url is http"#;
    assert!(said("http://registry.corp").contains(warning));
    for url in [
        "https://registry.corp",
        "http://localhost:5000",
        "http://[::1]:5000",
    ] {
        assert!(!said(url).contains(warning), "{url}");
    }
}

#[test]
fn a_url_that_ends_in_the_api_prefix_is_corrected() {
    let toml = "[upstreams.\"docker.io\"]\nurl = \"https://registry.corp/hub/v2/\"\n";
    let loaded = Sandbox::new(toml, &[]).load().unwrap();
    assert_eq!(
        loaded.settings.upstreams["docker.io"].url,
        "https://registry.corp/hub"
    );
    assert_eq!(
        messages(toml),
        r#"warning: upstreams."docker.io".url ends in /v2, using https://registry.corp/hub
  --> mirror.toml:2:7
   |
 2 | url = "https://registry.corp/hub/v2/"
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  help: leave /v2 out: it is part of every request"#
    );
}

#[test]
fn colours_are_added_on_demand() {
    let diagnostic = Diagnostic::error("it broke")
        .at(Place::Flag("--dir"))
        .help("mend\nit");
    assert_eq!(
        diagnostic.to_string(),
        "error: it broke\n  --> flag --dir\n  help: mend\n        it"
    );
    assert_eq!(
        anstream::adapter::strip_str(&format!("{diagnostic:#}")).to_string(),
        diagnostic.to_string()
    );
    assert_ne!(format!("{diagnostic:#}"), diagnostic.to_string());
}

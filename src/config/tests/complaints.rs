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
            "  help: known here: listen, drain, lock_wait, max_connections",
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
                r#"error: upstreams."{alias}" is Docker Hub, which is called "docker.io" here
  --> mirror.toml:1:12
   |
 1 | [upstreams."{alias}"]
   |            {width}
  help: write [upstreams."docker.io"]"#
            )
        );
    }
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
fn other_upstreams_are_refused_as_a_whole() {
    assert_eq!(
        messages("[upstreams.\"ghcr.io\"]\nurl = 5\nfoo = 6\n"),
        r#"error: upstream "ghcr.io" is not supported
  --> mirror.toml:1:12
   |
 1 | [upstreams."ghcr.io"]
   |            ^^^^^^^^^
  help: only "docker.io" is supported by this version"#
    );
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
  help: known here: max_size, min_free, max_age, unused_for, scrub, memory, tag_ttl, revalidate_timeout, finish_abandoned, never_cache, pin"#
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
    let toml = "[upstreams.\"docker.io\"]\nusername = \"ci\"\npassword = \"hunter2\"\n";
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
fn credentials_come_with_a_warning_of_who_can_use_them() {
    let toml = "[upstreams.\"docker.io\"]\nusername = \"ci\"\npassword = \"hunter2\"\n";
    assert_eq!(
        messages(toml),
        r#"warning: everyone who can reach this mirror can pull what "ci" can pull from docker.io, private images included
  --> mirror.toml:3:12
   |
 3 | password = …
  help: use an account that sees public images only, or listen where only trusted clients reach it"#
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

//! Upstreams of every kind, and the keys that hold lists of tables.

use std::time::Duration;

use super::*;
use crate::oci::{ImagePatterns, Tag};

#[test]
fn a_bare_table_is_an_upstream() {
    let upstreams = settings(
        "[upstreams.\"ghcr.io\"]\n[upstreams.\"registry.gitlab.com\"]\n[upstreams.\"localhost:5000\"]\n",
    )
    .upstreams;
    let names: Vec<_> = upstreams.keys().collect();
    assert_eq!(
        names,
        [
            "docker.io",
            "ghcr.io",
            "localhost:5000",
            "registry.gitlab.com"
        ]
    );
    let expected = UpstreamSettings {
        url: "https://ghcr.io".parse().unwrap(),
        token_url: None,
        ..UpstreamSettings::default()
    };
    assert_eq!(upstreams["ghcr.io"], expected);
    assert_eq!(upstreams["localhost:5000"].url, "https://localhost:5000/");
    let gitlab = upstreams["registry.gitlab.com"].token_url.as_ref();
    assert_eq!(gitlab.unwrap(), "https://gitlab.com/jwt/auth");
    assert_eq!(upstreams["docker.io"], UpstreamSettings::default());
}

#[test]
fn a_token_endpoint_that_is_built_in_belongs_to_its_own_registry() {
    let toml = "[upstreams.\"docker.io\"]\nurl = \"https://hub.corp\"\n[upstreams.\"registry.gitlab.com\"]\nurl = \"https://gitlab.corp\"\n";
    for upstream in settings(toml).upstreams.values() {
        assert_eq!(upstream.token_url, None);
    }
    let toml = format!("{toml}token_url = \"https://gitlab.corp/jwt/auth\"\n");
    assert!(
        settings(&toml).upstreams["registry.gitlab.com"]
            .token_url
            .is_some()
    );
}

#[test]
fn every_key_outside_of_upstreams_takes_effect() {
    let settings = settings(
        r#"
        [server]
        offline = true
        [cache]
        stale_if_error = "0s"
        stale_if_deleted = "0s"
        negative_ttl = "0s"
        [access]
        anonymous_private = true
        "#,
    );
    assert!(settings.server.offline && settings.access.anonymous_private);
    assert_eq!(settings.cache.stale_if_error, Duration::ZERO);
    assert_eq!(settings.cache.stale_if_deleted, Duration::ZERO);
    assert_eq!(settings.cache.negative_ttl, Duration::ZERO);
}

/// The settings of ghcr.io that some lines in its table make.
fn ghcr(lines: &str) -> UpstreamSettings {
    let toml = format!("[upstreams.\"ghcr.io\"]\n{lines}\n");
    let sandbox = Sandbox::new(&toml, &[("TEAM", "two")]);
    sandbox.load().unwrap().settings.upstreams["ghcr.io"].clone()
}

#[test]
fn the_first_rule_about_a_tag_comes_first() {
    let ghcr = ghcr(
        r#"
        tag_ttl = "0s"
        tag_rules = [{ match = "v*.*.*", ttl = "1d" }, { match = "{latest,v*}", ttl = "0s" }]
        rate_reserve = 0
        "#,
    );
    assert_eq!((ghcr.tag_ttl, ghcr.rate_reserve), (Some(Duration::ZERO), 0));
    let ttl = |tag: &str| {
        let tag: Tag = tag.parse().unwrap();
        let rule = ghcr.tag_rules.iter().find(|it| it.pattern.matches(&tag));
        rule.map(|rule| rule.ttl)
    };
    assert_eq!(ttl("v1.2.3"), Some(Duration::from_hours(24)));
    assert_eq!(ttl("v1"), Some(Duration::ZERO));
    assert_eq!(ttl("main"), None);
}

#[test]
fn images_are_allowed_and_denied_within_their_upstream() {
    let ghcr = ghcr("allow = [\"acme/**\"]\ndeny = [\"**/*:*-rc*\"]");
    let is_about = |patterns: &ImagePatterns, name: &str, tag: &str| {
        let (name, tag) = (name.parse().unwrap(), tag.parse().unwrap());
        patterns.matches("ghcr.io", &name, Some(&tag))
    };
    let allow = ghcr.allow.as_ref().unwrap();
    assert!(is_about(allow, "acme/app", "1") && !is_about(allow, "else/app", "1"));
    assert!(is_about(&ghcr.deny, "acme/app", "1-rc1") && !is_about(&ghcr.deny, "acme/app", "1"));
}

#[test]
fn mirrors_and_proxies_are_urls_in_their_final_form() {
    let ghcr = ghcr(
        r#"
        mirrors = ["https://one.example/", "http://127.0.0.1:5000/ghcr/v2/"]
        proxy = "https://bot:p%40ss%3A@proxy.corp:3128"
        "#,
    );
    let mirrors: Vec<_> = ghcr.mirrors.iter().map(ToString::to_string).collect();
    assert_eq!(
        mirrors,
        ["https://one.example/", "http://127.0.0.1:5000/ghcr"]
    );
    let ProxyChoice::Via(proxy) = &ghcr.proxy else {
        panic!("{ghcr:?}")
    };
    assert_eq!(proxy.url, "https://proxy.corp:3128/");
    let (user, password) = proxy.credentials.as_ref().unwrap();
    assert_eq!((user.as_str(), password.expose()), ("bot", "p@ss:"));
}

#[test]
fn the_longest_prefix_of_logins_comes_first() {
    let ghcr = ghcr(
        r#"
        logins = [
          { prefix = "acme", username = "a", password = "one" },
          { prefix = "acme/team", username = "b", password = { env = "TEAM" } },
        ]
        "#,
    );
    let logins: Vec<_> = ghcr
        .logins
        .iter()
        .map(|it| {
            (
                it.prefix.as_str(),
                it.username.as_str(),
                it.password.expose(),
            )
        })
        .collect();
    assert_eq!(logins, [("acme/team", "b", "two"), ("acme", "a", "one")]);
}

#[test]
fn listeners_have_addresses_and_upstreams() {
    let toml = r#"
        [[listener]]
        address = "[::]:8083"
        [[listener]]
        address = "unix:/run/ghcr.sock"
        repository = "ghcr.io"
        [upstreams."ghcr.io"]
        "#;
    let loaded = Sandbox::new(toml, &[]).load().unwrap();
    let listeners: Vec<_> = loaded
        .settings
        .listeners
        .iter()
        .map(|it| (it.address.to_string(), it.repository.as_deref()))
        .collect();
    assert_eq!(
        listeners,
        [
            ("[::]:8083".to_owned(), None),
            ("unix:/run/ghcr.sock".to_owned(), Some("ghcr.io"))
        ]
    );
    let origin = loaded.origins["listener[1].repository"].to_string();
    assert!(origin.ends_with("mirror.toml:6:22"), "{origin}");
}

#[test]
fn everything_wrong_with_listeners_is_said_in_one_run() {
    let toml = r#"[server]
listen = "127.0.0.1:1"
[[listener]]
adress = "127.0.0.1:2"
[[listener]]
repository = "docker.io"
[[listener]]
address = "127.0.0.1:2"
[[listener]]
address = "127.0.0.1:2"
port = 5
[[listener]]
address = 5000
"#;
    assert_eq!(
        messages(toml),
        r#"error: listener: unknown key "adress"
  --> mirror.toml:4:1
   |
 4 | adress = …
   | ^^^^^^
  help: did you mean "address"?
error: listener: address is missing
  --> mirror.toml:5:1
   |
 5 | [[listener]]
   | ^^^^^^^^^^^^
  help: write address = "0.0.0.0:8083"
error: listener.address: "127.0.0.1:2" is listed twice
  --> mirror.toml:10:11
    |
 10 | address = "127.0.0.1:2"
    |           ^^^^^^^^^^^^^
  help: remove one of them
error: listener: unknown key "port"
  --> mirror.toml:11:1
    |
 11 | port = …
    | ^^^^
  help: known here: address, repository
error: listener.address: expected an address, found an integer
  --> mirror.toml:13:11
    |
 13 | address = 5000
    |           ^^^^
  help: write an address such as "127.0.0.1:5000", "[::]:5000" or "unix:/run/mirror.sock""#
    );
}

#[test]
fn a_listener_names_an_upstream_and_no_port_that_is_taken() {
    let toml = r#"[[listener]]
address = "127.0.0.1:5000"
repository = "gchr.io"
[[listener]]
address = "127.0.0.1:0"
repository = "internal"
[upstreams."ghcr.io"]
"#;
    assert_eq!(
        messages(toml),
        r#"error: listener.address: "127.0.0.1:5000" is in server.listen too
  --> mirror.toml:2:11
   |
 2 | address = "127.0.0.1:5000"
   |           ^^^^^^^^^^^^^^^^
  help: remove one of them
error: listener.repository: no upstream "gchr.io" is configured
  --> mirror.toml:3:14
   |
 3 | repository = "gchr.io"
   |              ^^^^^^^^^
  help: did you mean "ghcr.io"?
error: listener.repository: no upstream "internal" is configured
  --> mirror.toml:6:14
   |
 6 | repository = "internal"
   |              ^^^^^^^^^^
  help: write "docker.io" or "ghcr.io", or configure that upstream"#
    );
}

#[test]
fn listeners_are_tables_outside_of_others() {
    let said = messages("[listener]\naddress = \"[::]:1\"\n");
    assert!(said.starts_with("error: listener: expected a list of tables, found a table\n"));
    assert!(said.ends_with(
        "write [[listener]] on a line of its own, and below it address = \"0.0.0.0:8083\""
    ));
    let said = messages("[server]\nlistener = 1\n");
    assert!(
        said.contains("unknown key \"listener\" in [server]"),
        "{said}"
    );
    let said = messages("[[listner]]\naddress = \"[::]:1\"\n");
    assert!(said.ends_with("help: did you mean \"listener\"?"), "{said}");
}

/// What a line in the table of ghcr.io is answered with, and a part of the help.
fn assert_refused(cases: &[(&str, &str, &str)]) {
    for (line, message, help) in cases {
        let (said, helped) = refusal("upstreams.\"ghcr.io\"", line);
        let expected = format!("error: upstreams.\"ghcr.io\".{message}");
        assert_eq!(said, expected, "{line}");
        assert!(helped.contains(help), "{line}: {helped}");
    }
}

#[test]
fn rules_that_do_not_fit_are_refused() {
    assert_refused(&[
        (
            "tag_rules = [{ match = \"v*\", tll = \"1d\" }]",
            "tag_rules: unknown key \"tll\"",
            "did you mean \"ttl\"?",
        ),
        (
            "tag_rules = [{ match = \"v*\" }]",
            "tag_rules: ttl is missing",
            "write ttl = \"1d\"",
        ),
        (
            "tag_rules = [{ match = \"v*\", ttl = 5 }]",
            "tag_rules.ttl: expected a duration, found an integer",
            "\"30s\"",
        ),
        (
            "tag_rules = [{ match = \"app:v*\", ttl = \"5m\" }]",
            "tag_rules.match: \"app:v*\": ':' at character 4 is in no image's tag: those have letters, digits, '.', '_' and '-'",
            "{latest,nightly*}",
        ),
        (
            "tag_rules = [\"v*\"]",
            "tag_rules: expected a table, found a string",
            "tag_rules = [ { match",
        ),
        (
            "tag_rules = { match = \"v*\", ttl = \"5m\" }",
            "tag_rules: expected a list of tables, found a table",
            "tag_rules = [ { match",
        ),
    ]);
}

#[test]
fn a_rule_that_does_not_fit_is_underlined_without_its_line_hiding() {
    assert_eq!(
        messages("[[upstreams.\"ghcr.io\".tag_rules]]\nmatch = \"v*\"\nttl = \"soon\"\n"),
        r#"error: upstreams."ghcr.io".tag_rules.ttl: "soon" is not a duration
  --> mirror.toml:3:7
   |
 3 | ttl = "soon"
   |       ^^^^^^
  help: write a number and a unit, such as "30s", "5m" or "1h 30m""#
    );
}

#[test]
fn logins_that_do_not_fit_are_refused() {
    let login = |fields: &str| format!("logins = [{{ {fields}, password = \"hunter2\" }}]");
    let (upper, slash, colon) = (
        login(r#"prefix = "Acme", username = "b""#),
        login(r#"prefix = "acme/", username = "b""#),
        login(r#"prefix = "acme", username = "a:b""#),
    );
    let twice = r#"logins = [{ prefix = "a", username = "b", password = "c" }, { prefix = "a", username = "d", password = "e" }]"#;
    let component = "cannot be a component of a repository name: lower-case letters and digits, separated by '.', '_', '__' or dashes";
    assert_refused(&[
        (
            upper.as_str(),
            &format!("logins.prefix: \"Acme\": \"Acme\" {component}"),
            "\"acme/team\"",
        ),
        (
            slash.as_str(),
            &format!("logins.prefix: \"acme/\": \"\" {component}"),
            "\"acme/team\"",
        ),
        (
            colon.as_str(),
            "logins.username: contains a colon",
            "a user name for HTTP has none",
        ),
        (twice, "logins.prefix: \"a\" is listed twice", "remove one"),
        (
            "logins = [{ prefix = \"a\", username = \"b\" }]",
            "logins: password is missing",
            "write password = { env = \"NAME\" }",
        ),
        (
            "logins = [{ prefix = \"a\", username = \"b\", password = { env = \"NOWHERE\" } }]",
            "logins.password: the environment variable NOWHERE is not set",
            "set it",
        ),
        (
            "logins = [{ prefix = \"a\", username = \"b\", password = \"c\\t\" }]",
            "logins.password: contains a control character",
            "one line",
        ),
    ]);
}

#[test]
fn lists_have_a_longest_length() {
    let list = |key: &str, count: usize, item: &dyn Fn(usize) -> String| {
        let items: Vec<_> = (0..count).map(item).collect();
        messages(&format!(
            "[upstreams.\"ghcr.io\"]\n{key} = [{}]\n",
            items.join(", ")
        ))
    };
    let rule = |_| "{ match = \"v*\", ttl = \"1d\" }".to_owned();
    let login = |n: usize| format!("{{ prefix = \"a{n}\", username = \"b\", password = \"c\" }}");
    let url = |n: usize| format!("\"https://m{n}.example\"");
    let assert_most = |key: &str, most: usize, item: &dyn Fn(usize) -> String| {
        assert_eq!(list(key, most, item), "");
        let said = list(key, most + 1, item);
        let message = format!("{key}: has {} entries, more than {most}\n", most + 1);
        assert!(said.contains(&message), "{said}");
    };
    assert_most("tag_rules", 1_000, &rule);
    assert_most("logins", 1_000, &login);
    assert_most("mirrors", 16, &url);
    let listeners = |count: usize| {
        let listener = |n: usize| format!("[[listener]]\naddress = \"[::]:{}\"\n", n + 1);
        messages(&(0..count).map(listener).collect::<String>())
    };
    assert_eq!(listeners(64), "");
    assert!(listeners(65).contains("listener: has 65 entries, more than 64"));
}

#[test]
fn what_is_missing_on_a_line_that_is_no_toml_is_not_said() {
    let said = messages("[[listener]]\naddress 5\n");
    assert!(
        said.contains("not TOML") && !said.contains("missing"),
        "{said}"
    );
}

#[test]
fn ways_that_do_not_fit_are_refused() {
    const PROXY: &str = "or \"direct\" for no proxy";
    assert_refused(&[
        (
            "mirrors = [\"https://a\", \"a.example\"]",
            "mirrors: entry 2 is not an http or https URL",
            "https://mirror.gcr.io",
        ),
        (
            "mirrors = [\"https://bot:hunter2@a\"]",
            "mirrors: entry 1 holds credentials",
            "https://mirror.gcr.io",
        ),
        (
            "mirrors = 5",
            "mirrors: expected a list of URLs, found an integer",
            "https://mirror.gcr.io",
        ),
        (
            "proxy = \"socks5://a:1\"",
            "proxy: is not an http or https URL",
            PROXY,
        ),
        (
            "proxy = \"proxy.corp:3128\"",
            "proxy: is not an http or https URL",
            PROXY,
        ),
        (
            "proxy = \"off\"",
            "proxy: is not an http or https URL",
            PROXY,
        ),
        (
            "proxy = \"http://a/b\"",
            "proxy: has more than a host and a port",
            PROXY,
        ),
        (
            "proxy = \"http://a:99999\"",
            "proxy: names no host and port",
            PROXY,
        ),
        (
            "proxy = \"http://a:%zz@b\"",
            "proxy: holds a user or a password that cannot be read",
            "such as %40 for @",
        ),
        (
            "credentials = \"docer\"",
            "credentials: \"docer\" is unknown",
            "did you mean \"docker\"?",
        ),
        (
            "tag_ttl = \"1 year\"",
            "tag_ttl: \"1 year\" is too long",
            "365 days",
        ),
        (
            "rate_reserve = -1",
            "rate_reserve: is out of range",
            "from 0",
        ),
        (
            "allow = [\"ghcr.io/acme/**\"]",
            "allow: \"ghcr.io/acme/**\": begins with \"ghcr.io\", which is left out here",
            "acme/**",
        ),
        (
            "deny = [\"acme//app\"]",
            "deny: \"acme//app\": nothing stands before, between or after slashes",
            "acme/**",
        ),
    ]);
    for word in ["direct", "none"] {
        let toml = format!("[upstreams.\"ghcr.io\"]\nproxy = {word:?}\n");
        assert_eq!(
            settings(&toml).upstreams["ghcr.io"].proxy,
            ProxyChoice::Direct
        );
    }
}

#[test]
fn a_choice_of_two_is_written_without_quotes() {
    for (table, key) in [("server", "offline"), ("access", "anonymous_private")] {
        for value in ["\"true\"", "1"] {
            let (said, help) = refusal(table, &format!("{key} = {value}"));
            let found = if value == "1" {
                "an integer"
            } else {
                "a string"
            };
            assert_eq!(
                said,
                format!("error: {table}.{key}: expected true or false, found {found}")
            );
            assert_eq!(help, "help: write true or false, without quotes");
        }
        let name = format!("MIRROR_{table}__{key}").to_ascii_uppercase();
        let loaded = Sandbox::new("", &[(name.as_str(), "true")]).load().unwrap();
        assert!(loaded.settings.server.offline || loaded.settings.access.anonymous_private);
    }
}

#[test]
fn nothing_allowed_is_not_everything_allowed() {
    let upstreams = settings("[upstreams.\"ghcr.io\"]\nallow = []\n").upstreams;
    assert_eq!(upstreams["ghcr.io"].allow, Some(ImagePatterns::default()));
    assert_eq!(upstreams["docker.io"].allow, None);
}

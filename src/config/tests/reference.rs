//! The reference `mirror.toml` says what the program does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

const REFERENCE: &str = include_str!("../../../mirror.toml");

/// A `#` in front of a key hides it; prose has a space there.
fn uncommented() -> String {
    let active = |line: &'static str| match line.strip_prefix('#') {
        Some(rest)
            if rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') =>
        {
            rest
        }
        _ => line,
    };
    REFERENCE.lines().map(active).collect::<Vec<_>>().join("\n")
}

#[test]
fn as_it_stands_it_is_the_default() {
    assert_eq!(settings(REFERENCE), Settings::default());
}

/// `credentials` stands for what `username` and `password` say too, so one of them has to stay hidden.
fn sandbox(hidden: &str) -> Sandbox {
    let active = uncommented();
    let lines: Vec<_> = active
        .lines()
        .filter(|line| !line.starts_with(hidden))
        .collect();
    let sandbox = Sandbox::new("", &[("DOCKERHUB_TOKEN", "secret")]);
    sandbox.write("team", "hunter2\n");
    let team = sandbox.path("team");
    let text = lines
        .join("\n")
        .replace("/run/secrets/team", team.to_str().unwrap());
    sandbox.write("mirror.toml", &text);
    sandbox
}

#[test]
fn with_the_markers_removed_it_sets_every_key_to_its_default() {
    let loaded = sandbox("credentials").load().unwrap();

    let all = schema::KEYS.iter().map(|key| {
        let upstream = key.is_of_upstream().then_some(DEFAULT_UPSTREAM);
        key.display(upstream)
    });
    let mut set: BTreeSet<_> = loaded
        .origins
        .into_keys()
        .filter(|path| !path.contains('['))
        .collect();
    set.insert("upstreams.\"docker.io\".credentials".to_owned());
    assert_eq!(set, all.collect::<BTreeSet<_>>());

    let mut settings = loaded.settings;
    let hub = settings.upstreams.get_mut(DEFAULT_UPSTREAM).unwrap();
    assert_eq!(hub.username.take().as_deref(), Some("ci-bot"));
    assert_eq!(hub.password.take().unwrap().expose(), "secret");
    assert_eq!(hub.ca.take(), Some("/etc/ssl/corp-proxy.pem".into()));
    assert_eq!(hub.tag_ttl.take(), Some(Duration::from_mins(5)));
    assert_eq!(std::mem::take(&mut hub.proxy), ProxyChoice::Direct);
    assert_eq!(std::mem::take(&mut hub.tag_rules).len(), 2);
    assert!(!hub.allow.take().unwrap().is_empty());
    let logins = std::mem::take(&mut hub.logins);
    assert_eq!(logins[0].password.expose(), "hunter2");
    let listeners = std::mem::take(&mut settings.listeners);
    assert_eq!(listeners[0].repository.as_deref(), Some(DEFAULT_UPSTREAM));
    let expiry = std::mem::take(&mut settings.cache.expiry);
    assert_eq!(expiry.max_age, Some(Duration::from_hours(90 * 24)));
    assert_eq!(expiry.unused_for, Some(Duration::from_hours(60 * 24)));
    assert_eq!(settings, Settings::default());
}

#[test]
fn credentials_may_come_from_docker_instead() {
    let sandbox = sandbox("username");
    let text = uncommented();
    let without: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("username") && !line.starts_with("password"))
        .filter(|line| !line.starts_with("logins"))
        .collect();
    sandbox.write("mirror.toml", &without.join("\n"));
    let settings = sandbox.load().unwrap().settings;
    let hub = &settings.upstreams[DEFAULT_UPSTREAM];
    assert_eq!(hub.credentials, Some(CredentialSource::Docker));
}

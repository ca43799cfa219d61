//! The reference `mirror.toml` says what the program does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

const REFERENCE: &str = include_str!("../../../mirror.toml");

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
    let expiry = std::mem::take(&mut settings.cache.expiry);
    assert_eq!(expiry.max_age, Some(Duration::from_hours(90 * 24)));
    assert_eq!(expiry.unused_for, Some(Duration::from_hours(60 * 24)));
    assert_eq!(settings, Settings::default());
}

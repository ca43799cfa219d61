//! Every key, once: its path, and what it sets. The reference `mirror.toml` explains them.

use std::time::Duration;

use super::value::{Fault, Value};
use super::{Context, CredentialSource, Fsync, Settings, UpstreamSettings, tables};
use crate::sys::telemetry;

const ANY: Duration = Duration::ZERO;
const POSITIVE: Duration = Duration::from_millis(1);

/// One key of `mirror.toml`.
pub(super) struct Key {
    /// The path in the file, segments separated by dots; `*` stands for an upstream's name.
    pub(super) path: &'static str,
    /// Whether the value is a secret: may come from a file or a variable, and is never shown.
    pub(super) secret: bool,
    pub(super) set: Set,
}

/// Puts a value in its place, and refuses what does not fit there.
pub(super) enum Set {
    Global(fn(&mut Settings, &Value) -> Result<(), Fault>),
    Upstream(fn(&mut UpstreamSettings, &Value) -> Result<(), Fault>),
    /// For a value that means something else in each upstream or environment.
    Within(fn(&mut UpstreamSettings, &Value, &Context<'_>) -> Result<(), Fault>),
}

impl Key {
    const fn global(
        path: &'static str,
        set: fn(&mut Settings, &Value) -> Result<(), Fault>,
    ) -> Self {
        Self {
            path,
            secret: false,
            set: Set::Global(set),
        }
    }

    const fn upstream(
        path: &'static str,
        set: fn(&mut UpstreamSettings, &Value) -> Result<(), Fault>,
    ) -> Self {
        Self {
            path,
            secret: false,
            set: Set::Upstream(set),
        }
    }

    const fn within(
        path: &'static str,
        set: fn(&mut UpstreamSettings, &Value, &Context<'_>) -> Result<(), Fault>,
    ) -> Self {
        Self {
            path,
            secret: false,
            set: Set::Within(set),
        }
    }

    const fn secret(self) -> Self {
        Self {
            secret: true,
            ..self
        }
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('.')
    }

    fn starts_with(&self, path: &[&str]) -> bool {
        let mut segments = self.segments();
        path.iter()
            .all(|wanted| segments.next().is_some_and(|it| it == "*" || it == *wanted))
    }

    /// The name without its table.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The table that holds it, as a header names it; empty for a key of none.
    pub(super) fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Whether it belongs to an upstream.
    pub(super) const fn is_of_upstream(&self) -> bool {
        matches!(self.set, Set::Upstream(_) | Set::Within(_))
    }

    /// Whether a line with its value may be shown.
    fn is_open(&self) -> bool {
        !self.secret && !tables::holds_tables(self.path)
    }

    /// The full path for a message, such as `upstreams."docker.io".url`.
    pub(super) fn display(&self, upstream: Option<&str>) -> String {
        match upstream {
            Some(name) => self.path.replacen('*', &format!("{name:?}"), 1),
            None => self.path.to_owned(),
        }
    }
}

/// Every key, in the order of the reference.
pub(super) static KEYS: [Key; 44] = [
    Key::global("server.listen", |s, v| {
        v.listen().map(|it| s.server.listen = it)
    }),
    Key::global("server.drain", |s, v| {
        v.duration(ANY).map(|it| s.server.drain = it)
    }),
    Key::global("server.lock_wait", |s, v| {
        v.duration(ANY).map(|it| s.server.lock_wait = it)
    }),
    Key::global("server.max_connections", |s, v| {
        v.count(1..=1_000_000)
            .map(|it| s.server.max_connections = it)
    }),
    Key::global("server.offline", |s, v| {
        v.boolean().map(|it| s.server.offline = it)
    }),
    Key::global("listener", |s, v| v.listeners().map(|it| s.listeners = it)),
    Key::global("storage.dir", |s, v| v.path().map(|it| s.storage.dir = it)),
    Key::global("storage.fsync", |s, v| {
        v.choice(&FSYNC).map(|it| s.storage.fsync = it)
    }),
    Key::global("cache.max_size", |s, v| {
        v.share().map(|it| s.cache.limits.max_size = it)
    }),
    Key::global("cache.min_free", |s, v| {
        v.share().map(|it| s.cache.limits.min_free = it)
    }),
    Key::global("cache.max_age", |s, v| {
        v.duration(POSITIVE)
            .map(|it| s.cache.expiry.max_age = Some(it))
    }),
    Key::global("cache.unused_for", |s, v| {
        v.duration(POSITIVE)
            .map(|it| s.cache.expiry.unused_for = Some(it))
    }),
    Key::global("cache.scrub", |s, v| {
        v.duration(ANY)
            .map(|it| s.cache.scrub = Some(it).filter(|it| !it.is_zero()))
    }),
    Key::global("cache.memory", |s, v| {
        v.size().map(|it| s.cache.memory = it)
    }),
    Key::global("cache.tag_ttl", |s, v| {
        v.duration(ANY).map(|it| s.cache.tag_ttl = it)
    }),
    Key::global("cache.revalidate_timeout", |s, v| {
        v.duration(POSITIVE)
            .map(|it| s.cache.revalidate_timeout = it)
    }),
    Key::global("cache.stale_if_error", |s, v| {
        v.duration(ANY).map(|it| s.cache.stale_if_error = it)
    }),
    Key::global("cache.stale_if_deleted", |s, v| {
        v.duration(ANY).map(|it| s.cache.stale_if_deleted = it)
    }),
    Key::global("cache.negative_ttl", |s, v| {
        v.duration(ANY).map(|it| s.cache.negative_ttl = it)
    }),
    Key::global("cache.finish_abandoned", |s, v| {
        v.size().map(|it| s.cache.finish_abandoned = it)
    }),
    Key::global("cache.never_cache", |s, v| {
        v.images().map(|it| s.cache.never_cache = it)
    }),
    Key::global("cache.pin", |s, v| v.images().map(|it| s.cache.pin = it)),
    Key::upstream("upstreams.*.url", |u, v| v.url().map(|it| u.url = it)),
    Key::upstream("upstreams.*.token_url", |u, v| {
        v.url().map(|it| u.token_url = Some(it))
    }),
    Key::upstream("upstreams.*.username", |u, v| {
        v.username().map(|it| u.username = Some(it))
    }),
    Key::upstream("upstreams.*.password", |u, v| {
        v.password().map(|it| u.password = Some(it))
    })
    .secret(),
    Key::upstream("upstreams.*.credentials", |u, v| {
        v.choice(&CREDENTIALS).map(|it| u.credentials = Some(it))
    }),
    Key::within("upstreams.*.logins", |u, v, c| {
        v.logins(c).map(|it| u.logins = it)
    }),
    Key::upstream("upstreams.*.mirrors", |u, v| {
        v.urls().map(|it| u.mirrors = it)
    }),
    Key::upstream("upstreams.*.proxy", |u, v| v.proxy().map(|it| u.proxy = it)).secret(),
    Key::upstream("upstreams.*.ca", |u, v| v.path().map(|it| u.ca = Some(it))),
    Key::upstream("upstreams.*.tag_ttl", |u, v| {
        v.duration(ANY).map(|it| u.tag_ttl = Some(it))
    }),
    Key::upstream("upstreams.*.tag_rules", |u, v| {
        v.tag_rules().map(|it| u.tag_rules = it)
    }),
    Key::within("upstreams.*.allow", |u, v, c| {
        v.images_within(c.upstream).map(|it| u.allow = Some(it))
    }),
    Key::within("upstreams.*.deny", |u, v, c| {
        v.images_within(c.upstream).map(|it| u.deny = it)
    }),
    Key::upstream("upstreams.*.rate_reserve", |u, v| {
        v.count(0..=1_000_000)
            .map(|it| u.rate_reserve = u64::from(it))
    }),
    Key::upstream("upstreams.*.timeout", |u, v| {
        v.duration(POSITIVE).map(|it| u.timeout = it)
    }),
    Key::upstream("upstreams.*.stall", |u, v| {
        v.duration(POSITIVE).map(|it| u.stall = it)
    }),
    Key::upstream("upstreams.*.retries", |u, v| {
        v.count(0..=100).map(|it| u.retries = it)
    }),
    Key::upstream("upstreams.*.max_connections", |u, v| {
        v.count(1..=10_000).map(|it| u.max_connections = it)
    }),
    Key::global("access.anonymous_private", |s, v| {
        v.boolean().map(|it| s.access.anonymous_private = it)
    }),
    Key::global("log.level", |s, v| level(v).map(|it| s.log.level = it)),
    Key::global("log.format", |s, v| {
        v.choice(&FORMATS).map(|it| s.log.format = it)
    }),
    Key::global("log.access", |s, v| access(v).map(|it| s.log.access = it)),
];

/// What a path in the file stands for.
pub(super) enum Node<'p> {
    /// A key, and the upstream it belongs to.
    Key {
        key: &'static Key,
        upstream: Option<&'p str>,
    },
    /// A table that holds keys or tables.
    Table,
    /// The table of an upstream.
    Upstream(&'p str),
    Unknown,
}

/// Looks up a path, segment by segment.
pub(super) fn find<'p>(path: &[&'p str]) -> Node<'p> {
    if let ["upstreams", name] = path {
        return Node::Upstream(name);
    }
    let Some(key) = KEYS.iter().find(|key| key.starts_with(path)) else {
        return Node::Unknown;
    };
    if key.segments().count() > path.len() {
        return Node::Table;
    }
    let upstream = key.is_of_upstream().then(|| path.get(1).copied()).flatten();
    Node::Key { key, upstream }
}

/// The names of what a table may hold.
pub(super) fn names_in(table: &[&str]) -> Vec<&'static str> {
    let mut names: Vec<_> = KEYS
        .iter()
        .filter(|key| key.starts_with(table))
        .filter_map(|key| key.segments().nth(table.len()))
        .collect();
    names.dedup();
    names
}

/// Whether a line that gives `name` a value surely shows no secret.
pub(super) fn is_open(name: &str) -> bool {
    let is_key = KEYS.iter().any(|key| key.name() == name && key.is_open());
    is_key || tables::is_open_field(name)
}

/// A segment as TOML wants it: in quotes unless it is a bare key.
pub(super) fn quoted(segment: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !segment.is_empty() && segment.bytes().all(bare) {
        segment.to_owned()
    } else {
        format!("{segment:?}")
    }
}

const FSYNC: [(&str, Fsync); 3] = [
    ("hosted", Fsync::Hosted),
    ("always", Fsync::Always),
    ("never", Fsync::Never),
];

const CREDENTIALS: [(&str, CredentialSource); 1] = [("docker", CredentialSource::Docker)];

const FORMATS: [(&str, telemetry::Format); 3] = [
    ("auto", telemetry::Format::Auto),
    ("pretty", telemetry::Format::Pretty),
    ("json", telemetry::Format::Json),
];

fn level(value: &Value) -> Result<telemetry::Level, Fault> {
    const HELP: &str = r#"write a level such as "info", or "info,mirror::upstream=debug""#;
    let text = value.text()?;
    text.parse()
        .map_err(|why: telemetry::InvalidLevel| Fault::new(why.to_string(), HELP))
}

fn access(value: &Value) -> Result<telemetry::AccessTarget, Fault> {
    let path = value.path()?;
    match path.to_str() {
        Some("off") => Ok(telemetry::AccessTarget::Off),
        Some("stdout") => Ok(telemetry::AccessTarget::Stdout),
        // A lone word is a misspelt choice more often than a file in the working directory.
        Some(word) if !word.contains('/') => Err(Fault::new(
            format!("{word:?} is neither \"off\" nor \"stdout\" nor a path"),
            format!("for a file of this name write \"./{word}\""),
        )),
        _ => Ok(telemetry::AccessTarget::File(path)),
    }
}

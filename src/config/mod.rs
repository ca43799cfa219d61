//! The configuration: `mirror.toml`, environment and flags become validated [`Settings`].
//!
//! Sources overlay each other: built-in defaults, then the file, then `MIRROR_<SECTION>__<KEY>` variables, then
//! flags. Everything that is wrong is reported in one run, each with its place and a next step; nothing is
//! ignored silently. `schema` lists the keys once: parsing, variables, suggestions and the reference
//! `mirror.toml` follow from it. No message shows a secret.

mod check;
mod diagnostic;
mod document;
mod environment;
mod files;
mod host;
mod proxy;
mod schema;
mod settings;
mod size;
mod suggest;
mod tables;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

pub use crate::http::ListenAddress;
pub use diagnostic::{Diagnostic, Place, Severity, SourceLine};
pub use environment::Environment;
pub use proxy::{ProxyChoice, ProxySettings};
pub use settings::{
    AccessSettings, AmbientSettings, CacheSettings, CredentialSource, DEFAULT_UPSTREAM, Fsync,
    ListenerSettings, LogSettings, LoginSettings, ServerSettings, Settings, StorageSettings,
    TagRule, UpstreamSettings,
};
pub use size::ByteSize;

use diagnostic::Report;
use schema::{Key, Set};
use value::{Fault, Span, Value};

/// What the command line sets; it wins over every other source.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`, as often as it was given.
    pub listen: Vec<String>,
    /// `--dir`.
    pub dir: Option<PathBuf>,
    /// The `log.level` that `-v` and `-q` stand for.
    pub log_level: Option<&'static str>,
    /// `--offline`; without it the other sources decide.
    pub offline: bool,
}

/// A valid configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings, complete.
    pub settings: Settings,
    /// Where each key that is not at its default was set, by its full path.
    pub origins: Origins,
    /// What deserves attention but stops nothing.
    pub warnings: Vec<Diagnostic>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// Where keys were set, by full path such as `upstreams."docker.io".url`; the fields of tables in a list by
/// `listener[0].address`.
pub type Origins = BTreeMap<String, Place>;

/// A configuration that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} in the configuration", plural(self.errors.len(), "error"))]
pub struct Invalid {
    /// Everything that is wrong, in the order of the sources. Never empty.
    pub errors: Vec<Diagnostic>,
    /// What deserves attention besides.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks the whole configuration.
///
/// `file` is the one named on the command line; without it `$MIRROR_CONFIG`,
/// `$XDG_CONFIG_HOME/mirror/mirror.toml` and `/etc/mirror/mirror.toml` are tried in this order, and none of them
/// need exist but the first.
///
/// # Errors
/// [`Invalid`] with everything that is wrong.
pub fn load(
    file: Option<&Path>,
    environment: &Environment,
    overrides: &Overrides,
) -> Result<Loaded, Invalid> {
    let mut loading = Loading::new(environment);
    let file = files::locate(file, environment);
    if let Some(path) = &file {
        loading.read_file(path);
    }
    loading.read_variables();
    loading.apply(overrides);
    loading.finish(file)
}

/// A value on its way to the key it is for.
struct Assignment {
    key: &'static Key,
    /// The upstream's name, for the keys of one.
    upstream: Option<String>,
    value: Value,
    place: Place,
}

/// What a source says, piece by piece.
enum Finding {
    /// There is an upstream of this name.
    Upstream(String),
    Set(Assignment),
    Wrong(Diagnostic),
}

/// What else a value's meaning depends on.
struct Context<'a> {
    /// The upstream that it belongs to.
    upstream: &'a str,
    environment: &'a Environment,
}

impl Assignment {
    fn path(&self) -> String {
        self.key.display(self.upstream.as_deref())
    }
}

struct Loading<'a> {
    environment: &'a Environment,
    settings: Settings,
    origins: Origins,
    report: Report,
    /// The file's name and text, once it was read.
    document: Option<(PathBuf, String)>,
}

impl<'a> Loading<'a> {
    fn new(environment: &'a Environment) -> Self {
        let mut settings = Settings::default();
        settings.storage.dir = environment.data_directory();
        settings.ambient = environment.ambient();
        Self {
            environment,
            settings,
            origins: Origins::new(),
            report: Report::default(),
            document: None,
        }
    }

    fn read_file(&mut self, path: &Path) {
        match files::read_document(path) {
            Ok(text) => {
                let found = document::walk(path, &text);
                self.document = Some((path.to_owned(), text));
                self.take(found);
            }
            Err(diagnostic) => self.report.push(*diagnostic),
        }
    }

    fn read_variables(&mut self) {
        let upstreams = self.settings.upstreams.keys().map(String::as_str);
        let found = environment::walk(self.environment, upstreams);
        self.take(found);
    }

    fn take(&mut self, found: Vec<Finding>) {
        for found in found {
            match found {
                Finding::Upstream(name) => drop(self.upstream(&name)),
                Finding::Set(assignment) => self.assign(assignment),
                Finding::Wrong(diagnostic) => self.report.push(diagnostic),
            }
        }
    }

    fn apply(&mut self, overrides: &Overrides) {
        if !overrides.listen.is_empty() {
            let listen = overrides.listen.iter().cloned().map(Value::Bare).collect();
            self.assign_flag("server.listen", Value::List(listen), "--listen");
        }
        if let Some(dir) = &overrides.dir {
            self.assign_flag("storage.dir", Value::Path(dir.clone()), "--dir");
        }
        if let Some(level) = overrides.log_level {
            self.assign_flag("log.level", Value::Bare(level.to_owned()), "-v, -q");
        }
        if overrides.offline {
            self.assign_flag("server.offline", Value::Boolean(true), "--offline");
        }
    }

    fn assign_flag(&mut self, path: &str, value: Value, flag: &'static str) {
        if let Some(key) = schema::KEYS.iter().find(|key| key.path == path) {
            self.assign(Assignment {
                key,
                upstream: None,
                value,
                place: Place::Flag(flag),
            });
        }
    }

    fn assign(&mut self, assignment: Assignment) {
        let path = assignment.path();
        match self.set(&assignment) {
            Ok(()) => self.note_fields(&path, &assignment),
            Err(fault) => self.complain(&path, &assignment.place, fault),
        }
        self.origins.insert(path, assignment.place);
    }

    fn set(&mut self, assignment: &Assignment) -> Result<(), Fault> {
        let Assignment { key, upstream, .. } = assignment;
        let environment = self.environment;
        let secret;
        let value = if key.secret {
            secret = files::resolve_secret(&assignment.value, environment)?;
            &secret
        } else {
            &assignment.value
        };
        let name = upstream.as_deref().unwrap_or(DEFAULT_UPSTREAM);
        match key.set {
            Set::Global(set) => set(&mut self.settings, value),
            Set::Upstream(set) => set(self.upstream(name)?, value),
            Set::Within(set) => {
                let context = Context {
                    upstream: name,
                    environment,
                };
                set(self.upstream(name)?, value, &context)
            }
        }
    }

    /// The settings of an upstream, which begin with its defaults.
    fn upstream(&mut self, name: &str) -> Result<&mut UpstreamSettings, Fault> {
        match self.settings.upstreams.entry(name.to_owned()) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let defaults = UpstreamSettings::named(name);
                let fault = || Fault::new("is not the host of a registry", "rename its table");
                defaults.map(|it| entry.insert(it)).ok_or_else(fault)
            }
        }
    }

    /// Remembers where the fields of tables in a list were set.
    fn note_fields(&mut self, path: &str, assignment: &Assignment) {
        let Value::List(items) = &assignment.value else {
            return;
        };
        for (number, item) in items.iter().enumerate() {
            let Value::Table(table) = item else { continue };
            for field in &table.fields {
                if let Some(place) = self.place(&field.value_span) {
                    let path = format!("{path}[{number}].{}", field.name);
                    self.origins.insert(path, place);
                }
            }
        }
    }

    fn complain(&mut self, path: &str, place: &Place, fault: Fault) {
        let part = fault.field.map(|field| format!(".{field}"));
        let message = format!("{path}{}: {}", part.unwrap_or_default(), fault.message);
        let at = self.place(&fault.span).unwrap_or_else(|| place.clone());
        self.report
            .push(Diagnostic::error(message).at(at).help(fault.help));
        for further in fault.further {
            self.complain(path, place, further);
        }
    }

    /// The place of a part of a value.
    fn place(&self, span: &Span) -> Option<Place> {
        let (file, text) = self.document.as_ref()?;
        Some(document::place(file, text, span.as_ref()?))
    }

    fn finish(mut self, file: Option<PathBuf>) -> Result<Loaded, Invalid> {
        check::all(&mut self.settings, &self.origins, &mut self.report);
        let (errors, warnings) = self.report.into_parts();
        if !errors.is_empty() {
            return Err(Invalid { errors, warnings });
        }
        Ok(Loaded {
            settings: self.settings,
            origins: self.origins,
            warnings,
            file,
        })
    }
}

/// `1 error`, `2 errors`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

//! The environment: `MIRROR_<SECTION>__<KEY>` variables, and where a user's files live.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::schema::{KEYS, Key, Set};
use super::value::Value;
use super::{Assignment, DEFAULT_UPSTREAM, Diagnostic, Finding, Place, suggest};

/// Variables that other parts of the program read.
const OTHER_VARIABLES: [&str; 1] = ["MIRROR_CONFIG"];

/// What the process was started with besides its arguments.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    superuser: bool,
    pub(super) system_file: PathBuf,
}

impl Environment {
    /// The environment made of `variables`, for root or for another user.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>, superuser: bool) -> Self {
        Self {
            variables: variables.into_iter().collect(),
            superuser,
            system_file: PathBuf::from("/etc/mirror/mirror.toml"),
        }
    }

    /// Looks in `path` instead of `/etc/mirror/mirror.toml`.
    #[must_use]
    pub fn with_system_file(mut self, path: PathBuf) -> Self {
        self.system_file = path;
        self
    }

    /// A variable that is set and not empty: compose files set `${X:-}` to mean "unset".
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }

    /// `$XDG_CONFIG_HOME`, or `~/.config`.
    pub(super) fn config_home(&self) -> Option<PathBuf> {
        self.home_directory("XDG_CONFIG_HOME", ".config")
    }

    /// Where data goes when nobody says so: `/var/lib/mirror` for root, a directory of his own for any other user.
    pub(super) fn data_directory(&self) -> PathBuf {
        let home = if self.superuser {
            None
        } else {
            self.home_directory("XDG_DATA_HOME", ".local/share")
        };
        home.unwrap_or_else(|| PathBuf::from("/var/lib"))
            .join("mirror")
    }

    /// A directory of the XDG base directory specification, which ignores relative paths.
    fn home_directory(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |name| {
            let path = Path::new(self.variable(name)?);
            path.is_absolute().then_some(path)
        };
        absolute(variable)
            .map(Path::to_owned)
            .or_else(|| Some(absolute("HOME")?.join(below_home)))
    }
}

/// What the `MIRROR_*` variables say: assignments, and what does not fit.
pub(super) fn walk(environment: &Environment) -> Vec<Finding> {
    let known = known_variables();
    let names = environment
        .variables
        .keys()
        .filter_map(|name| name.to_str());
    let ours = names.filter(|name| name.starts_with("MIRROR_"));
    ours.filter_map(|name| match known.get(name) {
        Some(form) => {
            let text = environment.variable(name)?;
            Some(assignment(environment, name, text, form))
        }
        None if OTHER_VARIABLES.contains(&name) || is_service_link(name) => None,
        None => Some(unknown(name, known.keys().map(String::as_str))),
    })
    .collect()
}

/// How a variable gives its key a value.
enum Form {
    Value(&'static Key),
    /// The name of a file that holds the secret.
    File(&'static Key),
}

/// The variables that set a key. Dots in an upstream's name become underscores.
fn known_variables() -> BTreeMap<String, Form> {
    let mut known = BTreeMap::new();
    for key in &KEYS {
        let name = variable_name(key);
        if key.secret {
            known.insert(format!("{name}_FILE"), Form::File(key));
        }
        known.insert(name, Form::Value(key));
    }
    known
}

fn variable_name(key: &Key) -> String {
    let path = key.path.replace('.', "__");
    let path = path.replace('*', &DEFAULT_UPSTREAM.replace('.', "_"));
    format!("MIRROR_{}", path.to_ascii_uppercase())
}

fn assignment(environment: &Environment, name: &str, text: &OsStr, form: &Form) -> Finding {
    let place = Place::Variable(name.to_owned());
    let Some(text) = text.to_str() else {
        return Finding::Wrong(Diagnostic::error(format!("{name} is not UTF-8")).at(place));
    };
    let (key, value) = match form {
        Form::Value(key) => (key, Value::Bare(text.to_owned())),
        Form::File(key) => (key, file_reference(text)),
    };
    let plain = variable_name(key);
    if matches!(form, Form::File(_)) && environment.variable(&plain).is_some() {
        let message = format!("{name} and {plain} are both set");
        let diagnostic = Diagnostic::error(message).at(place);
        return Finding::Wrong(diagnostic.help("unset one of them"));
    }
    Finding::Set(Assignment {
        key,
        upstream: match key.set {
            Set::Upstream(_) => Some(DEFAULT_UPSTREAM.to_owned()),
            Set::Global(_) => None,
        },
        value,
        place,
    })
}

/// The same as `{ file = "…" }` in the file.
fn file_reference(path: &str) -> Value {
    Value::Table(vec![("file".to_owned(), Value::Bare(path.to_owned()))])
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Finding {
    let help = match suggest::closest(name, known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "the form is MIRROR_<SECTION>__<KEY>, such as MIRROR_LOG__LEVEL".to_owned(),
    };
    let diagnostic = Diagnostic::warning(format!("{name} means nothing to mirror"));
    Finding::Wrong(diagnostic.at(Place::Variable(name.to_owned())).help(help))
}

/// Kubernetes sets these in every pod beside a service called `mirror`.
fn is_service_link(name: &str) -> bool {
    let links = ["MIRROR_SERVICE_HOST", "MIRROR_SERVICE_PORT", "MIRROR_PORT"];
    let is_link = |link| {
        name.strip_prefix(link).is_some_and(|rest: &str| {
            rest.is_empty() || (rest.starts_with('_') && !rest.starts_with("__"))
        })
    };
    links.into_iter().any(is_link)
}

//! The environment: `MIRROR_<SECTION>__<KEY>` variables, and where a user's files live.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::schema::{KEYS, Key};
use super::value::{Field, Table, Value};
use super::{AmbientSettings, Assignment, Diagnostic, Finding, Place, host, suggest};
use crate::upstream::ProxyEnvironment;

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

    /// What it says to every program.
    pub(super) fn ambient(&self) -> AmbientSettings {
        let text = |name: &str| Some(self.variable(name)?.to_str()?.to_owned());
        AmbientSettings {
            proxy: ProxyEnvironment::read(text),
            docker_config: self.docker_config(),
        }
    }

    /// `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
    fn docker_config(&self) -> Option<PathBuf> {
        let named = self.variable("DOCKER_CONFIG").map(PathBuf::from);
        let own = || Some(Path::new(self.variable("HOME")?).join(".docker"));
        Some(named.or_else(own)?.join("config.json"))
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

/// What the `MIRROR_*` variables say: assignments, and what does not fit. They set keys of `upstreams` that there are.
pub(super) fn walk<'u>(
    environment: &Environment,
    upstreams: impl IntoIterator<Item = &'u str>,
) -> Vec<Finding> {
    let known = Known::new(upstreams);
    let names = environment
        .variables
        .keys()
        .filter_map(|name| name.to_str());
    let ours = names.filter(|name| name.starts_with("MIRROR_"));
    ours.filter_map(|name| match known.find(name) {
        Some(target) => {
            let text = environment.variable(name)?;
            Some(assignment(environment, name, text, &target))
        }
        None if OTHER_VARIABLES.contains(&name) || is_service_link(name) => None,
        None => Some(known.unknown(name)),
    })
    .collect()
}

/// What a variable sets.
struct Target<'k> {
    key: &'static Key,
    /// Whether it names a file that holds the value, which is a secret.
    is_file: bool,
    /// The upstreams whose keys it may set: none for a key of no upstream, else those whose names read alike.
    upstreams: &'k [&'k str],
}

/// The variables that set a key.
struct Known<'u> {
    /// Keys of no upstream by variable, and keys of an upstream by the variable's part behind its name.
    keys: BTreeMap<String, (&'static Key, bool)>,
    /// Upstreams by their part of a variable's name, in which dots and the like have become underscores.
    upstreams: BTreeMap<String, Vec<&'u str>>,
}

const UPSTREAMS: &str = "MIRROR_UPSTREAMS__";

impl<'u> Known<'u> {
    fn new(names: impl IntoIterator<Item = &'u str>) -> Self {
        let mut upstreams = BTreeMap::<_, Vec<_>>::new();
        for name in names {
            let part = host::in_variable(name);
            upstreams.entry(part).or_default().push(name);
        }
        let mut keys = BTreeMap::new();
        for key in &KEYS {
            let name = variable_name(key);
            if key.secret {
                keys.insert(format!("{name}_FILE"), (key, true));
            }
            keys.insert(name, (key, false));
        }
        Self { keys, upstreams }
    }

    fn find<'k>(&'k self, variable: &str) -> Option<Target<'k>> {
        let (name, upstreams) = match split_upstream(variable) {
            Some((upstream, key)) => (key, self.upstreams.get(upstream)?.as_slice()),
            None => (variable, &[][..]),
        };
        let (key, is_file) = self.keys.get(name).copied()?;
        Some(Target {
            key,
            is_file,
            upstreams,
        })
    }

    fn unknown(&self, variable: &str) -> Finding {
        let upstream = split_upstream(variable).filter(|(_, key)| self.keys.contains_key(*key));
        let (message, help) = if let Some((upstream, key)) = upstream {
            self.unknown_upstream(variable, upstream, key)
        } else {
            let message = format!("{variable} means nothing to mirror");
            (message, self.help_for_unknown(variable))
        };
        let warning = Diagnostic::warning(message).at(Place::Variable(variable.to_owned()));
        Finding::Wrong(warning.help(help))
    }

    fn help_for_unknown(&self, variable: &str) -> String {
        let names = self.names();
        let meant = suggest::closest(variable, names.iter().map(String::as_str));
        meant.map_or_else(
            || "the form is MIRROR_<SECTION>__<KEY>, such as MIRROR_LOG__LEVEL".to_owned(),
            |meant| format!("did you mean {meant}?"),
        )
    }

    fn unknown_upstream(&self, variable: &str, upstream: &str, key: &str) -> (String, String) {
        let known = self.upstreams.keys().map(String::as_str);
        let help = suggest::closest(upstream, known).map_or_else(
            || {
                let guess = upstream.to_ascii_lowercase().replace('_', ".");
                format!("name the upstream in mirror.toml: [upstreams.{guess:?}]")
            },
            |meant| format!("did you mean {UPSTREAMS}{meant}__{key}?"),
        );
        let message = format!("{variable} sets a key of an upstream that is not configured");
        (message, help)
    }

    /// Every variable that means something.
    fn names(&self) -> Vec<String> {
        let keys = self.keys.keys();
        let names = keys.flat_map(|key| {
            let of_upstreams = self
                .upstreams
                .keys()
                .map(move |upstream| format!("{UPSTREAMS}{upstream}__{key}"));
            let is_global = key.starts_with("MIRROR_");
            is_global
                .then(|| key.clone())
                .into_iter()
                .chain(of_upstreams.filter(move |_| !is_global))
        });
        names.collect()
    }
}

/// The upstream's part of a variable's name, and the key's.
fn split_upstream(variable: &str) -> Option<(&str, &str)> {
    variable.strip_prefix(UPSTREAMS)?.rsplit_once("__")
}

/// The variable of a key; for one of an upstream, the part behind the upstream's name.
fn variable_name(key: &Key) -> String {
    if key.is_of_upstream() {
        return key.name().to_ascii_uppercase();
    }
    format!(
        "MIRROR_{}",
        key.path.replace('.', "__").to_ascii_uppercase()
    )
}

fn assignment(environment: &Environment, name: &str, text: &OsStr, target: &Target<'_>) -> Finding {
    let place = Place::Variable(name.to_owned());
    let wrong = |message: String, help: &str| {
        let error = Diagnostic::error(message).at(place.clone());
        Finding::Wrong(error.help(help))
    };
    let Some(text) = text.to_str() else {
        return Finding::Wrong(Diagnostic::error(format!("{name} is not UTF-8")).at(place));
    };
    if let [one, other, ..] = target.upstreams {
        let message = format!("{name} could mean upstreams.{one:?} or upstreams.{other:?}");
        return wrong(message, "set these keys in mirror.toml");
    }
    let plain = name.strip_suffix("_FILE").filter(|_| target.is_file);
    if let Some(plain) = plain
        && environment.variable(plain).is_some()
    {
        return wrong(
            format!("{name} and {plain} are both set"),
            "unset one of them",
        );
    }
    let value = if target.is_file {
        file_reference(text)
    } else {
        Value::Bare(text.to_owned())
    };
    Finding::Set(Assignment {
        key: target.key,
        upstream: target.upstreams.first().map(|it| (*it).to_owned()),
        value,
        place,
    })
}

/// The same as `{ file = "…" }` in the file.
fn file_reference(path: &str) -> Value {
    Value::Table(Table {
        fields: vec![Field {
            name: "file".to_owned(),
            name_span: None,
            value: Value::Bare(path.to_owned()),
            value_span: None,
        }],
        span: None,
        is_whole: true,
    })
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

//! The files that the configuration consists of: which one, its text, and the secrets it points to.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::value::{Fault, Value};
use super::{Diagnostic, Environment, Place};

/// No configuration is longer.
const MAX_DOCUMENT: u64 = 1 << 20;

/// No password or token is longer.
const MAX_SECRET: u64 = 64 << 10;

/// The file to read: the one that was named, or the first that exists of those that need not.
pub(super) fn locate(named: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    if let Some(path) = named {
        return Some(path.to_owned());
    }
    if let Some(path) = environment.variable("MIRROR_CONFIG") {
        return Some(PathBuf::from(path));
    }
    let of_user = environment
        .config_home()
        .map(|home| home.join("mirror/mirror.toml"));
    // A file that exists and cannot be read is an error to report, not a reason to look further.
    of_user
        .into_iter()
        .chain([environment.system_file.clone()])
        .find(|path| path.try_exists().unwrap_or(true))
}

/// The text of a configuration file.
pub(super) fn read_document(path: &Path) -> Result<String, Box<Diagnostic>> {
    read(path, MAX_DOCUMENT).map_err(|why| {
        let help = match why.kind() {
            io::ErrorKind::NotFound => {
                "name another file with --config, or none to use the defaults"
            }
            io::ErrorKind::PermissionDenied => "let the user that runs mirror read it",
            _ => "a configuration is a TOML file in UTF-8",
        };
        let error = Diagnostic::error(format!("cannot read the configuration: {why}"));
        Box::new(error.at(Place::from(path)).help(help))
    })
}

/// The secret itself: written in place, or held by a variable or a file.
pub(super) fn resolve_secret(value: &Value, environment: &Environment) -> Result<Value, Fault> {
    const HELP: &str = r#"write a string, { env = "NAME" } or { file = "/run/secrets/name" }"#;
    let Value::Table(table) = value else {
        return match value.as_str() {
            Some(secret) => Ok(Value::Bare(secret.to_owned())),
            None => Err(Fault::new("is not a secret", HELP)),
        };
    };
    let source = match table.fields.as_slice() {
        [form] => form
            .value
            .as_str()
            .map(|source| (form.name.as_str(), source)),
        _ => None,
    };
    match source {
        Some(("env", name)) => secret_variable(name, environment),
        Some(("file", path)) => secret_file(Path::new(path)),
        _ => Err(Fault::new("is not a secret", HELP)),
    }
}

fn secret_variable(name: &str, environment: &Environment) -> Result<Value, Fault> {
    match environment.variable(name).map(|value| value.to_str()) {
        Some(Some(secret)) => Ok(Value::Bare(secret.to_owned())),
        Some(None) => Err(Fault::new(
            format!("the environment variable {name} is not UTF-8"),
            "set it to a secret, which is text",
        )),
        None => Err(Fault::new(
            format!("the environment variable {name} is not set"),
            "set it, or remove the key to do without",
        )),
    }
}

/// The content of a file, without the newline that editors append.
fn secret_file(path: &Path) -> Result<Value, Fault> {
    let text = read(path, MAX_SECRET).map_err(|why| {
        Fault::new(
            format!("cannot read {}: {why}", path.display()),
            "name a file that holds the secret and nothing else",
        )
    })?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(Fault::new(
            format!("{} is empty", path.display()),
            "write the secret into it",
        ));
    }
    Ok(Value::Bare(secret.to_owned()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the configuration is read before there is a disk to make fail"
)]
fn read(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?
        .take(limit + 1)
        .read_to_string(&mut text)?;
    match u64::try_from(length) {
        Ok(length) if length <= limit => Ok(text),
        _ => {
            let message = format!("longer than {} KiB", limit / 1024);
            Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
        }
    }
}

//! Values that are lists of tables: `[[listener]]`, `tag_rules`, `logins`.
//!
//! Every mistake in them is told in one run, with the line of the field that it is in.

use super::files;
use super::settings::{ListenerSettings, LoginSettings, TagRule};
use super::value::{Fault, Field, Table, Value, is_any_port};
use super::{Context, suggest};
use crate::oci::{RepositoryName, TagPattern};
use crate::sys::secret::Secret;

/// More ports than anybody opens by hand.
const LISTENERS_LIMIT: usize = 64;

/// As many as there may be patterns in a list.
const RULES_LIMIT: usize = crate::oci::pattern::PATTERNS_LIMIT;

/// More accounts of one registry than a file holds.
const LOGINS_LIMIT: usize = 1_000;

const LISTENER_FIELDS: [&str; 2] = ["address", "repository"];
const RULE_FIELDS: [&str; 2] = ["match", "ttl"];
const LOGIN_FIELDS: [&str; 3] = ["prefix", "username", "password"];

/// Whether `name` is a field of some table, and holds no secret.
pub(super) fn is_open_field(name: &str) -> bool {
    let mut fields = [&LISTENER_FIELDS[..], &RULE_FIELDS, &LOGIN_FIELDS]
        .into_iter()
        .flatten();
    name != "password" && fields.any(|field| *field == name)
}

/// Whether the key of this name holds tables.
pub(super) fn holds_tables(path: &str) -> bool {
    matches!(
        path,
        "listener" | "upstreams.*.tag_rules" | "upstreams.*.logins"
    )
}

impl Value {
    /// The `[[listener]]` tables, no address twice.
    pub(super) fn listeners(&self) -> Result<Vec<ListenerSettings>, Fault> {
        const EXAMPLE: &str =
            "[[listener]] on a line of its own, and below it address = \"0.0.0.0:8083\"";
        self.tables(
            LISTENERS_LIMIT,
            &LISTENER_FIELDS,
            EXAMPLE,
            |fields, known| {
                let address = fields.required("address", "\"0.0.0.0:8083\"", |value| {
                    let address = value.one_address()?;
                    let is_known = known
                        .iter()
                        .any(|it: &ListenerSettings| it.address == address);
                    if is_known && !is_any_port(&address) {
                        let message = format!("\"{address}\" is listed twice");
                        return Err(Fault::new(message, "remove one of them"));
                    }
                    Ok(address)
                });
                let repository = fields.optional("repository", Self::text);
                Some(ListenerSettings {
                    address: address?,
                    repository: repository.ok()?,
                })
            },
        )
    }

    /// The rules of freshness, in their order.
    pub(super) fn tag_rules(&self) -> Result<Vec<TagRule>, Fault> {
        const EXAMPLE: &str = r#"tag_rules = [ { match = "v*.*.*", ttl = "1d" } ]"#;
        self.tables(RULES_LIMIT, &RULE_FIELDS, EXAMPLE, |fields, _| {
            let pattern = fields.required("match", "\"v*.*.*\"", Self::tag_pattern);
            let ttl = fields.required("ttl", "\"1d\"", |value| {
                value.duration(std::time::Duration::ZERO)
            });
            Some(TagRule {
                pattern: pattern?,
                ttl: ttl?,
            })
        })
    }

    /// The accounts for parts of an upstream, the longest prefix first, none twice.
    pub(super) fn logins(&self, context: &Context<'_>) -> Result<Vec<LoginSettings>, Fault> {
        const EXAMPLE: &str =
            r#"logins = [ { prefix = "acme", username = "bot", password = { env = "ACME" } } ]"#;
        let logins = self.tables(LOGINS_LIMIT, &LOGIN_FIELDS, EXAMPLE, |fields, known| {
            let prefix = fields.required("prefix", "\"acme\"", |value| {
                let prefix = value.prefix()?;
                if known.iter().any(|it: &LoginSettings| it.prefix == prefix) {
                    let message = format!("{prefix:?} is listed twice");
                    return Err(Fault::new(message, "remove one of them"));
                }
                Ok(prefix)
            });
            let username = fields.required("username", "\"bot\"", Self::username);
            let password = fields.required("password", "{ env = \"NAME\" }", |value| {
                files::resolve_secret(value, context.environment)?.password()
            });
            Some(LoginSettings {
                prefix: prefix?,
                username: username?,
                password: password?,
            })
        });
        let mut logins = logins?;
        logins.sort_by_key(|login| std::cmp::Reverse(login.prefix.len()));
        Ok(logins)
    }

    /// A user name as HTTP can carry it.
    pub(super) fn username(&self) -> Result<String, Fault> {
        let name = self.text()?;
        // RFC 7617, section 2: the first colon ends the user name.
        if name.contains(':') {
            return Err(Fault::new(
                "contains a colon",
                "a user name for HTTP has none",
            ));
        }
        if name.chars().any(char::is_control) {
            return Err(Fault::new(
                "contains a control character",
                "write it on one line",
            ));
        }
        Ok(name)
    }

    /// A password as HTTP can carry it.
    pub(super) fn password(&self) -> Result<Secret, Fault> {
        let secret = self.secret()?;
        if secret.expose().chars().any(char::is_control) {
            return Err(Fault::new(
                "contains a control character",
                "a secret is one line of text",
            ));
        }
        Ok(secret)
    }

    fn tag_pattern(&self) -> Result<TagPattern, Fault> {
        const HELP: &str = r#"write a pattern over tags such as "v*.*.*" or "{latest,nightly*}""#;
        let text = self.str_or("a pattern over tags", HELP)?;
        text.parse()
            .map_err(|why| Fault::new(format!("{text:?}: {why}"), HELP))
    }

    /// The first components of repositories' names.
    fn prefix(&self) -> Result<String, Fault> {
        const HELP: &str = r#"write the first components of names, such as "acme" or "acme/team""#;
        let text = self.str_or("the beginning of repositories' names", HELP)?;
        let name: Result<RepositoryName, _> = text.parse();
        name.map(String::from)
            .map_err(|why| Fault::new(format!("{text:?}: {why}"), HELP))
    }

    /// `read` makes something of the fields of each table, given what the tables before it have become. `None` stands
    /// for a fault that the fields know of.
    fn tables<T>(
        &self,
        limit: usize,
        known: &[&str],
        example: &str,
        read: impl Fn(&mut Fields<'_>, &[T]) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        let help = || format!("write {example}");
        let items = match self {
            Self::List(items) => items,
            Self::Bare(_) => {
                let help = "write it into mirror.toml";
                return Err(Fault::new("no variable holds a list of tables", help));
            }
            _ => {
                let message = format!("expected a list of tables, found {}", self.kind());
                return Err(Fault::new(message, help()));
            }
        };
        if items.len() > limit {
            let message = format!("has {} entries, more than {limit}", items.len());
            return Err(Fault::new(message, "remove some"));
        }
        let (mut done, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            let Self::Table(table) = item else {
                let message = format!("expected a table, found {}", item.kind());
                faults.push(Fault::new(message, help()));
                continue;
            };
            let mut fields = Fields::new(table, known);
            done.extend(read(&mut fields, &done));
            faults.append(&mut fields.faults);
        }
        match Fault::all(faults) {
            Some(fault) => Err(fault),
            None => Ok(done),
        }
    }
}

/// A table that is being read, and what is wrong with it.
struct Fields<'v> {
    table: &'v Table,
    faults: Vec<Fault>,
}

/// A field does not fit, as a fault says.
struct Unfit;

impl<'v> Fields<'v> {
    fn new(table: &'v Table, known: &[&str]) -> Self {
        let strange = table
            .fields
            .iter()
            .filter(|field| !known.contains(&field.name.as_str()));
        let unknown = |field: &Field| {
            let help = match suggest::closest(&field.name, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let message = format!("unknown key {:?}", field.name);
            Fault::new(message, help).at(field.name_span.clone())
        };
        let faults = strange.map(unknown).collect();
        Self { table, faults }
    }

    /// A field that has to be there. That it is not is said only when it cannot be there under another name.
    fn required<T>(
        &mut self,
        name: &'static str,
        example: &str,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Option<T> {
        let found = self.optional(name, read).ok()?;
        if found.is_none() && self.table.is_whole && self.faults.is_empty() {
            let help = format!("write {name} = {example}");
            let fault = Fault::new(format!("{name} is missing"), help);
            self.faults.push(fault.at(self.table.span.clone()));
        }
        found
    }

    /// A field that need not be there.
    fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<Option<T>, Unfit> {
        let field = self.table.fields.iter().find(|field| field.name == name);
        let Some(field) = field else {
            return Ok(None);
        };
        match read(&field.value) {
            Ok(value) => Ok(Some(value)),
            Err(fault) => {
                let fault = fault.of(name).at(field.value_span.clone());
                self.faults.push(fault);
                Err(Unfit)
            }
        }
    }
}

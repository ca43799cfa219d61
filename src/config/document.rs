//! A configuration file: from text to assignments, with the place of everything that does not fit.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::Excerpt;
use super::schema::{self, KEYS, Key, Node};
use super::value::{Field, Table, Value};
use super::{Assignment, DEFAULT_UPSTREAM, Diagnostic, Finding, Place, SourceLine, host, suggest};

/// A line is cut here when it is shown.
const SHOWN_CHARACTERS: usize = 160;

/// What `text` says, in its order: assignments, and what does not fit.
pub(super) fn walk(file: &Path, text: &str) -> Vec<Finding> {
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    let mut walk = Walk {
        source: Source { file, text },
        docker_hub: docker_hub_table(root.get_ref()),
        broken_lines: BTreeSet::new(),
        findings: Vec::new(),
    };
    for error in &syntax_errors {
        walk.syntax_error(error);
    }
    walk.table(&mut Vec::new(), root.get_ref());
    let mut findings = walk.findings;
    findings.sort_by_key(|(offset, _)| *offset);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// The place of a part of `text`.
pub(super) fn place(file: &Path, text: &str, span: &Range<usize>) -> Place {
    Place::Line(Source { file, text }.line(span))
}

/// Where the table of Docker Hub begins.
fn docker_hub_table(root: &DeTable<'_>) -> Option<Range<usize>> {
    let upstreams = root.get("upstreams")?.get_ref().as_table()?;
    let found = upstreams
        .iter()
        .find(|(name, _)| name.get_ref() == DEFAULT_UPSTREAM);
    found.map(|(name, _)| name.span())
}

struct Walk<'a> {
    source: Source<'a>,
    docker_hub: Option<Range<usize>>,
    /// Lines that are no TOML: nothing else is said about them.
    broken_lines: BTreeSet<usize>,
    /// With the offset where each begins.
    findings: Vec<(usize, Finding)>,
}

impl Walk<'_> {
    fn syntax_error(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or_default();
        let at = self.source.line(&span);
        if self.broken_lines.insert(at.line) {
            let diagnostic = Diagnostic::error(format!("not TOML: {}", error.message()))
                .at(Place::Line(at))
                .help("see https://toml.io for the format");
            self.findings.push((span.start, Finding::Wrong(diagnostic)));
        }
    }

    fn table<'t>(&mut self, path: &mut Vec<&'t str>, table: &'t DeTable<'_>) {
        for (key, value) in table {
            path.push(key.get_ref());
            self.entry(path, key, value);
            path.pop();
        }
    }

    fn entry<'t>(
        &mut self,
        path: &mut Vec<&'t str>,
        key: &Spanned<DeString<'_>>,
        value: &'t Spanned<DeValue<'_>>,
    ) {
        match (schema::find(path), value.get_ref()) {
            (Node::Key { key, upstream }, content) => {
                self.assign(key, upstream, content, &value.span());
            }
            (Node::Table, DeValue::Table(table)) => self.table(path, table),
            (Node::Upstream(name), DeValue::Table(table)) => {
                self.upstream(name, table, path, &key.span());
            }
            (Node::Table | Node::Upstream(_), _) => self.not_a_table(path, &key.span()),
            (Node::Unknown, content) => {
                self.unknown(path, matches!(content, DeValue::Table(_)), &key.span());
            }
        }
    }

    fn assign(
        &mut self,
        key: &'static Key,
        upstream: Option<&str>,
        content: &DeValue<'_>,
        span: &Range<usize>,
    ) {
        let at = self.source.line(span);
        if self.broken_lines.contains(&at.line) {
            return;
        }
        let assignment = Assignment {
            key,
            upstream: upstream.map(str::to_owned),
            value: owned(content, span, self.broken_lines.is_empty()),
            place: Place::Line(at),
        };
        self.findings.push((span.start, Finding::Set(assignment)));
    }

    fn not_a_table(&mut self, path: &[&str], span: &Range<usize>) {
        let header = header(path);
        let message = format!("{} is a table of keys, not a value", path.join("."));
        self.find(
            span,
            message,
            format!("write {header} on a line of its own, and keys below"),
        );
    }

    fn unknown(&mut self, path: &[&str], is_table: bool, span: &Range<usize>) {
        let Some((name, parents)) = path.split_last() else {
            return;
        };
        let noun = if is_table { "table" } else { "key" };
        let message = match parents {
            [] => format!("unknown {noun} {name:?}"),
            _ => format!("unknown {noun} {name:?} in {}", header(parents)),
        };
        self.find(span, message, help_for_unknown(name, parents));
    }

    /// The table of an upstream is looked into only if its name can be one.
    fn upstream<'t>(
        &mut self,
        name: &str,
        table: &'t DeTable<'_>,
        path: &mut Vec<&'t str>,
        span: &Range<usize>,
    ) {
        if host::is_docker_hub_alias(name) {
            self.second_docker_hub(name, span);
        } else if let Some(meant) = unquoted_host(name, table) {
            let message = "the dot in the upstream's name separates two tables".to_owned();
            let help = format!("put the name in quotes: [upstreams.{meant:?}]");
            self.find(span, message, help);
        } else if let Err(fault) = host::check(name) {
            self.find(span, fault.message, fault.help);
        } else {
            let found = Finding::Upstream(name.to_owned());
            self.findings.push((span.start, found));
            self.table(path, table);
        }
    }

    fn second_docker_hub(&mut self, alias: &str, span: &Range<usize>) {
        let line = self
            .docker_hub
            .as_ref()
            .map(|span| self.source.line(span).line);
        let (place, help) = match line {
            Some(line) => (format!(" (line {line})"), "merge the two tables".to_owned()),
            None => (
                String::new(),
                format!("write [upstreams.{DEFAULT_UPSTREAM:?}]"),
            ),
        };
        let message =
            format!("upstreams.{alias:?} is the same registry as {DEFAULT_UPSTREAM:?}{place}");
        self.find(span, message, help);
    }

    fn find(&mut self, span: &Range<usize>, message: String, help: String) {
        let at = self.source.line(span);
        if !self.broken_lines.contains(&at.line) {
            let diagnostic = Diagnostic::error(message).at(Place::Line(at)).help(help);
            self.findings.push((span.start, Finding::Wrong(diagnostic)));
        }
    }
}

/// A near miss in the same table, the table where the key belongs, or what there is.
fn help_for_unknown(name: &str, parents: &[&str]) -> String {
    let siblings = schema::names_in(parents);
    if let Some(meant) = suggest::closest(name, siblings.iter().copied()) {
        return format!("did you mean {meant:?}?");
    }
    let meant = suggest::closest(name, KEYS.iter().map(Key::name));
    if let Some(key) = meant.and_then(|meant| KEYS.iter().find(|key| key.name() == meant)) {
        if key.table().is_empty() {
            return format!(
                "{meant} belongs outside of other tables: [[{meant}]]",
                meant = key.name()
            );
        }
        let table = key.table().replace('*', &format!("{DEFAULT_UPSTREAM:?}"));
        return format!("{:?} belongs in [{table}]", key.name());
    }
    format!("known here: {}", siblings.join(", "))
}

fn header(path: &[&str]) -> String {
    let segments: Vec<_> = path.iter().map(|segment| schema::quoted(segment)).collect();
    format!("[{}]", segments.join("."))
}

/// The host that a name without quotes was meant to be: the only table in it, and so on, is a part of the name.
fn unquoted_host(name: &str, table: &DeTable<'_>) -> Option<String> {
    let (mut host, mut table) = (name.to_owned(), table);
    while let Some((part, value)) = table.iter().next()
        && table.len() == 1
        && let DeValue::Table(inner) = value.get_ref()
    {
        host = format!("{host}.{}", part.get_ref());
        table = inner;
    }
    (host != name && !name.contains('.') && host::check(&host).is_ok()).then_some(host)
}

/// `is_whole` tells whether every line of the file could be read.
fn owned(value: &DeValue<'_>, span: &Range<usize>, is_whole: bool) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).map_or(
            Value::Other("an integer of more than 64 bits"),
            Value::Integer,
        ),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            let item = |item: &Spanned<_>| owned(item.get_ref(), &item.span(), is_whole);
            Value::List(items.iter().map(item).collect())
        }
        DeValue::Table(table) => Value::Table(Table {
            fields: table
                .iter()
                .map(|(key, value)| Field {
                    name: key.get_ref().to_string(),
                    name_span: Some(key.span()),
                    value: owned(value.get_ref(), &value.span(), is_whole),
                    value_span: Some(value.span()),
                })
                .collect(),
            span: Some(span.clone()),
            is_whole,
        }),
    }
}

struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// The place of a span of bytes.
    fn line(&self, span: &Range<usize>) -> SourceLine {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        let column = before[start..].chars().count() + 1;
        let marked = self.text.get(span.clone()).unwrap_or_default();
        let width = marked.lines().next().unwrap_or_default().chars().count();
        SourceLine {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            excerpt: shown(line).map(|text| excerpt(&text, column, width)),
        }
    }
}

fn excerpt(text: &str, column: usize, width: usize) -> Excerpt {
    let blank = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    let text: String = text.chars().take(SHOWN_CHARACTERS).map(blank).collect();
    let fits = column - 1 + width <= text.chars().count();
    Excerpt {
        width: if fits { width } else { 0 },
        text,
    }
}

/// As much of a line as surely shows no secret.
///
/// A value is shown only behind a key that is known and holds no secret: a misspelt `pasword` stays hidden.
fn shown(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, '=');
    let key = parts.next()?;
    let Some(value) = parts.next() else {
        return key.trim_start().starts_with('[').then(|| key.to_owned());
    };
    let name = key.rsplit('.').next()?.trim();
    if schema::is_open(name) && parts.next().is_none() && !value.contains('@') {
        Some(line.to_owned())
    } else {
        Some(format!("{key}= …"))
    }
}

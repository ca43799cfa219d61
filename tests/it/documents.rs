//! What the documents say, as far as a test can tell: links, paths, commands, keys, variables, metrics and tests that
//! they name are there.

#![expect(
    clippy::unwrap_used,
    reason = "a document that cannot be read fails the test"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror::cli::Exit;
use mirror::config::{self, Environment, Loaded, Overrides};
use mirror::registry::{BypassReason, ErrorReason, MissReason, Outcome, StaleReason};
use serde_json::Value;

/// The directories that a path in a document may begin with.
const TOP: [&str; 7] = ["src", "tests", "docs", "examples", "fuzz", ".ci", "benches"];

/// What begins like a path outside the repository: places on a user's machine, and the server's own URLs.
const FOREIGN: [&str; 10] = [
    "/dev/null",
    "/etc/",
    "/run/",
    "/usr/local/bin/",
    "/var/lib/mirror",
    "/v2/",
    "/livez",
    "/readyz",
    "/metrics",
    "/mirror",
];

/// A document of the repository.
struct Document {
    path: PathBuf,
    text: String,
}

/// A block of a document between fences.
struct Fence {
    language: String,
    text: String,
}

impl Document {
    fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let path = PathBuf::from(path);
        Self { path, text }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn fences(&self) -> Vec<Fence> {
        let blocks = self.text.split("```").skip(1).step_by(2);
        blocks
            .map(|block| {
                let (language, text) = block.split_once('\n').unwrap();
                Fence {
                    language: language.to_owned(),
                    text: text.to_owned(),
                }
            })
            .collect()
    }

    fn fences_of(&self, language: &str) -> Vec<String> {
        let fences = self.fences().into_iter();
        fences
            .filter(|fence| fence.language == language)
            .map(|fence| fence.text)
            .collect()
    }

    /// The text outside of fences.
    fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// What the prose sets as code.
    fn spans(&self) -> Vec<String> {
        let prose = self.prose();
        prose
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    /// The targets of links.
    fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let rest = prose.split("](").skip(1);
        rest.map(|rest| rest.split(')').next().unwrap().to_owned())
            .collect()
    }

    /// The rows of the table under `header`, cell by cell, without code marks.
    fn table(&self, header: &str) -> Vec<Vec<String>> {
        let lines = self.text.lines().skip_while(|line| *line != header).skip(2);
        let rows: Vec<_> = lines
            .take_while(|line| line.starts_with('|'))
            .map(cells)
            .collect();
        assert!(!rows.is_empty(), "{}: no table {header}", self.name());
        rows
    }
}

fn cells(row: &str) -> Vec<String> {
    let row = row.strip_prefix('|').unwrap();
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    row.split('|').map(cell).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document of the repository, wherever it is.
fn documents() -> Vec<Document> {
    let mut paths = files(&["docs", "examples"], "md");
    let top = fs::read_dir(root()).unwrap().flatten();
    let top = top.map(|entry| PathBuf::from(entry.file_name()));
    paths.extend(top.filter(|path| path.extension().is_some_and(|it| it == "md")));
    paths.push("fuzz/README.md".into());
    assert!(paths.len() > 10, "only {paths:?}");
    paths
        .iter()
        .map(|path| Document::read(path.to_str().unwrap()))
        .collect()
}

/// The files with an extension below some directories, relative to the repository.
fn files(directories: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut left: Vec<_> = directories.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(root().join(&directory)).unwrap().flatten() {
            let path = directory.join(entry.file_name());
            if entry.path().is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// All sources in one text.
fn sources() -> String {
    let files = files(&["src", "tests", "examples"], "rs");
    let texts = files
        .iter()
        .map(|path| fs::read_to_string(root().join(path)).unwrap());
    texts.collect()
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    letters
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere_in_the_repository() {
    for document in documents() {
        for link in document.links() {
            let place = format!("{}: {link}", document.name());
            assert!(!link.contains("://"), "{place} leads away");
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let from = root().join(&document.path);
            let target = match path {
                "" => from,
                path => from.parent().unwrap().join(path),
            };
            let target = target.canonicalize();
            let target = target.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(
                target.starts_with(root().canonicalize().unwrap()),
                "{place}"
            );
            if !heading.is_empty() {
                let text = fs::read_to_string(target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|line| anchor(line) == heading), "{place}");
            }
        }
    }
}

#[test]
fn every_path_that_is_named_is_there() {
    for document in documents() {
        for span in document.spans() {
            let (top, below) = span.split_once('/').unwrap_or_default();
            if TOP.contains(&top) && !below.contains(['<', '*', ' ']) {
                let path = root().join(&span);
                assert!(path.exists(), "{}: {span} is not there", document.name());
            }
        }
    }
}

#[test]
fn every_module_that_is_named_is_there() {
    let is_part = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    for document in documents() {
        for span in document.spans() {
            if span.contains("::") && span.split("::").all(is_part) {
                let module = root().join("src").join(span.replace("::", "/"));
                let is_there =
                    module.with_extension("rs").exists() || module.join("mod.rs").exists();
                assert!(is_there, "{}: {span} is not there", document.name());
            }
        }
    }
}

#[test]
fn no_document_names_a_place_outside_but_a_users() {
    let separators = |letter: char| letter.is_whitespace() || "`\"'()[]=,|;".contains(letter);
    for document in documents() {
        for word in document.text.split(separators) {
            let is_path = word
                .strip_prefix('/')
                .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_alphanumeric()));
            let known = FOREIGN.iter().any(|prefix| word.starts_with(prefix));
            assert!(!is_path || known, "{}: {word}", document.name());
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let sources = sources();
    for document in documents() {
        for span in document.spans() {
            let is_function = span
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if is_function && span.matches('_').count() > 3 && !span.starts_with("mirror_") {
                let function = format!("fn {span}(");
                assert!(sources.contains(&function), "{}: {span}", document.name());
            }
        }
    }
}

#[test]
fn every_limit_of_the_architecture_exists() {
    let sources = sources();
    let rows = Document::read("ARCHITECTURE.md").table("| what | limit | where |");
    for name in rows.iter().flat_map(|row| row[2].split([' ', ',', '`'])) {
        if name.starts_with(|first: char| first.is_ascii_uppercase()) {
            let is_there = ["const", "struct"]
                .iter()
                .any(|item| sources.contains(&format!("{item} {name}")));
            assert!(is_there, "{name}");
        }
    }
}

#[test]
fn every_command_and_its_flags_exist() {
    let mut commands = Vec::new();
    for document in documents() {
        let lines = document.fences_of("sh").join("\n");
        commands.extend(lines.lines().filter_map(own_command));
        commands.extend(document.spans().iter().filter_map(|span| own_command(span)));
    }
    let service = fs::read_to_string(root().join("examples/mirror.service")).unwrap();
    let start = service
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    commands.extend(own_command(start.unwrap()));
    assert!(commands.len() > 4, "only {commands:?}");
    for command in commands {
        assert_exists(&command);
    }
}

/// The arguments of a command that runs this program.
fn own_command(line: &str) -> Option<Vec<String>> {
    let line = line.trim().trim_start_matches("sudo ");
    let is_variable = |word: &&str| word.contains('=') && !word.starts_with('-');
    let mut words = line.split_whitespace().skip_while(is_variable);
    let program = words.next()?;
    let arguments: Vec<_> = words.map(str::to_owned).collect();
    if program == "mirror" || program.ends_with("/mirror") {
        return (!arguments.is_empty()).then_some(arguments);
    }
    let after = arguments.iter().position(|word| word == "--")?;
    let is_ours = program == "cargo" && !arguments[..after].contains(&"--example".to_owned());
    let is_run = arguments.first().is_some_and(|word| word == "run");
    (is_ours && is_run).then(|| arguments[after + 1..].to_vec())
}

fn assert_exists(arguments: &[String]) {
    let is_word = |word: &&String| word.bytes().all(|byte| byte.is_ascii_lowercase());
    let commands: Vec<_> = arguments.iter().take_while(is_word).collect();
    let mut program = Command::new(env!("CARGO_BIN_EXE_mirror"));
    let help = program.args(&commands).arg("--help").output().unwrap();
    assert!(help.status.success(), "{arguments:?}");
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in arguments.iter().filter(|word| word.starts_with('-')) {
        let mut words = help.split([' ', ',', '\n']);
        assert!(words.any(|word| word == flag), "{arguments:?}: {flag}");
    }
}

#[test]
fn every_cargo_target_that_is_named_exists() {
    for document in documents() {
        let text = &document.text;
        for (option, directory) in [
            ("cargo run --example ", "examples"),
            ("cargo fuzz run ", "fuzz/fuzz_targets"),
        ] {
            for rest in text.split(option).skip(1) {
                let name = rest.split([' ', '\n', '`']).next().unwrap();
                let path = root().join(directory).join(format!("{name}.rs"));
                assert!(path.exists(), "{}: {option}{name}", document.name());
            }
        }
    }
}

/// Loads a configuration, with no environment but `variables`.
fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Loaded, config::Invalid> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mirror.toml");
    fs::write(&file, toml).unwrap();
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let environment = Environment::new(variables, true);
    config::load(Some(&file), &environment, &Overrides::default())
}

/// Every key of the reference by its full path, with the value that it shows.
fn reference() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("mirror.toml")).unwrap();
    let (mut section, mut keys) = ("", BTreeMap::new());
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('[').or(line.strip_prefix("#[[")) {
            section = header.trim_end_matches(']');
        }
        let hidden = line.strip_prefix('#').and_then(|it| it.split_once(" = "));
        if let Some((key, value)) = hidden
            && key.starts_with(|first: char| first.is_ascii_lowercase())
        {
            keys.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    keys
}

#[test]
fn every_key_that_is_named_exists() {
    let reference = reference();
    let sections = [
        "server.",
        "listener.",
        "storage.",
        "cache.",
        "upstreams.",
        "access.",
        "log.",
    ];
    for document in documents() {
        for span in document.spans() {
            let key = span.split(" = ").next().unwrap();
            let is_key = sections.iter().any(|section| key.starts_with(section));
            if is_key && !key.contains(['/', ' ']) {
                assert!(reference.contains_key(key), "{}: {span}", document.name());
            }
        }
    }
}

/// The parts of a cell that lists several pieces of code.
fn pieces(cell: &str) -> Vec<&str> {
    cell.split("`, `")
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[test]
fn the_defaults_in_the_readme_are_the_reference_ones() {
    let reference = reference();
    for row in Document::read("README.md").table("| key | default | |") {
        let (keys, defaults) = (pieces(&row[0]), pieces(&row[1]));
        let value = |key: &&str| reference.get(*key).unwrap_or_else(|| panic!("{key}"));
        let values: Vec<_> = keys.iter().map(value).collect();
        if !defaults.is_empty() {
            assert_eq!(values, defaults, "{keys:?}");
        }
    }
}

#[test]
fn every_key_is_explained_in_the_reference() {
    let reference = reference();
    for key in [
        "server.offline",
        "listener.address",
        "listener.repository",
        "cache.stale_if_error",
        "cache.stale_if_deleted",
        "cache.negative_ttl",
        "access.anonymous_private",
    ] {
        assert!(reference.contains_key(key), "{key}");
    }
    let upstream = "tag_ttl tag_rules allow deny mirrors proxy credentials logins rate_reserve";
    for key in upstream.split(' ') {
        let key = format!("upstreams.\"docker.io\".{key}");
        assert!(reference.contains_key(&key), "{key}");
    }
}

#[test]
fn every_snippet_of_the_configuration_is_valid() {
    let mut found = 0;
    for document in documents() {
        for snippet in document.fences_of("toml") {
            let parsed: toml::Table = snippet.parse().unwrap();
            let first = snippet.lines().next().unwrap();
            if first == "# mirror.toml" {
                load(&snippet, &[("DOCKERHUB_TOKEN", "secret")]).unwrap();
                found += 1;
            } else if let Some(example) = first.strip_prefix("# examples/") {
                let example = root().join("examples").join(example);
                let example: toml::Table = fs::read_to_string(example).unwrap().parse().unwrap();
                assert_eq!(parsed, example, "{}: {first}", document.name());
                found += 1;
            }
        }
    }
    assert!(found > 2, "only {found} snippets");
}

#[test]
fn every_variable_that_is_named_means_something() {
    let mut texts: Vec<_> = documents()
        .into_iter()
        .map(|document| (document.name(), document.text))
        .collect();
    for name in ["mirror.service", "compose.yaml"] {
        let path = root().join("examples").join(name);
        texts.push((name.to_owned(), fs::read_to_string(path).unwrap()));
    }
    let is_part = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    for (document, text) in texts {
        let words = text.split(|letter| !is_part(letter));
        for name in words.filter(|word| word.starts_with("MIRROR_") && word.contains("__")) {
            let (warnings, errors) = match load("", &[(name, "")]) {
                Ok(loaded) => (loaded.warnings, Vec::new()),
                Err(invalid) => (invalid.warnings, invalid.errors),
            };
            let said: Vec<_> = warnings.iter().chain(&errors).collect();
            let unknown = said.iter().any(|it| it.message.contains("means nothing"));
            assert!(!unknown, "{document}: {name}");
        }
    }
}

#[test]
fn docker_is_told_the_same_everywhere() {
    let example = fs::read_to_string(root().join("examples/daemon.json")).unwrap();
    let example: Value = serde_json::from_str(&example).unwrap();
    assert_eq!(
        example["registry-mirrors"],
        serde_json::json!(["http://127.0.0.1:5000"])
    );
    let snippets = Document::read("README.md").fences_of("json");
    assert!(!snippets.is_empty());
    for snippet in snippets {
        let snippet: Value = serde_json::from_str(&snippet).unwrap();
        assert_eq!(snippet, example);
    }
    let defaults = config::Settings::default();
    let listen = defaults.server.listen[0].to_string();
    assert_eq!(format!("http://{listen}"), example["registry-mirrors"][0]);
}

#[test]
fn the_readme_lists_the_exit_codes() {
    let rows = Document::read("README.md").table("| exit code | meaning |");
    let listed: Vec<_> = rows
        .iter()
        .map(|row| row[0].parse::<u8>().unwrap())
        .collect();
    let codes = [Exit::Success, Exit::Failed, Exit::Usage, Exit::Unreachable].map(Exit::code);
    assert_eq!(listed, codes);
}

#[test]
fn the_readme_lists_the_outcomes() {
    let rows = Document::read("README.md").table("| outcome | meaning |");
    let listed: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    let outcomes = [
        Outcome::Hit,
        Outcome::Revalidated,
        Outcome::Coalesced,
        Outcome::Miss(MissReason::Absent),
        Outcome::Bypass(BypassReason::NeverCache),
        Outcome::Stale(StaleReason::Timeout),
        Outcome::Negative,
        Outcome::Error(ErrorReason::NotFound),
    ];
    assert_eq!(listed, outcomes.map(Outcome::label));
}

#[test]
fn every_metric_that_is_named_exists() {
    let sources = sources();
    for span in documents().iter().flat_map(Document::spans) {
        if span.starts_with("mirror_") {
            let registered = format!("\"{}\"", span.trim_end_matches("_total"));
            assert!(sources.contains(&registered), "{span}");
        }
    }
}

#[test]
fn the_changelog_has_this_version_and_the_readme_is_short() {
    let version = format!("## {}", env!("CARGO_PKG_VERSION"));
    let changes = Document::read("CHANGELOG.md").text;
    assert!(changes.lines().any(|line| line.starts_with(&version)));
    assert!(Document::read("README.md").text.lines().count() <= 250);
}

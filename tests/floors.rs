//! The floors of `ARCHITECTURE.md`: a module imports only floors below its own. A scan of the text, no build.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that reads the sources"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Every module of the crate, with its floor.
const FLOORS: &[(&str, u8)] = &[
    ("main", 11),
    ("cli", 11),
    ("app", 10),
    ("config", 9),
    ("http", 8),
    ("directory", 6),
    ("proxy", 5),
    ("fetch", 4),
    ("blobs", 3),
    ("upstream", 2),
    ("store", 2),
    ("index", 2),
    ("registry", 1),
    ("oci", 0),
    ("sys", 0),
];

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    importer: (String, u8),
    imported: (String, u8),
}

fn floor(module: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, floor)| *floor)
}

/// The modules of this crate that a source text names, as `crate::x` or, in `main`, `use mirror::x`.
fn named(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.flat_map(|line| [line, "\n"]).collect();
    let mut found = Vec::new();
    for prefix in ["crate::", "use mirror::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code.get(..at).and_then(|text| text.chars().next_back());
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let rest = code.get(at + prefix.len()..).unwrap_or_default();
            found.extend(heads(rest));
        }
    }
    found
}

/// The first path components of what follows a prefix: one, or several in braces.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let (mut depth, mut item, mut items) = (0_usize, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    items.push(item);
    items
        .iter()
        .map(|item| word(item.trim()))
        .filter(|item| !item.is_empty())
        .collect()
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

fn module_of(file: &Path, sources: &Path) -> String {
    let relative = file.strip_prefix(sources).expect("a source file");
    let first = relative
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
    {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

fn violations(file: &Path, module: &str, text: &str) -> Vec<Violation> {
    let own = floor(module).unwrap_or_else(|| {
        panic!(
            "{}: {module} has no floor in tests/floors.rs",
            file.display()
        )
    });
    let upward = |imported: &String| {
        let theirs = floor(imported)?;
        (imported != module && theirs >= own && (module, imported.as_str()) != ("main", "cli"))
            .then(|| Violation {
                file: file.to_owned(),
                importer: (module.to_owned(), own),
                imported: (imported.clone(), theirs),
            })
    };
    named(text).iter().filter_map(upward).collect()
}

#[test]
fn no_module_imports_its_own_floor_or_one_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the scan found only {files:?}");
    let mut found = Vec::new();
    for file in files {
        let module = module_of(&file, &root);
        if module != "lib" {
            let text = fs::read_to_string(&file).expect("a readable file");
            found.extend(violations(&file, &module, &text));
        }
    }
    assert_eq!(found, [], "upward imports");
}

#[test]
fn the_scan_sees_every_form_of_import() {
    let file = Path::new("x.rs");
    let forms = [
        "use crate::http::Server;",
        "use crate::{oci::Digest, http::{Server, Settings}};",
        "use mirror::http::Server;",
        "fn f() -> crate::http::Server {",
        "use crate::store::Store;",
    ];
    for form in forms {
        assert_eq!(
            violations(file, "store", form).len(),
            usize::from(!form.contains("store")),
            "{form}"
        );
        assert_eq!(
            violations(file, "blobs", form).len(),
            usize::from(!form.contains("store")),
            "{form}"
        );
    }
    for harmless in [
        "// use crate::http::Server;",
        "use supercrate::http;",
        "use crate::oci::Digest;",
    ] {
        assert_eq!(violations(file, "store", harmless), [], "{harmless}");
    }
    assert_eq!(
        violations(file, "index", "use crate::store::Store;").len(),
        1,
        "neighbours on a floor"
    );
}

#[test]
fn the_table_is_the_one_of_the_document() {
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
            .expect("ARCHITECTURE.md");
    for (module, floor) in FLOORS {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("{floor:>2} ")));
        assert!(
            row.is_some_and(|row| row.contains(module)),
            "floor {floor} does not name {module}"
        );
    }
}

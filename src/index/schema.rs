//! The schema and its migrations. `docs/design/on-disk-format.md` says what each table holds.

use std::path::Path;

use rusqlite::backup::Progress;
use rusqlite::{Connection, MAIN_DB, OptionalExtension as _, params};

use crate::sys::fs::{Disk as _, OsDisk};

/// The migrations in order: the n-th leads from schema n to schema n + 1. Never edit one that was released.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE repository (
        id INTEGER PRIMARY KEY,
        upstream TEXT NOT NULL,
        name TEXT NOT NULL,
        UNIQUE (upstream, name)
    );
    CREATE TABLE blob (
        digest TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        used INTEGER NOT NULL,
        segment INTEGER NOT NULL DEFAULT 0,
        rank INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX blob_by_rank ON blob (segment, rank);
    CREATE TABLE doomed (digest TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE total (
        segment INTEGER PRIMARY KEY,
        blobs INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    );
    INSERT INTO total (segment, blobs, bytes) VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0);
    CREATE TRIGGER blob_added AFTER INSERT ON blob BEGIN
        UPDATE total SET blobs = blobs + 1, bytes = bytes + (new.size + 4095) / 4096 * 4096
        WHERE segment = new.segment;
    END;
    CREATE TRIGGER blob_removed AFTER DELETE ON blob BEGIN
        UPDATE total SET blobs = blobs - 1, bytes = bytes - (old.size + 4095) / 4096 * 4096
        WHERE segment = old.segment;
    END;
    CREATE TRIGGER blob_moved AFTER UPDATE OF segment, size ON blob
    WHEN old.segment <> new.segment OR old.size <> new.size BEGIN
        UPDATE total SET blobs = blobs - 1, bytes = bytes - (old.size + 4095) / 4096 * 4096
        WHERE segment = old.segment;
        UPDATE total SET blobs = blobs + 1, bytes = bytes + (new.size + 4095) / 4096 * 4096
        WHERE segment = new.segment;
    END;
    CREATE TABLE manifest (
        digest TEXT PRIMARY KEY,
        media_type TEXT NOT NULL,
        bytes BLOB NOT NULL
    );
    CREATE TABLE tag (
        repository INTEGER NOT NULL REFERENCES repository (id),
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        checked INTEGER NOT NULL,
        PRIMARY KEY (repository, name)
    ) WITHOUT ROWID;
    CREATE TABLE member (
        repository INTEGER NOT NULL REFERENCES repository (id),
        digest TEXT NOT NULL,
        size INTEGER,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE TABLE list (
        repository INTEGER NOT NULL REFERENCES repository (id),
        key TEXT NOT NULL,
        bytes BLOB NOT NULL,
        fetched INTEGER NOT NULL,
        PRIMARY KEY (repository, key)
    );
    CREATE INDEX list_by_age ON list (fetched);
",
    "
    CREATE TABLE memo (
        topic TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        noted INTEGER NOT NULL,
        PRIMARY KEY (topic, key)
    ) WITHOUT ROWID;
    CREATE INDEX memo_by_age ON memo (topic, noted);
",
];

const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// What became of the schema when the index was opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Migrated {
    /// It was current, or brought up to date.
    Current,
    /// A newer version wrote it; nothing was touched.
    Newer { written_by: String },
}

/// Brings the schema up to the last of `migrations`, after a copy of what was there.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> rusqlite::Result<Migrated> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = found as usize;
    if found > migrations.len() {
        return Ok(Migrated::Newer {
            written_by: written_by(connection)?,
        });
    }
    let outstanding = migrations.get(found..).unwrap_or_default();
    if outstanding.is_empty() {
        return sign(connection).map(|()| Migrated::Current);
    }
    if found > 0 {
        let copy = path.with_extension(format!("sqlite3.v{found}.backup"));
        create_private(&copy);
        connection.backup(MAIN_DB, copy, None::<fn(Progress)>)?;
    }
    let transaction = connection.transaction()?;
    outstanding
        .iter()
        .try_for_each(|step| transaction.execute_batch(step))?;
    sign(&transaction)?;
    let reached = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    transaction.pragma_update(None, "user_version", reached)?;
    transaction.commit()?;
    Ok(Migrated::Current)
}

/// Makes the copy readable by this user alone, as `SQLite` would not. If that fails, so will the copying.
fn create_private(copy: &Path) {
    if let Err(error) = OsDisk.create(copy) {
        tracing::debug!(copy = %copy.display(), %error, "the copy of the index is not created beforehand");
    }
}

/// Notes which version last opened the index, unless it is noted already: most starts write nothing.
fn sign(connection: &Connection) -> rusqlite::Result<()> {
    if written_by(connection)? == CURRENT {
        return Ok(());
    }
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('written_by', ?1)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        params![CURRENT],
    )?;
    Ok(())
}

fn written_by(connection: &Connection) -> rusqlite::Result<String> {
    let found = connection
        .query_row(
            "SELECT value FROM meta WHERE key = 'written_by'",
            [],
            |row| row.get(0),
        )
        .optional()?;
    Ok(found.unwrap_or_else(|| "of an unknown version".to_owned()))
}

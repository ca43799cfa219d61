//! The embedded index: `SQLite`, one connection that writes and a few that read.
//!
//! A statement that changes nothing is not executed: writing costs the write-ahead log, and a warm pull must not.

mod blob;
mod memo;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::ffi::{ErrorCode, SQLITE_IOERR_SHMSIZE};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, Transaction, params};

use super::schema::{MIGRATIONS, Migrated, migrate};
use super::{
    BlobRecord, Epoch, Index, IndexError, ListRecord, ManifestArrival, ManifestRecord, Membership,
    RepositoryKey, TagRecord, Usage, Victim, Walked, WalkedTag,
};
use crate::oci::{Digest, Tag};
use crate::sys::clock::Timestamp;

const READERS: usize = 2;
const BUSY: Duration = Duration::from_secs(10);
const STATEMENTS: usize = 32;

/// How many lists are kept; those fetched longest ago give way. Anyone may ask for the referrers of anything.
const LISTS: i64 = 10_000;

/// An index in one `SQLite` file.
#[derive(Debug)]
pub struct SqliteIndex {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: [Mutex<Connection>; READERS],
}

impl SqliteIndex {
    /// Opens the index at `path`, creating or migrating it.
    ///
    /// # Errors
    /// [`IndexError::Newer`] when a newer version wrote it, [`IndexError::Full`] when the disk is full,
    /// [`IndexError::Database`] for anything else.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_with(path, MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, IndexError> {
        let opened = Self::connect(path, migrations).map_err(|source| failed(path, source))?;
        opened.map_err(|written_by| IndexError::Newer {
            path: path.to_owned(),
            written_by,
            version: env!("CARGO_PKG_VERSION"),
        })
    }

    fn connect(path: &Path, migrations: &[&str]) -> rusqlite::Result<Result<Self, String>> {
        let mut writer = connection(path)?;
        if let Migrated::Newer { written_by } = migrate(&mut writer, path, migrations)? {
            return Ok(Err(written_by));
        }
        let readers = [Mutex::new(connection(path)?), Mutex::new(connection(path)?)];
        Ok(Ok(Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers,
        }))
    }

    /// Runs `query` on whichever reader is free.
    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        let free = self
            .readers
            .iter()
            .find_map(|reader| reader.try_lock().ok());
        let [first, ..] = &self.readers;
        let reader = free.unwrap_or_else(|| lock(first));
        query(&reader).map_err(|source| failed(&self.path, source))
    }

    /// Runs `change` in one transaction.
    fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        let mut writer = lock(&self.writer);
        let run = || {
            let transaction = writer.transaction()?;
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|source| failed(&self.path, source))
    }
}

fn connection(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // The log and its map stay when the last connection closes: where the disk is full by the next start, nothing
    // could be created anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(path: &Path, source: rusqlite::Error) -> IndexError {
    let path = path.to_owned();
    if is_full(&source) {
        IndexError::Full { path, source }
    } else {
        IndexError::Database { path, source }
    }
}

/// Whether the disk has no space left. Where the map of the log cannot grow, `SQLite` says so in its extended code
/// alone.
fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull || error.extended_code == SQLITE_IOERR_SHMSIZE
    })
}

impl Index for SqliteIndex {
    fn blob(&self, digest: Digest) -> Result<Option<BlobRecord>, IndexError> {
        self.read(|reader| blob::get(reader, digest))
    }

    fn insert_blob(&self, digest: Digest, record: BlobRecord) -> Result<(), IndexError> {
        self.write(|writer| blob::insert(writer, digest, record))
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), IndexError> {
        self.write(|writer| blob::remove(writer, digest))
    }

    fn confirm_blob(&self, digest: Digest, epoch: Epoch) -> Result<(), IndexError> {
        self.write(|writer| blob::confirm(writer, digest, epoch))
    }

    fn walk_blobs(&self, after: Option<Digest>, limit: u64) -> Result<Vec<Walked>, IndexError> {
        self.read(|reader| blob::walk(reader, after, limit))
    }

    fn pin_blobs(&self, digests: &[Digest]) -> Result<(), IndexError> {
        self.write(|writer| blob::pin(writer, digests))
    }

    fn usage(&self) -> Result<Usage, IndexError> {
        self.read(blob::usage)
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), IndexError> {
        self.write(|writer| blob::touch(writer, uses))
    }

    fn demote(&self, bytes: u64, now: Timestamp) -> Result<(), IndexError> {
        self.write(|writer| blob::demote(writer, bytes, now))
    }

    fn victims(&self, skip: u64, limit: u64) -> Result<Vec<Victim>, IndexError> {
        self.read(|reader| blob::victims(reader, skip, limit))
    }

    fn doom(&self, digests: &[Digest]) -> Result<(), IndexError> {
        self.write(|writer| blob::doom(writer, digests))
    }

    fn doomed(&self) -> Result<Vec<Digest>, IndexError> {
        self.read(blob::doomed)
    }

    fn bury(&self, digests: &[Digest]) -> Result<(), IndexError> {
        self.write(|writer| blob::bury(writer, digests))
    }

    fn manifest(&self, digest: Digest) -> Result<Option<ManifestRecord>, IndexError> {
        self.read(|reader| {
            let sql = "SELECT media_type, bytes FROM manifest WHERE digest = ?1";
            one(reader, sql, params![text(digest)], |row| {
                let media_type: String = row.get(0)?;
                let bytes: Vec<u8> = row.get(1)?;
                Ok(ManifestRecord {
                    media_type: media_type.into(),
                    bytes: Bytes::from(bytes),
                })
            })
        })
    }

    fn insert_manifest(&self, arrival: &ManifestArrival<'_>) -> Result<(), IndexError> {
        self.write(|writer| {
            let sql = "INSERT INTO manifest (digest, media_type, bytes) VALUES (?1, ?2, ?3)
                       ON CONFLICT (digest) DO NOTHING";
            let ManifestRecord { media_type, bytes } = arrival.record;
            writer.prepare_cached(sql)?.execute(params![
                text(arrival.digest),
                media_type.as_ref(),
                bytes.as_ref()
            ])?;
            let repository = repository_id(writer, arrival.repository)?;
            insert_member(writer, repository, arrival.digest, Some(bytes.len() as u64))?;
            for (digest, size) in arrival.members {
                insert_member(writer, repository, *digest, Some(*size))?;
            }
            let Some((tag, checked)) = arrival.tag else {
                return Ok(());
            };
            set_tag(
                writer,
                repository,
                tag,
                TagRecord {
                    digest: arrival.digest,
                    checked,
                },
            )
        })
    }

    fn tag(&self, repository: &RepositoryKey, tag: &Tag) -> Result<Option<TagRecord>, IndexError> {
        self.read(|reader| {
            let sql = "SELECT tag.digest, tag.checked FROM tag JOIN repository ON repository.id = tag.repository
                       WHERE repository.upstream = ?1 AND repository.name = ?2 AND tag.name = ?3";
            let key = params![&*repository.upstream, repository.name.as_str(), tag.as_str()];
            one(reader, sql, key, |row| {
                Ok(TagRecord { digest: digest(row, 0)?, checked: timestamp(row, 1)? })
            })
        })
    }

    fn set_tag(
        &self,
        repository: &RepositoryKey,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), IndexError> {
        self.write(|writer| {
            let repository = repository_id(writer, repository)?;
            set_tag(writer, repository, tag, record)
        })
    }

    fn walk_tags(
        &self,
        after: Option<&WalkedTag>,
        limit: u64,
    ) -> Result<Vec<WalkedTag>, IndexError> {
        self.read(|reader| {
            let sql = "SELECT repository.upstream, repository.name, tag.name, tag.digest
                       FROM repository JOIN tag ON tag.repository = repository.id
                       WHERE (repository.upstream, repository.name, tag.name) > (?1, ?2, ?3)
                       ORDER BY repository.upstream, repository.name, tag.name LIMIT ?4";
            let after = after.map_or(("", "", ""), |after| {
                let RepositoryKey { upstream, name } = &after.repository;
                (&**upstream, name.as_str(), after.tag.as_str())
            });
            let mut query = reader.prepare_cached(sql)?;
            let key = params![after.0, after.1, after.2, signed(limit)];
            let rows = query.query_map(key, walked_tag)?;
            rows.collect()
        })
    }

    fn member(
        &self,
        repository: &RepositoryKey,
        digest: Digest,
    ) -> Result<Option<Membership>, IndexError> {
        self.read(|reader| {
            let sql = "SELECT member.size FROM member JOIN repository ON repository.id = member.repository
                       WHERE repository.upstream = ?1 AND repository.name = ?2 AND member.digest = ?3";
            let key = params![&*repository.upstream, repository.name.as_str(), text(digest)];
            one(reader, sql, key, |row| {
                let size: Option<i64> = row.get(0)?;
                Ok(Membership { size: size.map(i64::unsigned_abs) })
            })
        })
    }

    fn insert_member(
        &self,
        repository: &RepositoryKey,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<(), IndexError> {
        self.write(|writer| {
            let repository = repository_id(writer, repository)?;
            insert_member(writer, repository, digest, size)
        })
    }

    fn note(&self, key: &str) -> Result<Option<String>, IndexError> {
        self.read(|reader| {
            let sql = "SELECT value FROM meta WHERE key = ?1";
            one(reader, sql, params![key], |row| row.get(0))
        })
    }

    fn set_notes(&self, notes: &[(&str, &str)]) -> Result<(), IndexError> {
        self.write(|writer| {
            let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
                       ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            let mut note = writer.prepare_cached(sql)?;
            let mut each = notes.iter();
            each.try_for_each(|(key, value)| note.execute(params![key, value]).map(drop))
        })
    }

    fn list(
        &self,
        repository: &RepositoryKey,
        key: &str,
    ) -> Result<Option<ListRecord>, IndexError> {
        self.read(|reader| {
            let sql = "SELECT list.bytes, list.fetched FROM list JOIN repository ON repository.id = list.repository
                       WHERE repository.upstream = ?1 AND repository.name = ?2 AND list.key = ?3";
            let key = params![&*repository.upstream, repository.name.as_str(), key];
            one(reader, sql, key, |row| {
                let bytes: Vec<u8> = row.get(0)?;
                Ok(ListRecord { bytes: Bytes::from(bytes), fetched: timestamp(row, 1)? })
            })
        })
    }

    fn set_list(
        &self,
        repository: &RepositoryKey,
        key: &str,
        list: &ListRecord,
    ) -> Result<(), IndexError> {
        self.write(|writer| {
            let repository = repository_id(writer, repository)?;
            let sql = "INSERT INTO list (repository, key, bytes, fetched) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (repository, key) DO UPDATE SET bytes = excluded.bytes, fetched = excluded.fetched";
            let fetched = signed(list.fetched.as_millis());
            writer.prepare_cached(sql)?.execute(params![repository, key, list.bytes.as_ref(), fetched])?;
            let sql = "DELETE FROM list WHERE fetched <
                       (SELECT fetched FROM list ORDER BY fetched DESC LIMIT 1 OFFSET ?1)";
            writer.prepare_cached(sql)?.execute(params![LISTS - 1])?;
            Ok(())
        })
    }
}

/// The repository's number, given on first use.
fn repository_id(writer: &Transaction<'_>, key: &RepositoryKey) -> rusqlite::Result<i64> {
    let (upstream, name) = (&*key.upstream, key.name.as_str());
    let sql = "SELECT id FROM repository WHERE upstream = ?1 AND name = ?2";
    if let Some(id) = one(writer, sql, params![upstream, name], |row| row.get(0))? {
        return Ok(id);
    }
    let sql = "INSERT INTO repository (upstream, name) VALUES (?1, ?2)";
    writer.prepare_cached(sql)?.insert(params![upstream, name])
}

fn insert_member(
    writer: &Transaction<'_>,
    repository: i64,
    digest: Digest,
    size: Option<u64>,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO member (repository, digest, size) VALUES (?1, ?2, ?3)
               ON CONFLICT (repository, digest) DO UPDATE SET size = excluded.size
               WHERE excluded.size IS NOT NULL AND member.size IS NOT excluded.size";
    writer
        .prepare_cached(sql)?
        .execute(params![repository, text(digest), size.map(signed)])?;
    Ok(())
}

fn set_tag(
    writer: &Transaction<'_>,
    repository: i64,
    tag: &Tag,
    record: TagRecord,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tag (repository, name, digest, checked) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, checked = excluded.checked";
    let checked = signed(record.checked.as_millis());
    writer.prepare_cached(sql)?.execute(params![
        repository,
        tag.as_str(),
        text(record.digest),
        checked
    ])?;
    Ok(())
}

fn one<T>(
    connection: &Connection,
    sql: &str,
    key: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    connection
        .prepare_cached(sql)?
        .query_row(key, read)
        .optional()
}

fn text(digest: Digest) -> String {
    digest.to_string()
}

fn walked_tag(row: &Row<'_>) -> rusqlite::Result<WalkedTag> {
    let upstream: String = row.get(0)?;
    Ok(WalkedTag {
        repository: RepositoryKey {
            upstream: upstream.into(),
            name: parsed(row, 1)?,
        },
        tag: parsed(row, 2)?,
        digest: digest(row, 3)?,
    })
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    parsed(row, column)
}

fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

/// `SQLite` integers are signed; sizes and times beyond 2^63 do not occur and are clamped.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

fn timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    unsigned(row, column).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests;

//! What is known of blobs.
//!
//! A blob's segment is its place in the order of eviction: 0 until it is used again, 1 from then on, 2 while it is
//! pinned. Victims come from the first two, each ordered by rank.

use rusqlite::{Connection, Row, params};

use super::{digest, one, signed, text, timestamp, unsigned};
use crate::index::{BlobRecord, Epoch, Usage, Victim, Walked};
use crate::oci::{Checksum, Digest};
use crate::sys::clock::Timestamp;

pub(super) fn get(reader: &Connection, digest: Digest) -> rusqlite::Result<Option<BlobRecord>> {
    let sql = "SELECT size, stored, checksum, epoch FROM blob WHERE digest = ?1";
    one(reader, sql, params![text(digest)], |row| {
        Ok(BlobRecord {
            size: unsigned(row, 0)?,
            stored: timestamp(row, 1)?,
            checksum: Checksum(row.get(2)?),
            epoch: Epoch(unsigned(row, 3)?),
        })
    })
}

pub(super) fn insert(
    writer: &Connection,
    digest: Digest,
    record: BlobRecord,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO blob (digest, size, stored, checksum, epoch, used, rank)
               VALUES (?1, ?2, ?3, ?4, ?5, ?3, ?3)
               ON CONFLICT (digest) DO UPDATE SET size = excluded.size, stored = excluded.stored,
               checksum = excluded.checksum, epoch = excluded.epoch";
    let (size, stored) = (signed(record.size), signed(record.stored.as_millis()));
    let epoch = signed(record.epoch.0);
    let values = params![text(digest), size, stored, record.checksum.0, epoch];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}

pub(super) fn remove(writer: &Connection, digest: Digest) -> rusqlite::Result<()> {
    let sql = "DELETE FROM blob WHERE digest = ?1";
    writer
        .prepare_cached(sql)?
        .execute(params![text(digest)])
        .map(drop)
}

pub(super) fn confirm(writer: &Connection, digest: Digest, epoch: Epoch) -> rusqlite::Result<()> {
    let sql = "UPDATE blob SET epoch = ?2 WHERE digest = ?1 AND epoch < ?2";
    let values = params![text(digest), signed(epoch.0)];
    writer.prepare_cached(sql)?.execute(values).map(drop)
}

pub(super) fn usage(reader: &Connection) -> rusqlite::Result<Usage> {
    let sql = "SELECT sum(blobs), sum(bytes), max(bytes * (segment = 1)), max(bytes * (segment = 2)) FROM total";
    reader.prepare_cached(sql)?.query_row([], |row| {
        Ok(Usage {
            blobs: unsigned(row, 0)?,
            bytes: unsigned(row, 1)?,
            protected: unsigned(row, 2)?,
            pinned: unsigned(row, 3)?,
        })
    })
}

pub(super) fn touch(writer: &Connection, uses: &[(Digest, Timestamp)]) -> rusqlite::Result<()> {
    let sql =
        "UPDATE blob SET used = max(used, ?2), rank = max(rank, ?2), segment = max(segment, 1)
               WHERE digest = ?1";
    let mut update = writer.prepare_cached(sql)?;
    uses.iter().try_for_each(|(digest, at)| {
        update
            .execute(params![text(*digest), signed(at.as_millis())])
            .map(drop)
    })
}

pub(super) fn demote(writer: &Connection, bytes: u64, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "SELECT bytes FROM total WHERE segment = 1";
    let held: i64 = writer
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    let sql = "WITH oldest AS (
        SELECT digest, sum(size) OVER (ORDER BY rank, digest) - size AS before
        FROM blob WHERE segment = 1 ORDER BY rank, digest LIMIT 1000
    )
    UPDATE blob SET segment = 0, rank = ?2
    WHERE digest IN (SELECT digest FROM oldest WHERE before < ?1)";
    let excess = held.saturating_sub(signed(bytes));
    if excess > 0 {
        let values = params![excess, signed(now.as_millis())];
        writer.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

pub(super) fn victims(reader: &Connection, skip: u64, limit: u64) -> rusqlite::Result<Vec<Victim>> {
    let sql =
        "SELECT digest, size FROM blob WHERE segment < 2 ORDER BY segment, rank LIMIT ?2 OFFSET ?1";
    let mut query = reader.prepare_cached(sql)?;
    let rows = query.query_map(params![signed(skip), signed(limit)], |row| {
        Ok(Victim {
            digest: digest(row, 0)?,
            size: unsigned(row, 1)?,
        })
    })?;
    rows.collect()
}

pub(super) fn walk(
    reader: &Connection,
    after: Option<Digest>,
    limit: u64,
) -> rusqlite::Result<Vec<Walked>> {
    let sql = "SELECT digest, size, stored, used, segment = 2 FROM blob
               WHERE digest > ?1 ORDER BY digest LIMIT ?2";
    let after = after.map(text).unwrap_or_default();
    let mut query = reader.prepare_cached(sql)?;
    let rows = query.query_map(params![after, signed(limit)], walked)?;
    rows.collect()
}

fn walked(row: &Row<'_>) -> rusqlite::Result<Walked> {
    Ok(Walked {
        digest: digest(row, 0)?,
        size: unsigned(row, 1)?,
        stored: timestamp(row, 2)?,
        used: timestamp(row, 3)?,
        pinned: row.get(4)?,
    })
}

pub(super) fn pin(writer: &Connection, digests: &[Digest]) -> rusqlite::Result<()> {
    writer.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS pinned (digest TEXT PRIMARY KEY) WITHOUT ROWID;
         DELETE FROM pinned;",
    )?;
    let mut note = writer.prepare_cached("INSERT OR IGNORE INTO pinned (digest) VALUES (?1)")?;
    let mut each = digests.iter();
    each.try_for_each(|digest| note.execute(params![text(*digest)]).map(drop))?;
    let unpin = "UPDATE blob SET segment = 0 WHERE segment = 2 AND digest NOT IN (SELECT digest FROM pinned)";
    let pin =
        "UPDATE blob SET segment = 2 WHERE segment < 2 AND digest IN (SELECT digest FROM pinned)";
    for sql in [unpin, pin] {
        writer.prepare_cached(sql)?.execute([])?;
    }
    Ok(())
}

pub(super) fn doom(writer: &Connection, digests: &[Digest]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO doomed (digest) VALUES (?1) ON CONFLICT (digest) DO NOTHING";
    let mut note = writer.prepare_cached(sql)?;
    digests.iter().try_for_each(|digest| {
        remove(writer, *digest)?;
        note.execute(params![text(*digest)]).map(drop)
    })
}

pub(super) fn doomed(reader: &Connection) -> rusqlite::Result<Vec<Digest>> {
    let mut query = reader.prepare_cached("SELECT digest FROM doomed")?;
    let rows = query.query_map([], |row| digest(row, 0))?;
    rows.collect()
}

pub(super) fn bury(writer: &Connection, digests: &[Digest]) -> rusqlite::Result<()> {
    let mut removal = writer.prepare_cached("DELETE FROM doomed WHERE digest = ?1")?;
    let each = |digest: &Digest| removal.execute(params![text(*digest)]).map(drop);
    digests.iter().try_for_each(each)
}

//! Small facts, one row each.

use rusqlite::params;

use super::{SqliteIndex, one, signed, timestamp};
use crate::index::IndexError;
use crate::registry::{MEMO_LIMIT, Memo, MemoError, Noted, Topic};

impl From<IndexError> for MemoError {
    fn from(error: IndexError) -> Self {
        Self(error.to_string())
    }
}

impl Memo for SqliteIndex {
    fn recall(&self, topic: Topic, key: &str) -> Result<Option<Noted>, MemoError> {
        let noted = self.read(|reader| {
            let sql = "SELECT value, noted FROM memo WHERE topic = ?1 AND key = ?2";
            one(reader, sql, params![topic.label(), key], |row| {
                Ok(Noted {
                    value: row.get(0)?,
                    at: timestamp(row, 1)?,
                })
            })
        })?;
        Ok(noted)
    }

    fn remember(&self, topic: Topic, key: &str, noted: &Noted) -> Result<(), MemoError> {
        self.write(|writer| {
            let sql = "INSERT INTO memo (topic, key, value, noted) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (topic, key) DO UPDATE SET value = excluded.value, noted = excluded.noted";
            let at = signed(noted.at.as_millis());
            let row = params![topic.label(), key, noted.value, at];
            writer.prepare_cached(sql)?.execute(row)?;
            let sql = "DELETE FROM memo WHERE topic = ?1 AND noted <
                       (SELECT noted FROM memo WHERE topic = ?1 ORDER BY noted DESC LIMIT 1 OFFSET ?2)";
            let row = params![topic.label(), signed(MEMO_LIMIT - 1)];
            writer.prepare_cached(sql)?.execute(row)?;
            Ok(())
        })?;
        Ok(())
    }

    fn forget(&self, topic: Topic, key: &str) -> Result<(), MemoError> {
        if self.recall(topic, key)?.is_none() {
            return Ok(());
        }
        self.write(|writer| {
            let sql = "DELETE FROM memo WHERE topic = ?1 AND key = ?2";
            writer
                .prepare_cached(sql)?
                .execute(params![topic.label(), key])?;
            Ok(())
        })?;
        Ok(())
    }
}

use super::*;
use crate::index::suite;
use crate::registry::{MEMO_LIMIT, Memo as _, Noted, Topic};

#[test]
fn the_lists_that_were_fetched_longest_ago_give_way() {
    let directory = tempfile::tempdir().unwrap();
    let index = SqliteIndex::open(&directory.path().join("index.sqlite3")).unwrap();
    let key = suite::repository("library/listed");
    let list = |at| ListRecord {
        bytes: Bytes::new(),
        fetched: Timestamp::from_millis(at),
    };
    index.set_list(&key, "first", &list(1)).unwrap();
    index
        .write(|writer| {
            let sql = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                       INSERT INTO list (repository, key, bytes, fetched) SELECT 1, i, x'', i FROM n";
            writer.execute(sql, params![LISTS])
        })
        .unwrap();
    assert!(index.list(&key, "first").unwrap().is_some());
    let newest = list(LISTS.unsigned_abs() + 1);
    index.set_list(&key, "last", &newest).unwrap();
    assert_eq!(index.list(&key, "first").unwrap(), None);
    assert_eq!(index.list(&key, "last").unwrap(), Some(newest));
    let count: i64 = index
        .read(|reader| reader.query_row("SELECT count(*) FROM list", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(count, LISTS);
}

#[test]
fn passes_the_suite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite3");
    suite::run(&|| SqliteIndex::open(&path).unwrap());
}

#[test]
fn an_older_schema_is_copied_and_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite3");
    let key = suite::repository("library/old");
    let tag = "latest".parse().unwrap();
    let record = TagRecord {
        digest: suite::digest(1),
        checked: Timestamp::from_millis(5),
    };
    SqliteIndex::open(&path)
        .unwrap()
        .set_tag(&key, &tag, record)
        .unwrap();

    let newer = [
        MIGRATIONS,
        &["CREATE TABLE novelty (id INTEGER PRIMARY KEY);"],
    ]
    .concat();
    let migrated = SqliteIndex::open_with(&path, &newer).unwrap();
    assert_eq!(migrated.tag(&key, &tag).unwrap(), Some(record));
    let count: i64 = migrated
        .read(|reader| reader.query_row("SELECT count(*) FROM novelty", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(count, 0);
    let copy = SqliteIndex::open(&directory.path().join("index.sqlite3.v2.backup")).unwrap();
    assert_eq!(copy.tag(&key, &tag).unwrap(), Some(record));
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite3");
    drop(SqliteIndex::open(&path).unwrap());
    let broken = [
        MIGRATIONS,
        &["CREATE TABLE novelty (id INTEGER); CREATE TABLE blob (id INTEGER);"],
    ]
    .concat();
    SqliteIndex::open_with(&path, &broken).unwrap_err();
    let reopened = SqliteIndex::open(&path).unwrap();
    let found: Option<i64> = reopened
        .read(|reader| {
            one(
                reader,
                "SELECT 1 FROM sqlite_master WHERE name = 'novelty'",
                [],
                |row| row.get(0),
            )
        })
        .unwrap();
    assert_eq!(found, None);
}

#[test]
fn a_newer_schema_is_refused_and_names_its_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite3");
    let index = SqliteIndex::open(&path).unwrap();
    index
        .write(|writer| {
            writer.execute(
                "UPDATE meta SET value = '9.9.9' WHERE key = 'written_by'",
                [],
            )?;
            writer.pragma_update(None, "user_version", 99)
        })
        .unwrap();
    drop(index);
    let refused = SqliteIndex::open(&path).unwrap_err();
    assert!(matches!(refused, IndexError::Newer { ref written_by, .. } if written_by == "9.9.9"));
}

#[test]
fn an_index_of_the_first_schema_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite3");
    let key = suite::repository("library/old");
    let tag = "latest".parse().unwrap();
    let record = TagRecord {
        digest: suite::digest(1),
        checked: Timestamp::from_millis(5),
    };
    let first = SqliteIndex::open_with(&path, &MIGRATIONS[..1]).unwrap();
    first.set_tag(&key, &tag, record).unwrap();
    drop(first);
    let current = SqliteIndex::open(&path).unwrap();
    assert_eq!(current.tag(&key, &tag).unwrap(), Some(record));
    assert_eq!(current.recall(Topic::Negative, "a").unwrap(), None);
}

#[test]
fn the_facts_that_were_noted_longest_ago_give_way() {
    let directory = tempfile::tempdir().unwrap();
    let index = SqliteIndex::open(&directory.path().join("index.sqlite3")).unwrap();
    let noted = |at| Noted {
        value: String::new(),
        at: Timestamp::from_millis(at),
    };
    let remember = |topic, key: &str, at| index.remember(topic, key, &noted(at)).unwrap();
    remember(Topic::Visibility, "other", 1);
    remember(Topic::Negative, "first", 1);
    index
        .write(|writer| {
            let sql = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                       INSERT INTO memo (topic, key, value, noted) SELECT 'negative', i, '', i FROM n";
            writer.execute(sql, params![signed(MEMO_LIMIT)])
        })
        .unwrap();
    assert!(index.recall(Topic::Negative, "first").unwrap().is_some());
    remember(Topic::Negative, "last", MEMO_LIMIT + 1);
    assert_eq!(index.recall(Topic::Negative, "first").unwrap(), None);
    assert!(index.recall(Topic::Negative, "2").unwrap().is_some());
    assert!(index.recall(Topic::Visibility, "other").unwrap().is_some());
}

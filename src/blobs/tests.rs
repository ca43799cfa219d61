#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "small numbers, and files damaged behind the door's back"
)]

pub(super) mod pins;
mod upkeep;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use super::*;
use crate::index::{Epoch, SqliteIndex};
use crate::oci::{Algorithm, Span};
use crate::registry::{BlobRead as _, Cut};
use crate::store::{FsStore, Sync};
use crate::sys::clock::{ManualClock, Timestamp};
use crate::sys::fs::{Fault, FaultyDisk, OsDisk};

struct Fixture {
    directory: tempfile::TempDir,
    disk: FaultyDisk,
    limits: Limits,
}

impl Fixture {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            disk: FaultyDisk::new(Arc::new(OsDisk)),
            limits: Limits {
                max_size: Share::Percent(100),
                min_free: Share::Bytes(0),
            },
        }
    }

    /// A directory that may take `bytes` besides what its index takes.
    fn capped(bytes: u64) -> Self {
        let mut fixture = Self::new();
        drop(fixture.open());
        let index: u64 = ["index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"]
            .map(|name| fixture.directory.path().join(name))
            .iter()
            .map(|path| std::fs::metadata(path).map_or(0, |found| found.len()))
            .sum();
        // A sixteenth is kept as a margin; the index may grow a little while the test runs.
        let cap = (index + bytes + 512 * 1024) * 16 / 15;
        fixture.limits.max_size = Share::Bytes(cap);
        fixture
    }

    fn open(&self) -> Blobs {
        self.open_with_clock().0
    }

    fn open_with_clock(&self) -> (Blobs, Arc<ManualClock>) {
        let clock = ManualClock::starting_at(Timestamp::from_millis(1_000_000));
        let path = self.directory.path();
        let store = FsStore::open(Arc::new(self.disk.clone()), path, Sync::Never).unwrap();
        let index = SqliteIndex::open(&path.join("index.sqlite3")).unwrap();
        let blobs = Blobs::new(
            Arc::new(self.disk.clone()),
            path,
            Arc::new(store),
            Arc::new(index),
            Arc::<ManualClock>::clone(&clock),
            self.limits,
        );
        (blobs, clock)
    }

    /// Every file below `blobs/` and `spool/`.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for below in ["blobs", "spool"] {
            collect(&self.directory.path().join(below), &mut found);
        }
        found
    }
}

fn collect(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => collect(&path, found),
            path => found.push(path.file_name().unwrap().to_string_lossy().into_owned()),
        }
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

async fn keep(blobs: &Blobs, content: &[u8]) -> Result<(), BlobsError> {
    let spool = blobs.spool(digest(content)).await?;
    spool.file.write_all_at(content, 0).unwrap();
    let size = content.len() as u64;
    blobs.commit(spool, size, Checksum::of(content)).await
}

async fn held(blobs: &Blobs, content: &[u8]) -> HeldBlob {
    match blobs.open(digest(content)).await.unwrap() {
        Lookup::Held(blob) => blob,
        other => panic!("{other:?}"),
    }
}

async fn collect_body(mut body: FileBody) -> Result<Vec<u8>, Cut> {
    let mut content = Vec::new();
    while let Some(chunk) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_chunk(cx)).await {
        content.extend_from_slice(&chunk?);
    }
    Ok(content)
}

#[tokio::test]
async fn what_was_committed_is_read_back_also_after_reopening() {
    let fixture = Fixture::new();
    let content: Vec<u8> = (0..3 * CHUNK + 17).map(|n| (n % 251) as u8).collect();
    keep(&fixture.open(), &content).await.unwrap();
    let blobs = fixture.open();
    assert_eq!(blobs.recover(Some("boot")).await.unwrap(), 0);
    let blob = held(&blobs, &content).await;
    for (start, end) in [
        (0, content.len()),
        (1, 2),
        (CHUNK - 1, 2 * CHUNK + 5),
        (7, 7),
    ] {
        let span = Span {
            start: start as u64,
            end: end as u64,
        };
        let read = collect_body(FileBody::new(blob.clone(), span))
            .await
            .unwrap();
        assert_eq!(read, content[start..end], "{start}..{end}");
    }
}

/// A file of which the page cache holds nothing; counts what it is asked for.
#[derive(Debug)]
struct ColdFile {
    inner: Arc<dyn DiskFile>,
    read: Mutex<Vec<u64>>,
}

impl DiskFile for ColdFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.read.lock().unwrap().push(offset);
        self.inner.read_at(buffer, offset)
    }

    fn read_cached_at(&self, _: &mut [u8], _: u64) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::WouldBlock.into())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        self.inner.write_all_at(data, offset)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.inner.sync()
    }

    fn size(&self) -> std::io::Result<u64> {
        self.inner.size()
    }
}

#[tokio::test]
async fn where_the_disk_is_waited_for_one_chunk_is_read_ahead_and_none_twice() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    let content: Vec<u8> = (0..4 * CHUNK + 17).map(|n| (n % 251) as u8).collect();
    keep(&blobs, &content).await.unwrap();
    let mut blob = held(&blobs, &content).await;
    let cold = Arc::new(ColdFile {
        inner: Arc::clone(&blob.file),
        read: Mutex::default(),
    });
    blob.file = Arc::<ColdFile>::clone(&cold);
    let span = whole(&blob);
    let mut body = FileBody::new(blob, span);
    let first = std::future::poll_fn(|cx| Pin::new(&mut body).poll_chunk(cx)).await;
    let first = first.unwrap().unwrap();
    while cold.read.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let rest = collect_body(body).await.unwrap();
    assert_eq!([&first[..], &rest].concat(), content);
    // Whatever the pool lends, each read begins where the one before it ended.
    let read = cold.read.lock().unwrap();
    assert!(
        read.is_sorted() && read.windows(2).all(|two| two[0] < two[1]),
        "{read:?}"
    );
    assert_eq!((read[0], read[1]), (0, first.len() as u64));
}

#[tokio::test]
async fn a_row_without_its_file_is_dropped_by_the_read_that_notices() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    keep(&blobs, b"soon gone").await.unwrap();
    let hex = digest(b"soon gone").encoded();
    let path = fixture
        .directory
        .path()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(&hex);
    std::fs::write(&path, b"short").unwrap();
    assert!(matches!(
        blobs.open(digest(b"soon gone")).await.unwrap(),
        Lookup::Lost
    ));
    assert!(matches!(
        blobs.open(digest(b"soon gone")).await.unwrap(),
        Lookup::Absent
    ));
    assert_eq!(fixture.files(), Vec::<String>::new());
}

#[tokio::test]
async fn whatever_a_dead_process_left_behind_is_swept_and_nothing_else() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    keep(&blobs, b"whole").await.unwrap();
    let unfinished = blobs.spool(digest(b"unfinished")).await.unwrap();
    unfinished.file.write_all_at(b"unf", 0).unwrap();
    // Died between the file's second name and its row.
    let published = blobs.spool(digest(b"published")).await.unwrap();
    published.file.write_all_at(b"published", 0).unwrap();
    blobs.store.publish(&published).unwrap();
    // Died between the row and the removal of the spool name.
    let recorded = blobs.spool(digest(b"whole")).await.unwrap();
    drop((unfinished, published, recorded));

    let blobs = fixture.open();
    assert_eq!(blobs.recover(Some("boot")).await.unwrap(), 3);
    assert_eq!(fixture.files(), [digest(b"whole").encoded()]);
    assert_eq!(held(&blobs, b"whole").await.size, 5);
}

#[tokio::test]
async fn whichever_disk_operation_of_a_commit_fails_nothing_half_done_is_visible() {
    let mut failures = 0;
    for n in 0..10 {
        let fixture = Fixture::new();
        let blobs = fixture.open();
        fixture.disk.fail_at(n, 1, Fault::Broken);
        let spooled = blobs.spool(digest(b"content")).await;
        let committed = match spooled {
            Ok(spool) if spool.file.write_all_at(b"content", 0).is_ok() => blobs
                .commit(spool, 7, Checksum::of(b"content"))
                .await
                .is_ok(),
            _ => false,
        };
        fixture.disk.heal();
        failures += u32::from(!committed);
        match blobs.open(digest(b"content")).await.unwrap() {
            Lookup::Held(blob) => assert_eq!(blob.size, 7),
            other => assert!(!committed, "operation {n}: committed, yet {other:?}"),
        }
        fixture.open().recover(Some("boot")).await.unwrap();
        assert!(
            fixture.files().len() <= 1,
            "operation {n}: {:?}",
            fixture.files()
        );
    }
    assert!(
        failures >= 4,
        "the loop must have hit every operation, hit {failures}"
    );
}

#[tokio::test]
async fn a_file_that_breaks_while_it_is_read_cuts_the_body() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    keep(&blobs, &[1; 1000]).await.unwrap();
    let blob = held(&blobs, &[1; 1000]).await;
    fixture.disk.fail_at(0, u64::MAX, Fault::Broken);
    let cut = collect_body(FileBody::new(
        blob,
        Span {
            start: 0,
            end: 1000,
        },
    ))
    .await;
    assert!(cut.is_err());
}

/// Where the only blob that is kept has its file.
fn file_of(fixture: &Fixture, content: &[u8]) -> PathBuf {
    let hex = digest(content).encoded();
    let shard = fixture.directory.path().join("blobs/sha256");
    shard.join(&hex[..2]).join(&hex)
}

/// Flips the lowest bit of the byte at `at`.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn whole(blob: &HeldBlob) -> Span {
    Span {
        start: 0,
        end: blob.size,
    }
}

#[tokio::test]
async fn a_flipped_bit_cuts_a_full_read_before_its_end_and_the_file_is_kept_aside() {
    let content: Vec<u8> = (0..2 * CHUNK + 17).map(|n| (n % 251) as u8).collect();
    for at in [0, CHUNK, 2 * CHUNK + 16] {
        let fixture = Fixture::new();
        let blobs = fixture.open();
        keep(&blobs, &content).await.unwrap();
        let used = blobs.figures().await.unwrap().0;
        flip(&file_of(&fixture, &content), at);
        let blob = held(&blobs, &content).await;
        let span = whole(&blob);
        let mut body = FileBody::new(blob, span);
        let mut got = 0;
        let cut = loop {
            match std::future::poll_fn(|cx| Pin::new(&mut body).poll_chunk(cx)).await {
                Some(Ok(chunk)) => got += chunk.len(),
                Some(Err(cut)) => break cut,
                None => panic!("a wrong blob was handed out whole"),
            }
        };
        assert!(got < content.len());
        assert!(cut.reason.contains("checksum"), "{cut}");
        assert!(matches!(
            blobs.open(digest(&content)).await.unwrap(),
            Lookup::Absent
        ));
        assert_eq!(fixture.files(), Vec::<String>::new());
        let aside = fixture.directory.path().join("quarantine");
        assert_eq!(std::fs::read_dir(aside).unwrap().count(), 1);
        drop(body);
        let now = blobs.figures().await.unwrap().0;
        assert!(
            now + 64 * 1024 > used,
            "what is kept aside counts: {now} of {used}"
        );
    }
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_cuts_the_body() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    let content = vec![7; 2 * CHUNK];
    keep(&blobs, &content).await.unwrap();
    let blob = held(&blobs, &content).await;
    std::fs::write(file_of(&fixture, &content), &content[..CHUNK + 5]).unwrap();
    let span = whole(&blob);
    assert!(collect_body(FileBody::new(blob, span)).await.is_err());
    assert!(!is_held(&blobs, digest(&content)).await);
}

#[tokio::test]
async fn what_is_kept_aside_gives_way_before_anything_else() {
    let fixture = Fixture::capped(3 * MIB);
    let (blobs, clock) = fixture.open_with_clock();
    let bad = fill(&blobs, &clock, 1, MIB).await.unwrap();
    let good = fill(&blobs, &clock, 2, MIB).await.unwrap();
    blobs.reading(bad).condemn("for the test").await;
    let reservation = reserve(&blobs, 2 * MIB).await.unwrap();
    assert!(is_held(&blobs, good).await);
    let aside = fixture.directory.path().join("quarantine");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 0);
    drop(reservation);
}

/// A door to the fixture's directory, in another boot of the machine.
async fn reopened(fixture: &Fixture, boot: &str) -> Blobs {
    let blobs = fixture.open();
    blobs.recover(Some(boot)).await.unwrap();
    blobs
}

#[tokio::test]
async fn after_a_power_cut_a_blob_is_verified_by_its_first_read_and_never_again() {
    let fixture = Fixture::new();
    let content = vec![3; CHUNK];
    keep(&reopened(&fixture, "first").await, &content)
        .await
        .unwrap();

    let blobs = reopened(&fixture, "second").await;
    let before = fixture.disk.performed();
    assert_eq!(held(&blobs, &content).await.size, content.len() as u64);
    let first = fixture.disk.performed() - before;
    held(&blobs, &content).await;
    let second = fixture.disk.performed() - before - first;
    assert!(first > second, "{first} operations, then {second}");
    let before = fixture.disk.performed();
    held(&reopened(&fixture, "second").await, &content).await;
    assert!(fixture.disk.performed() - before < first + 10);
}

#[tokio::test]
async fn what_a_power_cut_damaged_is_never_served() {
    let fixture = Fixture::new();
    let content = vec![3; CHUNK];
    keep(&reopened(&fixture, "first").await, &content)
        .await
        .unwrap();
    // The length is there, the bytes are not.
    std::fs::write(file_of(&fixture, &content), vec![0; CHUNK]).unwrap();
    let blobs = reopened(&fixture, "second").await;
    assert!(matches!(
        blobs.open(digest(&content)).await.unwrap(),
        Lookup::Lost
    ));
    assert!(matches!(
        blobs.open(digest(&content)).await.unwrap(),
        Lookup::Absent
    ));
}

#[tokio::test]
async fn a_machine_that_does_not_tell_its_boots_apart_verifies_after_each_start() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    blobs.recover(None).await.unwrap();
    keep(&blobs, b"content").await.unwrap();
    let blobs = fixture.open();
    blobs.recover(None).await.unwrap();
    flip(&file_of(&fixture, b"content"), 0);
    assert!(matches!(
        blobs.open(digest(b"content")).await.unwrap(),
        Lookup::Lost
    ));
}

#[tokio::test]
async fn a_directory_of_a_newer_format_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let open = || DataDirectory::open(&OsDisk, directory.path(), Duration::ZERO);
    drop(open().await.unwrap());
    let format = directory.path().join("format");
    std::fs::write(&format, "format = 2\nwritten_by = 3.1.4\n").unwrap();
    let refused = open().await.unwrap_err().to_string();
    assert!(
        refused.contains("was written by mirror 3.1.4, in format 2"),
        "{refused}"
    );
    std::fs::write(&format, "rubbish").unwrap();
    assert!(matches!(
        open().await.unwrap_err(),
        DirectoryError::Unreadable { .. }
    ));
}

const BLOCK: u64 = 4096;
const MIB: u64 = 1024 * 1024;

async fn reserve(blobs: &Blobs, bytes: u64) -> Result<Reservation, ReserveError> {
    let (held, extended) = blobs.extend(blobs.reserve_nothing(), bytes).await;
    extended.map(|()| held)
}

/// Keeps a blob of `size` bytes that are all `seed`, in reserved space.
async fn fill(
    blobs: &Blobs,
    clock: &ManualClock,
    seed: u8,
    size: u64,
) -> Result<Digest, ReserveError> {
    clock.advance(Duration::from_secs(1));
    let reservation = reserve(blobs, size).await?;
    let content = vec![seed; size as usize];
    keep(blobs, &content).await.unwrap();
    drop(reservation);
    Ok(digest(&content))
}

async fn is_held(blobs: &Blobs, digest: Digest) -> bool {
    blobs.size(digest).await.unwrap().is_some()
}

#[tokio::test]
async fn what_was_used_longest_ago_gives_way_and_what_was_used_again_stays() {
    let fixture = Fixture::capped(8 * MIB);
    let (blobs, clock) = fixture.open_with_clock();
    let mut held = Vec::new();
    for seed in 0..7 {
        held.push(fill(&blobs, &clock, seed, MIB).await.unwrap());
    }
    clock.advance(Duration::from_secs(1));
    assert!(matches!(
        blobs.open(held[0]).await.unwrap(),
        Lookup::Held(_)
    ));
    for seed in 7..12 {
        held.push(fill(&blobs, &clock, seed, MIB).await.unwrap());
    }
    assert!(is_held(&blobs, held[0]).await, "used again");
    assert!(!is_held(&blobs, held[1]).await, "used once, longest ago");
    assert!(is_held(&blobs, held[11]).await, "newest");
    assert!(fixture.files().len() <= 8);
}

#[tokio::test]
async fn a_blob_that_is_read_is_passed_over_and_counted() {
    let fixture = Fixture::capped(2 * MIB);
    let (blobs, clock) = fixture.open_with_clock();
    let first = fill(&blobs, &clock, 1, MIB).await.unwrap();
    let second = fill(&blobs, &clock, 2, MIB).await.unwrap();
    let Lookup::Held(reader) = blobs.open(first).await.unwrap() else {
        panic!("absent")
    };
    let third = fill(&blobs, &clock, 3, MIB).await.unwrap();
    assert!(is_held(&blobs, first).await && !is_held(&blobs, second).await);
    let Lookup::Held(another) = blobs.open(third).await.unwrap() else {
        panic!("absent")
    };
    let refused = reserve(&blobs, MIB).await.unwrap_err();
    assert!(
        matches!(refused, ReserveError::NoRoom(NoRoom::Full { .. })),
        "{refused}"
    );
    drop((reader, another));
    reserve(&blobs, MIB).await.unwrap();
}

#[tokio::test]
async fn a_reader_of_a_removed_blob_keeps_its_bytes_counted() {
    let fixture = Fixture::capped(4 * MIB);
    let (blobs, clock) = fixture.open_with_clock();
    let digest = fill(&blobs, &clock, 1, MIB).await.unwrap();
    let before = blobs.figures().await.unwrap().0;
    let Lookup::Held(reader) = blobs.open(digest).await.unwrap() else {
        panic!("absent")
    };
    blobs.space.remove(&[digest]).unwrap();
    assert!(blobs.figures().await.unwrap().0 >= before);
    assert_eq!(
        collect_body(FileBody::new(reader, Span { start: 0, end: MIB }))
            .await
            .unwrap()
            .len() as u64,
        MIB
    );
    assert!(blobs.figures().await.unwrap().0 < before);
}

#[tokio::test]
async fn reservations_count_until_they_go_and_never_pass_the_cap() {
    let fixture = Fixture::capped(4 * MIB);
    let (blobs, _) = fixture.open_with_clock();
    let too_large = reserve(&blobs, 100 * MIB).await.unwrap_err();
    assert!(
        matches!(too_large, ReserveError::NoRoom(NoRoom::TooLarge { .. })),
        "{too_large}"
    );
    let mut first = reserve(&blobs, 3 * MIB).await.unwrap();
    reserve(&blobs, 2 * MIB).await.unwrap_err();
    first.written(MIB + 1);
    first.shrink();
    assert_eq!(first.bytes(), MIB + BLOCK);
    let second = reserve(&blobs, 2 * MIB).await.unwrap();
    let (first, extended) = blobs.extend(first, MIB / 2).await;
    extended.unwrap();
    reserve(&blobs, MIB).await.unwrap_err();
    drop((first, second));
    reserve(&blobs, 4 * MIB).await.unwrap();
}

#[tokio::test]
async fn the_disk_keeps_its_minimum_free_and_nothing_is_evicted_in_vain() {
    let mut fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    let held = fill(&blobs, &clock, 1, MIB).await.unwrap();
    fixture.limits.min_free = Share::Percent(100);
    let (blobs, _) = fixture.open_with_clock();
    let refused = reserve(&blobs, 1).await.unwrap_err();
    assert!(
        matches!(refused, ReserveError::NoRoom(NoRoom::Full { .. })),
        "{refused}"
    );
    assert!(is_held(&blobs, held).await);
}

#[tokio::test]
async fn files_that_a_dead_process_had_no_time_to_remove_go_at_the_next_start() {
    let fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    let digest = fill(&blobs, &clock, 1, 10).await.unwrap();
    blobs.index.doom(&[digest]).unwrap();
    assert_eq!(fixture.files().len(), 1);
    fixture.open().recover(Some("boot")).await.unwrap();
    assert_eq!(fixture.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_blob_that_came_back_keeps_its_file() {
    let fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    let digest = fill(&blobs, &clock, 1, 10).await.unwrap();
    blobs.index.doom(&[digest]).unwrap();
    fill(&blobs, &clock, 1, 10).await.unwrap();
    blobs.space.unlink(&[digest]).unwrap();
    assert!(matches!(blobs.open(digest).await.unwrap(), Lookup::Held(_)));
}

#[tokio::test]
async fn every_file_of_the_directory_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let opened = DataDirectory::open(&OsDisk, directory.path(), Duration::ZERO)
        .await
        .unwrap();
    let index = SqliteIndex::open(&opened.index()).unwrap();
    index
        .insert_blob(
            digest(b""),
            BlobRecord {
                size: 0,
                stored: Timestamp::default(),
                checksum: Checksum::default(),
                epoch: Epoch::default(),
            },
        )
        .unwrap();
    let files: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
}

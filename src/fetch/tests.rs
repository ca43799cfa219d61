#![expect(
    clippy::cast_possible_truncation,
    clippy::clone_on_ref_ptr,
    clippy::disallowed_methods,
    reason = "small numbers, and sources that coerce when cloned"
)]

mod around;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::sync::mpsc;

use super::*;
use crate::blobs::{Limits, Lookup, Share};
use crate::index::SqliteIndex;
use crate::oci::{Algorithm, Span};
use crate::registry::{BlobRead, BypassReason, Cut};
use crate::store::{FsStore, Sync as StoreSync};
use crate::sys::clock::{SystemClock, sleep};
use crate::sys::fs::{Fault, FaultyDisk, OsDisk};
use crate::upstream::Phase;

const MIB: usize = 1024 * 1024;

struct Fixture {
    directory: tempfile::TempDir,
    disk: FaultyDisk,
    blobs: Blobs,
    tasks: Tasks,
    fetch: Fetch,
}

impl Fixture {
    fn new(finish_abandoned: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(Arc::new(OsDisk));
        let limits = Limits {
            max_size: Share::Percent(100),
            min_free: Share::Bytes(0),
        };
        let store =
            FsStore::open(Arc::new(disk.clone()), directory.path(), StoreSync::Never).unwrap();
        let index = SqliteIndex::open(&directory.path().join("index.sqlite3")).unwrap();
        let blobs = Blobs::new(
            Arc::new(disk.clone()),
            directory.path(),
            Arc::new(store),
            Arc::new(index),
            SystemClock::new(),
            limits,
        );
        let tasks = Tasks::new();
        let fetch = Fetch::new(blobs.clone(), tasks.clone(), Settings { finish_abandoned });
        Self {
            directory,
            disk,
            blobs,
            tasks,
            fetch,
        }
    }

    /// Lets the cache take at most `bytes` from now on.
    fn limit(&mut self, bytes: u64) {
        let limits = Limits {
            max_size: Share::Bytes(bytes),
            min_free: Share::Bytes(0),
        };
        let store = FsStore::open(
            Arc::new(self.disk.clone()),
            self.directory.path(),
            StoreSync::Never,
        )
        .unwrap();
        let index = SqliteIndex::open(&self.directory.path().join("index.sqlite3")).unwrap();
        self.blobs = Blobs::new(
            Arc::new(self.disk.clone()),
            self.directory.path(),
            Arc::new(store),
            Arc::new(index),
            SystemClock::new(),
            limits,
        );
        self.fetch = Fetch::new(
            self.blobs.clone(),
            self.tasks.clone(),
            Settings {
                finish_abandoned: 0,
            },
        );
    }

    async fn settled(&self) {
        while self.fetch.running() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn cached(&self, digest: Digest) -> bool {
        matches!(self.blobs.open(digest).await.unwrap(), Lookup::Held(_))
    }

    fn spooled(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("spool"))
            .unwrap()
            .count()
    }
}

/// One answer of a scripted upstream.
enum Script {
    Body {
        start: u64,
        total: Option<u64>,
        chunks: Vec<Result<Bytes, UpstreamError>>,
        then_hang: bool,
    },
    Channel {
        total: u64,
        chunks: mpsc::Receiver<Bytes>,
    },
    Refuse(UpstreamError),
    Panic,
}

/// A source that follows a script and notes the offsets it was asked for.
struct Scripted {
    name: String,
    scripts: Mutex<VecDeque<Script>>,
    offsets: Mutex<Vec<u64>>,
}

impl Scripted {
    fn new(name: &str, scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            scripts: Mutex::new(scripts.into_iter().collect()),
            offsets: Mutex::default(),
        })
    }

    fn offsets(&self) -> Vec<u64> {
        self.offsets.lock().unwrap().clone()
    }
}

impl Source for Scripted {
    fn open(&self, offset: u64) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        self.offsets.lock().unwrap().push(offset);
        let script = self
            .scripts
            .lock()
            .unwrap()
            .pop_front()
            .expect("one request too many");
        Box::pin(async move {
            match script {
                Script::Refuse(error) => Err(error),
                Script::Panic => panic!("on purpose"),
                Script::Body {
                    start,
                    total,
                    chunks,
                    then_hang,
                } => {
                    let hang = stream::pending().take(usize::from(then_hang));
                    Ok(BlobBody::new(
                        "cdn".into(),
                        start,
                        total,
                        stream::iter(chunks).chain(hang),
                    ))
                }
                Script::Channel { total, mut chunks } => {
                    let arriving =
                        stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| chunk.map(Ok)));
                    Ok(BlobBody::new("cdn".into(), 0, Some(total), arriving))
                }
            }
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn stall(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn retries(&self) -> u32 {
        3
    }
}

fn blob(length: usize) -> (Bytes, Digest) {
    let content: Vec<u8> = (0..length).map(|n| (n % 249) as u8).collect();
    let digest = Digest::of(Algorithm::Sha256, &content);
    (content.into(), digest)
}

fn chunked(content: &Bytes) -> Vec<Result<Bytes, UpstreamError>> {
    content
        .chunks(50_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect()
}

fn whole(content: &Bytes) -> Script {
    from(content, 0)
}

fn from(content: &Bytes, start: usize) -> Script {
    Script::Body {
        start: start as u64,
        total: Some(content.len() as u64),
        chunks: chunked(&content.slice(start..)),
        then_hang: false,
    }
}

/// Sends `length` bytes from `start` on, then breaks.
fn broken(content: &Bytes, start: usize, length: usize) -> Script {
    let mut chunks = chunked(&content.slice(start..start + length));
    chunks.push(Err(reset()));
    Script::Body {
        start: start as u64,
        total: Some(content.len() as u64),
        chunks,
        then_hang: false,
    }
}

fn reset() -> UpstreamError {
    UpstreamError::Unreachable {
        host: "cdn".into(),
        phase: Phase::Body,
        reason: "reset".into(),
    }
}

fn not_found() -> UpstreamError {
    UpstreamError::NotFound {
        host: "registry".into(),
    }
}

async fn read(reader: Reader, span: Option<Span>) -> Result<Vec<u8>, (usize, Cut)> {
    let mut body = reader.stream(span, None);
    let mut content = Vec::new();
    while let Some(chunk) = next(&mut body).await {
        match chunk {
            Ok(chunk) => content.extend_from_slice(&chunk),
            Err(cut) => return Err((content.len(), cut)),
        }
    }
    Ok(content)
}

async fn next(body: &mut FlightBody) -> Option<Result<Bytes, Cut>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_chunk(cx)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_readers_cost_one_request_and_all_get_every_byte() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(3 * MIB + 5);
    let source = Scripted::new("a", [whole(&content)]);
    let readers = (0..100).map(|_| fixture.fetch.join(digest, None, source.clone()));
    let read = join_all(
        readers
            .collect::<Vec<_>>()
            .into_iter()
            .map(|reader| read(reader, None)),
    )
    .await;
    assert!(read.iter().all(|read| read.as_ref().unwrap() == &content));
    assert_eq!(source.offsets(), [0]);
    fixture.settled().await;
    assert!(fixture.cached(digest).await);
    assert_eq!(fixture.spooled(), 0);
}

#[tokio::test]
async fn a_reader_that_never_reads_and_one_that_vanishes_change_nothing() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(2 * MIB);
    let source = Scripted::new("a", [whole(&content)]);
    let first = fixture.fetch.join(digest, None, source.clone());
    let stalled = fixture
        .fetch
        .join(digest, None, source.clone())
        .stream(None, None);
    let third = fixture.fetch.join(digest, None, source.clone());
    assert_eq!((first.role(), third.role()), (Role::Leader, Role::Follower));
    drop(first);
    assert_eq!(read(third, None).await.unwrap(), content);
    fixture.settled().await;
    assert!(fixture.cached(digest).await);
    drop(stalled);
    assert_eq!(source.offsets(), [0]);
}

#[tokio::test]
async fn wrong_bytes_are_never_complete_never_kept_and_never_resumed() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(MIB);
    let mut wrong = content.to_vec();
    wrong[700_000] ^= 1;
    let source = Scripted::new("a", [whole(&wrong.into()), whole(&content)]);
    let (length, cut) = read(fixture.fetch.join(digest, None, source.clone()), None)
        .await
        .unwrap_err();
    assert!(length < content.len(), "{length}");
    assert!(cut.reason.contains(&digest.to_string()), "{cut}");
    fixture.settled().await;
    assert!(!fixture.cached(digest).await);
    assert_eq!(fixture.spooled(), 0);
    assert_eq!(
        read(fixture.fetch.join(digest, None, source.clone()), None)
            .await
            .unwrap(),
        content
    );
    assert_eq!(source.offsets(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn breaks_are_resumed_with_the_hash_state_kept() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(MIB);
    let scripts = [
        broken(&content, 0, 600_000),
        Script::Refuse(reset()),
        broken(&content, 600_000, 100_000),
        from(&content, 700_000),
    ];
    let source = Scripted::new("a", scripts);
    assert_eq!(
        read(fixture.fetch.join(digest, None, source.clone()), None)
            .await
            .unwrap(),
        content
    );
    assert_eq!(source.offsets(), [0, 600_000, 600_000, 700_000]);
    fixture.settled().await;
    assert!(fixture.cached(digest).await);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_range_and_a_stall_are_survived() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(MIB);
    let stalling = Script::Body {
        start: 0,
        total: Some(content.len() as u64),
        chunks: chunked(&content.slice(..500_000)),
        then_hang: true,
    };
    let source = Scripted::new("a", [stalling, whole(&content)]);
    assert_eq!(
        read(fixture.fetch.join(digest, None, source.clone()), None)
            .await
            .unwrap(),
        content
    );
    assert_eq!(source.offsets(), [0, 500_000]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_keeps_failing_is_given_up_and_its_part_resumed_later() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(MIB);
    let refusals = (0..3).map(|_| Script::Refuse(reset()));
    let scripts = [broken(&content, 0, 500_000)]
        .into_iter()
        .chain(refusals)
        .chain([from(&content, 500_000)]);
    let source = Scripted::new("a", scripts);
    let (length, _) = read(fixture.fetch.join(digest, None, source.clone()), None)
        .await
        .unwrap_err();
    assert_eq!(length, 500_000, "what is there is delivered before the cut");
    fixture.settled().await;
    assert_eq!(fixture.spooled(), 1);
    assert_eq!(
        read(fixture.fetch.join(digest, None, source.clone()), None)
            .await
            .unwrap(),
        content
    );
    assert_eq!(source.offsets(), [0, 500_000, 500_000, 500_000, 500_000]);
    fixture.settled().await;
    assert_eq!(fixture.spooled(), 0);
}

#[tokio::test]
async fn an_abandoned_download_is_finished_when_little_is_missing() {
    let fixture = Fixture::new(u64::MAX);
    let (content, digest) = blob(MIB);
    let (sender, chunks) = mpsc::channel(1);
    let script = Script::Channel {
        total: content.len() as u64,
        chunks,
    };
    let source = Scripted::new("a", [script]);
    drop(
        fixture
            .fetch
            .join(digest, Some(content.len() as u64), source),
    );
    for chunk in content.chunks(100_000) {
        sender.send(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    fixture.settled().await;
    assert!(fixture.cached(digest).await);
}

#[tokio::test]
async fn an_abandoned_download_stops_when_much_is_missing_and_its_part_is_kept() {
    let fixture = Fixture::new(1000);
    let (content, digest) = blob(MIB);
    let (sender, chunks) = mpsc::channel(1);
    let script = Script::Channel {
        total: content.len() as u64,
        chunks,
    };
    let source = Scripted::new("a", [script, from(&content, 300_000)]);
    let mut body = fixture
        .fetch
        .join(digest, None, source.clone())
        .stream(None, None);
    sender.send(content.slice(..300_000)).await.unwrap();
    let mut got = 0;
    while got < 300_000 - 64 * 1024 {
        got += next(&mut body).await.unwrap().unwrap().len();
    }
    drop(body);
    fixture.settled().await;
    assert!(sender.is_closed(), "the upstream is let go");
    assert_eq!(
        read(fixture.fetch.join(digest, None, source.clone()), None)
            .await
            .unwrap(),
        content
    );
    assert_eq!(source.offsets(), [0, 300_000]);
}

#[tokio::test]
async fn parts_are_bounded() {
    let fixture = Fixture::new(0);
    for seed in 0..part::PARTS + 3 {
        let (content, digest) = blob(100_000 + seed);
        let (sender, chunks) = mpsc::channel(1);
        let source = Scripted::new(
            "a",
            [Script::Channel {
                total: content.len() as u64,
                chunks,
            }],
        );
        let mut reader = fixture.fetch.join(digest, None, source);
        reader.opened().await.unwrap();
        sender.send(content.slice(..90_000)).await.unwrap();
        let mut body = reader.stream(None, None);
        next(&mut body).await.unwrap().unwrap();
        drop(body);
        fixture.settled().await;
    }
    while fixture.spooled() > part::PARTS {
        sleep(Duration::from_millis(1)).await;
    }
    fixture.fetch.forget_parts().await;
    assert_eq!(fixture.spooled(), 0);
}

#[tokio::test]
async fn a_refused_leader_gives_way_to_a_follower() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(1000);
    let refused = Scripted::new("without", [Script::Refuse(not_found())]);
    let entitled = Scripted::new("with", [whole(&content)]);
    let leader = fixture.fetch.join(digest, None, refused.clone());
    let follower = fixture.fetch.join(digest, None, entitled.clone());
    assert_eq!(read(follower, None).await.unwrap(), content);
    drop(leader);
    assert_eq!((refused.offsets(), entitled.offsets()), (vec![0], vec![0]));
}

#[tokio::test]
async fn a_source_that_comes_after_the_last_refusal_is_asked() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(MIB);
    let stranger = Scripted::new("stranger", [Script::Refuse(not_found())]);
    let member = Scripted::new("member", [whole(&content)]);
    let mut refused = fixture.fetch.join(digest, None, stranger.clone());
    // The refused flight has still to tidy up when the member comes.
    while stranger.offsets().is_empty() {
        tokio::task::yield_now().await;
    }
    let reader = fixture.fetch.join(digest, None, member.clone());
    assert_eq!(read(reader, None).await.unwrap(), content);
    assert!(matches!(
        refused.opened().await,
        Err(FetchError::Refused(_))
    ));
    assert_eq!((stranger.offsets(), member.offsets()), (vec![0], vec![0]));
}

#[tokio::test]
async fn a_length_that_one_repository_states_wrongly_fails_no_other() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(1000);
    let liar = Scripted::new("liar", [whole(&content)]);
    let honest = Scripted::new("honest", [whole(&content)]);
    let leader = fixture.fetch.join(digest, Some(5), liar.clone());
    let follower = fixture.fetch.join(digest, Some(1000), honest.clone());
    assert_eq!(read(follower, None).await.unwrap(), content);
    drop(leader);
    assert_eq!((liar.offsets(), honest.offsets()), (vec![0], vec![0]));
}

#[tokio::test]
async fn when_every_source_is_refused_all_fail() {
    let fixture = Fixture::new(0);
    let (_, digest) = blob(1000);
    let sources = ["a", "b"].map(|name| Scripted::new(name, [Script::Refuse(not_found())]));
    let mut readers = sources.map(|source| fixture.fetch.join(digest, None, source));
    for reader in &mut readers {
        assert!(matches!(
            reader.opened().await,
            Err(FetchError::Refused(UpstreamError::NotFound { .. }))
        ));
    }
    fixture.settled().await;
    assert_eq!(fixture.spooled(), 0);
}

#[tokio::test]
async fn spare_sources_are_bounded_and_told_apart_by_name() {
    let (_, digest) = blob(10);
    let flight = Flight::new(digest, None, Scripted::new("0", []));
    for round in 0..2 * SPARE_SOURCES {
        flight.offer(Scripted::new(&(round / 2).to_string(), []), None);
    }
    assert_eq!(
        (0..1000).take_while(|_| flight.next_source()).count() + 1,
        SPARE_SOURCES
    );
}

#[tokio::test]
async fn overlapping_ranges_of_a_cold_blob_come_from_one_flight() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(2 * MIB);
    let source = Scripted::new("a", [whole(&content)]);
    let total = content.len() as u64;
    let spans = [(0, total), (1_000_000, total), (5, 6), (total - 1, total)];
    let reads = spans.map(|(start, end)| {
        let mut reader = fixture.fetch.join(digest, None, source.clone());
        async move {
            assert_eq!(reader.opened().await.unwrap(), Some(total));
            read(reader, Some(Span { start, end })).await.unwrap()
        }
    });
    for (read, (start, end)) in join_all(reads).await.into_iter().zip(spans) {
        assert_eq!(
            read,
            content[start as usize..end as usize],
            "{start}..{end}"
        );
    }
    assert_eq!(source.offsets(), [0]);
}

#[tokio::test]
async fn a_blob_without_length_is_streamed_and_verified() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(300_000);
    let script = Script::Body {
        start: 0,
        total: None,
        chunks: chunked(&content),
        then_hang: false,
    };
    let mut reader = fixture
        .fetch
        .join(digest, None, Scripted::new("a", [script]));
    assert!(matches!(
        reader.opened().await.unwrap(),
        None | Some(300_000)
    ));
    assert_eq!(read(reader, None).await.unwrap(), content);
}

#[tokio::test]
async fn a_length_that_is_claimed_too_long_does_not_spoil_a_right_blob() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(1000);
    let claimed = content.len() as u64 + 7;
    let chunks = vec![Ok(content.clone()), Err(reset())];
    let script = Script::Body {
        start: 0,
        total: Some(claimed),
        chunks,
        then_hang: false,
    };
    let reader = fixture
        .fetch
        .join(digest, None, Scripted::new("a", [script]));
    let mut body = reader.stream(None, Some(claimed));
    assert!(
        next(&mut body).await.unwrap().is_err(),
        "this client was promised more"
    );
    fixture.settled().await;
    assert!(fixture.cached(digest).await);
}

#[tokio::test]
async fn a_flight_that_dies_tells_its_readers() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(1000);
    let source = Scripted::new("a", [Script::Panic, whole(&content)]);
    let mut reader = fixture.fetch.join(digest, None, source.clone());
    assert!(matches!(reader.opened().await, Err(FetchError::Closing)));
    assert_eq!(
        read(fixture.fetch.join(digest, None, source), None)
            .await
            .unwrap(),
        content
    );
}

#[tokio::test]
async fn a_latecomer_to_a_committed_blob_costs_no_request() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(MIB);
    let source = Scripted::new("a", [whole(&content)]);
    read(fixture.fetch.join(digest, None, source.clone()), None)
        .await
        .unwrap();
    fixture.settled().await;
    assert_eq!(
        read(fixture.fetch.join(digest, None, source.clone()), None)
            .await
            .unwrap(),
        content
    );
    assert_eq!(source.offsets(), [0]);
}

#[tokio::test]
async fn closing_lets_read_downloads_finish_and_stops_the_others() {
    let fixture = Fixture::new(u64::MAX);
    let (content, digest) = blob(MIB);
    let (other, other_digest) = blob(MIB + 1);
    let (sender, chunks) = mpsc::channel(1);
    let (_unread, pending) = mpsc::channel(1);
    let read_on = Scripted::new(
        "a",
        [Script::Channel {
            total: content.len() as u64,
            chunks,
        }],
    );
    let left = Scripted::new(
        "b",
        [Script::Channel {
            total: other.len() as u64,
            chunks: pending,
        }],
    );
    let reader = fixture.fetch.join(digest, None, read_on);
    drop(fixture.fetch.join(other_digest, None, left));
    fixture.tasks.close();
    let feed = async {
        for chunk in content.chunks(100_000) {
            sender.send(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
    };
    let (read, ()) = futures_util::future::join(read(reader, None), feed).await;
    assert_eq!(read.unwrap(), content);
    assert_eq!(fixture.tasks.drain(Duration::from_secs(10)).await, 0);
    assert!(fixture.cached(digest).await && !fixture.cached(other_digest).await);
}

fn assert_stored(directory: &Path, digest: Digest, content: &[u8]) {
    let hex = digest.encoded();
    let stored = std::fs::read(directory.join("blobs/sha256").join(&hex[..2]).join(&hex)).unwrap();
    assert_eq!(stored, content);
}

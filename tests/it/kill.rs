//! `kill -9` in the middle of pulls, over and over: what comes back is whole, and nothing is left of the rest.
//!
//! Five rounds; a hundred with `STRESS=1`. The seed is printed and `MIRROR_SEED` sets it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot prepare its stage fails, and says with which seed"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rusqlite::{Connection, OpenFlags};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{End, Response, read_response};
use crate::mirror::{cached, files};
use crate::process::{Launch, PATIENCE, Process};
use crate::support::{FakeHub, Fault, Image, ImageSpec, Origin, digest_of};

/// Whole blobs take from no time to a fifth of a second.
const BYTES_PER_SECOND: usize = 2_000_000;

const LARGEST_LAYER: usize = 400_000;

/// After so many rounds the next one begins with an empty directory, so that checking everything stays cheap.
const ROUNDS_PER_DIRECTORY: usize = 10;

/// What the directory may hold beside `blobs/` and `spool/`.
const FILES: [&str; 5] = [
    "format",
    "index.sqlite3",
    "index.sqlite3-shm",
    "index.sqlite3-wal",
    "lock",
];

fn rounds() -> usize {
    if std::env::var_os("STRESS").is_some() {
        100
    } else {
        5
    }
}

/// The seed of a test: what `MIRROR_SEED` says, else a new one.
pub(crate) fn seed() -> u64 {
    let chosen = std::env::var("MIRROR_SEED").ok();
    let seed = chosen.map_or_else(|| Rng::new().u64(..), |seed| seed.parse().unwrap());
    println!("MIRROR_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_in_the_middle_of_pulls_comes_back_whole() {
    let mut random = Rng::with_seed(seed());
    let mut stage = Stage::new().await;
    let mut totals = Totals::default();
    for round in 0..rounds() {
        if round % ROUNDS_PER_DIRECTORY == 0 {
            stage.data = tempfile::tempdir().unwrap();
            stage.blobs.clear();
        }
        if random.bool() {
            stage.kill_while_starting(&mut random).await;
        }
        let images = stage.publish(&mut random, round);
        let mirror = stage.start_and_check(&mut totals).await;
        let moment = Moment::choose(&mut random, round);
        stage
            .kill_in_pulls(mirror, &images, &moment, &mut totals)
            .await;
    }
    drop(stage.start_and_check(&mut totals).await);
    println!("{totals:?}");
    assert!(totals.served > 0, "something was cached before each kill");
    assert!(totals.complete > 0 && totals.cut > 0, "{totals:?}");
}

/// What happened in all rounds, to show that the kills hit what they are meant to hit.
#[derive(Debug, Default)]
struct Totals {
    /// Blobs that were cached when the process was killed, and served from the cache by the next one.
    served: usize,
    /// Blobs that clients had whole before the kill.
    complete: usize,
    /// Blobs whose transfer was cut by the kill.
    cut: usize,
    /// Downloads of which the kill left a spool behind.
    spooled: usize,
}

struct Stage {
    hub: FakeHub,
    data: tempfile::TempDir,
    /// Every blob that was published since the directory is new, by digest.
    blobs: HashMap<String, bytes::Bytes>,
}

/// An image in a repository.
struct Published {
    repository: String,
    tag: String,
    image: Image,
}

/// When the process is killed.
#[derive(Debug)]
enum Moment {
    /// After some time.
    After(Duration),
    /// As soon as so many more blobs have their file, and the last of them perhaps no row yet.
    Committed(usize),
}

impl Moment {
    fn choose(random: &mut Rng, round: usize) -> Self {
        if round.is_multiple_of(2) {
            Self::Committed(random.usize(2..12))
        } else {
            Self::After(Duration::from_millis(random.u64(0..400)))
        }
    }
}

impl Stage {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let bytes_per_second = BYTES_PER_SECOND;
        hub.on(Origin::Cdn)
            .blobs()
            .fault(Fault::Pace { bytes_per_second });
        Self {
            hub,
            data: tempfile::tempdir().unwrap(),
            blobs: HashMap::new(),
        }
    }

    /// Three images, two of which are the same in different repositories.
    fn publish(&mut self, random: &mut Rng, round: usize) -> Vec<Arc<Published>> {
        let sizes: Vec<_> = (0..6).map(|_| layer_size(random)).collect();
        let (first, second) = (random.u64(..), random.u64(..));
        let tag = format!("round-{round}");
        let images = [
            ("team/one", first),
            ("team/two", first),
            ("team/three", second),
        ];
        let publish = |(repository, seed): (&str, u64)| {
            let spec = ImageSpec::layer_sizes(&sizes).seed(seed);
            let image = self.hub.push_image(repository, &tag, spec);
            for blob in image.first().blobs() {
                self.blobs.insert(blob.digest.clone(), blob.bytes.clone());
            }
            Arc::new(Published {
                repository: repository.to_owned(),
                tag: tag.clone(),
                image,
            })
        };
        images.into_iter().map(publish).collect()
    }

    /// A process that dies before, while or after it tidies up.
    async fn kill_while_starting(&self, random: &mut Rng) {
        let mirror = Launch::of(&self.hub, self.data.path()).spawn();
        sleep(Duration::from_millis(random.u64(0..100))).await;
        mirror.kill().await;
    }

    async fn kill_in_pulls(
        &self,
        mirror: Process,
        images: &[Arc<Published>],
        moment: &Moment,
        totals: &mut Totals,
    ) {
        let mut pulls = JoinSet::new();
        for image in images {
            pulls.spawn(pull(mirror.tcp_address(), Arc::clone(image)));
        }
        self.wait_for(moment).await;
        mirror.kill().await;
        totals.spooled += files(&self.data.path().join("spool")).len();
        while let Some(pulled) = pulls.join_next().await {
            let (complete, cut) = pulled.unwrap();
            totals.complete += complete;
            totals.cut += cut;
        }
    }

    async fn wait_for(&self, moment: &Moment) {
        match moment {
            Moment::After(time) => sleep(*time).await,
            Moment::Committed(count) => {
                let paths = self.new_paths();
                let count = paths.len().min(*count);
                let watch = move || {
                    let begun = Instant::now();
                    let committed = || paths.iter().filter(|path| path.exists()).count();
                    while committed() < count && begun.elapsed() < PATIENCE {}
                };
                tokio::task::spawn_blocking(watch).await.unwrap();
            }
        }
    }

    /// Where the blobs will be that are published and not cached.
    fn new_paths(&self) -> Vec<PathBuf> {
        let blobs = self.data.path().join("blobs/sha256");
        let path = |digest: &String| {
            let hex = digest.strip_prefix("sha256:").unwrap();
            blobs.join(&hex[..2]).join(hex)
        };
        let paths = self.blobs.keys().map(path);
        paths.filter(|path| !path.exists()).collect()
    }

    /// Starts a mirror without a network and looks at what it has. Then the network is there again.
    async fn start_and_check(&self, totals: &mut Totals) -> Process {
        self.hub.stop().await;
        let mirror = Launch::of(&self.hub, self.data.path()).start().await;
        totals.served += self.check(&mirror).await;
        self.hub.restart().await;
        mirror
    }

    /// Everything in the directory of a mirror that was asked for nothing yet is whole, known to the index and
    /// served. Yields how many blobs that are.
    async fn check(&self, mirror: &Process) -> usize {
        let data = self.data.path();
        assert!(
            files(&data.join("spool")).is_empty(),
            "a temporary file is left"
        );
        for entry in std::fs::read_dir(data).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = FILES.contains(&&*name) || name == "blobs" || name == "spool";
            assert!(known, "{name} is left");
        }
        let index = Index::read(data);
        let recorded: Vec<_> = index.blobs.keys().cloned().collect();
        assert_eq!(cached(data), recorded, "files, and rows of the index");
        for (digest, bytes) in &index.manifests {
            assert_eq!(*digest, digest_of(bytes));
        }
        for (repository, digest) in &index.served {
            let answer = mirror.blob(repository, digest).await;
            assert_eq!(
                (answer.status, answer.end),
                (200, End::Complete),
                "{digest}"
            );
            assert!(
                answer.body == self.blobs[digest],
                "other bytes for {digest}"
            );
            assert_eq!(
                index.blobs[digest],
                i64::try_from(answer.body.len()).unwrap()
            );
        }
        index.blobs.len()
    }
}

/// From one byte to [`LARGEST_LAYER`], small ones as often as large ones.
fn layer_size(random: &mut Rng) -> usize {
    let bits = random.u32(0..20);
    random.usize(1..(2 << bits)).min(LARGEST_LAYER)
}

/// What the index says, read beside the running process.
struct Index {
    /// Blobs and their lengths, by digest.
    blobs: BTreeMap<String, i64>,
    manifests: Vec<(String, Vec<u8>)>,
    /// Repositories, and the blobs that are held and belong to them.
    served: Vec<(String, String)>,
}

impl Index {
    fn read(data: &Path) -> Self {
        let path = data.join("index.sqlite3");
        let index = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        index.busy_timeout(PATIENCE).unwrap();
        let served = "SELECT repository.name, member.digest FROM member
                      JOIN repository ON repository.id = member.repository
                      JOIN blob ON blob.digest = member.digest";
        Self {
            blobs: rows(&index, "SELECT digest, size FROM blob")
                .into_iter()
                .collect(),
            manifests: rows(&index, "SELECT digest, bytes FROM manifest"),
            served: rows(&index, served),
        }
    }
}

fn rows<A, B>(index: &Connection, sql: &str) -> Vec<(A, B)>
where
    A: rusqlite::types::FromSql,
    B: rusqlite::types::FromSql,
{
    let mut statement = index.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// Pulls an image, all of its blobs at once, for as long as the mirror lives. Yields how many blobs came whole and
/// how many were cut; one that is wrong fails the test.
async fn pull(mirror: std::net::SocketAddr, published: Arc<Published>) -> (usize, usize) {
    let Published {
        repository,
        tag,
        image,
    } = &*published;
    let platform = image.first();
    let manifests = [
        (tag, &image.bytes),
        (&image.digest, &image.bytes),
        (&platform.digest, &platform.bytes),
    ];
    for (reference, bytes) in manifests {
        let path = format!("/v2/{repository}/manifests/{reference}");
        if !is_whole(get(mirror, path).await, bytes) {
            return (0, 0);
        }
    }
    let mut transfers = JoinSet::new();
    for blob in platform.blobs().cloned() {
        let path = format!("/v2/{repository}/blobs/{}", blob.digest);
        transfers.spawn(async move { is_whole(get(mirror, path).await, &blob.bytes) });
    }
    let ended = transfers.join_all().await;
    let complete = ended.iter().filter(|whole| **whole).count();
    (complete, ended.len() - complete)
}

/// Asks a mirror that may be gone at any moment; `None` if it does not even take the question.
async fn get(mirror: std::net::SocketAddr, path: String) -> Option<Response> {
    let mut stream = TcpStream::connect(mirror).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: mirror\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    Some(read_response(&mut stream, false).await)
}

fn is_whole(answer: Option<Response>, bytes: &[u8]) -> bool {
    let Some(answer) = answer.filter(|answer| answer.status != 0) else {
        return false;
    };
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(bytes.starts_with(&answer.body), "other bytes");
    let whole = answer.end == End::Complete;
    assert!(
        !whole || answer.body.len() == bytes.len(),
        "complete and short"
    );
    whole
}

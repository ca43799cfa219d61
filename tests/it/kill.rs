//! `kill -9` in the middle of pulls and evictions, over and over: what comes back is whole, and nothing is left of the
//! rest.
//!
//! Five rounds; as many as `MIRROR_KILLS` says; a thousand with `STRESS=1`. The seed is printed and `MIRROR_SEED` sets
//! it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot prepare its stage fails, and says with which seed"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::future::join_all;
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{End, Response, read_response};
use crate::du::usage;
use crate::mirror::{cached, files};
use crate::process::{Launch, PATIENCE, Process, send};
use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, Fault, Image, ImageSpec, Origin, digest_of};

/// Whole blobs take from no time to a fifth of a second.
const BYTES_PER_SECOND: usize = 2_000_000;

const LARGEST_LAYER: usize = 400_000;

/// After so many rounds in a directory the next one begins with an empty one, so that checking everything stays cheap.
const ROUNDS_PER_DIRECTORY: usize = 10;

/// `cache.max_size` where blobs are evicted all the time, in bytes.
const CAP: u64 = 16 * 1024 * 1024;

/// The blobs that fill a directory up to its cap before the first kill: more than fit.
const FILLING: usize = 160;
const FILLING_SIZE: usize = 120_000;

/// How many blobs are asked for at once to see that they are right.
const ASKED_AT_ONCE: usize = 16;

/// A layer besides the others that makes many blobs go at once, and seldom comes whole.
const EVICTING_LAYER: usize = 1_000_000;

/// How many clients read again and again what may be evicted at any moment.
const WARM_CLIENTS: usize = 3;

/// The pulls of a round end before that, and the kill comes then if not before.
const LONGEST_ROUND: Duration = Duration::from_secs(2);

/// What a start may take, by what the project promises of a release build.
const PROMPT: Duration = Duration::from_millis(200);

/// What the directory may hold beside `blobs/` and `spool/`.
const FILES: [&str; 6] = [
    "admin.sock",
    "format",
    "index.sqlite3",
    "index.sqlite3-shm",
    "index.sqlite3-wal",
    "lock",
];

fn rounds() -> usize {
    match std::env::var("MIRROR_KILLS") {
        _ if std::env::var_os("STRESS").is_some() => 1000,
        Ok(rounds) => rounds.parse().unwrap(),
        Err(_) => 5,
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
    let mut stages = [Stage::new(None).await, Stage::new(Some(CAP)).await];
    let (mut totals, rounds) = (Totals::default(), rounds());
    for round in 0..rounds {
        // The first one evicts, so that there is always one that does.
        let stage = &mut stages[usize::from(round == 0 || random.bool())];
        if stage.rounds == ROUNDS_PER_DIRECTORY {
            stage.end(&mut totals).await;
            *stage = Stage::new(stage.cap).await;
        }
        stage.round(&mut random, &mut totals).await;
    }
    for stage in &mut stages {
        stage.end(&mut totals).await;
    }
    println!("{rounds} kills: {totals:?}");
    totals.print_starts();
    assert!(totals.served > 0, "something was cached before each kill");
    assert!(totals.complete > 0 && totals.cut > 0, "{totals:?}");
    assert!(totals.evicted > 0 && totals.warm > 0, "{totals:?}");
}

/// What happened in all rounds, to show that the kills hit what they are meant to hit.
#[derive(Default)]
struct Totals {
    /// Blobs that were cached when the process was killed, and served from the cache by the next one.
    served: usize,
    /// Blobs that clients had whole before the kill.
    complete: usize,
    /// Blobs whose transfer was cut by the kill.
    cut: usize,
    /// Blobs that clients read again while others were pulled.
    warm: usize,
    /// Blobs that were cached at some time and are not any more.
    evicted: usize,
    /// Downloads of which the kill left a spool behind.
    spooled: usize,
    /// Evictions that the kill left unfinished.
    doomed: usize,
    /// The most that a directory with a cap took after a kill, in bytes.
    peak: u64,
    /// From each start to the first answer.
    starts: Vec<Duration>,
}

impl std::fmt::Debug for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Totals")
            .field("served", &self.served)
            .field("complete", &self.complete)
            .field("cut", &self.cut)
            .field("warm", &self.warm)
            .field("evicted", &self.evicted)
            .field("spooled", &self.spooled)
            .field("doomed", &self.doomed)
            .field("peak", &self.peak)
            .finish_non_exhaustive()
    }
}

impl Totals {
    fn print_starts(&mut self) {
        self.starts.sort_unstable();
        let (number, starts) = (self.starts.len(), &self.starts);
        let (least, median, most) = (starts[0], starts[number / 2], starts[number - 1]);
        println!(
            "{number} starts, to the first answer: {least:?} {median:?} {most:?} (min, median, max)"
        );
        let late = starts.iter().filter(|it| **it > PROMPT).count();
        println!("{late} of them above {PROMPT:?}");
    }
}

/// A directory and its upstream.
struct Stage {
    hub: FakeHub,
    data: tempfile::TempDir,
    /// `cache.max_size`, where it is small.
    cap: Option<u64>,
    /// How many rounds there were.
    rounds: usize,
    /// Every blob that was published, by digest.
    blobs: HashMap<String, bytes::Bytes>,
    /// The part of them that fills the directory.
    filling: Vec<String>,
    /// What was cached at the last look.
    cached: BTreeSet<String>,
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
    /// As soon as so many files are gone that were there, and the note of the last of them perhaps not.
    Evicted(usize),
}

impl Moment {
    fn choose(random: &mut Rng, is_capped: bool) -> Self {
        match random.u32(..) % if is_capped { 3 } else { 2 } {
            0 => Self::Committed(random.usize(2..12)),
            1 => Self::After(Duration::from_millis(random.u64(0..400))),
            _ => Self::Evicted(random.usize(1..20)),
        }
    }
}

impl Stage {
    async fn new(cap: Option<u64>) -> Self {
        let hub = FakeHub::start().await;
        let bytes_per_second = BYTES_PER_SECOND;
        hub.on(Origin::Cdn)
            .blobs()
            .fault(Fault::Pace { bytes_per_second });
        let mut stage = Self {
            hub,
            data: tempfile::tempdir().unwrap(),
            cap,
            rounds: 0,
            blobs: HashMap::new(),
            filling: Vec::new(),
            cached: BTreeSet::new(),
        };
        if cap.is_some() {
            stage.fill().await;
        }
        stage
    }

    /// Takes the directory to its cap.
    async fn fill(&mut self) {
        let source = seeded_bytes(1, 2 * FILLING_SIZE);
        for at in 0..FILLING {
            let bytes = source.slice(at..at + FILLING_SIZE);
            let digest = self.hub.push_blob("team/filling", bytes.clone());
            self.blobs.insert(digest.clone(), bytes);
            self.filling.push(digest);
        }
        let mirror = self.launch().start().await;
        let pulls = self.filling.iter().map(async |digest| {
            let answer = mirror.blob("team/filling", digest).await;
            assert!(is_whole(Some(answer), &self.blobs[digest]));
        });
        join_all(pulls).await;
        mirror.kill().await;
    }

    fn launch(&self) -> Launch {
        let launch = Launch::of(&self.hub, self.data.path());
        match self.cap {
            // What is served from memory would not be read from what is evicted.
            Some(cap) => launch
                .set("CACHE__MAX_SIZE", &cap.to_string())
                .set("CACHE__MIN_FREE", "0")
                .set("CACHE__MEMORY", "0"),
            None => launch,
        }
    }

    /// From a start by way of pulls to a kill.
    async fn round(&mut self, random: &mut Rng, totals: &mut Totals) {
        if random.bool() {
            self.kill_while_starting(random).await;
        }
        let images = self.publish(random, self.rounds);
        let mirror = self.start_and_check(totals).await;
        let moment = Moment::choose(random, self.cap.is_some());
        let warm = self.choose_warm(random);
        self.kill_in_pulls(mirror, &images, warm, &moment, totals)
            .await;
        self.rounds += 1;
    }

    /// The last look at a directory.
    async fn end(&mut self, totals: &mut Totals) {
        drop(self.start_and_check(totals).await);
    }

    /// What each client reads while it may be evicted, or is fetched and evicts others.
    fn choose_warm(&self, random: &mut Rng) -> Vec<Vec<(String, bytes::Bytes)>> {
        let clients = self.cap.map_or(0, |_| WARM_CLIENTS);
        let mut choose = || {
            let digest = &self.filling[random.usize(0..FILLING)];
            (digest.clone(), self.blobs[digest].clone())
        };
        (0..clients)
            .map(|_| (0..20).map(|_| choose()).collect())
            .collect()
    }

    /// Three images, two of which are the same in different repositories.
    fn publish(&mut self, random: &mut Rng, round: usize) -> Vec<Arc<Published>> {
        let mut sizes: Vec<_> = (0..6).map(|_| layer_size(random)).collect();
        sizes.extend(self.cap.map(|_| EVICTING_LAYER));
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
        let mirror = self.launch().spawn();
        sleep(Duration::from_millis(random.u64(0..100))).await;
        mirror.kill().await;
    }

    async fn kill_in_pulls(
        &self,
        mirror: Process,
        images: &[Arc<Published>],
        warm: Vec<Vec<(String, bytes::Bytes)>>,
        moment: &Moment,
        totals: &mut Totals,
    ) {
        let (mut pulls, mut readers) = (JoinSet::new(), JoinSet::new());
        for image in images {
            pulls.spawn(pull(mirror.tcp_address(), Arc::clone(image)));
        }
        for blobs in warm {
            readers.spawn(read_again_and_again(mirror.tcp_address(), blobs));
        }
        self.kill_at(moment, mirror).await;
        self.look_at_what_is_left(totals);
        totals.warm += readers.join_all().await.into_iter().sum::<usize>();
        while let Some(pulled) = pulls.join_next().await {
            let (complete, cut) = pulled.unwrap();
            totals.complete += complete;
            totals.cut += cut;
        }
    }

    /// What the kill interrupted. The index is looked at in a copy: to open it would tidy it up.
    fn look_at_what_is_left(&self, totals: &mut Totals) {
        let data = self.data.path();
        totals.spooled += files(&data.join("spool")).len();
        let copy = tempfile::tempdir().unwrap();
        for name in ["index.sqlite3", "index.sqlite3-wal"] {
            std::fs::copy(data.join(name), copy.path().join(name)).unwrap();
        }
        totals.doomed += Index::doomed(copy.path());
        totals.peak = totals.peak.max(self.usage());
    }

    /// What the directory takes, which is never more than its cap. Zero where there is none.
    fn usage(&self) -> u64 {
        let Some(cap) = self.cap else { return 0 };
        let usage = usage(self.data.path());
        assert!(usage <= cap, "{usage} bytes");
        usage
    }

    async fn kill_at(&self, moment: &Moment, mirror: Process) {
        let (paths, is_there, count) = match moment {
            Moment::After(time) => {
                sleep(*time).await;
                return mirror.kill().await;
            }
            Moment::Committed(count) => (self.paths(false), true, *count),
            Moment::Evicted(count) => (self.paths(true), false, *count),
        };
        let (count, pid) = (paths.len().min(count), mirror.pid());
        let watch = move || {
            let begun = Instant::now();
            let changed = || paths.iter().filter(|it| it.exists() == is_there).count();
            // What is evicted at once may never be seen.
            while changed() < count && begun.elapsed() < LONGEST_ROUND {}
            // From here: the moment would be over by the time that a task is woken.
            send(pid, Signal::KILL);
        };
        tokio::task::spawn_blocking(watch).await.unwrap();
        mirror.kill().await;
    }

    /// Where the blobs that are published are, or will be: those that are cached, or those that are not.
    fn paths(&self, cached: bool) -> Vec<PathBuf> {
        let blobs = self.data.path().join("blobs/sha256");
        let path = |digest: &String| {
            let hex = digest.strip_prefix("sha256:").unwrap();
            blobs.join(&hex[..2]).join(hex)
        };
        let paths = self.blobs.keys().map(path);
        paths.filter(|path| path.exists() == cached).collect()
    }

    /// Starts a mirror without a network and looks at what it has. Then the network is there again.
    async fn start_and_check(&mut self, totals: &mut Totals) -> Process {
        self.hub.stop().await;
        let mirror = self.launch().start().await;
        totals.starts.push(mirror.age());
        let held = self.check(&mirror).await;
        totals.served += held.len();
        totals.evicted += self.cached.difference(&held).count();
        self.cached = held;
        self.hub.restart().await;
        mirror
    }

    /// Everything in the directory of a mirror that was asked for nothing yet is whole, known to the index and
    /// served. Yields what that is.
    async fn check(&self, mirror: &Process) -> BTreeSet<String> {
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
        self.usage();
        assert_eq!(Index::doomed(data), 0, "an eviction is unfinished");
        let index = Index::read(data);
        let recorded: Vec<_> = index.blobs.keys().cloned().collect();
        assert_eq!(cached(data), recorded, "files, and rows of the index");
        for (digest, bytes) in &index.manifests {
            assert_eq!(*digest, digest_of(bytes));
        }
        for some in index.served.chunks(ASKED_AT_ONCE) {
            let asked = some.iter().map(async |(repository, digest)| {
                let answer = mirror.blob(repository, digest).await;
                let ended = (answer.status, answer.end);
                assert_eq!(ended, (200, End::Complete), "{digest}");
                let is_right = answer.body == self.blobs[digest];
                assert!(is_right, "other bytes for {digest}");
                let length = i64::try_from(answer.body.len()).unwrap();
                assert_eq!(index.blobs[digest], length);
            });
            join_all(asked).await;
        }
        index.blobs.into_keys().collect()
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
        let index = open_index(data);
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

    /// How many blobs are out of the index while their files may be there.
    fn doomed(data: &Path) -> usize {
        let sql = "SELECT digest, digest FROM doomed";
        rows::<String, String>(&open_index(data), sql).len()
    }
}

fn open_index(data: &Path) -> Connection {
    let path = data.join("index.sqlite3");
    let index = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    index.busy_timeout(PATIENCE).unwrap();
    index
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

/// Reads blobs over and over for as long as the mirror lives. Yields how many came whole; one that is wrong fails the
/// test.
async fn read_again_and_again(
    mirror: std::net::SocketAddr,
    blobs: Vec<(String, bytes::Bytes)>,
) -> usize {
    let mut whole = 0;
    for (digest, bytes) in blobs.iter().cycle() {
        let path = format!("/v2/team/filling/blobs/{digest}");
        if !is_whole(get(mirror, path).await, bytes) {
            break;
        }
        whole += 1;
    }
    whole
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

//! The start on a large cache: soon, small, and without anybody waiting for what is tidied up behind it.
//!
//! 100,000 blobs; with `STRESS=1` a million as well. Times are printed, for no machine promises them; memory is asserted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot prepare its stage fails, and its figures are worth a look"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, Transaction, params};
use tokio::time::sleep;

use crate::cap::{assert_whole, outcome};
use crate::client::exchange;
use crate::process::{Launch, Process, wait_until};
use crate::rot::lose_power;
use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, digest_of};

const NGINX: &str = "library/nginx";

const LENGTH: usize = 3_000_000;

/// Of one image: its configuration and layers.
const BLOBS_OF_AN_IMAGE: u64 = 8;

const IMAGES_OF_A_REPOSITORY: u64 = 10;

/// What a start has in the background begins at once or after a minute: by now the former has had its turn.
const SETTLED: Duration = Duration::from_secs(2);

/// What a build for tests takes more, in MiB.
const UNOPTIMISED: u64 = if cfg!(debug_assertions) { 8 } else { 0 };

/// A stopped mirror's directory with many blobs, of which one has its file.
struct Stage {
    hub: FakeHub,
    directory: tempfile::TempDir,
    blobs: u64,
    warm: String,
    bytes: Bytes,
    /// What a process may have resident, in KiB.
    limit: u64,
}

impl Stage {
    async fn new(blobs: u64, limit_in_mib: u64) -> Self {
        let hub = FakeHub::start().await;
        let bytes = seeded_bytes(5, LENGTH);
        let stage = Self {
            warm: hub.push_blob(NGINX, bytes.clone()),
            hub,
            directory: tempfile::tempdir().unwrap(),
            blobs,
            bytes,
            limit: (limit_in_mib + UNOPTIMISED) * 1024,
        };
        let mirror = stage.launch().start().await;
        assert_eq!(stage.pull(&mirror).await, "miss; reason=absent");
        let is_kept = || stage.held() == (1, LENGTH.next_multiple_of(4096) as u64);
        wait_until("the blob is kept", is_kept).await;
        let ended = mirror.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        stage.generate();
        stage
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn index(&self) -> Connection {
        Connection::open(self.data().join("index.sqlite3")).unwrap()
    }

    /// How many blobs are held, and their bytes.
    fn held(&self) -> (u64, u64) {
        let sql = "SELECT sum(blobs), sum(bytes) FROM total";
        let sums = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let (blobs, bytes) = self.index().query_row(sql, [], sums).unwrap();
        (blobs.unsigned_abs(), bytes.unsigned_abs())
    }

    /// On a socket whose path is known at once, so that it can be asked before it says that it is ready. The blobs are
    /// on no disk: none is large enough.
    fn launch(&self) -> Launch {
        let socket = self.directory.path().join("socket");
        Launch::of(&self.hub, &self.data())
            .listen(&format!("unix:{}", socket.display()))
            .set("CACHE__MAX_SIZE", "100TiB")
            .set("CACHE__MIN_FREE", "0")
    }

    fn generate(&self) {
        let mut index = self.index();
        let transaction = index.transaction().unwrap();
        let mut digests: Vec<_> = (0..self.blobs).map(|n| (blob(n), n)).collect();
        digests.sort();
        for (digest, n) in &digests {
            insert_blob(&transaction, digest, *n);
        }
        for n in 0..self.blobs / BLOBS_OF_AN_IMAGE {
            insert_image(&transaction, n);
        }
        transaction.commit().unwrap();
        drop(index);
        assert_eq!(self.held().0, self.blobs + 1);
    }

    async fn pull(&self, mirror: &Process) -> String {
        let answer = mirror.blob(NGINX, &self.warm).await;
        assert_whole(&answer, &self.bytes);
        outcome(&answer)
    }

    /// Starts a process and prints what that took, up to its first answer, a warm pull, and a while later.
    async fn measure(&self, case: &str, launch: Launch) -> Process {
        let mirror = launch.spawn();
        first_answer(&mirror).await;
        let first = mirror.age();
        assert_eq!(self.pull(&mirror).await, "hit");
        let (pulled, resident) = (mirror.age(), mirror.resident_memory());
        sleep(SETTLED).await;
        let (later, peak) = (mirror.resident_memory(), mirror.peak_memory());
        let blobs = self.blobs;
        println!(
            "{blobs} blobs, {case}: first answer {first:?}, pull {pulled:?}, VmRSS {resident} KiB, then {later}, VmHWM {peak}"
        );
        assert!(peak < self.limit, "{peak} KiB, {case}");
        mirror
    }

    async fn measure_all(&self) {
        let mirror = self.measure("plain", self.launch()).await;
        mirror.stop().await;
        let old = self.launch().set("CACHE__MAX_AGE", "1d");
        let mirror = self
            .measure("expiry", old.set("CACHE__UNUSED_FOR", "1d"))
            .await;
        mirror.kill().await;
        self.after_a_power_cut().await;
        self.with_a_lower_cap().await;
    }

    /// Files that no row knows go behind the start.
    async fn after_a_power_cut(&self) {
        lose_power(&self.data());
        let stray = digest_of(b"stray");
        let hex = stray.strip_prefix("sha256:").unwrap();
        let shard = self.data().join("blobs/sha256").join(&hex[..2]);
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::write(shard.join(hex), b"stray").unwrap();
        let mirror = self.measure("after a power cut", self.launch()).await;
        wait_until("the stray is gone", || !shard.join(hex).exists()).await;
        let (before, peak) = (self.held().0, mirror.peak_memory());
        assert_eq!(before, self.blobs + 1, "no row goes for want of its file");
        assert!(peak < self.limit, "{peak} KiB, strays");
        mirror.stop().await;
    }

    /// A tenth of the blobs has to go: behind the start, in steps between which pulls get their turn.
    async fn with_a_lower_cap(&self) {
        let cap = self.held().1 / 10 * 9;
        let bytes = seeded_bytes(6, LENGTH);
        let cold = self.hub.push_blob(NGINX, bytes.clone());
        let launch = self.launch().set("CACHE__MAX_SIZE", &cap.to_string());
        let mirror = self.measure("a lower cap", launch).await;
        let asked = Instant::now();
        let answer = mirror.blob(NGINX, &cold).await;
        assert_whole(&answer, &bytes);
        println!(
            "a cold pull meanwhile: {:?}, {}",
            asked.elapsed(),
            outcome(&answer)
        );
        for _ in 0..3000 {
            if self.held().1 <= cap {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert!(self.held().1 <= cap, "five minutes were not enough");
        println!("what was over the cap is gone after {:?}", mirror.age());
        self.pull_into_a_full_cache(&mirror).await;
        let peak = mirror.peak_memory();
        assert!(peak < self.limit, "{peak} KiB, evicting");
        mirror.stop().await;
    }

    async fn pull_into_a_full_cache(&self, mirror: &Process) {
        let bytes = seeded_bytes(7, 10 * LENGTH);
        let cold = self.hub.push_blob(NGINX, bytes.clone());
        let (before, asked) = (self.held().0, Instant::now());
        let answer = mirror.blob(NGINX, &cold).await;
        let (took, after) = (asked.elapsed(), self.held().0);
        println!(
            "a cold pull into a full cache: {took:?}, {before} blobs before and {after} after"
        );
        assert_whole(&answer, &bytes);
        assert_eq!(outcome(&answer), "miss; reason=absent");
    }
}

/// Asks until somebody answers.
async fn first_answer(mirror: &Process) {
    loop {
        if let Ok(mut stream) = mirror.connect().await {
            let answer = exchange(&mut stream, "GET", "/v2/", &[]).await;
            assert_eq!(answer.status, 200);
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

fn blob(n: u64) -> String {
    digest_of(&n.to_le_bytes())
}

/// Between one and ten megabytes.
fn size(n: u64) -> u64 {
    1_000_000 + n * 7919 % 9_000_000
}

/// One in three was used again.
fn insert_blob(transaction: &Transaction<'_>, digest: &str, n: u64) {
    let sql = "INSERT INTO blob (digest, size, stored, checksum, epoch, used, segment, rank)
               SELECT ?1, ?2, ?3, 0, value, ?3, ?4, ?3 FROM meta WHERE key = 'epoch'";
    let at = 1_700_000_000_000 + n.cast_signed();
    let values = params![digest, size(n).cast_signed(), at, n.is_multiple_of(3)];
    let mut insert = transaction.prepare_cached(sql).unwrap();
    assert_eq!(insert.execute(values).unwrap(), 1);
}

fn insert_image(transaction: &Transaction<'_>, n: u64) {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        let mut insert = transaction.prepare_cached(sql).unwrap();
        insert.execute(values).unwrap();
    };
    let members = n * BLOBS_OF_AN_IMAGE..(n + 1) * BLOBS_OF_AN_IMAGE;
    // What stands in it is never parsed here, but it is as long as a real one.
    let padded: Vec<_> = members
        .clone()
        .map(|n| format!("{:160}", blob(n)))
        .collect();
    let bytes = padded.concat();
    let digest = digest_of(bytes.as_bytes());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    run(
        "INSERT INTO manifest (digest, media_type, bytes) VALUES (?1, ?2, ?3)",
        &[&digest, &media_type, &bytes.as_bytes()],
    );
    // The warm blob's repository is the first.
    let repository = 2 + n.cast_signed() / IMAGES_OF_A_REPOSITORY.cast_signed();
    let name = format!("library/image-{repository}");
    run(
        "INSERT INTO repository (id, upstream, name) VALUES (?1, 'docker.io', ?2) ON CONFLICT DO NOTHING",
        &[&repository, &name],
    );
    run(
        "INSERT INTO tag (repository, name, digest, checked) VALUES (?1, ?2, ?3, 0)",
        &[&repository, &format!("v{n}"), &digest],
    );
    let member = "INSERT INTO member (repository, digest, size) VALUES (?1, ?2, ?3)";
    for n in members {
        run(member, &[&repository, &blob(n), &size(n).cast_signed()]);
    }
    run(member, &[&repository, &digest, &1280]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_mirror_is_small() {
    let stage = Stage::new(0, 20).await;
    stage.measure("plain", stage.launch()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_blobs_hold_up_neither_the_start_nor_a_pull() {
    Stage::new(100_000, 30).await.measure_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_blobs_hold_up_neither_the_start_nor_a_pull() {
    if std::env::var_os("STRESS").is_none() {
        println!("skipped: it takes STRESS=1");
        return;
    }
    Stage::new(1_000_000, 60).await.measure_all().await;
}

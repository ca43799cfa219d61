//! A disk that is really full: before the start, while pulls begin, and in the middle of a download.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::join_all;

use crate::cap::{assert_whole, outcome};
use crate::client::{Download, End, Response};
use crate::disk::Tmpfs;
use crate::mirror::{cached, files};
use crate::process::{Ended, Launch, Process, wait_until};
use crate::support::image::seeded_bytes;
use crate::support::{At, FakeHub, Fault, Image, ImageSpec, Origin};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const NGINX: &str = "library/nginx";

/// Half of it is more than the sockets of a narrow reader hold: he has not been sent that much while he reads nothing.
const LARGE: usize = 16 * MIB;
const HALF: usize = LARGE / 2;

/// The outcome of a blob that finds no room.
const NO_ROOM: &str = "bypass; reason=no_room";
const ABSENT: &str = "miss; reason=absent";

/// A small disk with a data directory on it, and an upstream.
struct Stage {
    hub: FakeHub,
    disk: Tmpfs,
}

impl Stage {
    /// `None` where nothing can be mounted.
    async fn new() -> Option<Self> {
        let disk = Tmpfs::mount(64 * MIB as u64)?;
        let hub = FakeHub::start().await;
        Some(Self { hub, disk })
    }

    fn data(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    fn launch(&self) -> Launch {
        self.launch_in(&self.data())
    }

    /// A mirror that may take the whole disk, and gives its upstream all the time that a busy machine needs.
    fn launch_in(&self, data: &Path) -> Launch {
        Launch::of(&self.hub, data)
            .set("CACHE__MAX_SIZE", "100%")
            .set("CACHE__MIN_FREE", "0")
            .set("UPSTREAMS__DOCKER_IO__STALL", "60s")
            .set("UPSTREAMS__DOCKER_IO__TIMEOUT", "60s")
    }

    /// An image. Three of them are less than what a full disk is short of, so that none is evicted in vain.
    fn push(&self, tag: &str, seed: u64) -> Image {
        let spec = ImageSpec::layer_sizes(&[MIB / 2, MIB / 2]).seed(seed);
        let image = self.hub.push_image(NGINX, tag, spec);
        let manifest = &image.first().digest;
        self.hub.name(manifest, &format!("{tag}.manifest"));
        for (number, blob) in (0..).zip(image.first().blobs()) {
            self.hub.name(&blob.digest, &blob_name(tag, number));
        }
        image
    }

    /// A blob that no manifest names.
    fn push_blob(&self, seed: u64, length: usize) -> (String, Bytes) {
        let bytes = seeded_bytes(seed, length);
        let digest = self.hub.push_blob(NGINX, bytes.clone());
        self.hub.name(&digest, "blob");
        (digest, bytes)
    }

    fn cached(&self) -> Vec<String> {
        cached(&self.data())
    }

    fn spooled(&self) -> Vec<PathBuf> {
        files(&self.data().join("spool"))
    }

    async fn wait_until_cached(&self, digest: &str) {
        wait_until("the blob is cached", || {
            self.cached().iter().any(|it| it == digest) && self.spooled().is_empty()
        })
        .await;
    }

    /// Pulls an image by its tag, right to the last byte; `expected` is the outcome of its manifests and of its
    /// blobs. Yields what that cost the upstream.
    async fn pull(
        &self,
        mirror: &Process,
        tag: &str,
        image: &Image,
        expected: [&str; 2],
    ) -> Vec<String> {
        self.hub.take_requests();
        let platform = image.first();
        for (reference, bytes) in [(tag, &image.bytes), (&platform.digest, &platform.bytes)] {
            let answer = mirror.manifest(NGINX, reference).await;
            assert_whole(&answer, bytes);
            assert_eq!(without_age(&outcome(&answer)), expected[0]);
        }
        for blob in platform.blobs() {
            let answer = mirror.blob(NGINX, &blob.digest).await;
            assert_whole(&answer, &blob.bytes);
            assert_eq!(outcome(&answer), expected[1]);
            if expected[1] == ABSENT {
                self.wait_until_cached(&blob.digest).await;
            }
        }
        self.hub.take_summary()
    }
}

/// An outcome without how long ago its tag was confirmed.
fn without_age(outcome: &str) -> &str {
    outcome
        .split_once("; age=")
        .map_or(outcome, |(rest, _)| rest)
}

/// The digests of an image's blobs, in order.
fn digests(image: &Image) -> Vec<String> {
    let mut digests: Vec<_> = image.first().blobs().map(|it| it.digest.clone()).collect();
    digests.sort_unstable();
    digests
}

fn blob_name(tag: &str, number: usize) -> String {
    format!("{tag}.blob{number}")
}

/// What one answer with a blob, or with what follows `start`, costs the upstream.
fn blob_cost(name: &str, start: Option<usize>) -> [String; 2] {
    let range = start.map_or_else(String::new, |start| format!(" bytes={start}-"));
    [
        format!("registry GET {NGINX}/blobs/{name}{range}"),
        format!("cdn GET {name}{range}"),
    ]
}

fn manifest_cost(tag: &str) -> [String; 2] {
    [tag.to_owned(), format!("{tag}.manifest")]
        .map(|reference| format!("registry GET {NGINX}/manifests/{reference}"))
}

/// What the blobs of an image that was pushed as `tag` cost the upstream.
fn blobs_cost(tag: &str) -> Vec<String> {
    (0..3)
        .flat_map(|number| blob_cost(&blob_name(tag, number), None))
        .collect()
}

const TOKEN: &str = "token GET library/nginx:pull";

/// Ten readers of one download, each somewhere else in it.
struct Readers {
    /// In the order in which they came, the first of which started the download.
    whole: Vec<Download>,
    /// What they ask for, and who they are.
    parts: Vec<(std::ops::Range<usize>, Download)>,
}

/// Where the parts begin and end: one has all of its bytes before the disk is full and reads none of them, one is in
/// the middle of its bytes, one waits for its first.
const PARTS: [std::ops::Range<usize>; 3] = [
    1000..HALF - 1000,
    HALF - 100_000..HALF + 2 * MIB,
    LARGE - 5 * MIB..LARGE,
];

impl Readers {
    /// Nine of them, when the first half of the blob is there and the rest is not.
    async fn come(url: &str) -> Self {
        let mut whole = Vec::new();
        for _ in 0..3 {
            whole.push(Download::begin(url, &[]).await);
            whole.last_mut().unwrap().receive(HALF).await;
        }
        // Those that stall, at different offsets.
        for received in [0, LARGE / 16, LARGE / 8] {
            let mut reader = Download::begin_narrow(url, &[]).await;
            reader.answered().await;
            reader.receive(received).await;
            whole.push(reader);
        }
        let mut parts = Vec::new();
        for span in PARTS {
            let range = format!("bytes={}-{}", span.start, span.end - 1);
            let mut reader = Download::begin_narrow(url, &[("range", &range)]).await;
            reader.answered().await;
            parts.push((span, reader));
        }
        parts[1].1.receive(50_000).await;
        Self { whole, parts }
    }

    /// One more, which comes when the disk is full and the download does not know it yet.
    async fn join_late(&mut self, url: &str) {
        let mut reader = Download::begin(url, &[]).await;
        reader.receive(HALF).await;
        self.whole.push(reader);
    }

    /// Everybody gets everything; those who stalled, only when all others have ended.
    async fn finish(self, bytes: &[u8]) {
        let (mut steady, mut stalled) = (self.whole, Vec::new());
        stalled.extend(steady.drain(3..6));
        let steady = join_all(steady.into_iter().map(Download::finish)).await;
        let stalled = join_all(stalled.into_iter().map(Download::finish)).await;
        assert_whole(&steady[0], bytes);
        assert_eq!(outcome(&steady[0]), ABSENT);
        for answer in steady[1..].iter().chain(&stalled) {
            assert_whole(answer, bytes);
            assert_eq!(outcome(answer), "coalesced");
        }
        for (span, reader) in self.parts {
            assert_part(&reader.finish().await, bytes, span);
        }
    }
}

#[track_caller]
fn assert_part(answer: &Response, bytes: &[u8], span: std::ops::Range<usize>) {
    let ended = (answer.status, answer.end);
    assert_eq!(ended, (206, End::Complete), "{}", answer.head);
    assert_eq!(outcome(answer), "coalesced");
    assert!(answer.body == bytes[span], "wrong bytes: {}", answer.head);
}

/// The disk fills up to `left` bytes while the second half of a blob is still to come. Yields what the upstream was
/// asked for, sorted.
async fn fill_in_the_middle_of_a_flight(stage: &Stage, left: u64) -> Vec<String> {
    let (digest, bytes) = stage.push_blob(1, LARGE);
    let cdn = || stage.hub.on(Origin::Cdn);
    // Slow enough that the rest is not in some buffer already when it is let go.
    cdn().fault(Fault::Pace {
        bytes_per_second: 64 * MIB,
    });
    let gate = cdn().ranged(false).hold(At::Percent(50));
    let mirror = stage.launch().start().await;
    let url = format!("http://{}/v2/{NGINX}/blobs/{digest}", mirror.tcp_address());

    let mut readers = Readers::come(&url).await;
    stage.disk.fill(left);
    readers.join_late(&url).await;
    gate.release();
    readers.finish(&bytes).await;

    wait_until("the spool is gone", || stage.spooled().is_empty()).await;
    assert_eq!(stage.cached(), [""; 0]);
    let mut asked = stage.hub.take_summary();
    asked.sort_unstable();
    stage.disk.free();
    assert_is_kept(stage, &mirror, &digest, &bytes).await;
    asked
}

/// A pull is a miss that is kept, and the next one a hit.
async fn assert_is_kept(stage: &Stage, mirror: &Process, digest: &str, bytes: &[u8]) {
    stage.hub.take_requests();
    let cold = mirror.blob(NGINX, digest).await;
    assert_whole(&cold, bytes);
    assert_eq!(outcome(&cold), ABSENT);
    stage.wait_until_cached(digest).await;
    let warm = mirror.blob(NGINX, digest).await;
    assert_whole(&warm, bytes);
    assert_eq!(outcome(&warm), "hit");
    assert_eq!(stage.hub.take_summary(), blob_cost("blob", None));
}

/// What ten readers cost when the disk takes nothing of a blob from `end` on: the download that they shared, and a
/// transfer of his own for everyone who does not have all of his bytes by then, from there on or from where he begins.
fn cost_of_ten(end: usize) -> Vec<String> {
    let whole = (0..7).map(|_| end);
    let parts = PARTS.into_iter().filter(|part| part.end > end);
    let starts = whole.chain(parts.map(|part| part.start.max(end)));
    let mut cost: Vec<_> = [TOKEN.to_owned()]
        .into_iter()
        .chain(blob_cost("blob", None))
        .collect();
    cost.extend(starts.flat_map(|start| blob_cost("blob", Some(start))));
    cost.sort_unstable();
    cost
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_from_one_byte_to_the_next_cuts_none_of_ten_readers() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let asked = fill_in_the_middle_of_a_flight(&stage, 0).await;
    assert_eq!(asked, cost_of_ten(HALF));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_while_bytes_arrive_cuts_none_of_ten_readers() {
    const LEFT: usize = MIB;
    let Some(stage) = Stage::new().await else {
        return;
    };
    let asked = fill_in_the_middle_of_a_flight(&stage, LEFT as u64).await;
    // What arrives together is written together, and counts as a whole or not at all: how much of what was left is of
    // use depends on how the bytes arrived. The readers agree on it.
    let prefix = "cdn GET blob bytes=";
    let starts = asked
        .iter()
        .filter_map(|line| line.strip_prefix(prefix)?.strip_suffix('-'));
    let end = starts.map(|start| start.parse().unwrap()).min().unwrap();
    assert!((HALF..=HALF + LEFT).contains(&end), "{end}");
    assert_eq!(asked, cost_of_ten(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_pulls_pass_through_and_are_kept_again_after_that() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let mirror = stage.launch().start().await;
    let (held, new) = (stage.push("held", 1), stage.push("new", 2));
    let cost = stage.pull(&mirror, "held", &held, [ABSENT; 2]).await;
    assert_eq!(cost.len(), 1 + 2 + 6, "{cost:#?}");
    stage.disk.fill(0);

    assert_eq!(
        stage.pull(&mirror, "held", &held, ["hit"; 2]).await,
        [""; 0]
    );
    // Its manifests are kept all the same, in memory.
    let cost = stage.pull(&mirror, "new", &new, [ABSENT, NO_ROOM]).await;
    assert_eq!(
        cost,
        [&manifest_cost("new")[..], &blobs_cost("new")].concat()
    );
    let cost = stage.pull(&mirror, "new", &new, ["hit", NO_ROOM]).await;
    assert_eq!(cost, blobs_cost("new"));
    assert_passes_through_without_a_length(&stage, &mirror).await;
    assert_eq!(
        stage.cached(),
        digests(&held),
        "nothing was given up, and nothing kept"
    );

    stage.disk.free();
    let cost = stage.pull(&mirror, "new", &new, ["hit", ABSENT]).await;
    assert_eq!(cost, blobs_cost("new"));
    assert_eq!(stage.pull(&mirror, "new", &new, ["hit"; 2]).await, [""; 0]);
}

/// A blob whose length nobody states: neither a manifest nor, with `Chunked`, its answer.
async fn assert_passes_through_without_a_length(stage: &Stage, mirror: &Process) {
    for (seed, fault) in [
        (7, None),
        (8, Some(Fault::Chunked)),
        (9, Some(Fault::UntilClose)),
    ] {
        let (digest, bytes) = stage.push_blob(seed, MIB);
        let armed = fault.map(|fault| stage.hub.on(Origin::Cdn).digest(&digest).fault(fault));
        let answer = mirror.blob(NGINX, &digest).await;
        assert_whole(&answer, &bytes);
        assert_eq!(outcome(&answer), NO_ROOM);
        // Only an answer tells the length: by then one transfer is open, and the reader begins another.
        let once = blob_cost("blob", None);
        assert_eq!(stage.hub.take_summary(), [&once[..], &once].concat());
        if let Some(armed) = armed {
            armed.disarm();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_evicted_makes_room_on_a_full_disk() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let mirror = stage.launch().start().await;
    let (old, old_bytes) = stage.push_blob(1, LARGE);
    assert_whole(&mirror.blob(NGINX, &old).await, &old_bytes);
    stage.wait_until_cached(&old).await;
    // What goes has to be noted in the index first, for which nothing is left here, and something below.
    stage.disk.fill(0);
    let (new, new_bytes) = stage.push_blob(2, LARGE / 2);
    let answer = mirror.blob(NGINX, &new).await;
    assert_whole(&answer, &new_bytes);
    assert_eq!(outcome(&answer), "bypass; reason=disk_error");
    assert_eq!(stage.cached(), [old]);
    stage.disk.free();
    stage.disk.fill(64 * KIB as u64);
    assert_is_kept(&stage, &mirror, &new, &new_bytes).await;
    assert_eq!(stage.cached(), [new]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_starts_on_a_full_disk_serves_what_it_has_and_passes_the_rest_through() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    let images = [1, 2, 3].map(|seed| stage.push(&format!("v{seed}"), seed));
    let mut mirror = stage.launch().start().await;
    stage.pull(&mirror, "v1", &images[0], [ABSENT; 2]).await;
    for is_killed in [false, true] {
        if is_killed {
            mirror.kill().await;
        } else {
            assert_eq!(mirror.stop().await.code, Some(0));
        }
        stage.disk.fill(0);
        mirror = stage.launch().start().await;
        mirror.wait_for_log("the cache has no room").await;
        stage.pull(&mirror, "v1", &images[0], ["hit"; 2]).await;
        let (tag, image) = [("v2", &images[1]), ("v3", &images[2])][usize::from(is_killed)];
        stage.pull(&mirror, tag, image, [ABSENT, NO_ROOM]).await;
        stage.disk.free();
        stage.pull(&mirror, tag, image, ["hit", ABSENT]).await;
        stage.pull(&mirror, tag, image, ["hit"; 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_data_directory_on_a_full_disk_says_what_is_missing_and_is_of_use_later() {
    let Some(stage) = Stage::new().await else {
        return;
    };
    // From not even its first file to all of its files but what the index grows by.
    for pages in [0, 1, 2, 4, 8, 12] {
        let data = stage.disk.path().join(format!("data-{pages}"));
        stage.disk.fill(pages * 4096);
        let ended = stage.launch_in(&data).refused().await;
        assert_tells_of_a_full_disk(&ended, &data);
        stage.disk.free();
        let mirror = stage.launch_in(&data).start().await;
        assert_eq!(mirror.stop().await.code, Some(0));
    }
}

#[track_caller]
fn assert_tells_of_a_full_disk(ended: &Ended, data: &Path) {
    let stderr = &ended.stderr;
    assert_eq!(ended.code, Some(1), "{stderr}");
    assert!(stderr.contains(&*data.to_string_lossy()), "{stderr}");
    let is_why = |reason| stderr.contains(reason);
    assert!(
        is_why("No space left on device") || is_why("its disk is full"),
        "{stderr}"
    );
    assert!(stderr.contains("help: free space on that disk"), "{stderr}");
}

//! Eviction harms nobody who is in the middle of a download.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::path::PathBuf;

use bytes::Bytes;

use crate::cap::{assert_whole, assert_within, capped, outcome};
use crate::client::{Download, Response};
use crate::du::Watch;
use crate::process::{Launch, Process, wait_until};
use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, digest_of};

const MIB: usize = 1024 * 1024;

const CAP: u64 = 96 * MIB as u64;

/// Half of it is more than the sockets of a narrow reader hold: while he stalls in the middle he is still being served.
const LARGE: usize = 28 * MIB;

const NGINX: &str = "library/nginx";

/// A capped mirror, and an upstream with as many blobs as asked for.
struct Stage {
    hub: FakeHub,
    mirror: Process,
    data: tempfile::TempDir,
    source: Bytes,
    published: usize,
}

/// A blob of the upstream.
struct Blob {
    digest: String,
    bytes: Bytes,
}

impl Stage {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let data = tempfile::tempdir().unwrap();
        let mirror = capped(&hub, data.path(), CAP).await;
        let source = seeded_bytes(11, 2 * LARGE);
        Self {
            hub,
            mirror,
            data,
            source,
            published: 0,
        }
    }

    /// A new blob, a window of the same bytes as the others.
    fn publish(&mut self, length: usize) -> Blob {
        self.published += 1;
        let bytes = self.source.slice(self.published..self.published + length);
        let digest = digest_of(&bytes);
        self.hub.push_blob_as(NGINX, &digest, bytes.clone());
        Blob { digest, bytes }
    }

    /// A client that has half of the blob, and reads no further.
    async fn stall_at_half(&self, blob: &Blob) -> Download {
        let address = self.mirror.tcp_address();
        let url = format!("http://{address}/v2/{NGINX}/blobs/{}", blob.digest);
        let mut reader = Download::begin_narrow(&url, &[]).await;
        reader.receive(blob.bytes.len() / 2).await;
        assert!(reader.body().len() < blob.bytes.len());
        reader
    }

    /// Pulls a blob, right to the last byte; yields what became of the request.
    async fn pull(&self, blob: &Blob) -> String {
        let answer = self.mirror.blob(NGINX, &blob.digest).await;
        assert_whole(&answer, &blob.bytes);
        outcome(&answer)
    }

    /// Pulls twice as much as the cap, all of it new.
    async fn press(&mut self) {
        for _ in 0..48 {
            let blob = self.publish(4 * MIB);
            assert_eq!(self.pull(&blob).await, "miss; reason=absent");
        }
    }

    fn path(&self, blob: &Blob) -> PathBuf {
        let hex = blob.digest.strip_prefix("sha256:").unwrap();
        let shard = self.data.path().join("blobs/sha256").join(&hex[..2]);
        shard.join(hex)
    }

    async fn wait_until_cached(&self, blob: &Blob) {
        let spool = self.data.path().join("spool");
        wait_until("the blob is cached", || {
            self.path(blob).exists() && std::fs::read_dir(&spool).unwrap().next().is_none()
        })
        .await;
    }
}

#[track_caller]
fn assert_right(answer: &Response, blob: &Blob, expected: &str) {
    assert_whole(answer, &blob.bytes);
    assert_eq!(outcome(answer), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stalls_in_the_middle_of_a_blob_gets_all_of_it_whatever_is_evicted_meanwhile() {
    let mut stage = Stage::new().await;
    let watch = Watch::start(stage.data.path());
    let blob = stage.publish(LARGE);
    let cold = stage.stall_at_half(&blob).await;
    stage.wait_until_cached(&blob).await;
    let warm = stage.stall_at_half(&blob).await;
    stage.press().await;
    assert_right(&cold.finish().await, &blob, "miss; reason=absent");
    stage.press().await;
    assert_right(&warm.finish().await, &blob, "hit");
    stage.press().await;
    assert_within(watch.stop(), CAP);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_a_blob_that_is_removed_gets_all_of_it_and_so_does_who_comes_later() {
    let mut stage = Stage::new().await;
    let watch = Watch::start(stage.data.path());
    let blob = stage.publish(LARGE);
    assert_eq!(stage.pull(&blob).await, "miss; reason=absent");
    stage.wait_until_cached(&blob).await;
    let early = stage.stall_at_half(&blob).await;

    std::fs::remove_file(stage.path(&blob)).unwrap();
    assert_eq!(stage.pull(&blob).await, "miss; reason=lost");
    stage.wait_until_cached(&blob).await;
    let late = stage.stall_at_half(&blob).await;
    stage.press().await;
    assert_right(&early.finish().await, &blob, "hit");
    assert_right(&late.finish().await, &blob, "hit");
    assert_within(watch.stop(), CAP);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_everything_is_being_read_pulls_pass_through_and_are_kept_again_after_that() {
    let mut stage = Stage::new().await;
    let watch = Watch::start(stage.data.path());
    let held = [(); 3].map(|()| stage.publish(LARGE));
    let mut readers = Vec::new();
    for blob in &held {
        readers.push(stage.stall_at_half(blob).await);
        stage.wait_until_cached(blob).await;
    }
    let another = stage.publish(LARGE);
    for _ in 0..2 {
        assert_eq!(stage.pull(&another).await, "bypass; reason=no_room");
    }
    for (reader, blob) in readers.into_iter().zip(&held) {
        assert_right(&reader.finish().await, blob, "miss; reason=absent");
    }
    assert_eq!(stage.pull(&another).await, "miss; reason=absent");
    stage.wait_until_cached(&another).await;
    assert_eq!(stage.pull(&another).await, "hit");
    assert_within(watch.stop(), CAP);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_that_is_served_from_memory_keeps_its_place_on_disk() {
    let mut stage = Stage::new().await;
    // One that may keep small blobs in memory takes the place of the other.
    stage.mirror.terminate();
    stage.mirror = Launch::of(&stage.hub, stage.data.path())
        .set("CACHE__MAX_SIZE", &CAP.to_string())
        .start()
        .await;
    let small = stage.publish(10_000);
    assert_eq!(stage.pull(&small).await, "miss; reason=absent");
    stage.wait_until_cached(&small).await;
    for _ in 0..48 {
        assert_eq!(stage.pull(&small).await, "hit");
        let large = stage.publish(4 * MIB);
        assert_eq!(stage.pull(&large).await, "miss; reason=absent");
        stage.wait_until_cached(&large).await;
        assert_eq!(stage.pull(&large).await, "hit");
    }
    assert!(stage.path(&small).exists());
}

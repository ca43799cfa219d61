//! What a disk damages is noticed by the read of it: nobody gets a wrong blob whole, and the next one gets a right one.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::Connection;

use crate::client::{End, Response, request};
use crate::mirror::{TestMirror, files};
use crate::process::{Launch, wait_until};
use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, digest_of};

const NGINX: &str = "library/nginx";
const LENGTH: usize = 700 * 1024;
const FETCHED: [&str; 2] = ["registry GET library/nginx/blobs/layer", "cdn GET layer"];

fn publish(hub: &FakeHub) -> (String, Bytes) {
    let bytes = seeded_bytes(3, LENGTH);
    let digest = digest_of(&bytes);
    hub.push_blob_as(NGINX, &digest, bytes.clone());
    hub.name(&digest, "layer");
    (digest, bytes)
}

fn file_of(data: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[track_caller]
fn assert_outcome(answer: &Response, bytes: &[u8], expected: &str) {
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert_eq!(answer.body, bytes);
    let found = answer.header("x-mirror-cache").unwrap();
    assert_eq!(found, format!("{expected}; upstream=docker.io"));
}

/// A mirror that holds a blob, and has asked its upstream nothing since.
struct Warm {
    hub: FakeHub,
    mirror: TestMirror,
    digest: String,
    bytes: Bytes,
}

impl Warm {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let mirror = TestMirror::start(&hub).await;
        let (digest, bytes) = publish(&hub);
        mirror.blob(NGINX, &digest).await;
        mirror.wait_until_cached(&digest).await;
        hub.take_summary();
        Self {
            hub,
            mirror,
            digest,
            bytes,
        }
    }

    fn file(&self) -> PathBuf {
        file_of(self.mirror.data(), &self.digest)
    }

    async fn pull(&self) -> Response {
        self.mirror.blob(NGINX, &self.digest).await
    }
}

#[tokio::test]
async fn a_flipped_bit_cuts_the_pull_and_the_next_one_fetches_the_blob_again() {
    for at in [0, LENGTH / 2, LENGTH - 1] {
        let warm = Warm::new().await;
        let mut damaged = warm.bytes.to_vec();
        damaged[at] ^= 1;
        std::fs::write(warm.file(), &damaged).unwrap();

        let answer = warm.pull().await;
        assert_ne!(answer.end, End::Complete, "byte {at}");
        assert!(answer.body.len() < LENGTH);
        assert_eq!(warm.hub.take_summary(), [""; 0]);
        assert!(!warm.file().exists());
        let aside = files(&warm.mirror.data().join("quarantine"));
        assert_eq!(std::fs::read(&aside[0]).unwrap(), damaged);

        assert_outcome(&warm.pull().await, &warm.bytes, "miss; reason=absent");
        assert_eq!(warm.hub.take_summary(), FETCHED);
        warm.mirror.wait_until_cached(&warm.digest).await;
        assert_outcome(&warm.pull().await, &warm.bytes, "hit");
    }
}

#[tokio::test]
async fn a_truncated_file_is_fetched_again_at_once() {
    let warm = Warm::new().await;
    std::fs::write(warm.file(), &warm.bytes[..LENGTH - 1]).unwrap();
    assert_outcome(&warm.pull().await, &warm.bytes, "miss; reason=lost");
    assert_eq!(warm.hub.take_summary(), FETCHED);
}

/// Makes the directory look as if the machine had lost power since.
pub(crate) fn lose_power(data: &Path) {
    let index = Connection::open(data.join("index.sqlite3")).unwrap();
    let changed = index.execute("UPDATE meta SET value = 'another' WHERE key = 'boot'", []);
    assert_eq!(changed.unwrap(), 1);
}

/// An upstream, and a directory with its blob that a power cut has come over.
struct Cut {
    hub: FakeHub,
    data: tempfile::TempDir,
    digest: String,
    bytes: Bytes,
}

impl Cut {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let data = tempfile::tempdir().unwrap();
        let (digest, bytes) = publish(&hub);
        let mirror = Launch::of(&hub, data.path()).start().await;
        mirror.blob(NGINX, &digest).await;
        let (file, spool) = (file_of(data.path(), &digest), data.path().join("spool"));
        let is_cached = || file.exists() && files(&spool).is_empty();
        wait_until("the blob is cached", is_cached).await;
        mirror.kill().await;
        lose_power(data.path());
        hub.take_summary();
        Self {
            hub,
            data,
            digest,
            bytes,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_a_blob_that_was_written_out_in_time_is_served() {
    let cut = Cut::new().await;
    let mirror = Launch::of(&cut.hub, cut.data.path()).start().await;
    assert_outcome(&mirror.blob(NGINX, &cut.digest).await, &cut.bytes, "hit");
    assert_eq!(cut.hub.take_summary(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_not_one_wrong_byte_is_served() {
    let cut = Cut::new().await;
    let (bytes, half) = (&cut.bytes, LENGTH / 2);
    let torn = [&bytes[..half], &vec![0; LENGTH - half]].concat();
    std::fs::write(file_of(cut.data.path(), &cut.digest), torn).unwrap();
    let mirror = Launch::of(&cut.hub, cut.data.path()).start().await;
    let path = format!("/v2/{NGINX}/blobs/{}", cut.digest);
    let url = format!("http://{}{path}", mirror.tcp_address());
    let part = request("GET", &url, &[("range", "bytes=0-99")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[..100]));
    assert_eq!(
        part.header("x-mirror-cache"),
        Some("miss; reason=lost; upstream=docker.io")
    );
    assert_eq!(cut.hub.take_summary()[1..], FETCHED, "after a token");
}

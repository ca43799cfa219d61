//! What is never to be cached is asked of the upstream each time, arrives right, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::future::join_all;
use mirror::oci::ImagePatterns;
use rusqlite::{Connection, OpenFlags};

use crate::client::{Download, End, Response};
use crate::mirror::{TestMirror, files};
use crate::support::image::seeded_bytes;
use crate::support::{At, FakeHub, Fault, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";
const REDIS: &str = "library/redis";
const TOKEN: &str = "token GET library/nginx:pull";
const PASSED: Option<&str> = Some("bypass; reason=never_cache; upstream=docker.io");
const MIB: usize = 1024 * 1024;

async fn passing(hub: &FakeHub, pattern: &str) -> TestMirror {
    TestMirror::start_with(hub, |settings| {
        settings.cache.never_cache = ImagePatterns::parse([pattern]).unwrap();
    })
    .await
}

/// A mirror that passes all of nginx through, and a blob of it.
struct OneBlob {
    hub: FakeHub,
    mirror: TestMirror,
    digest: String,
    bytes: Bytes,
}

impl OneBlob {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let bytes = seeded_bytes(7, MIB);
        let digest = hub.push_blob(NGINX, bytes.clone());
        hub.name(&digest, "blob");
        let mirror = passing(&hub, "nginx").await;
        Self {
            hub,
            mirror,
            digest,
            bytes,
        }
    }

    fn path(&self) -> String {
        format!("/v2/{NGINX}/blobs/{}", self.digest)
    }

    async fn range(&self, range: &str) -> Response {
        self.mirror
            .get_with(&self.path(), &[("range", range)])
            .await
    }
}

/// What a data directory holds: its files but for the index's own, and how many rows each table of the index has.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    files: Vec<PathBuf>,
    rows: BTreeMap<String, i64>,
}

impl Held {
    fn of(mirror: &TestMirror) -> Self {
        let path = mirror.data().join("index.sqlite3");
        let index = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut tables = index
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table'")
            .unwrap();
        let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let count = |table: &str| {
            // What the upstream says of its limit is about no image.
            let other = if table == "memo" {
                "WHERE topic != 'rate_limit'"
            } else {
                ""
            };
            let sql = format!("SELECT count(*) FROM \"{table}\" {other}");
            index.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        // What the process notes of itself is not content.
        let tables = tables.map(Result::unwrap).filter(|table| table != "meta");
        let rows = tables.map(|table| (count(&table), table));
        let rows = rows.map(|(rows, table)| (table, rows)).collect();
        let is_index = |file: &PathBuf| file.to_string_lossy().contains("index.sqlite3");
        let mut files = files(mirror.data());
        files.retain(|file| !is_index(file));
        files.sort_unstable();
        Self { files, rows }
    }
}

/// Pulls like dockerd does, and asserts the bytes and that all of it was passed through.
async fn pull(mirror: &TestMirror, image: &Image) {
    let head = mirror.head("/v2/library/nginx/manifests/latest").await;
    assert_eq!((head.status, head.header("x-mirror-cache")), (200, PASSED));
    assert_eq!(head.header("docker-content-digest"), Some(&*image.digest));
    let index = mirror.manifest(NGINX, &image.digest).await;
    assert_passed(&index, &image.bytes);
    assert_eq!(index.header("content-type"), Some(&*image.media_type));
    let platform = image.first();
    assert_passed(
        &mirror.manifest(NGINX, &platform.digest).await,
        &platform.bytes,
    );
    for blob in platform.blobs() {
        assert_passed(&mirror.blob(NGINX, &blob.digest).await, &blob.bytes);
    }
}

#[track_caller]
fn assert_passed(answer: &Response, bytes: &[u8]) {
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == bytes, "wrong bytes");
    assert_eq!(answer.header("x-mirror-cache"), PASSED);
}

#[tokio::test]
async fn each_pull_asks_the_upstream_for_everything_and_leaves_nothing() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(2));
    let mirror = passing(&hub, "nginx:*").await;
    let before = Held::of(&mirror);
    assert_eq!(before.rows["manifest"], 0, "{before:?}");
    let mut expected = vec![
        "registry GET library/nginx/manifests/latest".to_owned(),
        "registry GET library/nginx/manifests/index".to_owned(),
        "registry GET library/nginx/manifests/amd64.manifest".to_owned(),
    ];
    for blob in ["config", "layer0", "layer1"] {
        expected.push(format!("registry GET library/nginx/blobs/amd64.{blob}"));
        expected.push(format!("cdn GET amd64.{blob}"));
    }
    pull(&mirror, &image).await;
    assert_eq!(hub.take_summary()[1..], expected, "after the token");
    pull(&mirror, &image).await;
    assert_eq!(hub.take_summary(), expected);
    assert_eq!(Held::of(&mirror), before);
    let mirror = mirror.restart().await;
    assert_eq!(Held::of(&mirror), before);
}

#[tokio::test]
async fn nothing_is_kept_in_memory_that_another_repository_would_be_served_from() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    hub.push_image(REDIS, "latest", ImageSpec::layers(1));
    let mirror = passing(&hub, "nginx").await;
    pull(&mirror, &image).await;
    let platform = image.first();
    for answer in [
        mirror.manifest(REDIS, &image.digest).await,
        mirror.manifest(REDIS, &platform.digest).await,
        mirror.blob(REDIS, &platform.config.digest).await,
    ] {
        let missed = Some("miss; reason=absent; upstream=docker.io");
        assert_eq!(answer.header("x-mirror-cache"), missed);
    }
}

#[tokio::test]
async fn lists_are_asked_for_each_time_and_not_kept() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    hub.serve_referrers(false);
    let tag = image.digest.replace(':', "-");
    let list = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    hub.push_manifest(
        NGINX,
        Some(&tag),
        "application/vnd.oci.image.index.v1+json",
        list,
    );
    let mirror = passing(&hub, "nginx").await;
    let before = Held::of(&mirror);
    let paths = [
        "tags/list".to_owned(),
        format!("referrers/{}", image.digest),
    ];
    let mut asked = Vec::new();
    for round in 0..2 {
        for path in &paths {
            let answer = mirror.get(&format!("/v2/{NGINX}/{path}")).await;
            assert_eq!(
                (answer.status, answer.header("x-mirror-cache")),
                (200, PASSED)
            );
        }
        asked.push(hub.take_summary());
        assert_eq!(
            asked[round].len(),
            if round == 0 { 4 } else { 3 },
            "{asked:?}"
        );
    }
    assert_eq!(asked[0][1..], asked[1][..], "the token is kept");
    assert_eq!(Held::of(&mirror), before);
}

#[tokio::test]
async fn a_corrupt_blob_is_cut_before_its_last_byte() {
    let stage = OneBlob::new().await;
    let fault = Fault::FlipBit { at: 5000 };
    stage.hub.on(Origin::Cdn).times(1).fault(fault);
    let answer = stage.mirror.blob(NGINX, &stage.digest).await;
    assert_eq!(answer.status, 200);
    assert_ne!(answer.end, End::Complete);
    let held_back = MIB - 64 * 1024;
    let length = answer.body.len();
    assert!(length <= held_back, "{length} bytes, the tail among them");
    assert_passed(&stage.mirror.blob(NGINX, &stage.digest).await, &stage.bytes);
    assert_eq!(stage.mirror.cached(), [""; 0]);
}

#[tokio::test]
async fn a_corrupt_manifest_is_not_passed_on() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = passing(&hub, "nginx").await;
    let fault = Fault::FlipBit { at: 20 };
    hub.on(Origin::Registry).manifests().fault(fault);
    for reference in ["latest", &image.digest] {
        let answer = mirror.manifest(NGINX, reference).await;
        assert_eq!(answer.status, 502, "{reference}");
    }
}

#[tokio::test]
async fn a_break_is_resumed() {
    let stage = OneBlob::new().await;
    let fault = Fault::Truncate(At::Percent(50));
    stage.hub.on(Origin::Cdn).times(1).fault(fault);
    assert_passed(&stage.mirror.blob(NGINX, &stage.digest).await, &stage.bytes);
    let blob = "registry GET library/nginx/blobs/blob";
    let resumed = format!("{blob} bytes={}-", MIB / 2);
    let cdn = format!("cdn GET blob bytes={}-", MIB / 2);
    let asked = stage.hub.take_summary();
    assert_eq!(asked, [TOKEN, blob, "cdn GET blob", &resumed, &cdn]);
}

#[tokio::test]
async fn a_range_is_asked_for_from_where_it_starts() {
    let stage = OneBlob::new().await;
    stage.mirror.head(&stage.path()).await;
    stage.hub.take_summary();
    let last = MIB - 1;
    for (range, start, end) in [
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=0-0", 0, 1),
        ("bytes=900000-", 900_000, MIB),
        ("bytes=-10", MIB - 10, MIB),
    ] {
        let answer = stage.range(range).await;
        assert_eq!((answer.status, answer.end), (206, End::Complete), "{range}");
        assert!(answer.body == stage.bytes[start..end], "{range}");
        let content_range = format!("bytes {start}-{}/{MIB}", end - 1);
        assert_eq!(answer.header("content-range"), Some(&*content_range));
        assert_eq!(answer.header("x-mirror-cache"), PASSED);
        let from = match start {
            0 => String::new(),
            start => format!(" bytes={start}-"),
        };
        let asked = stage.hub.take_summary();
        let expected = [
            "registry HEAD library/nginx/blobs/blob".to_owned(),
            "cdn HEAD blob".to_owned(),
            format!("registry GET library/nginx/blobs/blob{from}"),
            format!("cdn GET blob{from}"),
        ];
        assert_eq!(asked, expected, "{range}");
    }
    let beyond = stage.range(&format!("bytes={}-", last + 1)).await;
    assert_eq!(beyond.status, 416);
    let unsatisfied = format!("bytes */{MIB}");
    assert_eq!(beyond.header("content-range"), Some(&*unsatisfied));
    let asked = stage.hub.take_summary();
    assert_eq!(
        asked,
        ["registry HEAD library/nginx/blobs/blob", "cdn HEAD blob"]
    );
    assert_eq!(stage.mirror.cached(), [""; 0]);
}

#[tokio::test]
async fn a_head_is_asked_for_each_time() {
    let stage = OneBlob::new().await;
    let before = Held::of(&stage.mirror);
    let head = ["registry HEAD library/nginx/blobs/blob", "cdn HEAD blob"];
    for asked in [&[&[TOKEN], &head[..]].concat()[..], &head[..]] {
        let answer = stage.mirror.head(&stage.path()).await;
        assert_eq!(
            (answer.status, answer.header("x-mirror-cache")),
            (200, PASSED)
        );
        assert_eq!(answer.header("content-length"), Some(&*MIB.to_string()));
        assert_eq!(stage.hub.take_summary(), asked);
    }
    assert_eq!(Held::of(&stage.mirror), before);
    let unknown = format!("/v2/{NGINX}/blobs/sha256:{}", "0".repeat(64));
    for answer in [
        stage.mirror.head(&unknown).await,
        stage.mirror.get(&unknown).await,
    ] {
        assert_eq!(answer.status, 404);
    }
}

#[tokio::test]
async fn a_pattern_by_tag_is_about_manifests_by_that_tag() {
    let hub = FakeHub::start().await;
    let dev = hub.push_image(NGINX, "dev-1", ImageSpec::layers(1).seed(1));
    hub.push_image(NGINX, "v1", ImageSpec::layers(1).seed(2));
    let mirror = passing(&hub, "nginx:dev-*").await;
    let before = Held::of(&mirror);
    for _ in 0..2 {
        assert_passed(&mirror.manifest(NGINX, "dev-1").await, &dev.bytes);
    }
    assert_eq!(Held::of(&mirror), before);
    let by_tag = "registry GET library/nginx/manifests/dev-1";
    assert_eq!(hub.take_summary(), [TOKEN, by_tag, by_tag]);
    let outcome = async |reference: &str| {
        let answer = mirror.manifest(NGINX, reference).await;
        answer.header("x-mirror-cache").unwrap().to_owned()
    };
    assert_eq!(
        outcome("v1").await,
        "miss; reason=absent; upstream=docker.io"
    );
    assert_eq!(outcome("v1").await, "hit; age=0; upstream=docker.io");
    // What is asked for by digest belongs to no one tag.
    assert_eq!(
        outcome(&dev.digest).await,
        "miss; reason=absent; upstream=docker.io"
    );
    assert_eq!(outcome(&dev.digest).await, "hit; upstream=docker.io");
    let layer = &dev.first().layers[0];
    mirror.blob(NGINX, &layer.digest).await;
    mirror.wait_until_cached(&layer.digest).await;
}

#[tokio::test]
async fn what_is_held_for_another_repository_is_asked_of_the_upstream() {
    let stage = OneBlob::new().await;
    stage.hub.push_blob(REDIS, stage.bytes.clone());
    stage.mirror.blob(REDIS, &stage.digest).await;
    stage.mirror.wait_until_cached(&stage.digest).await;
    stage.hub.take_summary();
    assert_passed(&stage.mirror.blob(NGINX, &stage.digest).await, &stage.bytes);
    let asked = stage.hub.take_summary();
    assert_eq!(
        asked,
        [
            TOKEN,
            "registry GET library/nginx/blobs/blob",
            "cdn GET blob"
        ]
    );
    stage.hub.delete_repository(NGINX);
    let refused = stage.mirror.blob(NGINX, &stage.digest).await;
    assert_eq!(refused.status, 404, "no right, no bytes");
}

#[tokio::test]
async fn what_fails_upstream_fails_here() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = passing(&hub, "nginx").await;
    pull(&mirror, &image).await;
    hub.on(Origin::Registry).fault(Fault::status(429));
    let answer = mirror.manifest(NGINX, "latest").await;
    assert_eq!(
        answer.header("x-mirror-cache"),
        Some("error; reason=rate_limited")
    );
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn twenty_clients_share_a_manifest_and_have_a_transfer_each() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layer_sizes(&[MIB]));
    let mirror = passing(&hub, "nginx").await;
    let before = Held::of(&mirror);
    let gate = hub.on(Origin::Registry).manifests().hold(At::Head);
    let url = mirror.url(&format!("/v2/{NGINX}/manifests/latest"));
    let clients = join_all((0..20).map(|_| Download::begin(&url, &[]))).await;
    loop {
        let page = String::from_utf8(mirror.get("/metrics").await.body).unwrap();
        // The page is a request too.
        if page.contains("mirror_http_in_flight_requests 21\n") {
            break;
        }
    }
    gate.release();
    for answer in join_all(clients.into_iter().map(Download::finish)).await {
        assert_passed(&answer, &image.bytes);
    }
    let by_tag = "registry GET library/nginx/manifests/latest";
    assert_eq!(hub.take_summary(), [TOKEN, by_tag]);

    let layer = &image.first().layers[0];
    let answers = join_all((0..20).map(|_| mirror.blob(NGINX, &layer.digest))).await;
    for answer in answers {
        assert_passed(&answer, &layer.bytes);
    }
    let mut expected = ["cdn GET amd64.layer0"; 20].to_vec();
    expected.extend(["registry GET library/nginx/blobs/amd64.layer0"; 20]);
    assert_eq!(hub.sorted_summary(), expected);
    assert_eq!(Held::of(&mirror), before);
    let page = String::from_utf8(mirror.get("/metrics").await.body).unwrap();
    for (kind, count) in [("manifest", 20), ("blob", 20)] {
        let line =
            format!("mirror_cache_requests_total{{kind=\"{kind}\",result=\"bypass\"}} {count}");
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
}

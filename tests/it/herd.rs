//! Many clients at once cost the upstream what one costs it, and none of them suffers from another.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::client::{Download, End, Response};
use crate::mirror::TestMirror;
use crate::support::image::seeded_bytes;
use crate::support::{At, FakeHub, Fault, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// How long anything may take before its test fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A mirror that holds nothing, and a blob at its upstream.
struct OneBlob {
    hub: FakeHub,
    mirror: TestMirror,
    digest: String,
    bytes: Bytes,
}

impl OneBlob {
    async fn new(length: usize) -> Self {
        let hub = FakeHub::start().await;
        let bytes = seeded_bytes(3, length);
        let digest = hub.push_blob(NGINX, bytes.clone());
        hub.name(&digest, "blob");
        let mirror = patient_mirror(&hub).await;
        Self {
            hub,
            mirror,
            digest,
            bytes,
        }
    }

    fn path(&self, repository: &str) -> String {
        format!("/v2/{repository}/blobs/{}", self.digest)
    }

    async fn begin(&self, headers: &[(&str, &str)]) -> Download {
        let url = self.mirror.url(&self.path(NGINX));
        Download::begin(&url, headers).await
    }

    async fn pull(&self) -> Response {
        self.mirror.blob(NGINX, &self.digest).await
    }

    #[track_caller]
    fn assert_complete(&self, answer: &Response) {
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == self.bytes, "wrong bytes");
    }

    /// The upstream was asked for the blob once, and the cache holds it.
    async fn assert_fetched_once(&self) {
        self.mirror.wait_until_cached(&self.digest).await;
        assert_eq!(self.hub.take_summary(), ONCE);
        assert_eq!(self.mirror.cached(), std::slice::from_ref(&self.digest));
        self.assert_complete(&self.pull().await);
        assert_eq!(self.hub.take_summary(), [""; 0]);
    }
}

const ONCE: [&str; 3] = [
    "token GET library/nginx:pull",
    "registry GET library/nginx/blobs/blob",
    "cdn GET blob",
];

/// A mirror without any limit that a busy machine could meet.
async fn patient_mirror(hub: &FakeHub) -> TestMirror {
    TestMirror::start_with(hub, |settings| {
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.stall = PATIENCE;
        upstream.timeout = PATIENCE;
    })
    .await
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("not done in {PATIENCE:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_cost_one_blob() {
    let stage = OneBlob::new(MIB).await;
    let gate = stage.hub.on(Origin::Cdn).hold(At::Percent(50));
    let clients = (0..100).map(async |_| {
        let mut client = stage.begin(&[]).await;
        client.receive(1).await;
        client
    });
    // All of them are in the middle of the blob before it goes on.
    let clients = in_time(join_all(clients)).await;
    gate.release();
    let answers = join_all(clients.into_iter().map(Download::finish));
    for answer in in_time(answers).await {
        stage.assert_complete(&answer);
    }
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_of_a_blob_without_a_length_cost_one_blob() {
    let stage = OneBlob::new(MIB).await;
    stage.hub.on(Origin::Cdn).fault(Fault::Chunked);
    let answers = in_time(join_all((0..100).map(|_| stage.pull()))).await;
    for answer in answers {
        stage.assert_complete(&answer);
    }
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_of_an_image_cost_one_pull() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(3));
    let mirror = patient_mirror(&hub).await;
    in_time(join_all((0..100).map(|_| pull(&mirror, &image)))).await;
    let mut expected = vec![
        "token GET library/nginx:pull".to_owned(),
        "registry GET library/nginx/manifests/latest".to_owned(),
        "registry GET library/nginx/manifests/amd64.manifest".to_owned(),
    ];
    for blob in ["config", "layer0", "layer1", "layer2"] {
        expected.push(format!("registry GET library/nginx/blobs/amd64.{blob}"));
        expected.push(format!("cdn GET amd64.{blob}"));
    }
    expected.sort_unstable();
    assert_eq!(hub.sorted_summary(), expected);
}

/// Pulls like containerd does, all blobs at once.
async fn pull(mirror: &TestMirror, image: &Image) {
    let index = mirror.manifest(NGINX, "latest").await;
    assert_eq!((index.status, &index.body[..]), (200, &image.bytes[..]));
    let platform = image.first();
    let manifest = mirror.manifest(NGINX, &platform.digest).await;
    assert_eq!(manifest.status, 200);
    assert_eq!(manifest.body, platform.bytes);
    let blobs = platform.blobs().map(async |blob| {
        let answer = mirror.blob(NGINX, &blob.digest).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == blob.bytes, "wrong bytes");
    });
    join_all(blobs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_of_a_tag_that_has_expired_cost_one_head() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = patient_mirror(&hub).await;
    assert_eq!(mirror.manifest(NGINX, "latest").await.status, 200);
    mirror.clock.advance(Duration::from_secs(61));
    hub.take_requests();
    let answers = join_all((0..100).map(|_| mirror.manifest(NGINX, "latest")));
    for answer in in_time(answers).await {
        assert_eq!((answer.status, &answer.body[..]), (200, &image.bytes[..]));
        assert_eq!(answer.header("warning"), None);
    }
    assert_eq!(
        hub.take_summary(),
        ["registry HEAD library/nginx/manifests/latest"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_share_a_failure_and_the_next_one_does_not() {
    let stage = OneBlob::new(MIB).await;
    let cdn = stage.hub.on(Origin::Cdn);
    let flipped = cdn.fault(Fault::FlipBit { at: 1000 });
    let gate = stage.hub.on(Origin::Cdn).hold(At::Percent(50));
    let clients = (0..100).map(async |_| {
        let mut client = stage.begin(&[]).await;
        client.receive(1).await;
        client
    });
    let clients = in_time(join_all(clients)).await;
    gate.release();
    for answer in in_time(join_all(clients.into_iter().map(Download::finish))).await {
        assert_eq!(answer.status, 200);
        assert_ne!(answer.end, End::Complete);
    }
    assert_eq!(stage.hub.take_summary(), ONCE);
    assert_eq!(stage.mirror.cached(), [""; 0]);
    flipped.disarm();
    stage.assert_complete(&stage.pull().await);
    assert_eq!(stage.hub.take_summary(), ONCE[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_and_one_that_vanishes_change_nothing() {
    // More than all the buffers between the mirror and a client that does not read.
    let stage = OneBlob::new(8 * MIB).await;
    let gate = stage.hub.on(Origin::Cdn).hold(At::Percent(50));
    let mut slow = stage.begin(&[]).await;
    slow.receive(1).await;
    let mut fleeting = stage.begin(&[]).await;
    fleeting.receive(1).await;
    let mut steady = Vec::new();
    for _ in 0..10 {
        let mut client = stage.begin(&[]).await;
        client.receive(1).await;
        steady.push(client);
    }
    drop(fleeting);
    gate.release();
    for answer in in_time(join_all(steady.into_iter().map(Download::finish))).await {
        stage.assert_complete(&answer);
    }
    stage.mirror.wait_until_cached(&stage.digest).await;
    stage.assert_complete(&in_time(slow.finish()).await);
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_kept_although_its_first_client_left() {
    let stage = OneBlob::new(MIB).await;
    let gate = stage.hub.on(Origin::Cdn).hold(At::Percent(50));
    let mut first = stage.begin(&[]).await;
    first.receive(1).await;
    let mut second = stage.begin(&[]).await;
    second.receive(1).await;
    drop(first);
    gate.release();
    stage.assert_complete(&in_time(second.finish()).await);
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_kept_although_its_only_client_left() {
    let stage = OneBlob::new(MIB).await;
    let gate = stage.hub.on(Origin::Cdn).hold(At::Percent(50));
    let mut only = stage.begin(&[]).await;
    only.receive(1).await;
    drop(only);
    gate.release();
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_too_large_to_finish_for_nobody_is_resumed() {
    let hub = FakeHub::start().await;
    let bytes = seeded_bytes(3, MIB);
    let digest = hub.push_blob(NGINX, bytes.clone());
    hub.name(&digest, "blob");
    let mirror = TestMirror::start_with(&hub, |settings| {
        settings.cache.finish_abandoned = mirror::config::ByteSize::bytes(100 * 1024);
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.stall = PATIENCE;
    })
    .await;
    let stage = OneBlob {
        hub,
        mirror,
        digest,
        bytes,
    };
    let gate = stage.hub.on(Origin::Cdn).times(1).hold(At::Percent(50));
    let mut only = stage.begin(&[]).await;
    // All of the first half that the held answer has sent.
    only.receive(MIB / 2).await;
    drop(only);
    stage.hub.wait_until_idle().await;
    assert_eq!(stage.mirror.cached(), [""; 0]);
    assert_eq!(stage.hub.take_summary(), ONCE);
    stage.assert_complete(&stage.pull().await);
    let resumed = format!("bytes={}-", MIB / 2);
    assert_eq!(
        stage.hub.take_summary(),
        [
            format!("{} {resumed}", ONCE[1]),
            format!("{} {resumed}", ONCE[2])
        ]
    );
    drop(gate);
    stage.mirror.wait_until_cached(&stage.digest).await;
}

/// Two clients ask for one digest at once, each in a repository of its own.
async fn assert_strangers_do_not_share(stranger: &str, stranger_first: bool) {
    let stage = OneBlob::new(MIB).await;
    stage.hub.push_blob("alice/secret", b"another".to_vec());
    stage.hub.make_private("alice/secret", "alice");
    stage.hub.push_blob("library/other", b"another".to_vec());
    let gate = stage.hub.on(Origin::Registry).hold(At::Head);
    let ask = async |repository: &str| stage.mirror.get(&stage.path(repository)).await;
    let (first, second) = if stranger_first {
        (stranger, NGINX)
    } else {
        (NGINX, stranger)
    };
    let both = async {
        tokio::join!(ask(first), async {
            // The first one is at the upstream when the second one comes.
            gate.wait_for(1).await;
            let asking = ask(second);
            gate.release();
            asking.await
        })
    };
    let (first, second) = in_time(both).await;
    let (entitled, refused) = if stranger_first {
        (second, first)
    } else {
        (first, second)
    };
    stage.assert_complete(&entitled);
    assert_eq!(refused.status, 404);
    assert_eq!(refused.json()["errors"][0]["code"], "BLOB_UNKNOWN");
    let cdn = stage.hub.summary();
    let fetched = cdn.iter().filter(|line| *line == "cdn GET blob").count();
    assert_eq!(fetched, 1, "{cdn:#?}");
    stage.mirror.wait_until_cached(&stage.digest).await;
    assert_eq!(stage.mirror.cached(), std::slice::from_ref(&stage.digest));

    // What is held is not shared either, and the entitled one has it for nothing.
    stage.hub.take_requests();
    assert_eq!(ask(stranger).await.status, 404);
    let asked = stage.hub.take_summary();
    assert!(
        asked.iter().all(|line| line.contains(stranger)),
        "{asked:#?}"
    );
    stage.assert_complete(&stage.pull().await);
    assert_eq!(stage.hub.take_summary(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_gets_nothing_of_a_running_download() {
    assert_strangers_do_not_share("alice/secret", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_that_asks_first_spoils_nothing() {
    assert_strangers_do_not_share("alice/secret", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_repository_gets_nothing_of_a_running_download() {
    assert_strangers_do_not_share("library/unknown", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_repository_that_asks_first_spoils_nothing() {
    assert_strangers_do_not_share("library/unknown", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_the_blob_gets_nothing_of_a_running_download() {
    assert_strangers_do_not_share("library/other", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_the_blob_that_asks_first_spoils_nothing() {
    assert_strangers_do_not_share("library/other", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_with_the_blob_share_one_download() {
    let stage = OneBlob::new(MIB).await;
    stage.hub.push_blob("library/redis", stage.bytes.clone());
    let gate = stage.hub.on(Origin::Cdn).hold(At::Percent(50));
    let (nginx, redis) = in_time(async {
        tokio::join!(stage.pull(), async {
            gate.wait_for(1).await;
            let url = stage.mirror.url(&stage.path("library/redis"));
            let mut redis = Download::begin(&url, &[]).await;
            redis.receive(1).await;
            gate.release();
            redis.finish().await
        })
    })
    .await;
    stage.assert_complete(&nginx);
    stage.assert_complete(&redis);
    // The second one's right is asked for by HEAD.
    assert_eq!(
        stage.hub.take_summary(),
        [
            &ONCE[..],
            &[
                "token GET library/redis:pull",
                "registry HEAD library/redis/blobs/blob",
                "cdn HEAD blob"
            ]
        ]
        .concat()
    );
}

/// containerd asks for every chunk to the end of the blob, and hangs up when it has its chunk.
async fn assert_chunks_share_one_download(stage: &OneBlob, chunk: usize) {
    let clients = (0..MIB / chunk).map(async |number| {
        let start = number * chunk;
        let range = format!("bytes={start}-");
        let mut client = stage.begin(&[("range", &range)]).await;
        client.receive(chunk).await;
        let answer = client.so_far();
        assert_eq!(answer.status, 206);
        let expected = format!("bytes {start}-{}/{MIB}", MIB - 1);
        assert_eq!(answer.header("content-range"), Some(&*expected));
        assert!(answer.body[..chunk] == stage.bytes[start..start + chunk]);
    });
    in_time(join_all(clients)).await;
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_ranges_that_hang_up_early_cost_one_blob() {
    let stage = OneBlob::new(MIB).await;
    assert_chunks_share_one_download(&stage, 64 * KIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_blob_without_a_length_wait_for_its_end() {
    let stage = OneBlob::new(MIB).await;
    stage.hub.on(Origin::Cdn).fault(Fault::Chunked);
    assert_chunks_share_one_download(&stage, 128 * KIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_every_kind_on_a_cold_blob_are_right() {
    let stage = OneBlob::new(MIB).await;
    let last = MIB - 1;
    let clients = [
        ("bytes=0-".to_owned(), 0..MIB),
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=1000-1999".to_owned(), 1000..2000),
        (format!("bytes={last}-"), last..MIB),
        ("bytes=-1000".to_owned(), MIB - 1000..MIB),
        (format!("bytes=1000-{}", 2 * MIB), 1000..MIB),
    ]
    .map(async |(range, expected)| {
        let client = stage.begin(&[("range", &range)]).await;
        let answer = client.finish().await;
        assert_eq!((answer.status, answer.end), (206, End::Complete), "{range}");
        let (first, end) = (expected.start, expected.end - 1);
        let content_range = format!("bytes {first}-{end}/{MIB}");
        assert_eq!(answer.header("content-range"), Some(&*content_range));
        assert!(answer.body == stage.bytes[expected], "{range}");
    });
    in_time(join_all(clients)).await;
    stage.assert_fetched_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_beyond_a_cold_blob_is_416_and_the_blob_is_kept() {
    let stage = OneBlob::new(MIB).await;
    let range = format!("bytes={MIB}-");
    let answer = in_time(stage.begin(&[("range", &range)]).await.finish()).await;
    let unsatisfied = format!("bytes */{MIB}");
    assert_eq!(
        (answer.status, answer.header("content-range")),
        (416, Some(&*unsatisfied))
    );
    stage.assert_fetched_once().await;
}

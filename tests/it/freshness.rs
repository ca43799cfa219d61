//! What is served for how long: fresh, stale while the upstream fails, after a deletion, and not at all.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use mirror::config::{Settings, TagRule, UpstreamSettings};

use crate::client::{End, Response};
use crate::mirror::TestMirror;
use crate::support::{At, FakeHub, Fault, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";
const TOKEN: &str = "token GET library/nginx:pull";
const HEAD: &str = "registry HEAD library/nginx/manifests/latest";
const DAY: Duration = Duration::from_hours(24);
const NOTHING: [&str; 0] = [];

fn upstream(settings: &mut Settings) -> &mut UpstreamSettings {
    settings.upstreams.get_mut("docker.io").unwrap()
}

/// A hub, a mirror of it that holds `latest` past its time, and the image.
struct Stage {
    hub: FakeHub,
    mirror: TestMirror,
    image: Image,
}

impl Stage {
    async fn new() -> Self {
        Self::of(FakeHub::start().await, |_| {}).await
    }

    /// No failure is repeated within one question.
    async fn of(hub: FakeHub, change: impl FnOnce(&mut Settings)) -> Self {
        let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
        let mirror = TestMirror::start_with(&hub, |settings| {
            let upstream = upstream(settings);
            upstream.retries = 0;
            upstream.timeout = Duration::from_mins(1);
            change(settings);
        })
        .await;
        let stage = Self { hub, mirror, image };
        stage.assert_pulled().await;
        stage.mirror.clock.advance(Duration::from_mins(1));
        stage.hub.take_requests();
        stage
    }

    async fn tag(&self) -> Response {
        self.mirror.manifest(NGINX, "latest").await
    }

    /// The whole image, as a client pulls it.
    async fn assert_pulled(&self) -> Response {
        let index = self.tag().await;
        assert_served(&index, &self.image.bytes);
        let platform = self.image.first();
        let manifest = self.mirror.manifest(NGINX, &platform.digest).await;
        assert_served(&manifest, &platform.bytes);
        for blob in platform.blobs() {
            let answer = self.mirror.blob(NGINX, &blob.digest).await;
            assert_served(&answer, &blob.bytes);
            self.mirror.wait_until_cached(&blob.digest).await;
        }
        index
    }

    #[track_caller]
    fn assert_asked<const N: usize>(&self, expected: [&str; N]) {
        assert_eq!(self.hub.take_summary(), expected);
    }

    /// Asked for these alone, in this order, each as often as it takes to notice that the upstream is back.
    #[track_caller]
    fn assert_asked_only<const N: usize>(&self, expected: [&str; N]) {
        let mut asked = self.hub.take_summary();
        asked.dedup();
        assert_eq!(asked, expected);
    }

    /// Waits until the tag is fresh, of which clients learn by asking, and at most ten seconds.
    async fn assert_fresh_soon(&self) {
        let fresh = async {
            while !outcome(&self.tag().await).starts_with("hit;") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), fresh).await;
        in_time.expect("the tag is fresh within ten seconds");
    }
}

#[track_caller]
fn assert_served(answer: &Response, bytes: &[u8]) {
    let got = (answer.status, answer.end);
    assert_eq!(got, (200, End::Complete), "{}", answer.head);
    assert!(answer.body == bytes, "wrong bytes");
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.head);
    assert_eq!(answer.json()["errors"][0]["code"], code);
}

fn outcome(answer: &Response) -> &str {
    answer.header("x-mirror-cache").unwrap()
}

fn warning(answer: &Response) -> &str {
    answer.header("warning").unwrap()
}

#[tokio::test]
async fn a_moved_tag_is_seen_after_its_time_and_costs_one_pull() {
    let stage = Stage::new().await;
    let moved = stage
        .hub
        .push_image(NGINX, "latest", ImageSpec::layers(1).seed(2));
    stage.hub.name(&moved.digest, "moved");
    let seen = stage.tag().await;
    assert_served(&seen, &moved.bytes);
    assert_eq!(outcome(&seen), "miss; reason=moved; upstream=docker.io");
    let by_digest = "registry GET library/nginx/manifests/moved";
    stage.assert_asked([HEAD, by_digest]);
    assert_eq!(
        outcome(&stage.tag().await),
        "hit; age=0; upstream=docker.io"
    );
    stage.assert_asked(NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmoved_tag_costs_one_question_for_any_number_of_clients() {
    let stage = Stage::new().await;
    for _ in 0..3 {
        let answers = join_all((0..100).map(|_| stage.tag())).await;
        for answer in answers {
            assert_served(&answer, &stage.image.bytes);
            assert_eq!(answer.header("warning"), None);
        }
        stage.assert_asked([HEAD]);
        stage.mirror.clock.advance(Duration::from_mins(1));
    }
}

/// The first pull of an outage, two hundred more, and the recovery.
async fn assert_outlasted(fault: Fault, reason: &str, says: &str) {
    let wait = Duration::from_secs(2);
    let hub = FakeHub::start().await;
    let stage = Stage::of(hub, |settings| settings.cache.revalidate_timeout = wait).await;
    stage.hub.on(Origin::Registry).fault(fault);
    let first = stage.assert_pulled().await;
    let expected = format!("stale; reason={reason}; age=60; upstream=docker.io");
    assert_eq!(outcome(&first), expected);
    assert!(warning(&first).contains(says), "{}", warning(&first));
    stage.assert_asked([HEAD]);

    let later = async {
        for _ in 0..200 {
            let later = stage.tag().await;
            assert_served(&later, &stage.image.bytes);
            assert_eq!(outcome(&later), expected);
        }
    };
    // Were each of them to wait, this would take minutes.
    tokio::time::timeout(wait * 2, later).await.unwrap();

    stage.hub.clear_faults();
    stage.hub.take_requests();
    stage.hub.wait_for_requests(1, |_| true).await;
    // It was asked for although no client came.
    stage.assert_fresh_soon().await;
    stage.assert_asked_only([HEAD]);
}

#[tokio::test]
async fn a_limited_rate_is_outlasted() {
    let says = "limits the rate of requests";
    assert_outlasted(Fault::status(429), "rate_limited", says).await;
}

#[tokio::test]
async fn an_error_of_the_upstream_is_outlasted() {
    assert_outlasted(Fault::status(500), "upstream_error", "answered HTTP 500").await;
}

#[tokio::test]
async fn a_black_hole_is_outlasted() {
    assert_outlasted(Fault::BlackHole, "timeout", "no answer within 2s").await;
}

#[tokio::test]
async fn a_refused_connection_is_outlasted() {
    let stage = Stage::new().await;
    stage.hub.stop_origin(Origin::Registry).await;
    for _ in 0..20 {
        let answer = stage.assert_pulled().await;
        let expected = "stale; reason=unreachable; age=60; upstream=docker.io";
        assert_eq!(outcome(&answer), expected);
    }
    stage.assert_asked(NOTHING);
    stage.hub.restart_origin(Origin::Registry).await;
    stage.hub.wait_for_requests(1, |_| true).await;
    stage.assert_fresh_soon().await;
    stage.assert_asked_only([HEAD]);
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_outlasted() {
    let stage = Stage::new().await;
    stage.hub.stop_origin(Origin::Token).await;
    stage.hub.revoke_tokens();
    let first = stage.assert_pulled().await;
    let expected = "stale; reason=unreachable; age=60; upstream=docker.io";
    assert_eq!(outcome(&first), expected);
    stage.assert_asked([HEAD]);
    for _ in 0..20 {
        assert_eq!(outcome(&stage.assert_pulled().await), expected);
    }
    stage.assert_asked(NOTHING);
    stage.hub.restart_origin(Origin::Token).await;
    stage.assert_fresh_soon().await;
    stage.assert_asked_only([TOKEN, HEAD]);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_outlasted() {
    let Stage { hub, mirror, image } = Stage::new().await;
    let nowhere = |settings: &mut Settings| {
        upstream(settings).url = "http://registry.invalid".parse().unwrap();
        upstream(settings).token_url = Some("http://registry.invalid/token".parse().unwrap());
    };
    let mirror = mirror.restart_with(nowhere).await;
    let stage = Stage { hub, mirror, image };
    for _ in 0..20 {
        let answer = stage.assert_pulled().await;
        let expected = "stale; reason=unreachable; age=60; upstream=docker.io";
        assert_eq!(outcome(&answer), expected);
        let says = "registry.invalid could not be reached: its name could not be resolved";
        assert!(warning(&answer).contains(says), "{}", warning(&answer));
    }
    stage.assert_asked(NOTHING);
    let Stage { hub, mirror, image } = stage;
    let (registry, token) = (hub.registry_url(), hub.token_url());
    let back = |settings: &mut Settings| {
        upstream(settings).url = registry.parse().unwrap();
        upstream(settings).token_url = Some(token.parse().unwrap());
    };
    let mirror = mirror.restart_with(back).await;
    let stage = Stage { hub, mirror, image };
    let answer = stage.assert_pulled().await;
    assert_eq!(outcome(&answer), "revalidated; upstream=docker.io");
    stage.assert_asked([TOKEN, HEAD]);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_outlasted() {
    let hub = FakeHub::builder().tls(true).start().await;
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(hub.ca_pem().as_bytes()).unwrap();
    let path = authority.path().to_owned();
    let trusting = |settings: &mut Settings| upstream(settings).ca = Some(path.clone());
    let Stage { hub, mirror, image } = Stage::of(hub, trusting).await;
    let mirror = mirror
        .restart_with(|settings| upstream(settings).ca = None)
        .await;
    let stage = Stage { hub, mirror, image };
    for _ in 0..20 {
        let answer = stage.assert_pulled().await;
        let expected = "stale; reason=unreachable; age=60; upstream=docker.io";
        assert_eq!(outcome(&answer), expected);
        let says = "could not be reached: TLS failed";
        assert!(warning(&answer).contains(says), "{}", warning(&answer));
    }
    stage.assert_asked(NOTHING);
    let Stage { hub, mirror, image } = stage;
    let mirror = mirror.restart_with(trusting).await;
    let stage = Stage { hub, mirror, image };
    let answer = stage.assert_pulled().await;
    assert_eq!(outcome(&answer), "revalidated; upstream=docker.io");
    stage.assert_asked([TOKEN, HEAD]);
}

#[tokio::test]
async fn a_deleted_tag_is_outlasted_and_asked_for_once_in_a_while() {
    let stage = Stage::new().await;
    stage.hub.delete_tag(NGINX, "latest");
    for age in [60, 90, 120] {
        for _ in 0..10 {
            let answer = stage.assert_pulled().await;
            let expected = format!("stale; reason=deleted; age={age}; upstream=docker.io");
            assert_eq!(outcome(&answer), expected);
        }
        stage.assert_asked([HEAD]);
        stage.mirror.clock.advance(Duration::from_secs(30));
    }
    stage.assert_pulled().await;
    stage.assert_asked([HEAD]);
    stage.hub.move_tag(NGINX, "latest", &stage.image.digest);
    stage.mirror.clock.advance(Duration::from_millis(4_999));
    let answer = stage.assert_pulled().await;
    assert!(outcome(&answer).starts_with("stale; reason=deleted;"));
    stage.assert_asked(NOTHING);
    stage.mirror.clock.advance(Duration::from_millis(1));
    let answer = stage.assert_pulled().await;
    assert_eq!(outcome(&answer), "revalidated; upstream=docker.io");
    stage.assert_asked([HEAD]);
}

#[tokio::test]
async fn a_deleted_tag_goes_after_a_day_and_no_outage_brings_it_back() {
    let stage = Stage::new().await;
    stage.hub.delete_tag(NGINX, "latest");
    let first = stage.tag().await;
    let since = warning(&first).rsplit_once("since ").unwrap().1.to_owned();
    let spared = Duration::from_mins(1);
    stage.mirror.clock.advance(DAY.saturating_sub(spared));
    // A new token, as the first one has expired.
    let last = stage.assert_pulled().await;
    assert_eq!(warning(&last).rsplit_once("since ").unwrap().1, since);
    stage.assert_asked([HEAD, TOKEN, HEAD]);
    stage.mirror.clock.advance(Duration::from_secs(31));
    assert_refused(&stage.tag().await, 404, "MANIFEST_UNKNOWN");
    stage.assert_asked([HEAD]);
    let remembered = stage.tag().await;
    assert_refused(&remembered, 404, "MANIFEST_UNKNOWN");
    assert_eq!(outcome(&remembered), "negative");
    stage.assert_asked(NOTHING);

    let Stage { hub, mirror, image } = stage;
    hub.stop().await;
    mirror.clock.advance(Duration::from_secs(31));
    let mirror = mirror.restart().await;
    let stage = Stage { hub, mirror, image };
    assert_refused(&stage.tag().await, 503, "UNKNOWN");
    let by_digest = stage.mirror.manifest(NGINX, &stage.image.digest).await;
    assert_served(&by_digest, &stage.image.bytes);
    assert_eq!(outcome(&by_digest), "hit; upstream=docker.io");
}

#[tokio::test]
async fn a_copy_goes_thirty_days_after_its_last_confirmation() {
    let stage = Stage::new().await;
    stage.hub.stop().await;
    let tags = format!("/v2/{NGINX}/tags/list");
    stage.hub.restart().await;
    assert_eq!(stage.mirror.get(&tags).await.status, 200);
    stage.hub.stop().await;
    let spared = Duration::from_mins(1);
    stage
        .mirror
        .clock
        .advance((DAY * 30).saturating_sub(spared));
    let last = stage.tag().await;
    assert_served(&last, &stage.image.bytes);
    assert!(outcome(&last).starts_with("stale; reason=unreachable;"));
    assert_eq!(stage.mirror.get(&tags).await.status, 200);
    stage.mirror.clock.advance(Duration::from_mins(2));
    for gone in [stage.tag().await, stage.mirror.get(&tags).await] {
        assert_refused(&gone, 503, "UNKNOWN");
        assert_eq!(gone.header("retry-after"), Some("5"));
    }
    // What is named by its content never gets old.
    let by_digest = stage.mirror.manifest(NGINX, &stage.image.digest).await;
    assert_served(&by_digest, &stage.image.bytes);
    stage.hub.restart().await;
    let back = async {
        while stage.tag().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), back).await;
    in_time.expect("the tag is served within ten seconds");
    assert!(outcome(&stage.assert_pulled().await).starts_with("hit;"));
}

#[tokio::test]
async fn a_moved_tag_whose_manifest_cannot_be_fetched_is_fetched_soon() {
    for fault in [Fault::status(503), Fault::status(429)] {
        let day = |settings: &mut Settings| settings.cache.tag_ttl = DAY;
        let stage = Stage::of(FakeHub::start().await, day).await;
        stage.mirror.clock.advance(DAY);
        let moved = ImageSpec::layers(1).seed(2);
        let moved = stage.hub.push_image(NGINX, "latest", moved);
        stage.hub.take_requests();
        let registry = stage.hub.on(Origin::Registry).manifests();
        registry.method("GET").fault(fault.clone());
        assert!(
            outcome(&stage.tag().await).starts_with("stale;"),
            "{fault:?}"
        );
        stage.hub.clear_faults();
        stage.assert_fresh_soon().await;
        assert_served(&stage.tag().await, &moved.bytes);
    }
}

#[tokio::test]
async fn an_answer_that_comes_late_moves_the_tag() {
    let wait = Duration::from_millis(300);
    let hub = FakeHub::start().await;
    let stage = Stage::of(hub, |settings| settings.cache.revalidate_timeout = wait).await;
    let moved = stage
        .hub
        .push_image(NGINX, "latest", ImageSpec::layers(1).seed(2));
    stage.hub.name(&moved.digest, "moved");
    let gate = stage.hub.on(Origin::Registry).manifests().hold(At::Head);
    let early = stage.tag().await;
    assert_served(&early, &stage.image.bytes);
    assert!(warning(&early).contains("no answer within 300ms"));
    stage.assert_asked([HEAD]);
    gate.release();
    stage.assert_fresh_soon().await;
    assert_served(&stage.tag().await, &moved.bytes);
    let asked = stage.hub.take_summary();
    let pulled: Vec<_> = asked.iter().filter(|line| *line != HEAD).collect();
    assert_eq!(pulled, ["registry GET library/nginx/manifests/moved"]);
}

#[tokio::test]
async fn freshness_outlives_a_restart() {
    let mut stage = Stage::new().await;
    stage.assert_pulled().await;
    stage.assert_asked([HEAD]);
    stage.mirror.clock.advance(Duration::from_secs(59));
    stage.mirror = stage.mirror.restart().await;
    let answer = stage.assert_pulled().await;
    assert_eq!(outcome(&answer), "hit; age=59; upstream=docker.io");
    stage.assert_asked(NOTHING);
    stage.mirror.clock.advance(Duration::from_secs(1));
    stage.assert_pulled().await;
    stage.assert_asked([TOKEN, HEAD]);
}

/// The paths of what does not exist, and what each is first asked for by.
fn absent() -> [(String, &'static str); 5] {
    let digest = crate::support::digest_of(b"absent");
    [
        (
            format!("/v2/{NGINX}/manifests/2.0"),
            "registry GET library/nginx/manifests/2.0",
        ),
        (
            format!("/v2/{NGINX}/manifests/{digest}"),
            "registry GET library/nginx/manifests/absent",
        ),
        (
            format!("/v2/{NGINX}/blobs/{digest}"),
            "registry GET library/nginx/blobs/absent",
        ),
        (
            "/v2/library/absent/manifests/latest".to_owned(),
            "registry GET library/absent/manifests/latest",
        ),
        (
            "/v2/library/absent/tags/list".to_owned(),
            "registry GET library/absent/tags/list?n=1000",
        ),
    ]
}

#[tokio::test]
async fn what_does_not_exist_is_asked_for_once_in_a_while() {
    let mut stage = Stage::new().await;
    let digest = crate::support::digest_of(b"absent");
    stage.hub.name(&digest, "absent");
    stage.assert_pulled().await;
    stage.assert_asked([HEAD]);
    for restarted in [false, true] {
        for (path, asked) in absent() {
            let first = stage.mirror.get(&path).await;
            assert_eq!(
                (first.status, outcome(&first)),
                (404, "error; reason=not_found")
            );
            let lines = stage.hub.take_summary();
            let lines: Vec<_> = lines.iter().filter(|it| !it.starts_with("token")).collect();
            assert_eq!(lines, [asked]);
        }
        stage.mirror.clock.advance(Duration::from_secs(29));
        if restarted {
            stage.mirror = stage.mirror.restart().await;
        }
        for (path, _) in absent() {
            let again = stage.mirror.get(&path).await;
            assert_eq!((again.status, outcome(&again)), (404, "negative"), "{path}");
            let first = stage.mirror.head(&path).await;
            assert_eq!(
                first.status,
                if path.ends_with("/list") { 405 } else { 404 }
            );
        }
        stage.assert_asked(NOTHING);
        stage.mirror.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn what_turns_out_to_exist_is_not_denied_any_longer() {
    let stage = Stage::new().await;
    let image = ImageSpec::layers(1).seed(2).build();
    let platform = image.first();
    let status = async |path: &str| stage.mirror.get(path).await.status;
    let paths = [
        format!("/v2/{NGINX}/manifests/{}", platform.digest),
        format!("/v2/{NGINX}/blobs/{}", platform.config.digest),
        format!("/v2/{NGINX}/manifests/2.0"),
    ];
    for path in &paths {
        assert_eq!(status(path).await, 404);
    }
    stage
        .hub
        .push_image(NGINX, "2.0", ImageSpec::layers(1).seed(2));
    // A list that names the tag, its index that names the manifest, and that manifest, which names the blob.
    assert_eq!(status(&paths[2]).await, 404);
    assert_eq!(status(&format!("/v2/{NGINX}/tags/list")).await, 200);
    for at in [2, 0, 1] {
        assert_eq!(status(&paths[at]).await, 200, "{}", paths[at]);
    }
}

#[tokio::test]
async fn sixteen_tags_are_asked_for_without_a_client_and_the_others_with_one() {
    let tags: Vec<_> = (0..20).map(|number| format!("t{number:02}")).collect();
    let stage = Stage::new().await;
    for tag in &tags {
        stage.hub.move_tag(NGINX, tag, &stage.image.digest);
        assert_eq!(stage.mirror.manifest(NGINX, tag).await.status, 200);
    }
    stage.mirror.clock.advance(Duration::from_mins(1));
    // An answer, so the upstream is there; but not one to go by.
    stage.hub.on(Origin::Registry).fault(Fault::status(418));
    stage.hub.take_requests();
    for tag in &tags {
        let answer = stage.mirror.manifest(NGINX, tag).await;
        assert_served(&answer, &stage.image.bytes);
    }
    assert_eq!(stage.hub.take_requests().len(), 20);
    // Two rounds of sixteen, and nobody else.
    stage.hub.wait_for_requests(32, |_| true).await;
    let mut asked: Vec<_> = stage.hub.take_summary();
    asked.sort_unstable();
    asked.dedup();
    let line = |tag: &String| format!("registry HEAD {NGINX}/manifests/{tag}");
    assert_eq!(asked, tags[..16].iter().map(line).collect::<Vec<_>>());
    // Each of the others is asked for when a client comes, which does not wait, and not again for four seconds.
    stage.mirror.clock.advance(Duration::from_secs(5));
    for _ in 0..10 {
        let answer = stage.mirror.manifest(NGINX, &tags[19]).await;
        assert!(outcome(&answer).starts_with("stale;"));
    }
    let last = line(&tags[19]);
    stage
        .hub
        .wait_until("the tag is asked for", |_| {
            stage.hub.summary().contains(&last)
        })
        .await;
    let asked = stage.hub.take_summary();
    assert_eq!(asked.iter().filter(|line| **line == last).count(), 1);
}

#[tokio::test]
async fn every_upstream_and_tag_has_its_own_time() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "1.27.3", ImageSpec::layers(1));
    for tag in ["nightly", "stable"] {
        hub.move_tag(NGINX, tag, &image.digest);
    }
    let rule = |pattern: &str, ttl| TagRule {
        pattern: pattern.parse().unwrap(),
        ttl,
    };
    let mirror = TestMirror::start_with(&hub, |settings| {
        let upstream = upstream(settings);
        upstream.tag_ttl = Some(Duration::from_mins(5));
        upstream.tag_rules = vec![rule("[0-9]*.*", DAY), rule("nightly", Duration::ZERO)];
    })
    .await;
    let asked = async |tag: &str| {
        assert_served(&mirror.manifest(NGINX, tag).await, &image.bytes);
        let lines = hub.take_summary();
        lines.iter().any(|line| line.contains("HEAD"))
    };
    for tag in ["1.27.3", "nightly", "stable"] {
        asked(tag).await;
    }
    let second = Duration::from_secs(1);
    mirror
        .clock
        .advance(Duration::from_mins(5).saturating_sub(second));
    assert!(asked("nightly").await && asked("nightly").await);
    assert!(!asked("stable").await);
    mirror.clock.advance(second);
    assert!(asked("stable").await);
    assert!(!asked("1.27.3").await);
    mirror.clock.advance(DAY);
    assert!(asked("1.27.3").await);
}

#[tokio::test]
async fn the_limits_are_those_of_the_configuration() {
    let minutes = |count| Duration::from_mins(count);
    let stage = Stage::of(FakeHub::start().await, |settings| {
        settings.cache.stale_if_error = minutes(20);
        settings.cache.stale_if_deleted = minutes(10);
        settings.cache.negative_ttl = minutes(2);
    })
    .await;
    stage.hub.delete_tag(NGINX, "latest");
    let seconds = Duration::from_secs;
    for (pass, status, asked) in [
        (minutes(0), 200, true),
        (seconds(4), 200, false),
        (minutes(9).saturating_sub(seconds(4)), 200, true),
        (seconds(1), 404, false),
        (minutes(2).saturating_sub(seconds(1)), 404, true),
    ] {
        stage.mirror.clock.advance(pass);
        assert_eq!(stage.tag().await.status, status, "{pass:?}");
        let lines = stage.hub.take_summary();
        assert_eq!(
            lines.contains(&HEAD.to_owned()),
            asked,
            "{pass:?}: {lines:?}"
        );
    }
    stage.hub.move_tag(NGINX, "latest", &stage.image.digest);
    stage.mirror.clock.advance(minutes(2));
    assert_eq!(stage.tag().await.status, 200);
    stage.hub.stop().await;
    for (pass, status) in [(20, 200), (1, 503)] {
        stage.mirror.clock.advance(minutes(pass));
        assert_eq!(stage.tag().await.status, status, "{pass}");
    }
}

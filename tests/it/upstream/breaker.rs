//! An upstream that does not answer is left alone but for probes, and asked again once it answers one.

use futures_util::future::join_all;

use super::*;
use crate::support::{At, Fault};
use mirror::upstream::{ManifestHead, Phase};

const TOKEN: &str = "token GET library/nginx:pull";
const HEAD: &str = "registry HEAD library/nginx/manifests/latest";
const GET: &str = "registry GET library/nginx/manifests/latest";
const REDIS: &str = "library/redis";
const PING: &str = "registry GET /v2/";

async fn head(upstream: &Upstream) -> Result<ManifestHead, UpstreamError> {
    let (name, tag) = (name(NGINX), reference("latest"));
    upstream.head_manifest(&name, &tag).await
}

/// What the upstream is not asked because of.
#[track_caller]
fn cause(error: UpstreamError) -> UpstreamError {
    let UpstreamError::Suspended { cause, .. } = error else {
        panic!("{error:?}");
    };
    (*cause).clone()
}

#[track_caller]
fn assert_phase(error: &UpstreamError, expected: Phase, culprit: &str) {
    let UpstreamError::Unreachable { host, phase, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((&**host, *phase), (culprit, expected));
}

/// A hundred questions of every kind cost nothing, and say what is wrong.
async fn assert_left_alone(upstream: &Upstream, hub: &FakeHub) {
    hub.take_requests();
    let before = upstream.refused();
    let asked = join_all((0..100).map(async |number| {
        let tag = reference(&format!("tag{number}"));
        upstream.get_manifest(&name(NGINX), &tag).await.unwrap_err()
    }));
    for error in asked.await {
        cause(error);
    }
    let unknown = Digest::of(mirror::oci::Algorithm::Sha256, b"unknown");
    cause(head(upstream).await.unwrap_err());
    cause(upstream.head_blob(&name(NGINX), unknown).await.unwrap_err());
    cause(
        upstream
            .open_blob(&name(NGINX), unknown, 0)
            .await
            .unwrap_err(),
    );
    cause(upstream.tags(&name(NGINX), None, None).await.unwrap_err());
    cause(upstream.referrers(&name(NGINX), unknown).await.unwrap_err());
    assert_eq!(hub.take_summary(), [""; 0]);
    assert_eq!(upstream.refused() - before, 105);
}

fn once(hub: &FakeHub) -> Settings {
    Settings {
        retries: 0,
        ..settings(hub)
    }
}

#[tokio::test]
async fn an_outage_costs_one_question_and_its_end_one_probe() {
    let (hub, _) = nginx().await;
    let upstream = upstream(once(&hub));
    head(&upstream).await.unwrap();
    hub.stop().await;
    let registry = host(&hub.registry_url());
    let error = upstream
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    assert_phase(&error, Phase::Connect, &registry);
    assert!(upstream.is_suspended());
    assert_left_alone(&upstream, &hub).await;
    let error = head(&upstream).await.unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("no connection"), "{shown}");
    assert_phase(&cause(error), Phase::Connect, &registry);

    hub.restart().await;
    until_answered(&upstream).await;
    // Never by a GET, which is counted.
    assert_eq!(hub.take_summary(), [HEAD]);
    head(&upstream).await.unwrap();
    assert_eq!(hub.take_summary(), [HEAD]);
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_suspends_too() {
    let (hub, _) = nginx().await;
    let upstream = upstream(once(&hub));
    hub.stop_origin(Origin::Token).await;
    let token = host(&hub.url(Origin::Token));
    assert_phase(&head(&upstream).await.unwrap_err(), Phase::Connect, &token);
    assert_left_alone(&upstream, &hub).await;
    assert_phase(
        &cause(head(&upstream).await.unwrap_err()),
        Phase::Connect,
        &token,
    );
    hub.restart_origin(Origin::Token).await;
    until_answered(&upstream).await;
    assert_eq!(hub.take_summary(), [TOKEN, HEAD]);
}

#[tokio::test]
async fn errors_of_its_own_suspend_it_the_third_time() {
    let (hub, _) = nginx().await;
    let upstream = upstream(once(&hub));
    let fault = hub.on(Origin::Registry).fault(Fault::status(500));
    for _ in 0..3 {
        assert!(!upstream.is_suspended());
        let error = head(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Status { status: 500, .. }));
    }
    assert_eq!(hub.summary(), [TOKEN, HEAD, HEAD, HEAD]);
    assert_left_alone(&upstream, &hub).await;
    // A probe that is answered with 500 changes nothing.
    hub.wait_for_requests(1, |it| it.method == "HEAD").await;
    hub.wait_until_idle().await;
    assert!(upstream.is_suspended());
    fault.disarm();
    until_answered(&upstream).await;
    assert_eq!(hub.take_summary(), [HEAD, PING, HEAD]);
}

#[tokio::test]
async fn a_repository_that_works_speaks_for_an_upstream_that_answers_with_errors() {
    let (hub, _) = nginx().await;
    hub.push_image("library/redis", "latest", ImageSpec::layers(1));
    let upstream = upstream(once(&hub));
    let broken = hub.on(Origin::Registry).repository(NGINX);
    broken.fault(Fault::status(502));
    for _ in 0..3 {
        head(&upstream).await.unwrap_err();
    }
    assert!(upstream.is_suspended());
    let redis = name("library/redis");
    upstream
        .head_manifest(&redis, &reference("latest"))
        .await
        .unwrap();
    assert!(!upstream.is_suspended());
}

#[tokio::test]
async fn a_burst_of_errors_does_not_suspend() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    for _ in 0..4 {
        let rule = hub.on(Origin::Registry).times(3);
        rule.fault(Fault::status(503));
        head(&upstream).await.unwrap();
    }
    assert_eq!(upstream.refused(), 0);
}

#[tokio::test]
async fn nobody_waits_for_a_black_hole_twice_and_who_still_waits_is_answered_after_it() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let hole = hub.on(Origin::Registry).fault(Fault::BlackHole);
    let watch = upstream.watch();
    let waiting = tokio::spawn({
        let upstream = upstream.clone();
        async move { head(&upstream).await }
    });
    hub.wait_for_requests(1, |it| it.method == "HEAD").await;
    let waited = Duration::from_secs(3);
    upstream.suspect(watch, &name(NGINX), &reference("latest"), waited);
    let error = head(&upstream).await.unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.ends_with("no answer in time (nothing within 3s)"),
        "{shown}"
    );
    assert_phase(&cause(error), Phase::FirstByte, &host(&hub.registry_url()));
    assert_left_alone(&upstream, &hub).await;
    hole.disarm();
    // The question that is still in the black hole is asked again, and not given up after its 30 s.
    waiting.await.unwrap().unwrap();
    assert!(!upstream.is_suspended());
    assert_eq!(hub.take_summary(), [HEAD, HEAD]);
}

#[tokio::test]
async fn a_late_answer_ends_the_suspicion() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let gate = hub.on(Origin::Registry).hold(At::Head);
    let watch = upstream.watch();
    let waiting = tokio::spawn({
        let upstream = upstream.clone();
        async move { head(&upstream).await }
    });
    hub.wait_for_requests(1, |it| it.method == "HEAD").await;
    upstream.suspect(watch, &name(NGINX), &reference("latest"), PATIENCE);
    assert!(upstream.is_suspended());
    gate.release();
    waiting.await.unwrap().unwrap();
    assert!(!upstream.is_suspended());
    // What was answered meanwhile speaks for the upstream.
    upstream.suspect(watch, &name(NGINX), &reference("latest"), PATIENCE);
    assert!(!upstream.is_suspended());
    assert_eq!(hub.summary(), [TOKEN, HEAD]);
}

#[tokio::test]
async fn eight_questions_in_a_black_hole_are_in_nobodys_way_after_it() {
    let (hub, image) = nginx().await;
    for number in 0..20 {
        hub.move_tag(NGINX, &format!("t{number}"), &image.digest);
    }
    let upstream = upstream(settings(&hub));
    head(&upstream).await.unwrap();
    let hole = hub.on(Origin::Registry).fault(Fault::BlackHole);
    let watch = upstream.watch();
    let waiting = tokio::spawn({
        let upstream = upstream.clone();
        async move {
            let ask = async |number| {
                let tag = reference(&format!("t{number}"));
                upstream.head_manifest(&name(NGINX), &tag).await
            };
            join_all((0..20).map(ask)).await
        }
    });
    hub.wait_for_requests(9, |it| it.method == "HEAD").await;
    upstream.suspect(watch, &name(NGINX), &reference("t0"), PATIENCE);
    hole.disarm();
    let answers = waiting.await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn a_running_transfer_resumes_while_the_upstream_is_suspended() {
    let blob = OneBlob::with(|settings| settings.retries = 0).await;
    blob.open(0).await.unwrap();
    let watch = blob.upstream.watch();
    let tag = reference("latest");
    blob.upstream.suspect(watch, &name(NGINX), &tag, PATIENCE);
    assert!(!blob.upstream.is_suspended(), "nobody asks");
    let _gate = blob.hub.on(Origin::Registry).method("HEAD").hold(At::Head);
    tokio::spawn({
        let upstream = blob.upstream.clone();
        async move { head(&upstream).await }
    });
    blob.hub
        .wait_for_requests(1, |it| it.method == "HEAD")
        .await;
    blob.upstream
        .suspect(watch, &name(NGINX), &reference("latest"), PATIENCE);
    cause(blob.open(0).await.unwrap_err());
    let (bytes, error) = read(blob.open(150_000).await.unwrap()).await;
    assert!(error.is_none() && bytes == blob.bytes[150_000..]);
}

#[tokio::test]
async fn blobs_that_cannot_be_opened_are_probed_for_without_one() {
    let blob = OneBlob::new().await;
    blob.open(0).await.unwrap();
    blob.hub.stop().await;
    for _ in 0..3 {
        let error = blob.open(0).await.unwrap_err();
        assert_phase(&error, Phase::Connect, &host(&blob.hub.registry_url()));
    }
    cause(blob.open(0).await.unwrap_err());
    blob.hub.take_requests();
    blob.hub.restart().await;
    until_answered(&blob.upstream).await;
    assert_eq!(blob.hub.take_summary(), [PING]);
    blob.assert_whole().await;
}

#[tokio::test]
async fn a_cdn_that_is_down_is_not_the_registry() {
    let blob = OneBlob::new().await;
    blob.hub.stop_origin(Origin::Cdn).await;
    for _ in 0..5 {
        let error = blob.open(0).await.unwrap_err();
        assert_phase(&error, Phase::Connect, &host(&blob.hub.cdn_url()));
    }
    assert!(!blob.upstream.is_suspended());
}

#[tokio::test]
async fn a_cdn_that_something_blocks_is_named_with_what_may_block_it() {
    let blob = OneBlob::new().await;
    let label = "a".repeat(64);
    let nowhere = format!("http://{label}.test/x");
    blob.hub
        .on(Origin::Registry)
        .blobs()
        .fault(Fault::RedirectTo(nowhere));
    let shown = blob.open(0).await.unwrap_err().to_string();
    let expected = format!("{label}.test could not be reached: its name could not be resolved (");
    assert!(shown.starts_with(&expected), "{shown}");
    assert!(shown.contains("a firewall or an egress list may block it"));
}

#[tokio::test]
async fn after_a_quarter_of_an_hour_without_questions_the_next_one_is_the_probe() {
    let (hub, _) = nginx().await;
    let clock = clock();
    let upstream = upstream_at(once(&hub), &clock);
    hub.on(Origin::Registry).fault(Fault::status(503));
    for _ in 0..3 {
        head(&upstream).await.unwrap_err();
    }
    hub.take_requests();
    hub.wait_for_requests(1, |it| it.method == "HEAD").await;
    clock.advance(Duration::from_mins(15));
    // Longer than the pause between two probes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(hub.take_summary(), [HEAD]);
    let error = upstream
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::Status { .. }), "{error:?}");
    assert_eq!(hub.take_summary(), [TOKEN, GET]);
    cause(head(&upstream).await.unwrap_err());
    hub.clear_faults();
    until_answered(&upstream).await;
    hub.wait_for_requests(2, |_| true).await;
    assert_eq!(hub.take_summary(), [PING, HEAD]);
}

/// A hub of two repositories, and a client that has a token for each and waits a second.
async fn two_repositories() -> (FakeHub, Upstream, Arc<ManualClock>) {
    let (hub, _) = nginx().await;
    hub.push_image(REDIS, "latest", ImageSpec::layers(1));
    let clock = clock();
    let impatient = Settings {
        timeout: Duration::from_secs(1),
        ..once(&hub)
    };
    let upstream = upstream_at(impatient, &clock);
    head(&upstream).await.unwrap();
    of_redis(&upstream).await.unwrap();
    hub.take_requests();
    (hub, upstream, clock)
}

async fn of_redis(upstream: &Upstream) -> Result<ManifestHead, UpstreamError> {
    let (name, tag) = (name(REDIS), reference("latest"));
    upstream.head_manifest(&name, &tag).await
}

/// `fault` of one repository alone is noticed without anybody's asking for another, and stops no other.
async fn assert_left_alone_alone(fault: Fault, questions: usize) {
    let (hub, upstream, clock) = two_repositories().await;
    let fault = hub.on(Origin::Registry).repository(NGINX).fault(fault);
    for _ in 0..questions {
        head(&upstream).await.unwrap_err();
    }
    assert!(upstream.is_suspended());
    hub.take_requests();
    until_answered(&upstream).await;
    hub.wait_for_requests(3, |_| true).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(hub.take_summary(), [HEAD, PING, HEAD]);
    // One finds out whether it still fails; others are not sent.
    let asked = join_all((0..50).map(|_| head(&upstream))).await;
    let refused = |answer: &&Result<_, _>| matches!(answer, Err(UpstreamError::Suspended { .. }));
    assert_eq!(asked.iter().filter(refused).count(), 49);
    assert!(asked.iter().all(Result::is_err));
    assert_eq!(hub.take_summary(), [HEAD]);
    for _ in 0..5 {
        cause(head(&upstream).await.unwrap_err());
        of_redis(&upstream).await.unwrap();
    }
    assert!(!upstream.is_suspended());
    hub.take_requests();
    fault.disarm();
    clock.advance(Duration::from_secs(3));
    for _ in 0..2 {
        head(&upstream).await.unwrap();
    }
    assert_eq!(hub.take_summary(), [HEAD, HEAD]);
}

#[tokio::test]
async fn a_repository_that_hangs_is_left_alone_alone() {
    assert_left_alone_alone(Fault::BlackHole, 1).await;
}

#[tokio::test]
async fn a_repository_that_always_fails_is_left_alone_alone() {
    assert_left_alone_alone(Fault::status(500), 3).await;
}

#[tokio::test]
async fn a_black_hole_holds_a_few_of_those_who_miss_something_and_nobody_who_checks_a_tag() {
    let (hub, upstream, _) = two_repositories().await;
    hub.on(Origin::Registry).fault(Fault::BlackHole);
    head(&upstream).await.unwrap_err();
    hub.take_requests();
    cause(of_redis(&upstream).await.unwrap_err());
    let asked = join_all((0..100).map(async |number| {
        let repository = name(&format!("library/r{number}"));
        let latest = reference("latest");
        let asked = upstream.get_manifest(&repository, &latest);
        asked.await.unwrap_err()
    }));
    let asked = asked.await;
    let refused = |error: &&UpstreamError| matches!(error, UpstreamError::Suspended { .. });
    assert_eq!(asked.iter().filter(refused).count(), 92);
    let seen = hub.take_requests();
    let gets = seen
        .iter()
        .filter(|it| it.path.ends_with("/manifests/latest"));
    assert_eq!(gets.filter(|it| it.method == "GET").count(), 8);
}

#[tokio::test]
async fn a_miss_elsewhere_finds_out_that_only_one_repository_hangs() {
    let (hub, upstream, _) = two_repositories().await;
    hub.on(Origin::Registry)
        .repository(NGINX)
        .fault(Fault::BlackHole);
    head(&upstream).await.unwrap_err();
    assert!(upstream.is_suspended());
    let redis = name(REDIS);
    let missed = upstream.get_manifest(&redis, &reference("latest")).await;
    missed.unwrap();
    assert!(!upstream.is_suspended());
    of_redis(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_does_not_implement_heads_is_not_down() {
    let (hub, upstream, _) = two_repositories().await;
    let heads = hub.on(Origin::Registry).method("HEAD");
    heads.fault(Fault::status(501));
    for _ in 0..5 {
        assert_eq!(head(&upstream).await.unwrap().digest, None);
    }
    assert!(!upstream.is_suspended());
}

#[tokio::test]
async fn a_challenge_is_no_answer_while_no_token_is_to_be_had() {
    let (hub, _) = nginx().await;
    let upstream = upstream(Settings {
        retries: 0,
        ..stranger(&hub)
    });
    hub.stop_origin(Origin::Token).await;
    let token = host(&hub.url(Origin::Token));
    assert_phase(&head(&upstream).await.unwrap_err(), Phase::Connect, &token);
    hub.take_requests();
    hub.wait_for_requests(1, |it| it.path == "/v2/").await;
    hub.wait_until_idle().await;
    assert!(upstream.is_suspended());
    assert_eq!(hub.take_summary(), [HEAD, PING]);
}

#[tokio::test]
async fn who_may_repeat_nothing_is_repeated_after_an_outage_too() {
    let (hub, _) = nginx().await;
    let upstream = upstream(once(&hub));
    head(&upstream).await.unwrap();
    let hole = hub.on(Origin::Registry).fault(Fault::BlackHole);
    let watch = upstream.watch();
    let waiting = tokio::spawn({
        let upstream = upstream.clone();
        async move { head(&upstream).await }
    });
    hub.wait_for_requests(2, |it| it.method == "HEAD").await;
    upstream.suspect(watch, &name(NGINX), &reference("latest"), PATIENCE);
    hole.disarm();
    waiting.await.unwrap().unwrap();
}

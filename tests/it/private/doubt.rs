//! What is done while nobody can tell who may see a repository.

use super::*;

/// An image that nobody has pulled yet.
fn news() -> ImageSpec {
    ImageSpec::layers(1).seed(77)
}

/// A mirror that has pulled a public repository, which is private by now and has something new.
async fn outdated() -> (Stage, Image) {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    let new = stage.hub.push_image(PUBLIC, "latest", news());
    stage.hub.make_private(PUBLIC, "alice");
    stage.hub.take_requests();
    (stage, new)
}

#[tokio::test]
async fn nothing_new_is_handed_out_while_a_decision_is_overdue() {
    for fault in [Fault::status(429), Fault::status(500)] {
        let (stage, new) = outdated().await;
        let anonymous = stage.hub.on(Origin::Registry).method("HEAD");
        let failing = anonymous.times(1).fault(fault.clone());
        stage.expire();
        let answer = stage.mirror.manifest(PUBLIC, "latest").await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*stage.image.digest)
        );
        assert!(answer.header("warning").is_some(), "{}", answer.head);
        assert_eq!(failing.hits(), 1);
        // Nor by digest, of what is not held.
        for path in [
            format!("/v2/{PUBLIC}/manifests/other"),
            format!("/v2/{PUBLIC}/tags/list"),
        ] {
            let answer = stage.mirror.get(&path).await;
            assert_eq!(answer.status, 503, "{path}");
        }
        let held = stage.mirror.manifest(PUBLIC, &stage.image.digest).await;
        assert_eq!(held.status, 200);
        let asked = stage.hub.take_requests();
        assert!(
            asked.iter().all(|it| it.basic_user().is_none()),
            "{asked:?}"
        );
        // As soon as the upstream answers it is hidden.
        stage.mirror.clock.advance(Duration::from_mins(5));
        stage.hub.revoke_tokens();
        assert_eq!(stage.pull(PUBLIC).await, 404);
        assert_eq!(stage.mirror.manifest(PUBLIC, &new.digest).await.status, 404);
    }
}

#[tokio::test]
async fn a_redirect_whose_target_fails_makes_no_blob_public() {
    let stage = Stage::holding(PRIVATE).await;
    let layer = stage.image.first().layers[0].digest.clone();
    // A registry that sends everybody on, and a target that knows better.
    let target = format!("{}/blobs/{layer}", stage.hub.cdn_url());
    let redirect = stage.hub.on(Origin::Registry).method("HEAD").blobs();
    redirect.fault(Fault::RedirectTo(target));
    stage.hub.on(Origin::Cdn).fault(Fault::status(403));
    assert_eq!(stage.mirror.blob(PRIVATE, &layer).await.status, 404);
    assert_eq!(stage.pull(PRIVATE).await, 404);
}

#[tokio::test]
async fn a_mirror_of_the_upstream_says_nothing_of_who_may_see_a_repository() {
    let stage = Stage::new(false).await;
    let other = FakeHub::start().await;
    other.push_image(PUBLIC, "latest", ImageSpec::layers(1));
    let mirrored = |settings: &mut Settings| {
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.mirrors = vec![other.registry_url().parse().unwrap()];
    };
    let stage = stage.restart_with(mirrored).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    // Gone at the upstream, for us too; the mirror of it still has it.
    stage.hub.delete_repository(PUBLIC);
    stage.expire();
    assert_eq!(stage.pull(PUBLIC).await, 200);
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
}

#[tokio::test]
async fn an_upstream_that_is_silent_is_waited_for_once_whatever_the_repository() {
    const OTHER: &str = "bob/other";
    let stage = Stage::new(false).await;
    stage.hub.push_image(OTHER, "latest", ImageSpec::layers(1));
    let hurried = |settings: &mut Settings| {
        settings.cache.revalidate_timeout = Duration::from_millis(300);
    };
    let stage = stage.restart_with(hurried).await;
    for repository in [PUBLIC, OTHER] {
        assert_eq!(stage.pull(repository).await, 200);
    }
    stage.expire();
    let black_hole = stage.hub.on(Origin::Registry).fault(Fault::BlackHole);
    assert_eq!(stage.pull(PUBLIC).await, 200);
    let seen = black_hole.hits();
    let page = stage.mirror.get("/metrics").await.body;
    let suspended = "mirror_upstream_suspended{upstream=\"docker.io\"} 1";
    assert!(String::from_utf8_lossy(&page).contains(suspended));
    let other = stage.mirror.manifest(OTHER, "latest").await;
    assert_eq!(other.status, 200);
    assert!(other.header("warning").is_some(), "{}", other.head);
    let asked = stage.hub.requests();
    assert!(
        seen >= 1
            && asked
                .iter()
                .all(|it| !it.path.contains(OTHER) || it.status == 200)
    );
}

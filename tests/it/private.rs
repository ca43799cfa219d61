//! What needs our credentials is absent for clients without an account.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

mod doubt;
mod logins;

use std::time::Duration;

use futures_util::future::join_all;
use mirror::config::{ProxyChoice, ProxySettings, Settings};
use mirror::sys::secret::Secret;

use crate::client::{End, Response, request};
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Fault, Image, ImageSpec, Origin, TestProxy};

const NGINX: &str = "library/nginx";
const PRIVATE: &str = "alice/app";
const PUBLIC: &str = "bob/tool";
/// As long as [`PRIVATE`], and in no hub.
const NOTHING: &str = "alice/non";
const TTL: Duration = Duration::from_mins(1);
const NEGATIVE_TTL: Duration = Duration::from_secs(30);
const NONE: [&str; 0] = [];

/// A hub with an official, a private and a public repository, and a mirror that is alice there.
struct Stage {
    hub: FakeHub,
    mirror: TestMirror,
    image: Image,
}

impl Stage {
    async fn new(anonymous_private: bool) -> Self {
        let hub = FakeHub::builder().user("alice", "secret").start().await;
        let image = hub.push_image(PRIVATE, "latest", ImageSpec::layers(1));
        for repository in [PUBLIC, NGINX] {
            hub.push_image(repository, "latest", ImageSpec::layers(1));
        }
        hub.make_private(PRIVATE, "alice");
        let change = |settings: &mut Settings| {
            as_alice(settings);
            settings.access.anonymous_private = anonymous_private;
        };
        let mirror = TestMirror::start_with(&hub, change).await;
        Self { hub, mirror, image }
    }

    /// A mirror that holds all there is of `repository`, from when it was shared, and guards it now.
    async fn holding(repository: &str) -> Self {
        let stage = Self::full(repository).await;
        let guarding = |settings: &mut Settings| settings.access.anonymous_private = false;
        stage.restart_with(guarding).await
    }

    /// The same, still shared.
    async fn full(repository: &str) -> Self {
        let Self { hub, mirror, image } = Self::new(true).await;
        for (method, path, headers) in routes(repository, &image) {
            let answer = request(method, &mirror.url(&path), &headers).await;
            let served = matches!(answer.status, 200 | 206) && answer.end == End::Complete;
            assert!(served, "{method} {path}: {answer:?}");
        }
        mirror
            .wait_until_cached(&image.first().layers[0].digest)
            .await;
        hub.take_requests();
        Self { hub, mirror, image }
    }

    async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mirror = self.mirror.restart_with(change).await;
        Self { mirror, ..self }
    }

    /// Asserts that nothing of `repository` is to be had, by no route.
    async fn assert_hidden(&self, repository: &str) {
        for (method, path, headers) in routes(repository, &self.image) {
            let answer = request(method, &self.mirror.url(&path), &headers).await;
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }

    async fn pull(&self, repository: &str) -> u16 {
        self.mirror.manifest(repository, "latest").await.status
    }

    async fn pull_by_digest(&self, repository: &str) -> u16 {
        let answer = self.mirror.manifest(repository, &self.image.digest).await;
        answer.status
    }

    /// Lets a tag expire, at the hub also what it has granted.
    fn expire(&self) {
        self.mirror.clock.advance(TTL);
        self.hub.revoke_tokens();
    }

    #[track_caller]
    fn assert_asked<const N: usize>(&self, expected: [&str; N]) {
        assert_eq!(self.hub.take_summary(), expected);
    }
}

fn as_alice(settings: &mut Settings) {
    settings.cache.revalidate_timeout = Duration::from_secs(30);
    let upstream = settings.upstreams.get_mut("docker.io").unwrap();
    upstream.username = Some("alice".to_owned());
    upstream.password = Some(Secret::new("secret"));
    upstream.retries = 0;
}

type Request = (&'static str, String, Vec<(&'static str, &'static str)>);

/// Every way to ask for something of a repository.
fn routes(repository: &str, image: &Image) -> Vec<Request> {
    let layer = format!("blobs/{}", image.first().layers[0].digest);
    let config = format!("blobs/{}", image.first().config.digest);
    let index = format!("manifests/{}", image.digest);
    let platform = format!("manifests/{}", image.first().digest);
    let referrers = format!("referrers/{}", image.digest);
    let filtered = format!("{referrers}?artifactType=a%2Fb");
    let path = |rest: &str| format!("/v2/{repository}/{rest}");
    let plain = [
        ("GET", "manifests/latest"),
        ("HEAD", "manifests/latest"),
        ("GET", &*index),
        ("HEAD", &*index),
        ("GET", &*platform),
        ("GET", &*layer),
        ("HEAD", &*layer),
        ("GET", &*config),
        ("GET", "tags/list"),
        ("GET", "tags/list?n=1"),
        ("GET", &*referrers),
        ("GET", &*filtered),
    ];
    let plain = plain.map(|(method, rest)| (method, path(rest), vec![]));
    let range = vec![("range", "bytes=1-2")];
    let ranges = [
        ("GET", path(&layer), range.clone()),
        ("HEAD", path(&layer), range),
    ];
    plain.into_iter().chain(ranges).collect()
}

/// An answer without what differs between any two.
fn essence(answer: &Response, repository: &str) -> (String, String) {
    let differs = |line: &&str| !line.starts_with("date: ") && !line.starts_with("x-request-id: ");
    let head: Vec<&str> = answer.head.lines().filter(differs).collect();
    let neutral = |text: &str| text.replace(repository, "<name>");
    let body = String::from_utf8_lossy(&answer.body);
    (neutral(&head.join("\n")), neutral(&body))
}

#[tokio::test]
async fn what_needs_our_credentials_is_refused_by_every_route_and_looks_absent() {
    let stage = Stage::holding(PRIVATE).await;
    let absent = routes(NOTHING, &stage.image);
    for ((method, path, headers), (_, other, _)) in
        routes(PRIVATE, &stage.image).into_iter().zip(absent)
    {
        let refused = request(method, &stage.mirror.url(&path), &headers).await;
        let absent = request(method, &stage.mirror.url(&other), &headers).await;
        assert_eq!(
            (refused.status, refused.end),
            (404, End::Complete),
            "{method} {path}"
        );
        assert_eq!(
            essence(&refused, PRIVATE),
            essence(&absent, NOTHING),
            "{method} {path}"
        );
    }
    // One question for each of the two, and none of them as alice.
    stage.assert_asked([
        "token GET alice/app:pull",
        "registry HEAD alice/app/manifests/latest",
        "token GET alice/non:pull",
        "registry HEAD alice/non/manifests/latest",
    ]);
}

#[tokio::test]
async fn it_looks_absent_whatever_is_asked_for_first() {
    let image = ImageSpec::layers(1).build();
    for (method, path, headers) in routes(PRIVATE, &image) {
        let Stage { hub, mirror, .. } = Stage::holding(PRIVATE).await;
        let refused = request(method, &mirror.url(&path), &headers).await;
        assert_eq!(refused.status, 404, "{method} {path}");
        let other = path.replace(PRIVATE, NOTHING);
        let absent = request(method, &mirror.url(&other), &headers).await;
        assert_eq!(
            essence(&refused, PRIVATE),
            essence(&absent, NOTHING),
            "{method} {path}"
        );
        let asked = hub.take_requests();
        let anonymous = asked.iter().all(|it| it.basic_user().is_none());
        assert!(
            anonymous && asked.len() == 4,
            "{method} {path}: {:#?}",
            hub.summary()
        );
    }
}

#[tokio::test]
async fn with_anonymous_private_it_is_served() {
    let stage = Stage::new(true).await;
    assert_eq!(stage.pull(PRIVATE).await, 200);
    stage.assert_asked([
        "token GET alice/app:pull (alice)",
        "registry GET alice/app/manifests/latest",
    ]);
}

#[tokio::test]
async fn official_images_need_no_probe_at_docker_hub() {
    let stage = Stage::new(false).await;
    let proxy = TestProxy::start().await;
    let hub = stage.hub.registry_url();
    let port = hub.rsplit(':').next().unwrap();
    let (url, by) = (
        format!("http://registry-1.docker.io:{port}"),
        format!("http://{}", proxy.host()),
    );
    let at_docker_hub = |settings: &mut Settings| {
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.url = url.parse().unwrap();
        upstream.proxy = ProxyChoice::Via(ProxySettings {
            url: by.parse().unwrap(),
            credentials: None,
        });
    };
    let stage = stage.restart_with(at_docker_hub).await;
    assert_eq!(stage.pull(NGINX).await, 200);
    stage.assert_asked([
        "token GET library/nginx:pull (alice)",
        "registry GET library/nginx/manifests/latest",
    ]);
}

#[tokio::test]
async fn another_registry_called_docker_hub_may_have_private_projects_called_library() {
    let stage = Stage::new(false).await;
    stage.hub.make_private(NGINX, "alice");
    assert_eq!(stage.pull(NGINX).await, 404);
    stage.assert_asked([
        "token GET library/nginx:pull",
        "registry HEAD library/nginx/manifests/latest",
    ]);
}

#[tokio::test]
async fn a_public_repository_costs_one_probe() {
    let stage = Stage::new(false).await;
    let herd = (0..20).map(|_| stage.pull(PUBLIC));
    assert_eq!(join_all(herd).await, [200; 20]);
    stage.assert_asked([
        "token GET bob/tool:pull",
        "registry HEAD bob/tool/manifests/latest",
        "token GET bob/tool:pull (alice)",
        "registry GET bob/tool/manifests/latest",
    ]);
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
    let tags = stage.mirror.get("/v2/bob/tool/tags/list").await;
    assert_eq!(tags.status, 200);
    stage.assert_asked(["registry GET bob/tool/tags/list?n=1000"]);

    // Also the next process asks nothing while the tag is fresh, and nothing more than it has to later.
    let stage = stage.restart().await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    stage.assert_asked(NONE);
    stage.mirror.clock.advance(TTL);
    assert_eq!(stage.pull(PUBLIC).await, 200);
    assert_eq!(stage.pull(PUBLIC).await, 200);
    let mut asked = stage.hub.take_summary();
    asked.sort();
    assert_eq!(
        asked,
        [
            "registry HEAD bob/tool/manifests/latest",
            "registry HEAD bob/tool/manifests/latest",
            "token GET bob/tool:pull",
            "token GET bob/tool:pull (alice)",
        ]
    );
}

#[tokio::test]
async fn different_wants_of_a_repository_are_probed_once() {
    let stage = Stage::holding(PUBLIC).await;
    let wants = routes(PUBLIC, &stage.image);
    let wants = wants.iter().map(|(method, path, headers)| async {
        let url = stage.mirror.url(path);
        request(method, &url, headers).await.status
    });
    let statuses = join_all(wants).await;
    assert!(
        statuses.iter().all(|status| matches!(status, 200 | 206)),
        "{statuses:?}"
    );
    let asked = stage.hub.take_requests();
    let registry = asked.iter().filter(|it| it.origin == Origin::Registry);
    assert_eq!(registry.count(), 1);
}

#[tokio::test]
async fn a_decision_outlives_an_outage_and_a_restart() {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    assert_eq!(stage.pull(PRIVATE).await, 404);
    stage.hub.stop().await;
    stage.hub.take_requests();
    for _ in 0..2 {
        stage.mirror.clock.advance(TTL * 100);
        assert_eq!(stage.pull(PUBLIC).await, 200);
        assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
        assert_eq!(stage.pull(PRIVATE).await, 404);
    }
    let stage = stage.restart().await;
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
    assert_eq!(stage.pull(PUBLIC).await, 200);
    assert_eq!(stage.pull_by_digest(PRIVATE).await, 404);
}

#[tokio::test]
async fn without_a_decision_an_outage_is_not_absence() {
    for repository in [PRIVATE, PUBLIC, NOTHING] {
        let stage = Stage::holding(PRIVATE).await;
        stage.hub.stop().await;
        for (method, path, headers) in routes(repository, &stage.image) {
            let answer = request(method, &stage.mirror.url(&path), &headers).await;
            assert_eq!(answer.status, 503, "{method} {path}");
            assert_eq!(answer.header("retry-after"), Some("5"));
            if method == "GET" {
                let said = answer.json()["errors"][0]["message"].to_string();
                let expected =
                    format!("whether docker.io/{repository} may be seen without an account");
                assert!(said.contains(&expected), "{said}");
            }
        }
        stage.hub.restart().await;
    }
}

#[tokio::test]
async fn without_a_decision_a_limit_is_not_absence() {
    let stage = Stage::holding(PUBLIC).await;
    let limit = Fault::status(429);
    stage.hub.on(Origin::Registry).fault(limit);
    let answer = stage.mirror.manifest(PUBLIC, &stage.image.digest).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert!(answer.header("retry-after").is_some());
    stage.hub.clear_faults();
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
}

#[tokio::test]
async fn what_became_private_is_hidden_after_the_ttl() {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    stage.hub.make_private(PUBLIC, "alice");
    stage.hub.revoke_tokens();
    assert_eq!(stage.pull(PUBLIC).await, 200);
    stage.expire();
    assert_eq!(stage.pull(PUBLIC).await, 404);
    stage.hub.take_requests();
    for (method, path, headers) in routes(PUBLIC, &stage.image) {
        let answer = request(method, &stage.mirror.url(&path), &headers).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    stage.assert_asked(NONE);
}

#[tokio::test]
async fn what_became_private_is_hidden_from_those_who_pull_by_digest_alone() {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
    stage.hub.make_private(PUBLIC, "alice");
    stage.hub.take_requests();
    stage.expire();
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
    stage.assert_asked(NONE);
    stage.mirror.clock.advance(Duration::from_hours(1));
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
    // In the background: the anonymous question, and the one that tells a private from a deleted repository.
    let heads = |it: &crate::support::Recorded| it.method == "HEAD" && it.status == 200;
    stage.hub.wait_for_requests(1, heads).await;
    while stage.pull_by_digest(PUBLIC).await == 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.pull(PUBLIC).await, 404);
}

#[tokio::test]
async fn what_became_public_is_shown_after_the_ttl() {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull(PRIVATE).await, 404);
    stage.hub.make_public(PRIVATE);
    assert_eq!(stage.pull(PRIVATE).await, 404);
    stage.hub.take_requests();
    stage.expire();
    assert_eq!(stage.pull(PRIVATE).await, 200);
    assert_eq!(stage.pull_by_digest(PRIVATE).await, 200);
    let asked = stage.hub.take_requests();
    let heads = asked.iter().filter(|it| it.method == "HEAD");
    assert!(heads.count() >= 1);
}

#[tokio::test]
async fn what_was_deleted_stays_as_public_as_it_was() {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    // Docker Hub answers 401 for what does not exist.
    stage.hub.delete_repository(PUBLIC);
    stage.expire();
    stage.pull(PUBLIC).await;
    assert_eq!(stage.pull_by_digest(PUBLIC).await, 200);
}

#[tokio::test]
async fn an_absent_tag_says_nothing_of_its_repository() {
    let stage = Stage::new(false).await;
    let absent = stage.mirror.manifest(PUBLIC, "none").await;
    assert_eq!(absent.status, 404);
    stage.assert_asked([
        "token GET bob/tool:pull",
        "registry HEAD bob/tool/manifests/none",
    ]);
    // Nor does it cost another question, for a while.
    let again = stage.mirror.manifest(PUBLIC, "none").await;
    assert_eq!(essence(&again, "none"), essence(&absent, "none"));
    stage.assert_asked(NONE);
    stage.mirror.clock.advance(NEGATIVE_TTL);
    stage.mirror.manifest(PUBLIC, "none").await;
    stage.assert_asked(["registry HEAD bob/tool/manifests/none"]);
    assert_eq!(stage.pull(PUBLIC).await, 200);
    stage.assert_asked([
        "registry HEAD bob/tool/manifests/latest",
        "token GET bob/tool:pull (alice)",
        "registry GET bob/tool/manifests/latest",
    ]);
}

#[tokio::test]
async fn without_credentials_there_is_nothing_to_guard() {
    let hub = FakeHub::start().await;
    hub.push_image(PUBLIC, "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    assert_eq!(mirror.manifest(PUBLIC, "latest").await.status, 200);
    assert_eq!(
        hub.take_summary(),
        [
            "token GET bob/tool:pull",
            "registry GET bob/tool/manifests/latest",
        ]
    );
}

//! Mirrors of an upstream: asked first, anonymously, and never the last word.

use super::*;
use crate::support::{At, Fault};
use mirror::upstream::{Class, Kind, ManifestHead, UpstreamCollector};

/// An upstream and its mirror, with the same image.
struct Pair {
    hub: FakeHub,
    mirror: FakeHub,
    image: Image,
}

impl Pair {
    async fn new() -> Self {
        let hub = FakeHub::builder().user("alice", "correct").start().await;
        let mirror = FakeHub::start().await;
        let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
        mirror.push_image(NGINX, "latest", ImageSpec::layers(1));
        Self { hub, mirror, image }
    }

    fn settings(&self) -> Settings {
        Settings {
            logins: vec![alice("correct")],
            mirrors: vec![self.mirror.registry_url().parse().unwrap()],
            ..settings(&self.hub)
        }
    }

    fn upstream(&self) -> Upstream {
        upstream(self.settings())
    }

    fn layer(&self) -> Digest {
        digest(&self.image.first().layers[0].digest)
    }

    /// What both have seen since the last call; no secret of the upstream's was sent to its mirror.
    fn seen(&self) -> (Vec<String>, Vec<String>) {
        let sent = self.mirror.requests();
        assert!(sent.iter().all(|it| it.basic_user().is_none()));
        (self.mirror.take_summary(), self.hub.take_summary())
    }
}

async fn head(upstream: &Upstream) -> Result<ManifestHead, UpstreamError> {
    let (name, latest) = (name(NGINX), reference("latest"));
    upstream.head_manifest(&name, &latest).await
}

#[tokio::test]
async fn a_mirror_is_asked_in_place_of_the_upstream() {
    let pair = Pair::new().await;
    let upstream = pair.upstream();
    let told = head(&upstream).await.unwrap();
    assert_eq!(told.digest, Some(digest(&pair.image.digest)));
    let by_digest = reference(&pair.image.digest);
    upstream
        .get_manifest(&name(NGINX), &by_digest)
        .await
        .unwrap();
    upstream
        .head_blob(&name(NGINX), pair.layer())
        .await
        .unwrap();
    let body = upstream
        .open_blob(&name(NGINX), pair.layer(), 0)
        .await
        .unwrap();
    assert_eq!(body.host, host(&pair.mirror.cdn_url()));
    let (bytes, error) = read(body).await;
    assert!(error.is_none() && bytes == pair.image.first().layers[0].bytes);
    let namespaces: Vec<_> = pair
        .mirror
        .requests()
        .iter()
        .filter(|it| it.origin == Origin::Registry)
        .map(|it| it.query.clone())
        .collect();
    assert_eq!(namespaces, ["ns=docker.io"; 5]);
    let (mirror, hub) = pair.seen();
    assert_eq!(
        mirror,
        [
            "registry HEAD library/nginx/manifests/latest",
            "token GET library/nginx:pull",
            "registry HEAD library/nginx/manifests/latest",
            "registry GET library/nginx/manifests/index",
            "registry HEAD library/nginx/blobs/amd64.layer0",
            "cdn HEAD amd64.layer0",
            "registry GET library/nginx/blobs/amd64.layer0",
            "cdn GET amd64.layer0",
        ]
    );
    assert_eq!(hub, Vec::<String>::new());
}

#[tokio::test]
async fn lists_come_from_the_upstream_itself() {
    let pair = Pair::new().await;
    let upstream = pair.upstream();
    upstream.tags(&name(NGINX), None, None).await.unwrap();
    upstream
        .referrers(&name(NGINX), pair.layer())
        .await
        .unwrap();
    let anonymous = upstream.anonymous();
    head(&anonymous).await.unwrap();
    let (mirror, hub) = pair.seen();
    assert_eq!(mirror, Vec::<String>::new());
    assert_eq!(hub.len(), 5, "{hub:?}");
}

#[tokio::test]
async fn however_a_mirror_fails_the_upstream_answers() {
    let pair = Pair::new().await;
    let challenge = Fault::Challenge("Basic realm=\"mirror\"".into());
    let other = pair
        .mirror
        .push_image("library/other", "1", ImageSpec::layers(1));
    for fault in [
        Fault::status(404),
        challenge,
        Fault::status(403),
        Fault::status(429),
        Fault::status(500),
        Fault::Html,
        Fault::body("application/vnd.oci.image.index.v1+json", "{}"),
        Fault::SetHeader("docker-content-digest", other.digest.clone()),
        Fault::WithoutHeader("docker-content-digest"),
        Fault::RedirectLoop,
        Fault::Reset(At::Head),
    ] {
        let upstream = pair.upstream();
        let armed = pair.mirror.on(Origin::Registry).fault(fault.clone());
        let by_digest = reference(&pair.image.digest);
        let told = upstream.head_manifest(&name(NGINX), &by_digest).await;
        assert_eq!(told.unwrap().digest, by_digest.digest(), "{fault:?}");
        let body = upstream
            .get_manifest(&name(NGINX), &by_digest)
            .await
            .unwrap();
        assert_eq!(body.bytes, pair.image.bytes, "{fault:?}");
        armed.disarm();
        assert!(
            !pair.seen().0.is_empty(),
            "{fault:?}: the mirror was not asked"
        );
    }
}

#[tokio::test]
async fn other_bytes_than_the_digest_says_come_from_nobody() {
    let pair = Pair::new().await;
    let upstream = pair.upstream();
    pair.mirror
        .on(Origin::Registry)
        .fault(Fault::FlipBit { at: 30 });
    for asked in [reference(&pair.image.digest), reference("latest")] {
        let body = upstream.get_manifest(&name(NGINX), &asked).await.unwrap();
        assert_eq!(body.bytes, pair.image.bytes);
    }
    let (_, hub) = pair.seen();
    assert_eq!(
        hub,
        [
            "token GET library/nginx:pull (alice)",
            "registry GET library/nginx/manifests/index",
            "registry GET library/nginx/manifests/latest",
        ]
    );
}

#[tokio::test]
async fn mirrors_are_asked_in_order() {
    let pair = Pair::new().await;
    let first = FakeHub::start().await;
    let mut settings = pair.settings();
    settings
        .mirrors
        .insert(0, first.registry_url().parse().unwrap());
    let upstream = upstream(settings);
    head(&upstream).await.unwrap();
    assert_eq!(
        first.summary().first().unwrap(),
        "registry HEAD library/nginx/manifests/latest"
    );
    let (mirror, hub) = pair.seen();
    assert_eq!((mirror.len(), hub.len()), (3, 0));
}

#[tokio::test]
async fn a_mirror_that_is_down_is_left_alone_for_half_a_minute() {
    let pair = Pair::new().await;
    let clock = clock();
    let upstream = upstream_at(pair.settings(), &clock);
    pair.mirror.stop().await;
    head(&upstream).await.unwrap();
    pair.mirror.restart().await;
    clock.advance(Duration::from_secs(29));
    head(&upstream).await.unwrap();
    assert_eq!(pair.seen().0, Vec::<String>::new());
    clock.advance(Duration::from_secs(1));
    head(&upstream).await.unwrap();
    let (mirror, hub) = pair.seen();
    assert_eq!((mirror.len(), hub.len()), (3, 0));
}

#[tokio::test]
async fn a_doubted_blob_comes_from_the_next_source() {
    let pair = Pair::new().await;
    let clock = clock();
    let upstream = upstream_at(pair.settings(), &clock);
    let nginx = name(NGINX);
    let open = || upstream.open_blob(&nginx, pair.layer(), 0);
    let (ours, theirs) = (host(&pair.mirror.cdn_url()), host(&pair.hub.cdn_url()));
    let mut body = open().await.unwrap();
    assert_eq!(body.host, ours);
    body.take_doubt().unwrap().raise();
    let mut body = open().await.unwrap();
    assert_eq!(body.host, theirs);
    assert!(body.take_doubt().is_none(), "there is no other source");
    // Another blob is not doubted, nor is this one for ever.
    let config = digest(&pair.image.first().config.digest);
    let body = upstream.open_blob(&nginx, config, 0).await.unwrap();
    assert_eq!(body.host, ours);
    clock.advance(Duration::from_mins(10));
    assert_eq!(open().await.unwrap().host, ours);
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_the_start() {
    let hub = FakeHub::start().await;
    let settings = Settings {
        mirrors: vec!["https://mirror.test/?x=y".parse().unwrap()],
        ..settings(&hub)
    };
    let error = Upstream::new(settings, clock(), Tasks::new(), TestMemo::new()).unwrap_err();
    assert!(error.to_string().contains("mirror.test"), "{error}");
}

#[tokio::test]
async fn what_mirrors_are_asked_is_counted_apart() {
    let pair = Pair::new().await;
    let upstream = pair.upstream();
    head(&upstream).await.unwrap();
    let counted = upstream.mirror_counters();
    let [(mirror, counters)] = &counted[..] else {
        panic!("{counted:?}");
    };
    assert_eq!(*mirror, host(&pair.mirror.registry_url()));
    let answered = (Kind::ManifestHead, Class::Success, 1);
    assert!(counters.requests.contains(&answered), "{counters:?}");
    assert_eq!(upstream.counters().requests, []);
    let page = scraped(&upstream);
    let line = format!(
        "mirror_upstream_mirror_requests_total{{upstream=\"docker.io\",mirror=\"{mirror}\",kind=\"manifest_head\",code=\"success\"}} 1"
    );
    assert!(page.contains(&line), "{page}");
}

fn scraped(upstream: &Upstream) -> String {
    let upstream = upstream.clone();
    let collector = UpstreamCollector::new(move || vec![upstream.clone()]);
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(Box::new(collector));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    page
}

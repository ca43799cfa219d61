//! Control questions: manifests, tags and referrers, their limits and their repetitions.

use super::*;
use crate::support::{At, Fault};
use mirror::sys::clock::SystemClock;
use mirror::upstream::{ManifestBody, ManifestHead, Phase};

async fn get(upstream: &Upstream) -> Result<ManifestBody, UpstreamError> {
    upstream
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
}

/// The reason for which a manifest was refused.
async fn refused(fault: Fault) -> String {
    let (hub, image) = nginx().await;
    let upstream = upstream(settings(&hub));
    let fault = hub.on(Origin::Registry).manifests().fault(fault);
    let error = get(&upstream).await.unwrap_err();
    let UpstreamError::BadAnswer {
        host: named,
        reason,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(named, host(&hub.registry_url()));
    assert_eq!(fault.hits(), 1, "a bad answer was asked for again");
    fault.disarm();
    assert_eq!(get(&upstream).await.unwrap().bytes, image.bytes);
    reason
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let long = "its answer is longer than 4194304 bytes";
    assert_eq!(
        refused(Fault::Pad {
            bytes: 64 * 1024 * 1024
        })
        .await,
        long
    );
    assert_eq!(
        refused(Fault::Pad {
            bytes: 4 * 1024 * 1024 + 1
        })
        .await,
        long
    );
    assert_eq!(refused(Fault::Html).await, "it sends a web page");
    assert_eq!(
        refused(Fault::Gzip).await,
        "it sends content encoded as \"gzip\""
    );
}

#[tokio::test]
async fn a_manifest_without_a_length_is_refused_at_the_limit() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    hub.on(Origin::Registry).manifests().fault(Fault::Pad {
        bytes: 4 * 1024 * 1024 + 1,
    });
    hub.on(Origin::Registry).manifests().fault(Fault::Chunked);
    let error = get(&upstream).await.unwrap_err();
    assert!(
        error.to_string().ends_with("longer than 4194304 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_of_exactly_4_mib_is_read() {
    let (hub, _) = nginx().await;
    hub.on(Origin::Registry).manifests().fault(Fault::Pad {
        bytes: 4 * 1024 * 1024,
    });
    let manifest = get(&upstream(settings(&hub))).await.unwrap();
    assert_eq!(manifest.bytes.len(), 4 * 1024 * 1024);
}

#[tokio::test]
async fn a_burst_of_errors_is_outlasted() {
    for fault in [
        Fault::status(503),
        Fault::status(500),
        Fault::Reset(At::Head),
        Fault::Truncate(At::Percent(50)),
    ] {
        let (hub, image) = nginx().await;
        let shown = format!("{fault:?}");
        let fault = hub.on(Origin::Registry).manifests().times(2).fault(fault);
        let manifest = get(&upstream(settings(&hub))).await;
        assert_eq!(
            manifest.map(|it| it.bytes).ok(),
            Some(image.bytes),
            "{shown}"
        );
        assert_eq!(fault.hits(), 2, "{shown}");
    }
}

#[tokio::test]
async fn errors_without_end_are_reported() {
    let (hub, _) = nginx().await;
    let fault = hub
        .on(Origin::Registry)
        .manifests()
        .fault(Fault::status(502));
    let error = get(&upstream(Settings {
        retries: 2,
        ..settings(&hub)
    }))
    .await
    .unwrap_err();
    assert!(
        matches!(error, UpstreamError::Status { status: 502, .. }),
        "{error:?}"
    );
    assert_eq!(fault.hits(), 3);
}

#[tokio::test]
async fn a_rate_limit_is_reported_and_entered() {
    let (hub, _) = nginx().await;
    let clock = clock();
    let upstream = upstream_at(settings(&hub), &clock);
    get(&upstream).await.unwrap();
    let ledger = upstream.ledger();
    assert_eq!((ledger.limit, ledger.remaining), (Some(100), Some(99)));
    assert_eq!(ledger.window, Some(Duration::from_hours(6)));
    assert_eq!(ledger.source.as_deref(), Some("127.0.0.1"));

    hub.rate_limited(true, Some(Duration::from_mins(5)));
    hub.take_requests();
    let error = get(&upstream).await.unwrap_err();
    let UpstreamError::RateLimited {
        host: limiting,
        retry_after,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(limiting, host(&hub.registry_url()));
    assert_eq!(retry_after, Some(Duration::from_mins(5)));
    assert_eq!(
        hub.take_summary(),
        ["registry GET library/nginx/manifests/latest"]
    );
    let ledger = upstream.ledger();
    assert_eq!(ledger.remaining, Some(0));
    let until = 1_800_000_000_000 + 300_000;
    assert_eq!(ledger.limited_until, Some(Timestamp::from_millis(until)));

    clock.advance(Duration::from_mins(5));
    upstream
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    assert_eq!(upstream.ledger().limited_until, None);
}

#[tokio::test]
async fn a_head_that_is_refused_leaves_it_to_get() {
    let (hub, image) = nginx().await;
    let upstream = upstream(settings(&hub));
    let ask = || async {
        upstream
            .head_manifest(&name(NGINX), &reference("latest"))
            .await
            .unwrap()
    };
    let nothing = ManifestHead {
        digest: None,
        media_type: None,
        size: None,
    };
    for status in [405, 501] {
        hub.on(Origin::Registry)
            .method("HEAD")
            .times(1)
            .fault(Fault::status(status));
        assert_eq!(ask().await, nothing);
    }
    hub.on(Origin::Registry)
        .method("HEAD")
        .times(1)
        .fault(Fault::WithoutHeader("docker-content-digest"));
    assert_eq!(ask().await.digest, None);
    assert_eq!(ask().await.digest, Some(digest(&image.digest)));
    assert_eq!(hub.summary().len(), 5);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let error = upstream
        .get_manifest(&name(NGINX), &reference("0"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UpstreamError::NotFound { host: named } if *named == host(&hub.registry_url())),
        "{error:?}"
    );
    assert_eq!(hub.summary().len(), 2);
}

#[tokio::test]
async fn a_silent_registry_is_given_up_in_time() {
    let (hub, _) = nginx().await;
    let settings = Settings {
        timeout: Duration::from_secs(2),
        ..settings(&hub)
    };
    let upstream =
        Upstream::new(settings, SystemClock::new(), Tasks::new(), TestMemo::new()).unwrap();
    hub.on(Origin::Registry).fault(Fault::BlackHole);
    let error = get(&upstream).await.unwrap_err();
    let silent = matches!(&error, UpstreamError::Unreachable { host: named, phase: Phase::FirstByte, .. }
        if *named == host(&hub.registry_url()));
    assert!(silent, "{error:?}");
    // The time was used up: no repetition, whatever `retries` says.
    let expected = [
        "token GET library/nginx:pull",
        "registry GET library/nginx/manifests/latest",
    ];
    assert_eq!(hub.summary(), expected);
}

#[tokio::test]
async fn a_host_without_an_address_is_told_from_one_that_is_down() {
    let hub = FakeHub::start().await;
    hub.stop().await;
    // A label of 64 characters is no name: the resolver refuses it without asking anyone.
    let nowhere = format!("http://{}.test", "a".repeat(64));
    for (url, expected) in [
        (nowhere, Phase::Resolve),
        (hub.registry_url(), Phase::Connect),
    ] {
        let settings = Settings {
            url: url.parse().unwrap(),
            retries: 0,
            ..stranger(&hub)
        };
        let unknown = Digest::of(mirror::oci::Algorithm::Sha256, b"unknown");
        let manifest = get(&upstream(settings.clone())).await.unwrap_err();
        let blob = upstream(settings)
            .open_blob(&name(NGINX), unknown, 0)
            .await
            .unwrap_err();
        for error in [manifest, blob] {
            let UpstreamError::Unreachable {
                host: named, phase, ..
            } = &error
            else {
                panic!("{error:?}");
            };
            assert_eq!((named, *phase), (&host(&url), expected), "{error:?}");
        }
    }
}

#[tokio::test]
async fn tags_come_page_by_page() {
    let (hub, image) = nginx().await;
    for tag in ["1.25", "1.26", "1.27"] {
        hub.move_tag(NGINX, tag, &image.digest);
    }
    let upstream = upstream(settings(&hub));
    let first = upstream.tags(&name(NGINX), Some(3), None).await.unwrap();
    assert_eq!(first.tags, ["1.25", "1.26", "1.27"]);
    assert_eq!(first.next_last.as_deref(), Some("1.27"));
    let second = upstream
        .tags(&name(NGINX), Some(3), first.next_last.as_deref())
        .await
        .unwrap();
    assert_eq!(
        (second.tags, second.next_last),
        (vec!["latest".into()], None)
    );
    assert_eq!(
        hub.summary()[1..],
        [
            "registry GET library/nginx/tags/list?n=3",
            "registry GET library/nginx/tags/list?n=3&last=1.27",
        ]
    );
}

#[tokio::test]
async fn odd_lists_of_tags_are_survived() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let tags = |body: &'static str| {
        hub.on(Origin::Registry)
            .tags()
            .times(1)
            .fault(Fault::body("application/json", body));
        upstream.tags(&NGINX_NAME, None, None)
    };
    let none = tags(r#"{"name":"library/nginx","tags":null}"#)
        .await
        .unwrap();
    assert_eq!((none.tags, none.next_last), (vec![], None));
    let some = tags(r#"{"tags":["ok","../etc/passwd","","a b"]}"#)
        .await
        .unwrap();
    assert_eq!(some.tags, ["ok"]);
    let error = tags("<html>").await.unwrap_err();
    assert!(
        error.to_string().ends_with("its list of tags is not JSON"),
        "{error}"
    );
    hub.on(Origin::Registry).tags().fault(Fault::Pad {
        bytes: 8 * 1024 * 1024 + 1,
    });
    let error = upstream.tags(&NGINX_NAME, None, None).await.unwrap_err();
    assert!(
        error.to_string().ends_with("longer than 8388608 bytes"),
        "{error}"
    );
}

static NGINX_NAME: std::sync::LazyLock<RepositoryName> = std::sync::LazyLock::new(|| name(NGINX));

#[tokio::test]
async fn referrers_are_told_from_none_and_from_no_list() {
    let (hub, image) = nginx().await;
    let upstream = upstream(settings(&hub));
    let subject = digest(&image.digest);
    let index = upstream
        .referrers(&name(NGINX), subject)
        .await
        .unwrap()
        .unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"], serde_json::json!([]));
    hub.on(Origin::Registry)
        .referrers()
        .times(1)
        .fault(Fault::Html);
    assert_eq!(
        upstream.referrers(&name(NGINX), subject).await.unwrap(),
        None
    );
    hub.serve_referrers(false);
    assert_eq!(
        upstream.referrers(&name(NGINX), subject).await.unwrap(),
        None
    );
}

//! Tokens: when one is asked for, when one is used again, and when it is given up.

use futures_util::future::join_all;

use super::*;
use crate::support::{At, Fault};

const TOKEN: &str = "token GET library/nginx:pull";
const HEAD: &str = "registry HEAD library/nginx/manifests/latest";

#[tokio::test]
async fn an_image_of_ten_layers_costs_one_token() {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(10));
    let upstream = upstream(settings(&hub));
    let (nginx, platform) = (name(NGINX), image.architecture("amd64"));

    let index = upstream
        .get_manifest(&nginx, &reference("latest"))
        .await
        .unwrap();
    assert_eq!(index.bytes, image.bytes);
    assert_eq!(index.claimed, Some(digest(&image.digest)));
    assert_eq!(index.media_type.as_deref(), Some(&*image.media_type));
    let manifest = upstream
        .get_manifest(&nginx, &reference(&platform.digest))
        .await
        .unwrap();
    assert_eq!(manifest.bytes, platform.bytes);
    let blobs = platform.blobs().map(|blob| async {
        let body = upstream
            .open_blob(&nginx, digest(&blob.digest), 0)
            .await
            .unwrap();
        assert_eq!(body.total, Some(u64::try_from(blob.bytes.len()).unwrap()));
        let (bytes, error) = read(body).await;
        assert!(error.is_none() && bytes == blob.bytes, "{error:?}");
    });
    join_all(blobs).await;

    let mut expected = vec![
        format!("token GET {NGINX}:pull"),
        format!("registry GET {NGINX}/manifests/latest"),
        format!("registry GET {NGINX}/manifests/amd64.manifest"),
    ];
    let parts = (0..10).map(|layer| format!("amd64.layer{layer}"));
    for part in parts.chain(["amd64.config".into()]) {
        expected.push(format!("registry GET {NGINX}/blobs/{part}"));
        expected.push(format!("cdn GET {part}"));
    }
    expected.sort();
    assert_eq!(hub.sorted_summary(), expected);
    assert_secrets_stayed_home(&hub);
}

#[tokio::test]
async fn a_hundred_questions_at_once_cost_one_token() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let (nginx, latest) = (name(NGINX), reference("latest"));
    let gate = hub.on(Origin::Token).hold(At::Head);
    let ask = || upstream.head_manifest(&nginx, &latest);
    let questions = join_all((0..100).map(|_| ask()));
    let release = async {
        gate.wait_for(1).await;
        gate.release();
    };
    let (heads, ()) = tokio::join!(questions, release);
    assert!(heads.iter().all(Result::is_ok));
    let mut expected = vec![format!("registry HEAD {NGINX}/manifests/latest"); 100];
    expected.push(format!("token GET {NGINX}:pull"));
    assert_eq!(hub.sorted_summary(), expected);
}

#[tokio::test]
async fn a_stranger_is_asked_how_it_wants_to_be_asked_only_once() {
    let (hub, image) = nginx().await;
    hub.push_image("library/redis", "7", ImageSpec::layers(1));
    let upstream = upstream(stranger(&hub));
    let head = upstream
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    assert_eq!(head.digest, Some(digest(&image.digest)));
    assert_eq!(head.size, Some(u64::try_from(image.bytes.len()).unwrap()));
    upstream
        .head_manifest(&name("library/redis"), &reference("7"))
        .await
        .unwrap();
    assert_eq!(
        hub.summary_with_status(),
        [
            "registry HEAD library/nginx/manifests/latest -> 401",
            "token GET library/nginx:pull -> 200",
            "registry HEAD library/nginx/manifests/latest -> 200",
            "token GET library/redis:pull -> 200",
            "registry HEAD library/redis/manifests/7 -> 200",
        ]
    );
    assert_eq!(
        hub.requests()[1].parameters("service"),
        ["registry.docker.io"]
    );
}

#[tokio::test]
async fn a_token_is_renewed_at_four_fifths_of_its_life() {
    let (hub, _) = nginx().await;
    let clock = clock();
    let upstream = upstream_at(settings(&hub), &clock);
    let ask = || async {
        upstream
            .head_manifest(&name(NGINX), &reference("latest"))
            .await
            .unwrap()
    };
    ask().await;
    clock.advance(Duration::from_secs(239));
    ask().await;
    let before = [TOKEN, HEAD, HEAD];
    assert_eq!(hub.take_summary(), before);

    // The endpoint is silent, and nobody waits for it.
    clock.advance(Duration::from_secs(1));
    let gate = hub.on(Origin::Token).hold(At::Head);
    ask().await;
    gate.wait_for(1).await;
    ask().await;
    let old = authorization(&hub);
    assert_eq!(hub.sorted_summary(), [HEAD, HEAD, TOKEN]);
    gate.release();
    hub.wait_until_idle().await;
    let renewed = async {
        while authorization(&hub) == old {
            ask().await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    let tokens = hub.take_summary().into_iter().filter(|line| line == TOKEN);
    assert_eq!(tokens.count(), 1);
    clock.advance(Duration::from_secs(239));
    ask().await;
    assert_eq!(hub.summary(), [HEAD]);
}

/// What the last request to the registry was authorised with.
fn authorization(hub: &FakeHub) -> String {
    let mut requests = hub.requests().into_iter().rev();
    let last = requests.find(|it| it.origin == Origin::Registry).unwrap();
    last.header("authorization").unwrap().to_owned()
}

#[tokio::test]
async fn a_living_token_outlasts_its_endpoint() {
    let (hub, _) = nginx().await;
    let clock = clock();
    let settings = Settings {
        retries: 0,
        ..settings(&hub)
    };
    let upstream = upstream_at(settings, &clock);
    let ask = || async {
        upstream
            .head_manifest(&name(NGINX), &reference("latest"))
            .await
    };
    ask().await.unwrap();
    hub.stop_origin(Origin::Token).await;
    clock.advance(Duration::from_secs(299));
    ask().await.unwrap();
    clock.advance(Duration::from_secs(1));
    let error = ask().await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&host(&hub.url(Origin::Token))),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let blob = OneBlob::new().await;
    blob.assert_whole().await;
    blob.hub.revoke_tokens();
    blob.hub.take_requests();
    blob.assert_whole().await;
    assert_eq!(
        blob.hub.summary_with_status(),
        [
            "registry GET library/nginx/blobs/blob -> 401",
            "token GET library/nginx:pull -> 200",
            "registry GET library/nginx/blobs/blob -> 307",
            "cdn GET blob -> 200",
        ]
    );
    assert_secrets_stayed_home(&blob.hub);
}

#[tokio::test]
async fn a_new_token_that_is_refused_means_denied() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let fault = hub.on(Origin::Token).fault(Fault::DeadToken);
    let ask = || async {
        upstream
            .head_manifest(&name(NGINX), &reference("latest"))
            .await
    };
    let error = ask().await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied { status: 401, .. }),
        "{error:?}"
    );
    fault.disarm();
    ask().await.unwrap();
    assert_eq!(
        hub.summary_with_status(),
        [
            "token GET library/nginx:pull -> 200",
            "registry HEAD library/nginx/manifests/latest -> 401",
            "token GET library/nginx:pull -> 200",
            "registry HEAD library/nginx/manifests/latest -> 200",
        ]
    );
}

#[tokio::test]
async fn a_repository_that_does_not_exist_costs_two_requests() {
    let (hub, _) = nginx().await;
    let upstream = upstream(settings(&hub));
    let error = upstream
        .head_manifest(&name("library/nothing"), &reference("1"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied { status: 401, .. }),
        "{error:?}"
    );
    assert_eq!(
        hub.summary_with_status(),
        [
            "token GET library/nothing:pull -> 200",
            "registry HEAD library/nothing/manifests/1 -> 401",
        ]
    );
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_named_and_asked_again() {
    let (hub, _) = nginx().await;
    let upstream = upstream(Settings {
        retries: 2,
        ..settings(&hub)
    });
    let fault = hub.on(Origin::Token).fault(Fault::status(503));
    let ask = || async {
        upstream
            .get_manifest(&name(NGINX), &reference("latest"))
            .await
    };
    let error = ask().await.unwrap_err();
    let expected = format!("{} answered HTTP 503", host(&hub.url(Origin::Token)));
    assert_eq!(error.to_string(), expected);
    assert_eq!(hub.take_summary(), ["token GET library/nginx:pull"; 3]);

    fault.disarm();
    hub.stop_origin(Origin::Token).await;
    let error = ask().await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&host(&hub.url(Origin::Token))),
        "{error}"
    );
    assert!(hub.take_summary().is_empty());

    hub.restart_origin(Origin::Token).await;
    until_answered(&upstream).await;
    ask().await.unwrap();
}

#[tokio::test]
async fn a_token_endpoint_that_limits_is_not_asked_again() {
    let (hub, _) = nginx().await;
    let limited = Fault::Status {
        code: 429,
        retry_after: Some(17),
    };
    hub.on(Origin::Token).fault(limited);
    let error = upstream(settings(&hub))
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    let UpstreamError::RateLimited {
        host: limiting,
        retry_after,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(limiting, host(&hub.url(Origin::Token)));
    assert_eq!(retry_after, Some(Duration::from_secs(17)));
    assert_eq!(hub.summary(), ["token GET library/nginx:pull"]);
}

#[tokio::test]
async fn a_supposed_endpoint_gives_way_to_the_registrys_own() {
    let (hub, _) = nginx().await;
    let elsewhere = format!("{}/other", hub.url(Origin::Token));
    let settings = Settings {
        token_url: Some(elsewhere.parse().unwrap()),
        ..settings(&hub)
    };
    upstream(settings)
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    let seen = hub.summary_with_status();
    assert!(
        seen[0].starts_with("token GET /other?") && seen[0].ends_with("-> 404"),
        "{seen:?}"
    );
    assert_eq!(
        seen[1..],
        [
            "registry HEAD library/nginx/manifests/latest -> 401",
            "token GET library/nginx:pull -> 200",
            "registry HEAD library/nginx/manifests/latest -> 200",
        ]
    );
}

#[tokio::test]
async fn odd_token_answers_are_bad_answers() {
    for (fault, reason) in [
        (Fault::Html, "its token answer is not the JSON it should be"),
        (
            Fault::body("application/json", "{}"),
            "its token answer holds no token",
        ),
        (
            Fault::Pad {
                bytes: 1024 * 1024 + 1,
            },
            "its answer is longer than 1048576 bytes",
        ),
    ] {
        let (hub, _) = nginx().await;
        let upstream = upstream(stranger(&hub));
        let fault = hub.on(Origin::Token).fault(fault);
        let error = upstream
            .head_manifest(&name(NGINX), &reference("latest"))
            .await
            .unwrap_err();
        let token = host(&hub.url(Origin::Token));
        assert_eq!(
            error.to_string(),
            format!("{token} gave a bad answer: {reason}")
        );
        fault.disarm();
        upstream
            .head_manifest(&name(NGINX), &reference("latest"))
            .await
            .unwrap();
    }
}

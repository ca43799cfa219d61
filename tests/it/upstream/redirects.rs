//! Redirects: where they are followed to, and what is sent there.

use super::*;
use crate::support::Fault;

#[tokio::test]
async fn the_cdn_is_not_sent_the_token() {
    let blob = OneBlob::new().await;
    blob.assert_whole().await;
    let sent: Vec<_> = blob
        .hub
        .requests()
        .iter()
        .map(|it| (it.origin, it.header("authorization").is_some()))
        .collect();
    let expected = [
        (Origin::Token, false),
        (Origin::Registry, true),
        (Origin::Cdn, false),
    ];
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_redirect_to_a_stranger_carries_nothing() {
    let blob = OneBlob::new().await;
    blob.hub
        .on(Origin::Registry)
        .blobs()
        .fault(Fault::RedirectToForeign);
    blob.assert_whole().await;
    assert_eq!(
        blob.hub.summary(),
        [
            "token GET library/nginx:pull",
            "registry GET library/nginx/blobs/blob",
            "foreign GET blob",
        ]
    );
    assert_secrets_stayed_home(&blob.hub);
}

#[tokio::test]
async fn a_way_back_to_the_registry_carries_nothing_either() {
    let blob = OneBlob::new().await;
    let back = format!("{}/v2/{NGINX}/tags/list", blob.hub.registry_url());
    blob.hub.on(Origin::Cdn).fault(Fault::RedirectTo(back));
    let error = blob.open(0).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Status { status: 401, .. }),
        "{error:?}"
    );
    let last = blob.hub.requests().pop().unwrap();
    assert_eq!(
        (last.origin, last.header("authorization")),
        (Origin::Registry, None)
    );
}

#[tokio::test]
async fn a_circle_is_noticed() {
    let blob = OneBlob::new().await;
    let fault = blob.hub.on(Origin::Registry).fault(Fault::RedirectLoop);
    let error = blob.open(0).await.unwrap_err();
    let registry = host(&blob.hub.registry_url());
    let expected = format!("{registry} gave a bad answer: its redirects go in a circle");
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        blob.hub.summary(),
        [
            "token GET library/nginx:pull",
            "registry GET library/nginx/blobs/blob"
        ]
    );
    fault.disarm();
    blob.assert_whole().await;
}

#[tokio::test]
async fn a_manifest_is_followed_too() {
    let (hub, image) = nginx().await;
    let elsewhere = format!(
        "{}/v2/{NGINX}/manifests/{}",
        hub.registry_url(),
        image.digest
    );
    hub.on(Origin::Registry)
        .reference("latest")
        .fault(Fault::RedirectTo(elsewhere));
    let manifest = upstream(settings(&hub))
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    assert_eq!(manifest.bytes, image.bytes);
    assert_eq!(
        hub.summary(),
        [
            "token GET library/nginx:pull",
            "registry GET library/nginx/manifests/latest",
            "registry GET library/nginx/manifests/index",
        ]
    );
}

#[tokio::test]
async fn a_cdn_that_is_down_is_named() {
    let blob = OneBlob::new().await;
    blob.hub.stop_origin(Origin::Cdn).await;
    let error = blob.open(0).await.unwrap_err();
    let UpstreamError::Unreachable {
        host: named, phase, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*named, host(&blob.hub.cdn_url()));
    assert_eq!(*phase, mirror::upstream::Phase::Connect);
    blob.hub.restart_origin(Origin::Cdn).await;
    blob.assert_whole().await;
}

#[tokio::test]
async fn what_the_cdn_refuses_or_lacks_passes() {
    for code in [401, 403, 404, 410] {
        let blob = OneBlob::new().await;
        blob.hub.on(Origin::Cdn).times(1).fault(Fault::status(code));
        let error = blob.open(0).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::Status { status, .. } if status == code),
            "{error:?}"
        );
        blob.assert_whole().await;
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_where_the_registry_leads_does_not_exist() {
    let (hub, _) = nginx().await;
    let elsewhere = format!("{}/v2/{NGINX}/manifests/latest", hub.url(Origin::Cdn));
    hub.on(Origin::Registry).fault(Fault::RedirectTo(elsewhere));
    hub.on(Origin::Cdn).fault(Fault::status(404));
    let error = upstream(settings(&hub))
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UpstreamError::NotFound { host: named } if *named == host(&hub.cdn_url())),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_head_of_a_blob_asks_the_cdn_for_its_length() {
    let blob = OneBlob::new().await;
    let size = blob
        .upstream
        .head_blob(&name(NGINX), blob.digest)
        .await
        .unwrap();
    assert_eq!(size, Some(200_000));
    assert_eq!(
        blob.hub.take_summary(),
        [
            "token GET library/nginx:pull",
            "registry HEAD library/nginx/blobs/blob",
            "cdn HEAD blob",
        ]
    );
    for (code, expected) in [(403, None), (404, None), (410, None), (503, None)] {
        blob.hub.on(Origin::Cdn).times(1).fault(Fault::status(code));
        let size = blob
            .upstream
            .head_blob(&name(NGINX), blob.digest)
            .await
            .unwrap();
        assert_eq!(size, expected, "{code}");
    }
    let unknown = Digest::of(mirror::oci::Algorithm::Sha256, b"unknown");
    let error = blob
        .upstream
        .head_blob(&name(NGINX), unknown)
        .await
        .unwrap_err();
    assert!(matches!(error, UpstreamError::NotFound { .. }), "{error:?}");
    blob.hub.on(Origin::Cdn).fault(Fault::Html);
    let error = blob
        .upstream
        .head_blob(&name(NGINX), blob.digest)
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::BadAnswer { .. }),
        "{error:?}"
    );
}

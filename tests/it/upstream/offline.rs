//! Offline: no connection is opened, whatever is asked.

use super::*;
use crate::support::Fault;

#[tokio::test]
async fn nothing_is_asked_by_any_method() {
    let (hub, image) = nginx().await;
    let upstream = upstream(Settings {
        offline: true,
        logins: vec![alice("secret")],
        ..settings(&hub)
    });
    // A connection that sends nothing would be held here, and seen below.
    hub.on(Origin::Registry).fault(Fault::BlackHole);
    hub.on(Origin::Token).fault(Fault::BlackHole);
    let (name, tag) = (name(NGINX), reference("latest"));
    let digest = digest(&image.digest);
    let watch = upstream.watch();
    for error in [
        upstream.head_manifest(&name, &tag).await.unwrap_err(),
        upstream.get_manifest(&name, &tag).await.unwrap_err(),
        upstream.head_blob(&name, digest).await.unwrap_err(),
        upstream.open_blob(&name, digest, 0).await.unwrap_err(),
        upstream.open_blob(&name, digest, 7).await.unwrap_err(),
        upstream.tags(&name, None, None).await.unwrap_err(),
        upstream.referrers(&name, digest).await.unwrap_err(),
    ] {
        let UpstreamError::Offline { host: named } = error else {
            panic!("{error:?}");
        };
        assert_eq!(named, host(&hub.registry_url()));
    }
    upstream.suspect(watch, &name, &tag, Duration::from_secs(3));
    assert!(!upstream.is_suspended());
    assert_eq!(hub.summary(), [""; 0]);
    assert_eq!(upstream.counters().requests, []);
}

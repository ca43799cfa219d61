//! A machine whose clock is set by a year, in either direction, while the mirror is down: every age stays what it is.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use mirror::sys::clock::{Clock as _, Timestamp};

use crate::mirror::TestMirror;
use crate::support::{FakeHub, ImageSpec};

const NGINX: &str = "library/nginx";
const HEAD: &str = "registry HEAD library/nginx/manifests/latest";
const TOKEN: &str = "token GET library/nginx:pull";
const YEAR: Duration = Duration::from_hours(365 * 24);
const SECOND: Duration = Duration::from_secs(1);

/// Where the clock is set to.
#[derive(Clone, Copy, Debug)]
enum Set {
    YearAhead,
    YearBack,
}

impl Set {
    const BOTH: [Self; 2] = [Self::YearAhead, Self::YearBack];

    fn on(self, mirror: &TestMirror) {
        let now = mirror.clock.wall();
        mirror.clock.set_wall(match self {
            Self::YearAhead => now.later(YEAR),
            Self::YearBack => {
                let year = u64::try_from(YEAR.as_millis()).unwrap();
                Timestamp::from_millis(now.as_millis() - year)
            }
        });
    }

    /// Sets the clock of a mirror and restarts it. The machine goes on running, as its uptime shows.
    async fn and_restart(self, mirror: TestMirror) -> TestMirror {
        self.on(&mirror);
        mirror.restart().await
    }
}

/// A mirror that holds `latest`, last confirmed that long ago.
async fn holding(hub: &FakeHub, age: Duration) -> TestMirror {
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(hub).await;
    assert_eq!(mirror.manifest(NGINX, "latest").await.status, 200);
    mirror.clock.advance(age);
    hub.take_requests();
    mirror
}

async fn outcome(mirror: &TestMirror, reference: &str) -> String {
    let answer = mirror.manifest(NGINX, reference).await;
    answer.header("x-mirror-cache").unwrap().to_owned()
}

#[tokio::test]
async fn a_tag_stays_as_fresh_as_it_was() {
    for set in Set::BOTH {
        let hub = FakeHub::start().await;
        let mirror = holding(&hub, SECOND * 50).await;
        let mirror = set.and_restart(mirror).await;
        assert_eq!(
            outcome(&mirror, "latest").await,
            "hit; age=50; upstream=docker.io",
            "{set:?}"
        );
        assert_eq!(hub.take_summary(), [""; 0], "{set:?}");
        mirror.clock.advance(SECOND * 11);
        assert_eq!(
            outcome(&mirror, "latest").await,
            "revalidated; upstream=docker.io",
            "{set:?}"
        );
        assert_eq!(hub.take_summary(), [TOKEN, HEAD], "{set:?}");
        // And not for a year from now on.
        mirror.clock.advance(SECOND * 61);
        outcome(&mirror, "latest").await;
        assert_eq!(hub.take_summary(), [HEAD], "{set:?}");
    }
}

#[tokio::test]
async fn a_stale_tag_is_served_with_its_true_age() {
    for set in Set::BOTH {
        let hub = FakeHub::start().await;
        let mirror = holding(&hub, SECOND * 600).await;
        let mirror = set.and_restart(mirror).await;
        hub.stop().await;
        let answer = mirror.manifest(NGINX, "latest").await;
        assert_eq!(answer.status, 200, "{set:?}");
        let warning = answer.header("warning").unwrap();
        assert!(
            warning.contains("last confirmed 10m ago"),
            "{set:?}: {warning}"
        );
    }
}

#[tokio::test]
async fn a_negative_answer_lasts_as_long_as_it_would_have() {
    for set in Set::BOTH {
        let hub = FakeHub::start().await;
        let mirror = holding(&hub, Duration::ZERO).await;
        assert_eq!(mirror.manifest(NGINX, "absent").await.status, 404);
        mirror.clock.advance(SECOND * 20);
        hub.take_requests();
        let mirror = set.and_restart(mirror).await;
        assert_eq!(outcome(&mirror, "absent").await, "negative", "{set:?}");
        assert_eq!(hub.take_summary(), [""; 0], "{set:?}");
        mirror.clock.advance(SECOND * 10);
        assert_eq!(mirror.manifest(NGINX, "absent").await.status, 404);
        let asked = "registry GET library/nginx/manifests/absent";
        assert_eq!(hub.take_summary(), [TOKEN, asked], "{set:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_meanwhile_changes_nothing() {
    for set in Set::BOTH {
        let hub = FakeHub::builder().token_ttl(SECOND * 300).start().await;
        let mirror = holding(&hub, Duration::ZERO).await;
        set.on(&mirror);
        mirror.clock.advance(SECOND * 59);
        assert_eq!(
            outcome(&mirror, "latest").await,
            "hit; age=59; upstream=docker.io"
        );
        mirror.clock.advance(SECOND * 2);
        outcome(&mirror, "latest").await;
        // The token is as young as it was.
        assert_eq!(hub.take_summary(), [HEAD], "{set:?}");
        // And is not kept for a year.
        mirror.clock.advance(SECOND * 300);
        outcome(&mirror, "latest").await;
        assert_eq!(hub.take_summary(), [TOKEN, HEAD], "{set:?}");
    }
}

/// The pulls that are left, as the metrics have it.
async fn left(mirror: &TestMirror) -> Option<u64> {
    let page = String::from_utf8(mirror.get("/metrics").await.body).unwrap();
    let mut lines = page.lines();
    let line = lines.find(|line| line.starts_with("mirror_upstream_ratelimit_remaining{"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_budget_and_a_limit_are_what_they_were() {
    for set in Set::BOTH {
        let hub = FakeHub::start().await;
        let mirror = holding(&hub, Duration::ZERO).await;
        let budget = left(&mirror).await;
        assert_eq!(budget, Some(99), "{set:?}");
        hub.push_image(NGINX, "other", ImageSpec::layers(1).seed(2));
        hub.rate_limited(true, Some(SECOND * 600));
        assert_eq!(mirror.manifest(NGINX, "other").await.status, 503);
        hub.rate_limited(false, None);
        mirror.clock.advance(SECOND * 300);
        hub.take_requests();

        let mirror = set.and_restart(mirror).await;
        let refused = mirror.manifest(NGINX, "other").await;
        assert_eq!(refused.status, 503, "{set:?}");
        assert_eq!(refused.header("retry-after"), Some("300"), "{set:?}");
        assert_eq!(hub.take_summary(), [""; 0], "{set:?}");
        assert_eq!(left(&mirror).await, Some(0), "{set:?}");
        // And not for a year.
        mirror.clock.advance(SECOND * 301);
        assert_eq!(mirror.manifest(NGINX, "other").await.status, 200, "{set:?}");
    }
}

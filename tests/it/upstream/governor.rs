//! An upstream that limits the rate is left alone for as long as it says, and then probed once in five seconds.

use futures_util::future::join_all;

use super::*;
use crate::support::Fault;
use mirror::upstream::{ManifestBody, ManifestHead};

const TOKEN: &str = "token GET library/nginx:pull";
const HEAD: &str = "registry HEAD library/nginx/manifests/latest";
const GET: &str = "registry GET library/nginx/manifests/latest";

/// A hub, a clock that stands still, and what outlives an upstream.
struct Stage {
    hub: FakeHub,
    image: Image,
    clock: Arc<ManualClock>,
    memo: Arc<TestMemo>,
}

impl Stage {
    async fn new() -> Self {
        let (hub, image) = nginx().await;
        Self {
            hub,
            image,
            clock: clock(),
            memo: TestMemo::new(),
        }
    }

    /// A client of the hub as it is after a start.
    fn client(&self) -> Upstream {
        let clock = Arc::<ManualClock>::clone(&self.clock);
        let memo = Arc::<TestMemo>::clone(&self.memo);
        Upstream::new(settings(&self.hub), clock, Tasks::new(), memo).unwrap()
    }

    /// The same, with its token in hand and pulls used up to the last.
    async fn exhausted(&self) -> Upstream {
        let client = self.client();
        self.hub.set_rate_limit(Some(2));
        get(&client).await.unwrap();
        get(&client).await.unwrap();
        self.hub.take_requests();
        client
    }

    #[track_caller]
    fn assert_asked<const N: usize>(&self, expected: [&str; N]) {
        assert_eq!(self.hub.take_summary(), expected);
    }

    async fn until_remembered(&self) {
        let waiting = async {
            while self.memo.keys().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    }
}

async fn get(upstream: &Upstream) -> Result<ManifestBody, UpstreamError> {
    let tag = reference("latest");
    upstream.get_manifest(&name(NGINX), &tag).await
}

async fn head(upstream: &Upstream) -> Result<ManifestHead, UpstreamError> {
    let tag = reference("latest");
    upstream.head_manifest(&name(NGINX), &tag).await
}

#[track_caller]
fn assert_limited<T: std::fmt::Debug>(answer: &Result<T, UpstreamError>, expected: Option<u64>) {
    let Err(UpstreamError::RateLimited { retry_after, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(*retry_after, expected.map(Duration::from_secs));
}

#[tokio::test]
async fn a_hundred_clients_cost_one_probe_after_the_limit_is_spent() {
    let stage = Stage::new().await;
    for number in 0..100 {
        let tag = format!("t{number}");
        stage.hub.move_tag(NGINX, &tag, &stage.image.digest);
    }
    let client = stage.exhausted().await;
    assert_limited(&get(&client).await, None);
    stage.assert_asked([GET]);
    let all = |client: Upstream| async move {
        let asked = (0..100).map(|number| {
            let (client, tag) = (client.clone(), reference(&format!("t{number}")));
            async move { client.get_manifest(&name(NGINX), &tag).await }
        });
        join_all(asked).await
    };
    for answer in all(client.clone()).await {
        assert_limited(&answer, None);
    }
    let seen = stage.hub.take_summary();
    assert_eq!(seen.len(), 1, "{seen:?}");
    // From the background, by a tag check of what was told before. It says that nothing is left.
    stage
        .hub
        .wait_for_requests(1, |it| it.method == "HEAD")
        .await;
    for answer in all(client.clone()).await {
        assert_limited(&answer, None);
    }
    // Tag checks pass once that is answered, and blobs always did.
    while head(&client).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.assert_asked([HEAD, HEAD]);
    let layer = digest(&stage.image.first().layers[0].digest);
    client.open_blob(&name(NGINX), layer, 0).await.unwrap();
    // And so do pulls, once some are left.
    stage.hub.set_rate_limit(Some(10));
    head(&client).await.unwrap();
    get(&client).await.unwrap();
}

#[tokio::test]
async fn a_recovery_is_noticed_without_a_client() {
    let stage = Stage::new().await;
    let client = stage.exhausted().await;
    assert_limited(&get(&client).await, None);
    stage.hub.set_rate_limit(Some(10));
    stage.hub.take_requests();
    let recovered = tokio::time::timeout(Duration::from_secs(10), client.recovered());
    recovered.await.unwrap();
    stage.assert_asked([HEAD]);
    get(&client).await.unwrap();
}

#[tokio::test]
async fn nothing_is_asked_until_retry_after_says() {
    let stage = Stage::new().await;
    let client = stage.client();
    get(&client).await.unwrap();
    stage.hub.rate_limited(true, Some(Duration::from_secs(40)));
    assert_limited(&get(&client).await, Some(40));
    stage.hub.take_requests();
    stage.clock.advance(Duration::from_secs(30));
    assert_limited(&get(&client).await, Some(10));
    assert_limited(&head(&client).await, Some(10));
    assert_limited(&client.tags(&name(NGINX), None, None).await, Some(10));
    // Longer than it takes to probe, which waits too.
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.assert_asked([]);
    stage.hub.rate_limited(false, None);
    stage.clock.advance(Duration::from_secs(10));
    head(&client).await.unwrap();
    stage.assert_asked([HEAD]);
}

#[tokio::test]
async fn a_limit_of_everything_stops_blobs_too_but_no_running_transfer() {
    let stage = Stage::new().await;
    let client = stage.client();
    let layer = digest(&stage.image.first().layers[0].digest);
    get(&client).await.unwrap();
    stage.hub.on(Origin::Registry).tags().fault(Fault::Status {
        code: 429,
        retry_after: Some(60),
    });
    assert_limited(&client.tags(&name(NGINX), None, None).await, Some(60));
    stage.hub.take_requests();
    let opened = client.open_blob(&name(NGINX), layer, 0).await;
    assert_limited(&opened.map(|_| ()), Some(60));
    stage.assert_asked([]);
    client.open_blob(&name(NGINX), layer, 1).await.unwrap();
}

#[tokio::test]
async fn a_token_endpoint_that_limits_counts_the_same() {
    let stage = Stage::new().await;
    let client = stage.client();
    stage.hub.on(Origin::Token).fault(Fault::Status {
        code: 429,
        retry_after: Some(17),
    });
    for _ in 0..10 {
        assert_limited(&get(&client).await, Some(17));
    }
    stage.assert_asked([TOKEN]);
    stage.hub.clear_faults();
    stage.clock.advance(Duration::from_secs(17));
    get(&client).await.unwrap();
    stage.assert_asked([TOKEN, GET]);
}

#[tokio::test]
async fn a_limit_and_a_budget_outlive_a_restart_and_no_clock_that_was_set() {
    let stage = Stage::new().await;
    let client = stage.exhausted().await;
    stage.hub.rate_limited(true, Some(Duration::from_mins(10)));
    assert_limited(&get(&client).await, Some(600));
    stage.until_remembered().await;
    assert_eq!(stage.memo.keys(), ["docker.io"]);
    drop(client);
    stage.hub.take_requests();

    stage.clock.advance(Duration::from_mins(1));
    let client = stage.client();
    assert_eq!(client.ledger().remaining, Some(0));
    assert_eq!(client.stretch(&name(NGINX)), 1);
    assert!(!client.affords_background());
    assert_limited(&get(&client).await, Some(540));
    stage.assert_asked([]);

    // A year ahead and a year back, what was said says nothing any more.
    let now = 1_800_000_000_000;
    let year = 365 * 24 * 3600 * 1000;
    for set in [now + year, now - year] {
        stage.clock.set_wall(Timestamp::from_millis(set));
        let client = stage.client();
        assert_eq!(client.ledger(), mirror::upstream::Ledger::default());
        assert_eq!(client.stretch(&name(NGINX)), 1);
        assert!(client.affords_background());
        head(&client).await.unwrap();
        stage.assert_asked([TOKEN, HEAD]);
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_during_a_limit_does_not_prolong_it() {
    let stage = Stage::new().await;
    let client = stage.client();
    get(&client).await.unwrap();
    stage.hub.rate_limited(true, Some(Duration::from_mins(10)));
    assert_limited(&get(&client).await, Some(600));
    stage.hub.rate_limited(false, None);
    stage.clock.set_wall(Timestamp::from_millis(0));
    get(&client).await.unwrap();
}

#[tokio::test]
async fn background_work_leaves_a_reserve_to_clients() {
    let stage = Stage::new().await;
    let client = stage.client();
    assert!(client.affords_background(), "nothing is known");
    for (limit, affords, stretch) in [(40, true, 1), (13, true, 1), (11, false, 1)] {
        stage.hub.set_rate_limit(Some(limit));
        get(&client).await.unwrap();
        assert_eq!(client.affords_background(), affords, "{limit}");
        assert_eq!(client.stretch(&name(NGINX)), stretch, "{limit}");
    }
}

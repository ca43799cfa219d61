//! FakeHub does what its documentation says: the other tests stand on it.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, and tests that own their time, files and tasks"
)]

mod content;
mod faults;
mod life;
mod rights;

use crate::client::{Response, request};
use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, Fault, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";

async fn token(hub: &FakeHub, repository: &str) -> String {
    let url = hub.token_url();
    let url = format!("{url}?service=registry.docker.io&scope=repository:{repository}:pull");
    let answer = request("GET", &url, &[]).await;
    let token = answer.json()["token"].clone();
    format!("Bearer {}", token.as_str().expect("a token"))
}

async fn registry(hub: &FakeHub, method: &str, path: &str) -> Response {
    let token = token(hub, NGINX).await;
    let url = format!("{}/v2/{NGINX}/{path}", hub.registry_url());
    request(method, &url, &[("authorization", &token)]).await
}

/// A hub with one blob of 10,000 bytes, and the way to it.
struct OneBlob {
    hub: FakeHub,
    digest: String,
    bytes: Vec<u8>,
}

impl OneBlob {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let bytes = seeded_bytes(7, 10_000).to_vec();
        let digest = hub.push_blob(NGINX, bytes.clone());
        hub.name(&digest, "blob");
        Self { hub, digest, bytes }
    }

    /// The signed address.
    async fn location(&self) -> String {
        let answer = registry(&self.hub, "GET", &format!("blobs/{}", self.digest)).await;
        assert_eq!(answer.status, 307);
        answer.header("location").expect("a location").to_owned()
    }

    async fn get(&self, headers: &[(&str, &str)]) -> Response {
        let location = self.location().await;
        request("GET", &location, headers).await
    }

    /// The answer of the CDN with a fault in force.
    async fn with_fault(fault: Fault, headers: &[(&str, &str)]) -> (Self, Response) {
        let blob = Self::new().await;
        blob.hub.on(Origin::Cdn).digest(&blob.digest).fault(fault);
        let answer = blob.get(headers).await;
        (blob, answer)
    }
}

async fn nginx() -> (FakeHub, Image) {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(3));
    (hub, image)
}

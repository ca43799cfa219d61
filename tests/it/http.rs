//! The HTTP floor over raw sockets, in front of a stub of a registry: what goes over the wire, byte for byte.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests, which own their files and tasks"
)]

mod bodies;
mod connections;
mod drain;
mod exhaustion;
mod names;
mod pulls;
mod refusals;
mod server;
mod stub;
mod telemetry;
mod wire;

use std::time::Duration;

use mirror::sys::clock;

/// Long enough for a busy machine, and no wait at all when things go well.
const DEADLINE: Duration = Duration::from_mins(1);

/// Waits for `work`, and fails the test when it does not come.
async fn soon<F: Future>(what: &str, work: F) -> F::Output {
    let output = clock::timeout(DEADLINE, work).await.ok();
    output.unwrap_or_else(|| panic!("{what} did not happen"))
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            clock::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

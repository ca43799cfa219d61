//! The end of the process: what is running may finish, within a limit, and nothing else is waited for.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::io::ErrorKind;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::boot::works;
use crate::client::{End, Response, exchange};
use crate::mirror::files;
use crate::process::{Launch, Process, send, wait_until};
use crate::support::image::seeded_bytes;
use crate::support::{At, FakeHub, Fault, Gate, Origin};

const NGINX: &str = "library/nginx";

/// A mirror with a client in the middle of a blob: half of it has left the CDN, the rest is held.
struct Transfer {
    data: tempfile::TempDir,
    hub: FakeHub,
    mirror: Process,
    bytes: Vec<u8>,
    gate: Gate,
    client: JoinHandle<Response>,
}

impl Transfer {
    async fn start(drain: &str) -> Self {
        let hub = FakeHub::start().await;
        let bytes = seeded_bytes(3, 400_000).to_vec();
        let digest = hub.push_blob(NGINX, bytes.clone());
        let gate = hub.on(Origin::Cdn).blobs().hold(At::Percent(50));
        let data = tempfile::tempdir().unwrap();
        let launch = Launch::of(&hub, data.path()).set("SERVER__DRAIN", drain);
        // Nothing but the gate and the drain time may end the transfer.
        let launch = launch.set("UPSTREAMS__DOCKER_IO__STALL", "1h");
        let mirror = launch.start().await;
        let mut stream = mirror.connect().await.unwrap();
        let path = format!("/v2/{NGINX}/blobs/{digest}");
        let client = tokio::spawn(async move { exchange(&mut stream, "GET", &path, &[]).await });
        gate.wait_for(1).await;
        Self {
            data,
            hub,
            mirror,
            bytes,
            gate,
            client,
        }
    }

    /// What is on disk beside the index.
    fn left(&self) -> usize {
        files(&self.data.path().join("blobs")).len() + files(&self.data.path().join("spool")).len()
    }
}

/// Waits until the mirror takes no more connections: it is draining.
async fn refuses_connections(mirror: &Process) {
    let address = mirror.tcp_address();
    wait_until("the mirror stops listening", || {
        std::net::TcpStream::connect(address)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_transfer_finishes_after_sigterm_and_the_process_exits_with_0() {
    let transfer = Transfer::start("1h").await;
    transfer.mirror.terminate();
    refuses_connections(&transfer.mirror).await;
    transfer.gate.release();
    let answer = transfer.client.await.unwrap();
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == transfer.bytes, "other bytes");
    let ended = transfer.mirror.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    // What was finished on the way out is kept.
    let digest = crate::support::digest_of(&transfer.bytes);
    transfer.hub.take_requests();
    let again = Launch::of(&transfer.hub, transfer.data.path())
        .start()
        .await;
    let answer = again.blob(NGINX, &digest).await;
    assert!(answer.body == transfer.bytes, "other bytes");
    assert_eq!(transfer.hub.summary(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_longer_than_the_drain_time_is_cut_at_its_end() {
    let transfer = Transfer::start("1s").await;
    transfer.mirror.terminate();
    let answer = transfer.client.await.unwrap();
    assert_ne!(answer.end, End::Complete);
    assert!(answer.body.len() < transfer.bytes.len());
    assert!(transfer.bytes.starts_with(&answer.body), "other bytes");
    let ended = transfer.mirror.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(r#""open":1,"cut":1"#),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let transfer = Transfer::start("1h").await;
        transfer.mirror.terminate();
        refuses_connections(&transfer.mirror).await;
        send(transfer.mirror.pid(), signal);
        let answer = transfer.client.await.unwrap();
        assert_ne!(answer.end, End::Complete);
        let ended = transfer.mirror.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("at once"), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_nobody_waits_for_delays_nothing_and_leaves_nothing() {
    let transfer = Transfer::start("1h").await;
    transfer.client.abort();
    assert_eq!(transfer.left(), 1, "half of it is there");
    transfer.client.await.unwrap_err();
    transfer.mirror.terminate();
    let data = transfer.data;
    let ended = transfer.mirror.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(files(&data.path().join("spool")).is_empty());
    assert!(files(&data.path().join("blobs")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_no_upstream_answers_delays_nothing() {
    let hub = FakeHub::start().await;
    hub.on(Origin::Registry).fault(Fault::BlackHole);
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::of(&hub, data.path()).set("UPSTREAMS__DOCKER_IO__TIMEOUT", "1h");
    let mirror = launch.start().await;
    let mut client = mirror.connect().await.unwrap();
    let path = format!("GET /v2/{NGINX}/manifests/latest HTTP/1.1\r\nhost: mirror\r\n\r\n");
    client.write_all(path.as_bytes()).await.unwrap();
    hub.wait_for_requests(1, |it| it.origin == Origin::Registry)
        .await;
    drop(client);
    let ended = mirror.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("did not end"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_request_are_closed_and_waited_for_by_nobody() {
    let hub = FakeHub::start().await;
    let data = tempfile::tempdir().unwrap();
    // Less than an unfinished head may take.
    let launch = Launch::of(&hub, data.path()).set("SERVER__DRAIN", "20s");
    let mirror = launch.start().await;
    let mut kept = mirror.connect().await.unwrap();
    let answer = exchange(&mut kept, "GET", "/v2/", &[]).await;
    assert_eq!(answer.status, 200);
    let silent = mirror.connect().await.unwrap();
    let mut hesitant = mirror.connect().await.unwrap();
    hesitant
        .write_all(b"GET /v2/ HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    while !metrics(&mirror).await.contains("\nmirror_connections 4\n") {}

    let ended = mirror.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(r#""cut":0"#), "{}", ended.stderr);
    for mut stream in [kept, silent, hesitant] {
        assert!(!matches!(stream.read(&mut [0; 16]).await, Ok(1..)));
    }
}

async fn metrics(mirror: &Process) -> String {
    String::from_utf8(mirror.get("/metrics").await.body).unwrap()
}

/// The first process of a container: the kernel gives it no default action for any signal.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_first_process_of_a_pid_namespace() {
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    if !works(&wrapper) {
        println!("skipped: a new pid namespace takes root");
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mirror = Launch::new(data.path()).within(&wrapper).start().await;
    let holder = std::fs::read_to_string(data.path().join("lock")).unwrap();
    assert_eq!(holder, "1\n", "it is the first process");
    send(mirror.only_child(), Signal::HUP);
    assert_eq!(mirror.get("/readyz").await.status, 200);
    send(mirror.only_child(), Signal::TERM);
    let ended = mirror.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

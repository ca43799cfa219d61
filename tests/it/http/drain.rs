//! The end of the server.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mirror::http::Drained;
use tokio::net::TcpStream;

use super::server::TestServer;
use super::soon;
use super::stub::{blob, blob_digest};
use super::wire::Client;

#[tokio::test]
async fn a_running_transfer_finishes_while_idle_connections_close() {
    let server = TestServer::start().await;
    let (address, feed) = (server.address(), server.stub.feed());
    let mut idle = server.client().await;
    assert_eq!(idle.get("/v2/").await.status, 200);
    let mut silent = server.client().await;
    let mut running = server.client().await;
    running
        .write(&format!(
            "GET /v2/fed/blob/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
            blob_digest()
        ))
        .await;
    let bytes = Bytes::from(blob());
    feed.send(Ok(bytes.slice(..500))).await.unwrap();
    assert_eq!(soon("a head", running.head()).await.unwrap().status, 200);
    until_connected(&mut idle, 3).await;

    let ended = server.shut_down();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(silent.rest().await, b"");
    until_refused(address).await;
    assert!(!ended.is_finished());

    feed.send(Ok(bytes.slice(500..))).await.unwrap();
    assert_eq!(running.take(1000).await, bytes);
    assert_eq!(running.rest().await, b"", "closed after the transfer");
    assert_eq!(
        soon("the end", ended).await.unwrap(),
        Drained { open: 3, cut: 0 }
    );
}

#[tokio::test]
async fn a_transfer_that_outlasts_the_drain_time_is_cut() {
    let server = TestServer::with(|settings| settings.drain = Duration::from_millis(50)).await;
    let feed = server.stub.feed();
    let mut client = server.client().await;
    client
        .write(&format!(
            "GET /v2/fed/blob/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
            blob_digest()
        ))
        .await;
    feed.send(Ok(Bytes::from(blob()).slice(..500)))
        .await
        .unwrap();
    assert_eq!(soon("a head", client.head()).await.unwrap().status, 200);
    let ended = server.shut_down();
    assert_eq!(
        client.rest().await,
        blob()[..500],
        "what there was, and no more"
    );
    assert_eq!(
        soon("the end", ended).await.unwrap(),
        Drained { open: 1, cut: 1 }
    );
}

/// Waits until the server has accepted `count` connections; `client`, one of them, asks.
async fn until_connected(client: &mut Client, count: usize) {
    let line = format!("mirror_connections {count}");
    soon("connections", async {
        while !client.metrics().await.lines().any(|found| found == line) {}
    })
    .await;
}

async fn until_refused(address: SocketAddr) {
    soon("the listener is gone", async {
        while TcpStream::connect(address).await.is_ok() {}
    })
    .await;
}

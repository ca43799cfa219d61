//! Readers that stop reading cost the server next to nothing, however many and however large the blob.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot prepare its stage fails, and its figures are worth a look"
)]

use std::path::Path;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::process::{Launch, PATIENCE, Process, wait_until};
use crate::support::FakeHub;
use crate::support::image::seeded_bytes;

const NGINX: &str = "library/nginx";

const READERS: usize = 100;

const BLOB_SIZE: usize = 500_000_000;

/// In KiB.
const MEMORY_LIMIT: u64 = 80 * 1024;

/// What each reader takes before it stalls.
const TASTE: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_readers_that_stall_on_a_large_blob_take_little_memory() {
    let hub = FakeHub::start().await;
    let bytes = seeded_bytes(5, BLOB_SIZE);
    let digest = hub.push_blob(NGINX, bytes.clone());
    let data = tempfile::tempdir().unwrap();

    let mirror = Launch::of(&hub, data.path()).start().await;
    let readers = stalled(&mirror, &digest, &bytes).await;
    wait_until("the blob is cached while all readers stall", || {
        is_cached(data.path(), &digest)
    })
    .await;
    finish(&mirror, readers, &bytes, "cold").await;
    let summary = hub.take_summary();
    assert_eq!(
        summary.len(),
        3,
        "one token, one redirect, one transfer: {summary:?}"
    );
    drop(mirror);

    hub.stop().await;
    let mirror = Launch::of(&hub, data.path()).start().await;
    let readers = stalled(&mirror, &digest, &bytes).await;
    finish(&mirror, readers, &bytes, "warm").await;
}

/// Clients that have asked for the blob, taken the beginning of it, and then take no more.
async fn stalled(mirror: &Process, digest: &str, bytes: &Bytes) -> Vec<TcpStream> {
    let request = format!("GET /v2/{NGINX}/blobs/{digest} HTTP/1.1\r\nhost: mirror\r\n\r\n");
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v4().unwrap();
        // What the kernel holds for the reader is not the server's, yet 100 times 6 MB need not be.
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let mut reader = socket.connect(mirror.tcp_address()).await.unwrap();
        reader.write_all(request.as_bytes()).await.unwrap();
        readers.push(reader);
    }
    for reader in &mut readers {
        let head = read_head(reader).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(
            head.contains(&format!("\r\ncontent-length: {}\r\n", bytes.len())),
            "{head}"
        );
        assert_reads(reader, &bytes[..TASTE]).await;
    }
    readers
}

/// Lets one reader go on to the end, while the others stall.
async fn finish(mirror: &Process, mut readers: Vec<TcpStream>, bytes: &Bytes, name: &str) {
    let mut one = readers.swap_remove(READERS / 2);
    assert_reads(&mut one, &bytes[TASTE..]).await;
    let peak = mirror.peak_memory();
    println!(
        "{READERS} stalled readers of {} bytes, {name}: VmHWM {peak} KiB",
        bytes.len()
    );
    assert!(peak < MEMORY_LIMIT, "VmHWM {peak} KiB, {name}");
}

fn is_cached(data: &Path, digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex).exists()
}

/// A head, and nothing after it.
async fn read_head(reader: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, reader.read_u8()).await.unwrap();
        head.push(byte.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn assert_reads(reader: &mut TcpStream, expected: &[u8]) {
    let mut buffer = vec![0; 256 * 1024];
    for part in expected.chunks(256 * 1024) {
        let buffer = &mut buffer[..part.len()];
        timeout(PATIENCE, reader.read_exact(buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(buffer == part, "other bytes");
    }
}

//! FakeHub does what its documentation says: the other tests stand on it.
//!
//! The client here is raw: it writes a request, reads until the connection ends or the declared
//! body is complete, and says how it ended.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, outside of a test function"
)]

use std::io::ErrorKind;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::image::{digest_of, seeded_bytes};
use crate::support::{At, FakeHub, Fault, Image, ImageSpec, Origin, Outcome};

const NGINX: &str = "library/nginx";

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As long as declared, or chunked to the last chunk, or a HEAD.
    Complete,
    /// The connection was closed in order: before the declared length, or in place of one.
    Closed,
    /// The connection was reset.
    Reset,
}

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
    end: End,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key == name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// A client with one connection for each request and the headers it is given.
async fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Response {
    let rest = url.strip_prefix("http://").expect("a plain address");
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut stream = TcpStream::connect(host).await.expect("the hub listens");
    exchange(&mut stream, method, path, headers).await
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: hub\r\n");
    for (name, value) in headers {
        head += &[name, ": ", value, "\r\n"].concat();
    }
    head.push_str("\r\n");
    stream
        .write_all(head.as_bytes())
        .await
        .expect("a request is sent");
    read_response(stream, method == "HEAD").await
}

async fn read_response(stream: &mut (impl AsyncRead + Unpin), is_head: bool) -> Response {
    let mut received = Vec::new();
    let end = loop {
        if complete(&received, is_head) {
            break End::Complete;
        }
        match stream.read_buf(&mut received).await {
            Ok(0) => break End::Closed,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break End::Closed,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Reset,
            Err(error) => panic!("{error}"),
        }
    };
    parse(&received, end)
}

fn head_of(received: &[u8]) -> Option<(String, &[u8])> {
    let at = received.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = String::from_utf8(received[..at].to_vec()).expect("a head is text");
    Some((head, &received[at + 4..]))
}

fn complete(received: &[u8], is_head: bool) -> bool {
    let Some((head, body)) = head_of(received) else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    is_head
        || length.is_some_and(|it| body.len() >= it.parse().expect("a length"))
        || (head.contains("transfer-encoding: chunked") && body.ends_with(b"0\r\n\r\n"))
}

fn parse(received: &[u8], end: End) -> Response {
    let Some((head, body)) = head_of(received) else {
        return Response {
            status: 0,
            head: String::new(),
            body: received.to_vec(),
            end,
        };
    };
    let chunked = head.contains("transfer-encoding: chunked");
    Response {
        status: head[9..12].parse().expect("a status"),
        body: if chunked {
            unchunk(body)
        } else {
            body.to_vec()
        },
        head,
        end,
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|it| it == b"\r\n") {
        let size = std::str::from_utf8(&rest[..at]).expect("a size is text");
        let size = usize::from_str_radix(size, 16).expect("a size is hexadecimal");
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 4 + size..];
    }
    body
}

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

#[tokio::test]
async fn an_image_is_pulled_and_recorded() {
    let (hub, image) = nginx().await;
    let token = token(&hub, NGINX).await;
    let auth = [("authorization", token.as_str())];
    let base = format!("{}/v2/{NGINX}", hub.registry_url());

    let head = request("HEAD", &format!("{base}/manifests/latest"), &auth).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(
        head.header("docker-content-digest"),
        Some(image.digest.as_str())
    );
    assert_eq!(
        head.header("content-length"),
        Some(image.bytes.len().to_string().as_str())
    );
    assert_eq!(head.header("content-type"), Some(image.media_type.as_str()));
    let index = request("GET", &format!("{base}/manifests/{}", image.digest), &auth).await;
    assert_eq!(index.body, image.bytes);
    let manifest = image.architecture("amd64");
    let answer = request(
        "GET",
        &format!("{base}/manifests/{}", manifest.digest),
        &auth,
    )
    .await;
    assert_eq!(answer.body, manifest.bytes);
    for blob in manifest.blobs() {
        let hop = request("GET", &format!("{base}/blobs/{}", blob.digest), &auth).await;
        assert_eq!(hop.status, 307);
        let answer = request("GET", hop.header("location").unwrap(), &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(digest_of(&answer.body), blob.digest);
    }

    assert_eq!(
        hub.summary(),
        [
            "token GET library/nginx:pull",
            "registry HEAD library/nginx/manifests/latest",
            "registry GET library/nginx/manifests/index",
            "registry GET library/nginx/manifests/amd64.manifest",
            "registry GET library/nginx/blobs/amd64.config",
            "cdn GET amd64.config",
            "registry GET library/nginx/blobs/amd64.layer0",
            "cdn GET amd64.layer0",
            "registry GET library/nginx/blobs/amd64.layer1",
            "cdn GET amd64.layer1",
            "registry GET library/nginx/blobs/amd64.layer2",
            "cdn GET amd64.layer2",
        ]
    );
    assert_eq!(hub.take_requests().len(), 12);
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn a_reset_arrives_after_exactly_so_many_bytes() {
    let (blob, answer) = OneBlob::with_fault(Fault::Reset(At::Percent(60)), &[]).await;
    assert_eq!(answer.end, End::Reset);
    assert_eq!(answer.header("content-length"), Some("10000"));
    assert_eq!(answer.body, &blob.bytes[..6000]);
    let resumed = blob.get(&[("range", "bytes=6000-")]).await;
    assert_eq!(resumed.end, End::Reset);
    assert_eq!(
        resumed.header("content-range"),
        Some("bytes 6000-9999/10000")
    );
    assert_eq!(resumed.body, &blob.bytes[6000..8400]);
    assert_eq!(blob.hub.requests()[2].outcome, Outcome::Cut);
}

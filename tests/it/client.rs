//! A raw client: it writes a request, reads until the connection ends or the declared body is
//! complete, and says how it ended.

use std::io::ErrorKind;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As long as declared, or chunked to the last chunk, or a HEAD.
    Complete,
    /// The connection was closed in order: before the declared length, or in place of one.
    Closed,
    /// The connection was reset.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key == name).then_some(value)
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// A client with one connection for each request and the headers it is given.
pub(crate) async fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Response {
    let (host, path) = split(url);
    let mut stream = TcpStream::connect(host).await.expect("the hub listens");
    exchange(&mut stream, method, path, headers).await
}

/// Host and path of a plain address.
fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("a plain address");
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    send(stream, method, path, headers).await;
    read_response(stream, method == "HEAD").await
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: hub\r\n");
    for (name, value) in headers {
        head += &[name, ": ", value, "\r\n"].concat();
    }
    head.push_str("\r\n");
    stream
        .write_all(head.as_bytes())
        .await
        .expect("a request is sent");
}

pub(crate) async fn read_response(
    stream: &mut (impl AsyncRead + Unpin),
    is_head: bool,
) -> Response {
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

/// The content of the chunks, of a body that was cut as far as it came.
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|it| it == b"\r\n") {
        let size = std::str::from_utf8(&rest[..at]).expect("a size is text");
        let size = usize::from_str_radix(size, 16).expect("a size is hexadecimal");
        let (start, end) = (at + 2, (at + 2 + size).min(rest.len()));
        body.extend_from_slice(&rest[start..end]);
        rest = &rest[(end + 2).min(rest.len())..];
    }
    body
}

/// A client in the middle of an answer, which reads no faster than its test tells it to.
pub(crate) struct Download {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Download {
    /// Asks for `url`, and reads nothing yet.
    pub(crate) async fn begin(url: &str, headers: &[(&str, &str)]) -> Self {
        let (host, path) = split(url);
        let mut stream = TcpStream::connect(host).await.expect("the server listens");
        send(&mut stream, "GET", path, headers).await;
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// As [`Self::begin`], with a kernel that holds little of what is not read yet: a server notices soon.
    pub(crate) async fn begin_narrow(url: &str, headers: &[(&str, &str)]) -> Self {
        let (host, path) = split(url);
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("a buffer");
        let address = host.parse().expect("an address");
        let mut stream = socket.connect(address).await.expect("the server listens");
        send(&mut stream, "GET", path, headers).await;
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Reads until the head is here.
    pub(crate) async fn answered(&mut self) {
        while head_of(&self.received).is_none() {
            let read = self.stream.read_buf(&mut self.received).await;
            assert_ne!(read.expect("the connection lasts"), 0, "no head came");
        }
    }

    /// Reads until `length` bytes of the body are here.
    pub(crate) async fn receive(&mut self, length: usize) {
        while self.body().len() < length {
            let read = self.stream.read_buf(&mut self.received).await;
            assert_ne!(read.expect("the connection lasts"), 0, "the body ended");
        }
    }

    /// What is here of the body.
    pub(crate) fn body(&self) -> &[u8] {
        head_of(&self.received).map_or(&[], |(_, body)| body)
    }

    /// The answer, as far as it is here.
    pub(crate) fn so_far(&self) -> Response {
        parse(&self.received, End::Closed)
    }

    /// Reads to the end.
    pub(crate) async fn finish(self) -> Response {
        let mut rest = self.received.chain(self.stream);
        read_response(&mut rest, false).await
    }
}

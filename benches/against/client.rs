//! A client that costs as little as a client can: it reads heads, and lets the kernel drop bodies.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

/// How much a call lets the kernel drop.
const SLICE: usize = 1024 * 1024;

/// What clients accept, in short.
const ACCEPT: &str =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*";

const HEAD_LIMIT: usize = 16 * 1024;

/// A connection that stays open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The head of an answer, and how much of the body came with it.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// Of the body, in bytes.
    pub(crate) length: u64,
    /// Bytes of the body that are read already.
    pub(crate) ahead: Vec<u8>,
}

/// A body that was read to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    /// From the beginning of the request to the body's first byte.
    pub(crate) first_byte: Duration,
    /// To its last.
    pub(crate) total: Duration,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; SLICE],
        })
    }

    /// Sends a request and reads the answer's head.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Head> {
        self.stream.write_all(&request(method, path, headers))?;
        let mut text = Vec::new();
        loop {
            let read = self.receive(HEAD_LIMIT, RecvFlags::empty())?;
            text.extend_from_slice(&self.buffer[..read]);
            if let Some((mut head, end)) = Head::parse(&text) {
                head.ahead = text.split_off(end);
                return Ok(head);
            }
            if text.len() > HEAD_LIMIT {
                return Err(io::Error::other("no end of the head"));
            }
        }
    }

    /// Reads `length` bytes and keeps none.
    pub(crate) fn drop_bytes(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(SLICE).min(SLICE);
            length -= self.receive(most, RecvFlags::TRUNC)? as u64;
        }
        Ok(())
    }

    /// Gets `path` and drops its body.
    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<Fetched> {
        self.get_since(Instant::now(), path, headers)
    }

    /// As [`Self::get`], of something that was begun before.
    pub(crate) fn get_since(
        &mut self,
        began: Instant,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Fetched> {
        let head = self.request("GET", path, headers)?;
        if head.status != 200 {
            return Err(io::Error::other(format!("{path}: {}", head.status)));
        }
        let mut rest = head.length - head.ahead.len() as u64;
        if head.ahead.is_empty() && rest > 0 {
            rest -= self.receive(1, RecvFlags::TRUNC)? as u64;
        }
        let first_byte = began.elapsed();
        self.drop_bytes(rest)?;
        Ok(Fetched {
            bytes: head.length,
            first_byte,
            total: began.elapsed(),
        })
    }

    fn receive(&mut self, most: usize, flags: RecvFlags) -> io::Result<usize> {
        let (_, read) = recv(&self.stream, &mut self.buffer[..most], flags)?;
        match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// Gets `path` once, on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Fetched {
    let began = Instant::now();
    let fetched = Connection::open(address).and_then(|mut it| it.get_since(began, path, &[]));
    fetched.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A small body.
pub(crate) fn read(address: SocketAddr, path: &str) -> Vec<u8> {
    let mut connection = Connection::open(address).unwrap();
    let head = connection.request("GET", path, &[]).unwrap();
    assert_eq!(head.status, 200, "{path}");
    let mut body = head.ahead;
    while (body.len() as u64) < head.length {
        let read = connection.receive(SLICE, RecvFlags::empty()).unwrap();
        body.extend_from_slice(&connection.buffer[..read]);
    }
    body
}

/// A request as it goes over the wire.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let headers: String = headers
        .iter()
        .flat_map(|(name, value)| [name, ": ", value, "\r\n"])
        .collect();
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {ACCEPT}\r\n{headers}\r\n")
        .into()
}

impl Head {
    /// The head that `text` begins with, and where it ends.
    pub(crate) fn parse(text: &[u8]) -> Option<(Self, usize)> {
        let end = text.windows(4).position(|it| it == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&text[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.get(9..12)?.parse().ok()?;
        let mut parsed = Self {
            status,
            location: None,
            length: 0,
            ahead: Vec::new(),
        };
        for line in lines {
            let (name, value) = line.split_once(": ")?;
            if name.eq_ignore_ascii_case("content-length") {
                parsed.length = value.parse().ok()?;
            } else if name.eq_ignore_ascii_case("location") {
                parsed.location = Some(value.to_owned());
            }
        }
        Some((parsed, end + 4))
    }
}

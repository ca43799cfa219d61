//! One connection: reads request heads, writes answers by the byte.
//!
//! A server of our own rather than a library's, because a hub that is broken on purpose must be
//! able to send what no library would: short bodies, wrong lengths, a reset in mid-answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::answer::Framing;
use super::plan::{Plan, Step};
use super::record::{Origin, Outcome, Recorded};
use super::request::Request;

/// The longest head, and the most that is read ahead of a peer that keeps sending.
const HEAD_LIMIT: usize = 64 * 1024;

/// The largest piece handed to the socket at once.
const PIECE: usize = 64 * 1024;

/// The transport under a connection.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}

/// Whether the connection may carry another request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    KeepAlive,
    Close,
}

/// Serves a connection until either side ends it.
pub(super) async fn serve(transport: Transport, origin: Origin, shared: Arc<Shared>) {
    let mut connection = Connection {
        transport,
        ahead: BytesMut::new(),
    };
    let number = shared.state().number();
    while let Ok(Some(request)) = connection.read_request().await {
        let (record, plan) = shared.arrive(origin, number, &request);
        let mut progress = Progress {
            shared: Arc::clone(&shared),
            record,
            outcome: Outcome::Cut,
        };
        match connection.deliver(&plan, &request, &mut progress).await {
            Ok(Next::KeepAlive) => {}
            Ok(Next::Close) | Err(_) => return,
        }
    }
}

/// Keeps the record of an answer up to date; on drop it is final.
struct Progress {
    shared: Arc<Shared>,
    record: u64,
    outcome: Outcome,
}

impl Progress {
    fn update(&self, change: impl FnOnce(&mut Recorded)) {
        if let Some(recorded) = self.shared.state().recorded(self.record) {
            change(recorded);
        }
        self.shared.announce();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let outcome = self.outcome;
        self.update(|recorded| recorded.outcome = outcome);
    }
}

struct Connection {
    transport: Transport,
    /// Read, and not yet used.
    ahead: BytesMut,
}

impl Connection {
    /// The next head, its body dropped; `None` at an orderly end or when it is no HTTP.
    async fn read_request(&mut self) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                break at + 4;
            }
            if self.ahead.len() > HEAD_LIMIT || self.read_more().await? == 0 {
                return Ok(None);
            }
        };
        let Some(request) = Request::parse(&self.ahead.split_to(end)) else {
            return Ok(None);
        };
        let mut body = request.content_length();
        while body > 0 {
            if self.ahead.is_empty() && self.read_more().await? == 0 {
                return Ok(None);
            }
            let dropped = body.min(self.ahead.len());
            self.ahead.advance(dropped);
            body -= dropped;
        }
        Ok(Some(request))
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        self.ahead.reserve(4096);
        self.transport.read(&mut self.ahead).await
    }

    async fn deliver(
        &mut self,
        plan: &Plan,
        request: &Request,
        progress: &mut Progress,
    ) -> io::Result<Next> {
        sleep(plan.delay).await;
        for step in plan.stops_before_head() {
            if let Some(next) = self.run(&step, plan, progress).await? {
                return Ok(next);
            }
        }
        progress.update(|recorded| recorded.status = plan.answer.status);
        self.transport.write(plan.answer.head().as_bytes()).await?;
        if !request.is_head() {
            let body = plan.body();
            let mut done = 0;
            for (at, step) in plan.stops_in_body(body.len()) {
                self.send(plan, body.slice(done..at), progress).await?;
                done = at;
                if let Some(next) = self.run(&step, plan, progress).await? {
                    return Ok(next);
                }
            }
            self.send(plan, body.slice(done..), progress).await?;
            self.end_body(plan).await?;
        }
        progress.outcome = Outcome::Sent;
        let ends = plan.close
            || match plan.answer.framing {
                Framing::Length(wrong_by) => wrong_by != 0,
                Framing::Chunked => false,
                Framing::Close => true,
            };
        Ok(if ends { Next::Close } else { Next::KeepAlive })
    }

    /// Does what a stop asks for; `Some` ends the answer.
    async fn run(
        &mut self,
        step: &Step,
        plan: &Plan,
        progress: &mut Progress,
    ) -> io::Result<Option<Next>> {
        match step {
            Step::Hold(barrier) => {
                tokio::select! {
                    () = barrier.pass() => return Ok(None),
                    () = self.peer_left() => {}
                }
            }
            Step::Stall => self.peer_left().await,
            Step::Reset => {
                self.wait_until_received().await;
                self.transport.tcp().set_zero_linger()?;
            }
            Step::Close => progress.outcome = Outcome::Sent,
            Step::End => {
                self.end_body(plan).await?;
                progress.outcome = Outcome::Sent;
                return Ok(Some(Next::KeepAlive));
            }
        }
        Ok(Some(Next::Close))
    }

    async fn send(&mut self, plan: &Plan, mut bytes: Bytes, progress: &Progress) -> io::Result<()> {
        let piece = plan.pace.map_or(PIECE, |pace| pace.bytes.clamp(1, PIECE));
        while !bytes.is_empty() {
            let next = bytes.split_to(piece.min(bytes.len()));
            if plan.answer.framing == Framing::Chunked {
                let size = format!("{:x}\r\n", next.len());
                let chunk = [size.as_bytes(), &next, b"\r\n"].concat();
                self.transport.write(&chunk).await?;
            } else {
                self.transport.write(&next).await?;
            }
            let len = u64::try_from(next.len()).expect("a length fits in 64 bits");
            progress.update(|recorded| recorded.sent += len);
            if let Some(pace) = plan.pace {
                sleep(pace.every).await;
            }
        }
        Ok(())
    }

    async fn end_body(&mut self, plan: &Plan) -> io::Result<()> {
        if plan.answer.framing == Framing::Chunked {
            self.transport.write(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    /// Ends when the peer has closed or reset the connection, or sends more than it should.
    async fn peer_left(&mut self) {
        while self.ahead.len() < HEAD_LIMIT {
            if !matches!(self.read_more().await, Ok(1..)) {
                return;
            }
        }
    }

    /// Waits until the peer's kernel has acknowledged everything: a reset throws away what is
    /// still in our send queue, and tests want to know where the cut is. Gives up after 5 s.
    async fn wait_until_received(&self) {
        const PAUSE: Duration = Duration::from_millis(1);
        let tcp = self.transport.tcp();
        let (Ok(local), Ok(peer)) = (tcp.local_addr(), tcp.peer_addr()) else {
            return;
        };
        for _ in 0..5000 {
            if unacknowledged(local.port(), peer.port()) == Some(0) {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

/// The bytes in the send queue of a connection, as Linux shows them in `/proc/net/tcp`.
fn unacknowledged(local: u16, peer: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, peer) = (format!(":{local:04X}"), format!(":{peer:04X}"));
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let ours = columns.get(1)?.ends_with(&local) && columns.get(2)?.ends_with(&peer);
        let (sending, _) = columns.get(4)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(sending, 16).ok())?
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|it| it == needle)
}

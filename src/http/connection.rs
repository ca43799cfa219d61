//! One connection, over whatever carries it.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::server::Timeouts;
use super::service::{Service, respond};
use super::stall::StallLimit;

/// The most bytes of a request's head.
const HEAD_LIMIT: usize = 32 * 1024;

/// The most bytes that are read ahead, and that wait to be written beside the chunk at hand.
const BUFFER_LIMIT: usize = 64 * 1024;

/// Who is at the other end, and where they came in.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The address; `None` on a unix socket.
    pub(super) address: Option<IpAddr>,
    /// The upstream that a name without one means on this listener.
    pub(super) repository: Option<Arc<str>>,
}

/// Serves requests until the peer is done, `closing` asks to end after the running one, or `cut` says at once.
pub(super) async fn serve<Io>(
    io: Io,
    peer: Peer,
    service: Arc<Service>,
    timeouts: Timeouts,
    closing: impl Future<Output = ()>,
    cut: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(StallLimit::new(io, timeouts.write_stall));
    let asked = AtomicBool::new(false);
    let requests = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        respond(Arc::clone(&service), peer.clone(), request)
    });
    let mut connection = pin!(builder(timeouts).serve_connection(io, requests));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = closing => {
            // For hyper a connection is busy until its first request has come, which may be never.
            if !asked.load(Ordering::Relaxed) {
                return;
            }
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = connection => ended,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = ?peer.address, %error, "a connection ended early");
    }
}

/// HTTP/1.1: without TLS no client speaks anything else. A head has at most 100 lines, hyper's own limit, which costs
/// no allocation as long as it is not set.
fn builder(timeouts: Timeouts) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_header_size(HEAD_LIMIT)
        .max_buf_size(BUFFER_LIMIT);
    builder
}

//! Cuts a connection whose peer takes no more bytes.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sys::clock;

/// A stream that fails with [`ErrorKind::TimedOut`] once a write has waited for `limit` without any byte going out,
/// and after twice the limit at the latest.
pub(super) struct StallLimit<Io> {
    io: Io,
    limit: Duration,
    waiting: Option<Watch>,
}

/// A timer that runs since a write had to wait. It is not set back by progress, which would cost every write;
/// instead it is granted another round when it ends.
struct Watch {
    timer: Pin<Box<dyn Future<Output = ()> + Send>>,
    progress: bool,
}

impl<Io> StallLimit<Io> {
    pub(super) fn new(io: Io, limit: Duration) -> Self {
        Self {
            io,
            limit,
            waiting: None,
        }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: &Poll<io::Result<usize>>) -> io::Result<()> {
        match (written, &mut self.waiting) {
            (Poll::Ready(_), None) => Ok(()),
            (Poll::Ready(_), Some(watch)) => {
                watch.progress = true;
                Ok(())
            }
            (Poll::Pending, waiting) => {
                let watch = waiting.get_or_insert_with(|| Watch::new(self.limit));
                watch.poll(cx, self.limit)
            }
        }
    }
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Self {
            timer: Box::pin(clock::sleep(limit)),
            progress: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if !self.progress {
                return Err(ErrorKind::TimedOut.into());
            }
            *self = Self::new(limit);
        }
        Ok(())
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for StallLimit<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for StallLimit<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch(cx, &written)?;
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.watch(cx, &written)?;
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMIT: Duration = Duration::from_mins(10);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut() {
        let (near, _far) = tokio::io::duplex(16);
        let mut stream = StallLimit::new(near, LIMIT);
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_slow_is_served() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = StallLimit::new(near, LIMIT);
        let write = async { stream.write_all(&[7; 64]).await };
        let read = async {
            let mut taken = Vec::new();
            for _ in 0..4 {
                clock::sleep(LIMIT.mul_f64(0.9)).await;
                let mut part = [0; 16];
                far.read_exact(&mut part).await.unwrap();
                taken.extend(part);
            }
            taken
        };
        let (written, taken) = tokio::join!(write, read);
        written.unwrap();
        assert_eq!(taken, [7; 64]);
    }
}

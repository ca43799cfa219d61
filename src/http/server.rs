//! The server's life: bind, accept, drain.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::address::ListenAddress;
use super::connection::{self, Peer};
use super::listener::{Accept, BindError, Listener, is_of_one_connection};
use super::service::Service;
use crate::sys::clock;
use crate::sys::tasks::Tasks;

/// How long accepting pauses when the system has no more files or memory to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time between two warnings about that.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// How long connections that are cut may take to notice.
const CUT_TIME: Duration = Duration::from_secs(1);

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// How long running transfers get when the server ends.
    pub drain: Duration,
    /// The most connections that are served at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// When to give up on a peer.
    pub timeouts: Timeouts,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: ListenAddress,
    /// The upstream that a name without one means there; `None` for the directory's own default.
    pub repository: Option<Arc<str>>,
}

/// When to give up on a peer.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the moment a request may come until its head is here: bounds slow heads and idle connections alike.
    pub head: Duration,
    /// Without the peer taking a single byte of what is to be sent.
    pub write_stall: Duration,
}

/// A server that is bound, and serves nobody yet.
pub struct Server {
    listeners: Vec<(Listener, Option<Arc<str>>)>,
    service: Arc<Service>,
    settings: Settings,
}

/// What became of the connections that were open when the server was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How many were open.
    pub open: usize,
    /// How many of them had to be cut when the time was over.
    pub cut: usize,
}

/// Everything that connections share. Clones share it.
#[derive(Clone)]
struct Connections {
    service: Arc<Service>,
    timeouts: Timeouts,
    slots: Arc<Semaphore>,
    accepting: Tasks,
    serving: Tasks,
    cut: CancellationToken,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddress::from(SocketAddr::from(([127, 0, 0, 1], 5000))).into()],
            drain: Duration::from_secs(30),
            max_connections: 10_000,
            timeouts: Timeouts::default(),
        }
    }
}

impl From<ListenAddress> for Listen {
    fn from(address: ListenAddress) -> Self {
        Self {
            address,
            repository: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            write_stall: Duration::from_mins(10),
        }
    }
}

impl Server {
    /// Binds every address.
    ///
    /// # Errors
    /// [`BindError`] for the first address that cannot be had.
    pub async fn bind(settings: Settings, service: Service) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for listen in &settings.listen {
            let bound = Listener::bind(&listen.address).await?.into_iter();
            listeners.extend(bound.map(|listener| (listener, listen.repository.clone())));
        }
        Ok(Self {
            listeners,
            service: Arc::new(service),
            settings,
        })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addresses(&self) -> io::Result<Vec<ListenAddress>> {
        let listeners = self.listeners.iter();
        listeners
            .map(|(listener, _)| listener.local_address())
            .collect()
    }

    /// Serves until `shutdown`, then lets running requests finish within the drain time. Idle connections are closed
    /// at once, and so are the listeners.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Drained {
        let connections = Connections {
            service: self.service,
            timeouts: self.settings.timeouts,
            slots: Arc::new(Semaphore::new(self.settings.max_connections)),
            accepting: Tasks::new(),
            serving: Tasks::new(),
            cut: CancellationToken::new(),
        };
        for (listener, repository) in self.listeners {
            connections.listen(listener, repository);
        }
        shutdown.await;
        connections.drain(self.settings.drain).await
    }
}

impl Connections {
    fn listen(&self, listener: Listener, repository: Option<Arc<str>>) {
        let (connections, accepting) = (self.clone(), &self.accepting);
        match listener {
            Listener::Tcp(tcp) => accepting.spawn("accept", connections.accept(tcp, repository)),
            Listener::Unix(unix) => accepting.spawn("accept", connections.accept(unix, repository)),
        };
    }

    /// Accepts until the server ends. What cannot be accepted for want of files or memory waits; the loop goes on.
    async fn accept<A: Accept>(self, listener: A, repository: Option<Arc<str>>) {
        let mut closing = pin!(self.accepting.closing());
        let mut warned = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closing => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((io, address)) => {
                    let slot = tokio::select! {
                        biased;
                        () = &mut closing => return,
                        slot = Arc::clone(&self.slots).acquire_owned() => slot,
                    };
                    if let Ok(slot) = slot {
                        let repository = repository.clone();
                        let peer = Peer {
                            address,
                            repository,
                        };
                        self.start(io, peer, slot);
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.warn(&mut warned, &error);
                    clock::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start<Io>(&self, io: Io, peer: Peer, slot: OwnedSemaphorePermit)
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gauge = self.service.telemetry.metrics.connections.clone();
        gauge.inc();
        let serve = connection::serve(
            io,
            peer,
            Arc::clone(&self.service),
            self.timeouts,
            self.serving.closing(),
            self.cut.clone(),
        );
        self.serving.spawn("connection", async move {
            serve.await;
            drop(slot);
            gauge.dec();
        });
    }

    /// Says that connections wait, not more often than is worth reading.
    fn warn(&self, warned: &mut Option<Duration>, error: &io::Error) {
        let now = self.service.clock.monotonic();
        if warned.is_none_or(|last| now.saturating_sub(last) >= WARNING_PAUSE) {
            *warned = Some(now);
            tracing::warn!(%error, "cannot accept connections for now; new ones wait (is the limit on open files too low?)");
        }
    }

    async fn drain(&self, limit: Duration) -> Drained {
        self.accepting.drain(CUT_TIME).await;
        let open = self.serving.running();
        let cut = self.serving.drain(limit).await;
        self.cut.cancel();
        let left = self.serving.drain(CUT_TIME).await;
        if left > 0 {
            tracing::warn!(left, "connections did not end when they were cut");
        }
        Drained { open, cut }
    }
}

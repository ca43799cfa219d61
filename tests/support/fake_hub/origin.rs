//! Listeners that can be stopped and started again on the same port.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::connection::{Transport, serve};
use super::record::Origin;

/// A listener that accepts, or a port that refuses.
pub(super) enum Slot {
    Open {
        port: u16,
        stop: watch::Sender<()>,
        task: JoinHandle<()>,
    },
    /// Bound and not listening: connections are refused, and nobody else gets the port.
    Stopped(TcpSocket),
}

impl Slot {
    /// Binds a port of the loopback address; 0 is any.
    pub(super) fn bind(port: u16) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        // The next socket takes the port before the last one gives it up.
        socket.set_reuseport(true).expect("SO_REUSEPORT");
        socket
            .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .unwrap_or_else(|error| panic!("cannot bind 127.0.0.1:{port}: {error}"));
        Self::Stopped(socket)
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Open { port, .. } => *port,
            Self::Stopped(socket) => socket.local_addr().expect("a bound socket").port(),
        }
    }

    /// Listens; `tls` is shown to those who connect.
    pub(super) fn start(
        self,
        origin: Origin,
        tls: Option<Arc<ServerConfig>>,
        shared: &Arc<Shared>,
    ) -> Self {
        let port = self.port();
        let Self::Stopped(socket) = self else {
            return self;
        };
        let listener = socket.listen(1024).expect("a bound socket listens");
        let (stop, stopped) = watch::channel(());
        let shared = Arc::clone(shared);
        let task = tokio::spawn(accept(listener, origin, tls, shared, stopped));
        Self::Open { port, stop, task }
    }

    /// Closes the listener and every connection; returns when that is done.
    pub(super) async fn stop(self) -> Self {
        let Self::Open { port, stop, task } = self else {
            return self;
        };
        let stopped = Self::bind(port);
        drop(stop);
        task.await.expect("the accept loop does not panic");
        stopped
    }
}

async fn accept(
    listener: TcpListener,
    origin: Origin,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let shared = Arc::clone(&shared);
                connections.spawn(connect(stream, origin, tls.clone(), shared));
            },
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connect(
    stream: TcpStream,
    origin: Origin,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    if shared.deaf.load(Ordering::Relaxed) {
        return std::future::pending().await;
    }
    let transport = match tls {
        None => Transport::Plain(stream),
        Some(config) => match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => Transport::Tls(Box::new(stream)),
            Err(_) => return,
        },
    };
    serve(transport, origin, shared).await;
}

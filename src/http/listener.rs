//! Binding the addresses to listen on, and accepting connections from them.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::address::ListenAddress;
use crate::sys::fs::{Disk as _, OsDisk};

/// Connections that the kernel keeps ready while the server is busy. The kernel caps it (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Why the server does not listen, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: another process already does; stop it, or choose another address with server.listen or --listen"
    )]
    InUse {
        /// The address.
        address: ListenAddress,
    },
    /// The system does not allow it.
    #[error(
        "cannot listen on {address}: permission denied; ports below 1024 need the capability CAP_NET_BIND_SERVICE, and a unix socket needs a directory that this user may write; choose another address with server.listen or --listen"
    )]
    Denied {
        /// The address.
        address: ListenAddress,
    },
    /// The machine does not have this address.
    #[error(
        "cannot listen on {address}: this machine has no such address; `0.0.0.0:<port>` listens on every IPv4 address, `[::]:<port>` on all of both kinds"
    )]
    NotLocal {
        /// The address.
        address: ListenAddress,
    },
    /// The host name has no address.
    #[error(
        "cannot listen on {address}: the host name cannot be looked up ({source}); use an IP address, or `0.0.0.0:<port>`"
    )]
    Unresolved {
        /// The address.
        address: ListenAddress,
        /// What the resolver said.
        source: io::Error,
    },
    /// Something that is no socket has the path.
    #[error(
        "cannot listen on {address}: the path exists and is no socket; remove the file, or choose another path with server.listen or --listen"
    )]
    NotASocket {
        /// The address.
        address: ListenAddress,
    },
    /// Anything else.
    #[error(
        "cannot listen on {address}: {source}; choose another address with server.listen or --listen"
    )]
    Other {
        /// The address.
        address: ListenAddress,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A listening unix socket that takes its file along when it goes.
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// A source of connections.
pub(super) trait Accept: Send + Sync + 'static {
    /// The stream of one connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and its peer's address where it has one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Option<IpAddr>)>> + Send;
}

impl Listener {
    /// Every socket that `address` stands for.
    pub(super) async fn bind(address: &ListenAddress) -> Result<Vec<Self>, BindError> {
        match address {
            ListenAddress::Tcp { host, port } => bind_host(address, host, *port).await,
            ListenAddress::Unix(path) => Ok(vec![Self::Unix(unix(address, path).await?)]),
        }
    }

    /// The address that was bound, with the port that the system chose for port 0.
    pub(super) fn local_address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.into()),
            Self::Unix(socket) => Ok(ListenAddress::Unix(socket.path.clone())),
        }
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, peer) = Self::accept(self).await?;
        // Answers are written whole; waiting for more (Nagle) costs 40 ms on every small one.
        stream.set_nodelay(true)?;
        Ok((stream, Some(peer.ip().to_canonical())))
    }
}

impl Accept for UnixSocket {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, None))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = OsDisk.remove(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

/// Whether a failed `accept` is the fault of one connection, so that the next one may well succeed.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::InvalidInput
            | ErrorKind::NotConnected
    )
}

/// Binds every address of a host name. One that the machine lacks (`localhost` without IPv6) is passed over as long
/// as another works.
async fn bind_host(
    address: &ListenAddress,
    host: &str,
    port: u16,
) -> Result<Vec<Listener>, BindError> {
    let unresolved = |source| BindError::Unresolved {
        address: address.clone(),
        source,
    };
    let mut listeners = Vec::new();
    let mut missing = None;
    for socket in tokio::net::lookup_host((host, port))
        .await
        .map_err(unresolved)?
    {
        match tcp(socket) {
            Ok(listener) => listeners.push(Listener::Tcp(listener)),
            Err(error) if is_missing(&error) => missing = Some(error),
            Err(error) => return Err(explain(address, error)),
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(explain(address, error)),
        None if listeners.is_empty() => Err(unresolved(ErrorKind::NotFound.into())),
        _ => Ok(listeners),
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // `[::]` means every address, whatever the system's default (net.ipv6.bindv6only) is.
            rustix::net::sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
            socket
        }
    };
    // A restart must not wait for the connections of the last run to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds a unix socket; the file of a process that is gone is replaced.
async fn unix(address: &ListenAddress, path: &Path) -> Result<UnixSocket, BindError> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(address, path).await?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    let listener = listener.map_err(|error| explain(address, error))?;
    Ok(UnixSocket {
        listener,
        path: path.into(),
    })
}

async fn remove_stale(address: &ListenAddress, path: &Path) -> Result<(), BindError> {
    let address = address.clone();
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|facts| facts.file_type().is_socket());
    if !is_socket {
        return Err(BindError::NotASocket { address });
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => OsDisk
            .remove(path)
            .map_err(|error| explain(&address, error)),
        _ => Err(BindError::InUse { address }),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn explain(address: &ListenAddress, source: io::Error) -> BindError {
    let missing = is_missing(&source);
    let address = address.clone();
    match source.kind() {
        ErrorKind::AddrInUse => BindError::InUse { address },
        ErrorKind::PermissionDenied => BindError::Denied { address },
        _ if missing => BindError::NotLocal { address },
        _ => BindError::Other { address, source },
    }
}

#[cfg(test)]
mod tests;

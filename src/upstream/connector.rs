//! Connections for blob transfers: to the host itself, or by a proxy.
//!
//! Through a proxy an https host is reached by `CONNECT` (RFC 9110 section 9.3.6) and an http host by asking the proxy
//! for the whole URL (RFC 9112 section 3.2.2).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use tokio::net::TcpStream;
use tower_service::Service;

use super::proxy::{Proxies, Proxy};
use crate::sys::clock;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects to hosts; TLS to them is made by whoever wraps this.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    to_proxy: HttpsConnector<HttpConnector>,
    proxies: Proxies,
    limit: Duration,
}

impl Connector {
    /// Connects with `tcp`, and with `tls` to proxies that want it. A proxy has made its connection within `limit`.
    pub(super) fn new(
        tcp: HttpConnector,
        tls: rustls::ClientConfig,
        proxies: Proxies,
        limit: Duration,
    ) -> Self {
        let to_proxy = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        Self {
            tcp,
            to_proxy,
            proxies,
            limit,
        }
    }

    async fn connect(mut self, target: Uri) -> Result<Hop, BoxError> {
        let url = Url::parse(&target.to_string())?;
        let Some(proxy) = self.proxies.of(&url).map(Arc::clone) else {
            let stream = self.tcp.call(target).await?;
            return Ok(Hop::to_the_host(stream.into()));
        };
        let limit = self.limit;
        let connecting = async {
            if url.scheme() == "https" {
                return self.tunnel(&proxy, target).await.map(Hop::to_the_host);
            }
            let stream = self.to_proxy.call(proxy.url.clone()).await?;
            Ok(Hop::to_a_proxy(stream))
        };
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not connect in time");
        clock::timeout(limit, connecting).await.map_err(slow)?
    }

    async fn tunnel(self, proxy: &Proxy, target: Uri) -> Result<Stream, BoxError> {
        let mut tunnel = Tunnel::new(proxy.url.clone(), self.to_proxy);
        if let Some(authorization) = &proxy.authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        Ok(tunnel.call(target).await?)
    }
}

impl Service<Uri> for Connector {
    type Response = Hop;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Hop, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().connect(target))
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection to the host, or to a proxy that is asked for whole URLs.
pub(super) struct Hop {
    stream: Stream,
    whole_urls: bool,
}

impl Hop {
    fn to_the_host(stream: Stream) -> Self {
        Self {
            stream,
            whole_urls: false,
        }
    }

    fn to_a_proxy(stream: Stream) -> Self {
        Self {
            stream,
            whole_urls: true,
        }
    }
}

impl Connection for Hop {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.whole_urls)
    }
}

impl Read for Hop {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Hop {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }
}

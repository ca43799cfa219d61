//! The administrator's door: a unix socket in the data directory that only this user may open.
//!
//! One connection at a time, one request on each, within a limit: its clients are commands of this program.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Mode, chmod};
use tokio::net::{UnixListener, UnixStream};

use crate::sys::clock;
use crate::sys::fs::{Disk as _, OsDisk};

/// How long one client may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How long accepting pauses after it failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What `GET /stats` answers, as JSON; `None` when it cannot be made.
pub type StatsPage = Arc<dyn Fn() -> Option<Bytes> + Send + Sync>;

/// A bound socket, which takes its file along when it goes.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Where the mirror whose data directory this is has its socket.
    pub fn path_in(data: &Path) -> PathBuf {
        data.join("admin.sock")
    }

    /// Binds `path` in a directory that belongs to this process alone: whatever is there is left of an earlier one.
    ///
    /// # Errors
    /// The system's: above all, a path of more than about a hundred bytes is too long for a socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // It gets its name only when nobody else can open it any more.
        let new = path.with_extension("sock.new");
        match OsDisk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        chmod(&new, Mode::RUSR | Mode::WUSR)?;
        OsDisk.rename(&new, path)?;
        let path = path.to_owned();
        Ok(Self { listener, path })
    }

    /// Answers until `closing`.
    pub async fn serve(self, stats: StatsPage, closing: impl Future<Output = ()>) {
        let mut closing = pin!(closing);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closing => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => answer(stream, &stats).await,
                Err(error) => {
                    tracing::debug!(%error, "a command cannot be accepted");
                    clock::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Err(error) = OsDisk.remove(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

async fn answer(stream: UnixStream, stats: &StatsPage) {
    let requests = service_fn(async |request: http::Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(reply(request.method(), request.uri().path(), stats))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(stream), requests);
    match clock::timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a command went away"),
        Err(_) => tracing::debug!("a command took too long"),
    }
}

fn reply(method: &Method, path: &str, page: &StatsPage) -> Response<Full<Bytes>> {
    let (status, body) = match (method, path) {
        (&Method::GET, "/stats") => match page() {
            Some(page) => (StatusCode::OK, page),
            None => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()),
        },
        _ => (StatusCode::NOT_FOUND, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

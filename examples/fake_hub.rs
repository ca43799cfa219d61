//! A Docker Hub to try the mirror against without internet:
//!
//! ```text
//! cargo run --example fake_hub -- [--port 5055] [--binary /bin/busybox] [--layers N]
//! ```
//!
//! Prints how to start the mirror, then one line for each request it is asked. The control port
//! answers `GET /requests` with the record as JSON, and `DELETE /requests` empties it.
//! Ends on SIGTERM or Ctrl-C.

#[path = "../tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use support::image::is_static_program;
use support::{FakeHub, Fault, ImageSpec, Origin};

/// A Docker Hub to try the mirror against without internet.
#[derive(Parser)]
struct Arguments {
    /// The registry's port; token, CDN, two foreign hosts and control get the next ones.
    /// 0 takes free ports.
    #[arg(long, default_value_t = 5055)]
    port: u16,
    /// A static busybox for the images to run.
    #[arg(long, default_value = "/bin/busybox")]
    binary: PathBuf,
    /// Layers of `library/nginx`.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    layers: u16,
    /// Serve each blob at that many bytes a second.
    #[arg(long)]
    pace: Option<usize>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let hub = FakeHub::builder().port(arguments.port).log(say).start();
    let hub = Arc::new(hub.await);
    fill(&hub, &arguments);
    let control_port = match arguments.port {
        0 => 0,
        port => port + 5,
    };
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, control_port)).await?;
    introduce(&hub, control.local_addr()?.port());
    tokio::select! {
        ended = serve_control(control, &hub) => ended,
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Prints a line at once; a reader who has left is no reason to stop.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

fn fill(hub: &FakeHub, arguments: &Arguments) {
    let layers = usize::from(arguments.layers);
    let (mut nginx, mut hello) = (ImageSpec::layers(layers), ImageSpec::layers(1).seed(2));
    if is_static_program(&arguments.binary) {
        nginx = nginx.binary(&arguments.binary);
        hello = hello.binary(&arguments.binary);
    } else {
        let binary = arguments.binary.display();
        say(&format!(
            "{binary} is no static program: the images hold data alone. They can be pulled, not run."
        ));
    }
    let image = hub.push_image("library/nginx", "latest", nginx);
    hub.move_tag("library/nginx", "1.27", &image.digest);
    hub.push_image("library/hello-world", "latest", hello);
    if let Some(bytes_per_second) = arguments.pace {
        hub.on(Origin::Cdn).fault(Fault::Pace { bytes_per_second });
    }
}

fn introduce(hub: &FakeHub, control: u16) {
    let (registry, token) = (hub.registry_url(), hub.token_url());
    say(&format!(
        "\
registry  {registry}
token     {token}
cdn       {cdn}
control   http://127.0.0.1:{control}/requests

Start the mirror:

  MIRROR_UPSTREAMS__DOCKER_IO__URL={registry} MIRROR_UPSTREAMS__DOCKER_IO__TOKEN_URL={token} \
cargo run --release -- serve --dir target/try

Pull through it:

  curl -s http://127.0.0.1:5000/v2/library/nginx/manifests/latest
  docker run --rm 127.0.0.1:5000/library/nginx:latest
  docker pull nginx:latest    # with \"registry-mirrors\": [\"http://127.0.0.1:5000\"]

ready; the requests follow",
        cdn = hub.cdn_url(),
    ));
}

async fn serve_control(listener: TcpListener, hub: &Arc<FakeHub>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let hub = Arc::clone(hub);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = control(&hub, &request);
                async { Ok::<_, Infallible>(answer) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let served = http.serve_connection(TokioIo::new(stream), service);
            drop(served.await); // whoever asked has left
        });
        while connections.try_join_next().is_some() {}
    }
}

fn control(hub: &FakeHub, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/requests") => (StatusCode::OK, hub.requests_as_json().to_string()),
        (&Method::DELETE, "/requests") => {
            hub.take_requests();
            (StatusCode::NO_CONTENT, String::new())
        }
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

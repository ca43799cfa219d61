//! A Docker Hub to try the mirror against without internet:
//!
//! ```text
//! cargo run --example fake_hub -- [--port 5055] [--binary /bin/busybox] [--layers N]
//! ```
//!
//! Prints how to start the mirror, then one line for each request it is asked. Ends on SIGTERM or Ctrl-C. What its
//! control port is for:
//!
//! - `GET /requests`: the record as JSON; `DELETE /requests` empties it.
//! - `GET /ca`, with `--tls`: the certificate of the authority to trust.
//! - `POST /images`: pushes another image in the place of `latest`, and answers its digest.
//! - `POST /outage/<name>`: the hub fails in that way until `DELETE /outage`; the names are those of `Outage`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
use support::{FakeHub, Fault, Image, ImageSpec, Origin, Outage};

const REPOSITORY: &str = "library/nginx";

/// A Docker Hub to try the mirror against without internet.
#[derive(Parser)]
struct Arguments {
    /// The registry's port; token, CDN, two foreign hosts and control get the next ones.
    /// 0 takes free ports.
    #[arg(long, default_value_t = 5055)]
    port: u16,
    /// The repository of the image; another, `library/hello-world`, has one of its own.
    #[arg(long, default_value = REPOSITORY)]
    repository: String,
    /// Other bytes in the layers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Serve https.
    #[arg(long)]
    tls: bool,
    /// The name by which the mirror is to reach the hub.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// A static busybox for the images to run.
    #[arg(long, default_value = "/bin/busybox")]
    binary: PathBuf,
    /// Layers of the image.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    layers: u16,
    /// Serve each blob at that many bytes a second.
    #[arg(long)]
    pace: Option<usize>,
}

/// The hub, and what it is made to do while it runs.
struct Stage {
    hub: FakeHub,
    repository: String,
    image: ImageSpec,
    seed: AtomicU64,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let stage = Arc::new(Stage::of(&arguments).await);
    let control_port = match arguments.port {
        0 => 0,
        port => port + 5,
    };
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, control_port)).await?;
    introduce(&stage.hub, control.local_addr()?.port());
    tokio::select! {
        ended = serve_control(control, &stage) => ended,
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

impl Stage {
    async fn of(arguments: &Arguments) -> Self {
        let hub = FakeHub::builder()
            .port(arguments.port)
            .host(&arguments.host)
            .tls(arguments.tls)
            .log(say);
        let stage = Self {
            hub: hub.start().await,
            repository: arguments.repository.clone(),
            image: image(arguments),
            seed: AtomicU64::new(arguments.seed),
        };
        stage.fill(arguments);
        stage
    }

    fn fill(&self, arguments: &Arguments) {
        let image = self.push();
        self.hub.move_tag(&self.repository, "1.27", &image.digest);
        let mut hello = ImageSpec::layers(1).seed(2);
        if is_static_program(&arguments.binary) {
            hello = hello.binary(&arguments.binary);
        }
        self.hub.push_image("library/hello-world", "latest", hello);
        if let Some(bytes_per_second) = arguments.pace {
            let cdn = self.hub.on(Origin::Cdn);
            cdn.fault(Fault::Pace { bytes_per_second });
        }
    }

    /// Pushes an image that was not pushed before as `latest`.
    fn push(&self) -> Image {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let image = self.image.clone().seed(seed);
        self.hub.push_image(&self.repository, "latest", image)
    }
}

fn image(arguments: &Arguments) -> ImageSpec {
    let image = ImageSpec::layers(usize::from(arguments.layers));
    if is_static_program(&arguments.binary) {
        return image.binary(&arguments.binary);
    }
    let binary = arguments.binary.display();
    say(&format!(
        "{binary} is no static program: the images hold data alone. They can be pulled, not run."
    ));
    image
}

/// Prints a line at once; a reader who has left is no reason to stop.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
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

async fn serve_control(listener: TcpListener, stage: &Arc<Stage>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let stage = Arc::clone(stage);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let stage = Arc::clone(&stage);
                async move { Ok::<_, Infallible>(control(&stage, &request).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let served = http.serve_connection(TokioIo::new(stream), service);
            drop(served.await); // whoever asked has left
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn control(stage: &Stage, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/requests") => (StatusCode::OK, stage.hub.requests_as_json().to_string()),
        (&Method::DELETE, "/requests") => {
            stage.hub.take_requests();
            (StatusCode::NO_CONTENT, String::new())
        }
        (&Method::GET, "/ca") if stage.hub.is_secure() => {
            (StatusCode::OK, stage.hub.ca_pem().to_owned())
        }
        (&Method::POST, "/images") => (StatusCode::CREATED, stage.push().digest),
        (&Method::DELETE, "/outage") => {
            stage.hub.end_outage().await;
            (StatusCode::NO_CONTENT, String::new())
        }
        (&Method::POST, path) => (begin_outage(&stage.hub, path).await, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

async fn begin_outage(hub: &FakeHub, path: &str) -> StatusCode {
    let name = path.strip_prefix("/outage/");
    match name.and_then(|name| name.parse::<Outage>().ok()) {
        Some(outage) => {
            hub.begin_outage(outage).await;
            StatusCode::NO_CONTENT
        }
        None => StatusCode::NOT_FOUND,
    }
}

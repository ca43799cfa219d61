//! A server of the HTTP floor with a stub behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mirror::directory::{Directory, Entry, Rules};
use mirror::http::{
    AccessSink, Drained, HttpMetrics, ListenAddress, Server, Service, Settings, Telemetry,
};
use mirror::sys::clock::SystemClock;
use mirror::sys::current::Current;
use prometheus_client::registry::Registry as MetricRegistry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::stub::Stub;
use super::until;
use super::wire::Client;

pub(super) struct TestServer {
    pub(super) stub: Arc<Stub>,
    pub(super) addresses: Vec<ListenAddress>,
    log: Arc<Mutex<Vec<String>>>,
    end: oneshot::Sender<()>,
    running: JoinHandle<Drained>,
}

impl TestServer {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server whose settings are changed first.
    pub(super) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            listen: vec!["127.0.0.1:0".parse::<ListenAddress>().unwrap().into()],
            ..Settings::default()
        };
        change(&mut settings);
        let stub = Stub::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let service = service(Arc::clone(&stub), Arc::clone(&log));
        let server = Server::bind(settings, service).await.unwrap();
        let addresses = server.local_addresses().unwrap();
        let (end, ended) = oneshot::channel();
        let running = tokio::spawn(server.serve(async { ended.await.unwrap_or_default() }));
        Self {
            stub,
            addresses,
            log,
            end,
            running,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.addresses[0].socket().expect("a TCP address")
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Tells the server to end; the handle waits until it has.
    pub(super) fn shut_down(self) -> JoinHandle<Drained> {
        self.end.send(()).unwrap();
        self.running
    }

    /// The access log, once it has `count` lines.
    pub(super) async fn log(&self, count: usize) -> Vec<serde_json::Value> {
        until("a log line", || self.log.lock().unwrap().len() >= count).await;
        let lines = self.log.lock().unwrap();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

pub(super) fn service(stub: Arc<Stub>, log: Arc<Mutex<Vec<String>>>) -> Service {
    let mut registry = MetricRegistry::default();
    let metrics = HttpMetrics::register(&mut registry);
    let docker_hub = Entry {
        registry: stub,
        rules: Rules::default(),
    };
    let upstreams = BTreeMap::from([("docker.io".to_owned(), docker_hub)]);
    let access: AccessSink = Arc::new(move |line| log.lock().unwrap().push(line));
    Service {
        directory: Arc::new(Current::new(Directory::new(upstreams))),
        telemetry: Telemetry {
            metrics,
            registry: Arc::new(registry),
            access: Arc::new(Current::new(Some(access))),
        },
        clock: SystemClock::new(),
    }
}

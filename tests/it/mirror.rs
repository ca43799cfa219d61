//! A mirror in this process, in front of a FakeHub, and the questions tests ask of it.

#![expect(clippy::unwrap_used, reason = "support for tests")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirror::app::App;
use mirror::config::{DEFAULT_UPSTREAM, Settings, UpstreamSettings};
use mirror::sys::clock::{Clock as _, ManualClock, SystemClock};
use mirror::sys::telemetry::AccessTarget;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Response, request};
use crate::support::FakeHub;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running mirror. Its clock stands still until a test moves it; its data directory outlives a restart.
pub(crate) struct TestMirror {
    pub(crate) clock: Arc<ManualClock>,
    address: SocketAddr,
    settings: Settings,
    directory: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl TestMirror {
    /// A mirror of `hub` with short patience and otherwise default settings.
    pub(crate) async fn start(hub: &FakeHub) -> Self {
        Self::start_with(hub, |_| {}).await
    }

    /// The same after `change` of its settings.
    pub(crate) async fn start_with(hub: &FakeHub, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = settings(hub, directory.path());
        change(&mut settings);
        let clock = ManualClock::starting_at(SystemClock::new().wall());
        let (address, stop, task) = launch(&settings, &clock).await;
        Self {
            clock,
            address,
            settings,
            directory,
            stop,
            task,
        }
    }

    /// Ends the mirror in order and starts it again on the same data.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same after `change` of its settings.
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Self {
            clock,
            mut settings,
            directory,
            stop,
            task,
            ..
        } = self;
        stop.send(()).unwrap();
        task.await.unwrap();
        change(&mut settings);
        let (address, stop, task) = launch(&settings, &clock).await;
        Self {
            clock,
            address,
            settings,
            directory,
            stop,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        request("GET", &self.url(path), headers).await
    }

    pub(crate) async fn head(&self, path: &str) -> Response {
        request("HEAD", &self.url(path), &[]).await
    }

    pub(crate) async fn blob(&self, repository: &str, digest: &str) -> Response {
        self.get(&format!("/v2/{repository}/blobs/{digest}")).await
    }

    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> Response {
        self.get(&format!("/v2/{repository}/manifests/{reference}"))
            .await
    }

    pub(crate) fn data(&self) -> &Path {
        self.directory.path()
    }

    /// The digests of the blobs on disk, each verified against its file's bytes, in order.
    pub(crate) fn cached(&self) -> Vec<String> {
        cached(self.data())
    }

    /// The names of unfinished downloads on disk.
    pub(crate) fn spooled(&self) -> Vec<PathBuf> {
        files(&self.data().join("spool"))
    }

    /// Waits until `digest` is on disk, which happens after its last reader has its bytes.
    pub(crate) async fn wait_until_cached(&self, digest: &str) {
        self.wait_until("the blob is cached", || {
            self.cached().iter().any(|held| held == digest)
        })
        .await;
        self.wait_until("its spool is gone", || self.spooled().is_empty())
            .await;
    }

    /// Waits until the mirror has noticed that its upstream answers again.
    pub(crate) async fn wait_until_upstream_answers(&self) {
        let suspended = "mirror_upstream_suspended{upstream=\"docker.io\"} 1";
        let noticing = async {
            loop {
                let page = self.get("/metrics").await.body;
                if !String::from_utf8_lossy(&page).contains(suspended) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let noticed = tokio::time::timeout(PATIENCE, noticing).await;
        noticed.expect("the upstream stays suspended");
    }

    pub(crate) async fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("never came true: {what}"));
    }
}

/// Settings of a mirror of `hub` below `directory`, on a port that the system chooses.
pub(crate) fn settings(hub: &FakeHub, directory: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.server.listen = vec!["127.0.0.1:0".parse().unwrap()];
    directory.clone_into(&mut settings.storage.dir);
    settings.log.access = AccessTarget::Off;
    settings
        .upstreams
        .insert(DEFAULT_UPSTREAM.to_owned(), upstream(hub));
    settings
}

/// Settings of an upstream that is `hub`, with short patience.
pub(crate) fn upstream(hub: &FakeHub) -> UpstreamSettings {
    UpstreamSettings {
        url: hub.registry_url().parse().unwrap(),
        token_url: Some(hub.token_url().parse().unwrap()),
        timeout: Duration::from_secs(5),
        stall: Duration::from_millis(500),
        ..UpstreamSettings::default()
    }
}

async fn launch(
    settings: &Settings,
    clock: &Arc<ManualClock>,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let app = App::build(settings, Arc::<ManualClock>::clone(clock))
        .await
        .unwrap();
    let addresses = app.addresses().unwrap();
    // Further listeners of a test's own come after it.
    let address = addresses.first().unwrap().socket().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        stopped.await.ok();
    };
    let task = tokio::spawn(async move {
        app.run(shutdown, futures_util::stream::empty()).await;
    });
    (address, stop, task)
}

/// The digests of the blobs below a data directory, each verified against its file's bytes, in order.
pub(crate) fn cached(data: &Path) -> Vec<String> {
    let mut digests: Vec<_> = files(&data.join("blobs"))
        .iter()
        .map(|file| verified(file))
        .collect();
    digests.sort_unstable();
    digests
}

fn verified(file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let digest = Sha256::digest(fs::read(file).unwrap());
    let hex = digest
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(
        hex,
        name,
        "{} holds other bytes than its name says",
        file.display()
    );
    format!("sha256:{hex}")
}

/// Every file below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

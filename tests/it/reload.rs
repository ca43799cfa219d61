//! The configuration changes while the mirror runs: a good one is taken on, a bad one changes nothing, and no request
//! notices.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::client::{End, exchange};
use crate::process::{Launch, Process, send, wait_until};
use crate::support::image::seeded_bytes;
use crate::support::{At, FakeHub, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";
const SECRET: &str = "alice/secret";
const PATH: &str = "/v2/library/nginx/manifests/latest";

/// A mirror whose configuration is a file that a test changes.
struct Stage {
    directory: tempfile::TempDir,
    hub: FakeHub,
    image: Image,
    mirror: Process,
}

impl Stage {
    async fn start(more: &str) -> Self {
        let hub = FakeHub::builder().user("alice", "right").start().await;
        let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
        hub.push_image(SECRET, "latest", ImageSpec::layers(1).seed(7));
        hub.make_private(SECRET, "alice");
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("mirror.toml");
        fs::write(&config, configuration(&hub, more)).unwrap();
        let launch = Launch::new(&directory.path().join("data"));
        let launch = launch.set("CONFIG", &config.to_string_lossy());
        let mirror = launch.start().await;
        Self {
            directory,
            hub,
            image,
            mirror,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, text: &str) {
        // At once, as an editor or a mounted secret does it.
        let new = self.file("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file("mirror.toml")).unwrap();
    }

    /// Changes the configuration and says so.
    async fn reload(&self, more: &str) {
        self.write(&configuration(&self.hub, more));
        self.hang_up().await;
    }

    async fn hang_up(&self) {
        let before = self.mirror.times_logged("the configuration is in force");
        send(self.mirror.pid(), Signal::HUP);
        wait_until("the configuration is in force", || {
            self.mirror.times_logged("the configuration is in force") > before
        })
        .await;
    }
}

/// A configuration of `hub`, `more` of it in the upstream's table and after it.
fn configuration(hub: &FakeHub, more: &str) -> String {
    let (url, token_url) = (hub.registry_url(), hub.token_url());
    format!(
        "[upstreams.\"docker.io\"]\nurl = \"{url}\"\ntoken_url = \"{token_url}\"\nstall = \"1h\"\n{more}\n"
    )
}

/// Clients that pull a tag again and again, each request on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(stage: &Stage) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let address = stage.mirror.tcp_address();
        let blob = &stage.image.first().layers[0];
        let clients = (0..8).map(|_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let (manifest, layer) = (stage.image.bytes.clone(), blob.bytes.clone());
            let path = format!("/v2/{NGINX}/blobs/{}", blob.digest);
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    for (path, bytes) in [(PATH, &manifest), (&path, &layer)] {
                        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                        let answer = exchange(&mut stream, "GET", path, &[]).await;
                        assert_eq!((answer.status, answer.end), (200, End::Complete));
                        assert!(answer.body == bytes[..], "wrong bytes");
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let clients = clients.collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits until the clients got some more answers.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        wait_until("clients are answered", || {
            self.answered.load(Ordering::SeqCst) >= before + 32
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_and_then_a_good_one_fail_no_request() {
    let stage = Stage::start("").await;
    let bytes = seeded_bytes(3, 400_000).to_vec();
    let digest = stage.hub.push_blob(NGINX, bytes.clone());
    let gate = stage.hub.on(Origin::Cdn).times(1).hold(At::Percent(50));
    let mut stream = stage.mirror.connect().await.unwrap();
    let path = format!("/v2/{NGINX}/blobs/{digest}");
    let transfer = tokio::spawn(async move { exchange(&mut stream, "GET", &path, &[]).await });
    gate.wait_for(1).await;
    let load = Load::begin(&stage);
    load.goes_on().await;

    stage.write("[cache]\ntag_ttl = \"7 fortnights\"\nmax_sise = \"1GiB\"\n");
    send(stage.mirror.pid(), Signal::HUP);
    stage
        .mirror
        .wait_for_log("the settings in force stay")
        .await;
    stage.mirror.wait_for_log("cache.tag_ttl").await;
    stage.mirror.wait_for_log("max_sise").await;
    load.goes_on().await;

    let account = "username = \"alice\"\npassword = \"right\"\n[cache]\ntag_ttl = \"0s\"\n[access]\nanonymous_private = true";
    assert_eq!(stage.mirror.manifest(SECRET, "latest").await.status, 404);
    stage.reload(account).await;
    load.goes_on().await;
    load.end().await;
    // Neither the refusal nor the token of before counts, and the tag is asked for each time.
    assert_eq!(stage.mirror.manifest(SECRET, "latest").await.status, 200);
    stage.hub.take_requests();
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    let asked = "registry HEAD library/nginx/manifests/latest".to_owned();
    assert!(stage.hub.take_summary().contains(&asked));

    gate.release();
    let answer = transfer.await.unwrap();
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == bytes, "wrong bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_by_itself_ends_with_its_configuration() {
    let stage = Stage::start("retries = 0\n[cache]\ntag_ttl = \"0s\"").await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    stage.hub.stop().await;
    // From now on the tag is asked for in the background, and the upstream is probed.
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    stage.reload("[server]\noffline = true").await;
    stage.hub.restart().await;
    stage.hub.take_requests();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    assert_eq!(stage.hub.take_summary(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_settings_did_not_change_keeps_its_token() {
    let stage = Stage::start("").await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    assert!(stage.hub.take_summary()[0].starts_with("token "));
    stage.reload("[cache]\ntag_ttl = \"0s\"").await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    let asked = ["registry HEAD library/nginx/manifests/latest"];
    assert_eq!(stage.hub.take_summary(), asked);
    stage.reload("retries = 4\n[cache]\ntag_ttl = \"0s\"").await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    assert!(stage.hub.take_summary()[0].starts_with("token "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_is_noticed_without_a_signal() {
    let stage = Stage::start("").await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    stage.write(&configuration(&stage.hub, "deny = [\"nginx\"]"));
    stage
        .mirror
        .wait_for_log("the configuration is in force")
        .await;
    let refused = stage.mirror.get(PATH).await;
    let error = &refused.json()["errors"][0];
    assert_eq!(
        (refused.status, error["code"].as_str()),
        (403, Some("DENIED"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("upstreams.\"docker.io\".deny"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_and_stays() {
    let stage = Stage::start("").await;
    let more = "[server]\nmax_connections = 7\n[storage]\nfsync = \"always\"";
    stage.reload(more).await;
    for key in ["server.max_connections", "storage.fsync"] {
        let line = format!("{key} has changed, which waits for a restart");
        stage.mirror.wait_for_log(&line).await;
    }
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let stage = Stage::start("").await;
    let more = "ca = \"/nonexistent/ca.pem\"\ndeny = [\"nginx\"]";
    stage.write(&configuration(&stage.hub, more));
    send(stage.mirror.pid(), Signal::HUP);
    stage.mirror.wait_for_log("/nonexistent/ca.pem").await;
    stage
        .mirror
        .wait_for_log("the settings in force stay")
        .await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (log, old) = (
        directory.path().join("access.log"),
        directory.path().join("old"),
    );
    let more = format!("[log]\naccess = \"{}\"", log.display());
    let stage = Stage::start(&more).await;
    let lines = |path: &PathBuf| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .matches(PATH)
            .count()
    };
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    wait_until("the line is written", || lines(&log) == 1).await;
    fs::rename(&log, &old).unwrap();
    stage.hang_up().await;
    assert_eq!(stage.mirror.get(PATH).await.status, 200);
    wait_until("the line is in the new file", || lines(&log) == 1).await;
    assert_eq!(lines(&old), 1);
}

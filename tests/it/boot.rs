//! The start: with no network at all, and with everything that can be in its way.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot prepare its stage fails"
)]

use std::io::{Read as _, pipe};
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use crate::client::{End, exchange};
use crate::process::{Launch, Process};
use crate::support::{FakeHub, Image, ImageSpec};

const NGINX: &str = "library/nginx";

/// A data directory that holds one image, below a directory of the test.
struct Warm {
    directory: tempfile::TempDir,
    hub: FakeHub,
    image: Image,
}

impl Warm {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let image = hub.push_image(NGINX, "latest", ImageSpec::layers(3));
        let warm = Self {
            directory: tempfile::tempdir().unwrap(),
            hub,
            image,
        };
        let mirror = Launch::of(&warm.hub, &warm.data()).start().await;
        warm.pull(&mirror).await;
        let ended = mirror.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        warm.hub.stop().await;
        warm
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// `unix:` and a path that works across network namespaces.
    fn socket(&self) -> String {
        format!("unix:{}", self.directory.path().join("socket").display())
    }

    async fn pull(&self, mirror: &Process) {
        let platform = self.image.first();
        let tag = mirror.manifest(NGINX, "latest").await;
        assert_eq!((tag.status, &tag.body[..]), (200, &self.image.bytes[..]));
        let manifest = mirror.manifest(NGINX, &platform.digest).await;
        assert_eq!(
            (manifest.status, &manifest.body[..]),
            (200, &platform.bytes[..])
        );
        for blob in platform.blobs() {
            let answer = mirror.blob(NGINX, &blob.digest).await;
            assert_eq!((answer.status, answer.end), (200, End::Complete));
            assert_eq!(&answer.body[..], &blob.bytes[..]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_upstream_refusing_it_starts_and_serves_what_it_has() {
    let warm = Warm::new().await;
    for ttl in ["1h", "0s"] {
        let launch = Launch::of(&warm.hub, &warm.data())
            .set("CACHE__TAG_TTL", ttl)
            .set("UPSTREAMS__DOCKER_IO__RETRIES", "1");
        let mirror = launch.start().await;
        println!("from its start to its first answer: {:?}", mirror.age());
        warm.pull(&mirror).await;
    }
    assert_eq!(warm.hub.take_summary().len(), 7 + 4, "the cold pull alone");
}

/// Docker Hub's own address, and no route to anything: names cannot be resolved, and not even loopback is up.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_interface_it_starts_and_serves_what_it_has() {
    let wrapper = ["unshare", "--net"];
    if !works(&wrapper) {
        println!("skipped: a new network namespace takes root");
        return;
    }
    let warm = Warm::new().await;
    for ttl in ["1h", "0s"] {
        let launch = Launch::new(&warm.data())
            .set("CACHE__TAG_TTL", ttl)
            .set("UPSTREAMS__DOCKER_IO__RETRIES", "1");
        let launch = launch.listen(&warm.socket()).within(&wrapper);
        let mirror = launch.start().await;
        println!("from its start to its first answer: {:?}", mirror.age());
        warm.pull(&mirror).await;
        let unknown = mirror.manifest(NGINX, "other").await;
        assert_eq!(unknown.status, 503, "{}", unknown.head);
        let ended = mirror.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

/// Whether a command that executes its arguments can be used here.
pub(crate) fn works(wrapper: &[&str]) -> bool {
    let mut command = Command::new(wrapper[0]);
    let output = command.args(&wrapper[1..]).arg("true").output();
    output.is_ok_and(|output| output.status.success())
}

/// Asserts that a start is refused with `code`, and that stderr has every one of `parts`.
async fn assert_refused(launch: Launch, code: i32, parts: &[&str]) {
    let ended = launch.refused().await;
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for part in parts {
        assert!(
            ended.stderr.contains(part),
            "no {part:?} in:\n{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).listen(&address);
    let what = format!("cannot listen on {address}: another process already does");
    assert_refused(launch, 1, &[&what, "--listen"]).await;
}

#[tokio::test]
async fn a_directory_in_use_is_told_with_the_process_that_has_it() {
    let data = tempfile::tempdir().unwrap();
    let mirror = Launch::new(data.path()).start().await;
    let holder = format!("lock is in use by process {}", mirror.pid());
    let launch = Launch::new(data.path()).set("SERVER__LOCK_WAIT", "100ms");
    assert_refused(launch, 1, &[&holder, "stop that process", "--dir"]).await;
    assert_eq!(mirror.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn the_next_process_takes_over_as_soon_as_the_last_one_ends() {
    let data = tempfile::tempdir().unwrap();
    let first = Launch::new(data.path()).start().await;
    let second = Launch::new(data.path()).set("SERVER__LOCK_WAIT", "1h");
    let second = second.spawn();
    let waiting = format!("waiting for process {} to end", first.pid());
    second.wait_for_log(&waiting).await;
    let ended = first.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let second = second.ready().await;
    assert_eq!(second.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_process_that_waits_for_the_directory_can_be_told_to_end() {
    let data = tempfile::tempdir().unwrap();
    let first = Launch::new(data.path()).start().await;
    let second = Launch::new(data.path()).set("SERVER__LOCK_WAIT", "1h");
    let second = second.spawn();
    let waiting = format!("waiting for process {} to end", first.pid());
    second.wait_for_log(&waiting).await;
    let ended = second.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(first.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let data = file.join("data");
    let what = format!("cannot use the data directory {}", data.display());
    let launch = Launch::new(&data);
    assert_refused(launch, 1, &[&what, "Not a directory", "--dir"]).await;
}

#[tokio::test]
async fn a_newer_format_is_refused_with_the_version_that_wrote_it() {
    let data = tempfile::tempdir().unwrap();
    let format = "format = 2\nwritten_by = 3.1.4\n";
    std::fs::write(data.path().join("format"), format).unwrap();
    let parts = [
        "was written by mirror 3.1.4, in format 2",
        "nothing was changed",
    ];
    assert_refused(Launch::new(data.path()), 2, &parts).await;
    assert_eq!(names(data.path()), ["format", "lock"]);
}

#[tokio::test]
async fn a_newer_index_is_refused_with_the_version_that_wrote_it() {
    let data = tempfile::tempdir().unwrap();
    Launch::new(data.path()).start().await.stop().await;
    let path = data.path().join("index.sqlite3");
    let index = Connection::open(&path).unwrap();
    index
        .execute_batch(
            "PRAGMA user_version = 999;
             UPDATE meta SET value = '3.1.4' WHERE key = 'written_by';",
        )
        .unwrap();
    drop(index);
    let before = std::fs::read(&path).unwrap();
    let parts = ["was written by mirror 3.1.4", "nothing was changed"];
    assert_refused(Launch::new(data.path()), 2, &parts).await;
    assert!(std::fs::read(&path).unwrap() == before, "it was touched");
}

#[tokio::test]
async fn an_index_that_is_none_is_told_with_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("index.sqlite3");
    std::fs::write(&path, [b'x'; 8192]).unwrap();
    let what = path.display().to_string();
    let parts = [
        &*what,
        "file is not a database",
        "move the data directory away",
    ];
    assert_refused(Launch::new(data.path()), 1, &parts).await;
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(name)
        .map(|it| it.into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// More lines than a pipe and the log's own buffer hold.
const MANY: usize = 8_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_neither_pulls_nor_the_end() {
    let warm = Warm::new().await;
    let (mut lines, stdout) = pipe().unwrap();
    let launch = Launch::of(&warm.hub, &warm.data())
        .set("CACHE__TAG_TTL", "1h")
        .set("LOG__LEVEL", "debug")
        .set("LOG__ACCESS", "stdout")
        .listen(&warm.socket())
        .stdout(stdout)
        .stderr_unread();
    let mirror = launch.start().await;
    let mut client = mirror.connect().await.unwrap();
    let path = format!("/v2/{NGINX}/manifests/latest");
    for _ in 0..MANY {
        let answer = exchange(&mut client, "HEAD", &path, &[]).await;
        assert_eq!(answer.status, 200);
    }
    warm.pull(&mirror).await;
    let ended = mirror.stop().await;
    assert_eq!(ended.code, Some(0));
    let mut taken = String::new();
    lines.read_to_string(&mut taken).unwrap();
    let taken = taken.lines().count();
    assert!(
        (1..MANY).contains(&taken),
        "{taken} lines: nothing was held up"
    );
}

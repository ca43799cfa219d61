//! The upstream, as a process of its own, so that it costs the servers nothing but processor time of the machine.
//!
//! It is the tests' FakeHub, told what to hold by lines on its stdin, each answered by one line on stdout. Blobs are
//! redirected to an nginx, which is given the same bytes as files: the CDN is never what limits a download.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, Fault, ImageSpec, Origin};

/// The argument that makes this program an upstream.
pub(crate) const ROLE: &str = "upstream";

/// The one repository there is.
pub(crate) const REPOSITORY: &str = "bench/image";

/// The one tag there is.
const TAG: &str = "latest";

/// The path of the image, by its tag.
pub(crate) fn by_tag() -> String {
    format!("/v2/{REPOSITORY}/manifests/{TAG}")
}

/// An upstream that runs.
#[derive(Debug)]
pub(crate) struct Hub {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) registry: String,
    pub(crate) token: String,
}

/// The requests an upstream was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) all: usize,
    /// GETs of blobs alone.
    pub(crate) blobs: usize,
}

impl Hub {
    /// Starts an upstream that leaves its content below `files` too.
    pub(crate) fn start(files: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(ROLE).arg(files);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut hub = Self {
            child,
            input,
            output,
            registry: String::new(),
            token: String::new(),
        };
        let urls = hub.answer();
        hub.registry = text(&urls["registry"]);
        hub.token = text(&urls["token"]);
        hub
    }

    /// Pushes a blob that can be fetched from `cdn`; returns its digest.
    pub(crate) fn push_blob(&mut self, bytes: usize, cdn: SocketAddr) -> String {
        text(&self.ask(&json!({"blob": bytes, "cdn": cdn.to_string()})))
    }

    /// Pushes an image of ten layers; returns the digest of its index.
    pub(crate) fn push_image(&mut self) -> String {
        text(&self.ask(&json!({"image": 10})))
    }

    /// What was asked since the last time.
    pub(crate) fn take_asked(&mut self) -> Asked {
        let lines = self.ask(&json!({"take": true}));
        let lines: Vec<&str> = lines
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let is_blob = |line: &&&str| line.starts_with("registry GET") && line.contains("/blobs/");
        Asked {
            all: lines.len(),
            blobs: lines.iter().filter(is_blob).count(),
        }
    }

    fn ask(&mut self, command: &Value) -> Value {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the upstream answers")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.input.take()); // the end of its input is its end
        drop(self.child.wait());
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Is the upstream, until stdin ends.
pub(crate) fn run(files: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hub = runtime.block_on(FakeHub::start());
    say(&json!({"registry": hub.registry_url(), "token": hub.token_url()}));
    for (seed, line) in (1..).zip(io::stdin().lines()) {
        let command: Value = serde_json::from_str(&line.unwrap()).unwrap();
        say(&obey(&hub, files, seed, &command));
    }
    runtime.block_on(hub.shutdown());
}

fn say(value: &Value) {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).unwrap();
}

fn obey(hub: &FakeHub, files: &Path, seed: u64, command: &Value) -> Value {
    if let Some(size) = command["blob"].as_u64() {
        let bytes = seeded_bytes(seed, usize::try_from(size).unwrap());
        let digest = hub.push_blob(REPOSITORY, bytes.clone());
        save(files, "blobs", &digest, &bytes);
        if let Some(cdn) = command["cdn"].as_str() {
            let location = format!("http://{cdn}/v2/{REPOSITORY}/blobs/{digest}");
            let rule = hub.on(Origin::Registry).blobs().digest(&digest);
            rule.fault(Fault::SetHeader("location", location));
        }
        return json!(digest);
    }
    if let Some(layers) = command["image"].as_u64() {
        let spec = ImageSpec::layers(usize::try_from(layers).unwrap());
        let image = hub.push_image(REPOSITORY, TAG, spec);
        save(files, "manifests", &image.digest, &image.bytes);
        save(files, "manifests", TAG, &image.bytes);
        return json!(image.digest);
    }
    json!(hub.take_summary())
}

fn save(files: &Path, kind: &str, name: &str, bytes: &Bytes) {
    let directory = files.join("v2").join(REPOSITORY).join(kind);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), bytes).unwrap();
}

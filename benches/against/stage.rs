//! What all parts share: the upstream, its content, the CDN, and the mirror that is measured.

use std::cell::{RefCell, RefMut};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::client;
use crate::hub::{Hub, REPOSITORY};
use crate::options::Options;
use crate::servers::{Kind, Log, Server};

pub(crate) struct Stage {
    pub(crate) options: Options,
    pub(crate) binary: PathBuf,
    /// Serves the blobs that the upstream redirects to.
    cdn: Server,
    hub: RefCell<Hub>,
    index: String,
    files: TempDir,
}

impl Stage {
    pub(crate) fn set(options: Options) -> Self {
        let binary = options.binary.clone().unwrap_or_else(build);
        let files = tempfile::tempdir().unwrap();
        let mut hub = Hub::start(files.path());
        let index = hub.push_image();
        let cdn = Server::nginx(files.path(), Log::Off);
        Self {
            options,
            binary,
            cdn,
            hub: RefCell::new(hub),
            index,
            files,
        }
    }

    pub(crate) fn hub(&self) -> RefMut<'_, Hub> {
        self.hub.borrow_mut()
    }

    /// The upstream's content as files below their paths.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    pub(crate) fn cdn(&self) -> SocketAddr {
        self.cdn.address()
    }

    /// The servers, each on an empty directory. Without docker-registry when that was asked for.
    pub(crate) fn servers(&self, kinds: &[Kind], log: Log) -> Vec<Server> {
        let kinds = kinds.iter().filter(|kind| self.has(**kind));
        kinds.map(|kind| Server::start(*kind, self, log)).collect()
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        kind != Kind::Registry || self.options.registry
    }

    /// Pushes a blob; returns its path. It has that size, or a small one in a quick round.
    pub(crate) fn push_blob(&self, bytes: usize) -> String {
        let bytes = self.options.size(bytes);
        self.push_exactly(bytes)
    }

    /// Pushes a blob of that size; returns its path.
    pub(crate) fn push_exactly(&self, bytes: usize) -> String {
        let digest = self.hub().push_blob(bytes, self.cdn());
        format!("/v2/{REPOSITORY}/blobs/{digest}")
    }

    pub(crate) fn by_digest(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.index)
    }

    /// A token for the repository, as a header's value.
    pub(crate) fn bearer(&self) -> String {
        let (address, path) = locate(&self.hub().token);
        let path = format!("{path}?service=bench&scope=repository:{REPOSITORY}:pull");
        let answer: Value = serde_json::from_slice(&client::read(address, &path)).unwrap();
        format!("Bearer {}", answer["token"].as_str().unwrap())
    }

    pub(crate) fn registry(&self) -> SocketAddr {
        locate(&self.hub().registry).0
    }
}

/// Address and path of a URL.
pub(crate) fn locate(url: &str) -> (SocketAddr, String) {
    let rest = url.strip_prefix("http://").expect("a plain URL");
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    (address.parse().unwrap(), format!("/{path}"))
}

/// Builds the release binary. The one that cargo builds along with a benchmark has the tests' features in it.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--bin", "mirror"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(
        command.status().unwrap().success(),
        "the mirror does not build"
    );
    env!("CARGO_BIN_EXE_mirror").into()
}

//! The mirror and the others, each as it is started here.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::{Running, free_address};
use crate::stage::Stage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mirror,
    /// Serves the files, and knows nothing of registries.
    Nginx,
    /// docker-registry 2.8 as a proxy of the same upstream.
    Registry,
}

/// Whether requests are logged, to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    On,
    Off,
}

/// A server, and the directory that is its own.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) running: Running,
    _directory: TempDir,
}

impl Server {
    pub(crate) fn start(kind: Kind, stage: &Stage, log: Log) -> Self {
        match kind {
            Kind::Mirror => Self::mirror(stage, log),
            Kind::Nginx => Self::nginx(stage.files(), log),
            Kind::Registry => Self::registry(stage, log),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address
    }

    fn new(
        kind: Kind,
        directory: TempDir,
        prepare: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Self {
        let address = free_address();
        let command = prepare(directory.path(), address);
        Self {
            kind,
            running: Running::start(command, address),
            _directory: directory,
        }
    }

    /// With its defaults, but for the log, and for tags that stay fresh longer than a run lasts.
    fn mirror(stage: &Stage, log: Log) -> Self {
        Self::new(Kind::Mirror, empty(), |directory, address| {
            let hub = stage.hub();
            let mut command = Command::new(&stage.binary);
            command.args(["serve", "--listen", &address.to_string(), "--dir"]);
            command.arg(directory.join("data")).env_clear();
            command.env("MIRROR_UPSTREAMS__DOCKER_IO__URL", &hub.registry);
            command.env("MIRROR_UPSTREAMS__DOCKER_IO__TOKEN_URL", &hub.token);
            command.env("MIRROR_CACHE__TAG_TTL", "1h");
            command.env("MIRROR_LOG__LEVEL", "error");
            match log {
                Log::On => command.env("MIRROR_LOG__ACCESS", directory.join("access.log")),
                Log::Off => command.env("MIRROR_LOG__ACCESS", "off"),
            };
            command
        })
    }

    /// Serves `files` as they are.
    pub(crate) fn nginx(files: &Path, log: Log) -> Self {
        Self::new(Kind::Nginx, empty(), |directory, address| {
            let configuration = directory.join("nginx.conf");
            let text = nginx_configuration(directory, files, address, log);
            fs::write(&configuration, text).unwrap();
            let mut command = Command::new("nginx");
            command
                .arg("-p")
                .arg(directory)
                .arg("-c")
                .arg(configuration);
            command.args(["-e", "stderr"]);
            command
        })
    }

    fn registry(stage: &Stage, log: Log) -> Self {
        Self::new(Kind::Registry, empty(), |directory, address| {
            let configuration = directory.join("config.yml");
            let data = directory.join("data");
            let (data, upstream, is_off) = (data.display(), &stage.hub().registry, log == Log::Off);
            let text = format!(
                "version: 0.1\n\
                 log:\n  level: error\n  accesslog:\n    disabled: {is_off}\n\
                 storage:\n  cache:\n    blobdescriptor: inmemory\n  filesystem:\n    rootdirectory: {data}\n\
                 http:\n  addr: {address}\n\
                 proxy:\n  remoteurl: {upstream}\n"
            );
            fs::write(&configuration, text).unwrap();
            let mut command = Command::new("docker-registry");
            command
                .arg("serve")
                .arg(configuration)
                .stderr(Stdio::null());
            command
        })
    }
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn nginx_configuration(directory: &Path, files: &Path, address: SocketAddr, log: Log) -> String {
    let mut text = String::new();
    if rustix::process::getuid().is_root() {
        text += "user root;\n"; // the files are below a directory of root's
    }
    let log = match log {
        Log::On => directory.join("access.log").display().to_string(),
        Log::Off => "off".to_owned(),
    };
    let (files, pid) = (files.display(), directory.join("pid"));
    let pid = pid.display();
    write!(
        text,
        "daemon off;\nworker_processes 2;\npid {pid};\nerror_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log {log};\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000000;\n\
         default_type application/octet-stream;\n"
    )
    .unwrap();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let path = directory.join(kind);
        writeln!(text, "  {kind}_temp_path {};", path.display()).unwrap();
    }
    write!(
        text,
        "  server {{\n    listen {address} backlog=4096;\n    root {files};\n\
         location = /v2/ {{ return 200; }}\n\
         location ~ /manifests/ {{ default_type application/vnd.oci.image.index.v1+json; }}\n  }}\n}}\n"
    )
    .unwrap();
    text
}

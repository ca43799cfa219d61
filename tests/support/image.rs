//! Images made of seeded bytes: the same [`ImageSpec`] always gives the same digests.
//!
//! Every layer is a genuine `tar.gz` with one file, every config names the right `diff_ids`, so
//! that real clients can unpack what they pulled.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// `sha256:` and the 64 hex digits of the bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// Whether a file is a 64-bit little-endian ELF program that needs no dynamic loader.
pub fn is_static_program(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| elf_without_loader(&bytes).unwrap_or(false))
}

fn elf_without_loader(bytes: &[u8]) -> Option<bool> {
    const LOADER: u32 = 3; // PT_INTERP
    let number = |at: usize| Some(usize::from(u16::from_le_bytes(*bytes[at..].first_chunk()?)));
    if bytes.len() < 64 || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(*bytes[32..].first_chunk()?)).ok()?;
    let (size, count) = (number(54)?, number(56)?);
    for entry in 0..count {
        let at = table.checked_add(entry * size)?;
        if u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) == LOADER {
            return Some(false);
        }
    }
    Some(true)
}

/// Deterministic bytes that do not compress.
pub fn seeded_bytes(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

/// A config or layer: what a descriptor points at.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of `bytes`.
    pub digest: String,
    /// The media type its descriptor names.
    pub media_type: String,
    /// The content.
    pub bytes: Bytes,
}

impl Blob {
    fn new(media_type: &str, bytes: Bytes) -> Self {
        Self {
            digest: digest_of(&bytes),
            media_type: media_type.to_owned(),
            bytes,
        }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An operating system and an architecture, as an index names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// For example `linux`.
    pub os: String,
    /// For example `amd64`.
    pub architecture: String,
}

impl Platform {
    /// A Linux platform.
    pub fn linux(architecture: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
        }
    }

    /// The platform of the machine this runs on, in Go's words.
    pub fn host() -> Self {
        Self::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        })
    }
}

/// Whose media types a manifest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/vnd.oci.image.*`.
    Oci,
    /// `application/vnd.docker.*`, schema 2.
    Docker,
}

impl Format {
    /// The media type of an index or manifest list.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The media type of a platform's manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// One platform of an [`Image`].
#[derive(Clone, Debug)]
pub struct PlatformImage {
    /// What it runs on.
    pub platform: Platform,
    /// The digest of the manifest.
    pub digest: String,
    /// The media type of the manifest.
    pub media_type: String,
    /// The manifest.
    pub bytes: Bytes,
    /// The config.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

impl PlatformImage {
    /// The config and the layers, in the order of the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// An image as it can be pulled: what a tag points at, and everything below it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest the tag points at: the index, or the only manifest.
    pub digest: String,
    /// The media type of what the tag points at.
    pub media_type: String,
    /// The index, or the only manifest.
    pub bytes: Bytes,
    /// The platforms, in the order of the index.
    pub platforms: Vec<PlatformImage>,
}

impl Image {
    /// The first platform (`linux/amd64` unless the spec says otherwise).
    pub fn first(&self) -> &PlatformImage {
        &self.platforms[0]
    }

    /// The platform of that architecture.
    pub fn architecture(&self, architecture: &str) -> &PlatformImage {
        self.platforms
            .iter()
            .find(|it| it.platform.architecture == architecture)
            .unwrap_or_else(|| panic!("no {architecture} in this image"))
    }
}

/// The recipe of an [`Image`].
#[derive(Clone, Debug)]
pub struct ImageSpec {
    platforms: Vec<Platform>,
    layer_sizes: Vec<usize>,
    format: Format,
    index: bool,
    seed: u64,
    binary: Option<PathBuf>,
}

impl ImageSpec {
    /// An OCI index of `linux/amd64` and `linux/arm64`, each with `count` layers of a little
    /// more than 16 KiB.
    pub fn layers(count: usize) -> Self {
        Self::layer_sizes(&vec![16 * 1024; count])
    }

    /// As [`Self::layers`], with a file of that many bytes in each layer. The layer itself is
    /// larger by what tar and gzip add (under 4 KiB, and 5 bytes for every 64 KiB).
    pub fn layer_sizes(sizes: &[usize]) -> Self {
        Self {
            platforms: vec![Platform::linux("amd64"), Platform::linux("arm64")],
            layer_sizes: sizes.to_vec(),
            format: Format::Oci,
            index: true,
            seed: 1,
            binary: None,
        }
    }

    /// An image of two layers that can be run: see [`Self::binary`].
    pub fn runnable(binary: impl Into<PathBuf>) -> Self {
        Self::layers(2).binary(binary)
    }

    /// Makes the lowest layer of the host's platform a static busybox, so that the image prints
    /// "hello from mirror" when it runs there. On other platforms that layer is a text file.
    #[must_use]
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = Some(binary.into());
        self
    }

    /// Other bytes in every layer.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Other platforms; they must not be empty.
    #[must_use]
    pub fn platforms(mut self, platforms: &[Platform]) -> Self {
        assert!(!platforms.is_empty(), "an image has a platform");
        self.platforms = platforms.to_vec();
        self
    }

    /// A single manifest under the tag, without an index: the first platform.
    #[must_use]
    pub fn without_index(mut self) -> Self {
        self.platforms.truncate(1);
        self.index = false;
        self
    }

    /// Docker's media types in place of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.format = Format::Docker;
        self
    }

    /// Makes the image.
    pub fn build(&self) -> Image {
        let platforms: Vec<_> = self.platforms.iter().map(|it| self.platform(it)).collect();
        let (media_type, bytes) = if self.index {
            (self.format.index(), to_bytes(&self.index_of(&platforms)))
        } else {
            (self.format.manifest(), platforms[0].bytes.clone())
        };
        Image {
            digest: digest_of(&bytes),
            media_type: media_type.to_owned(),
            bytes,
            platforms,
        }
    }

    fn index_of(&self, platforms: &[PlatformImage]) -> Value {
        let manifests: Vec<_> = platforms
            .iter()
            .map(|it| {
                json!({
                    "mediaType": it.media_type, "digest": it.digest, "size": it.bytes.len(),
                    "platform": {"os": it.platform.os, "architecture": it.platform.architecture},
                })
            })
            .collect();
        json!({"schemaVersion": 2, "mediaType": self.format.index(), "manifests": manifests})
    }

    fn platform(&self, platform: &Platform) -> PlatformImage {
        let runs = self.binary.is_some() && *platform == Platform::host();
        let archives: Vec<_> = (0..self.layer_sizes.len())
            .map(|number| self.archive(platform, number, runs))
            .collect();
        let config = config(platform, &archives, runs);
        let config = Blob::new(self.format.config(), to_bytes(&config));
        let layers: Vec<_> = archives
            .iter()
            .map(|tar| Blob::new(self.format.layer(), gzip(tar)))
            .collect();
        let bytes = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        }));
        PlatformImage {
            platform: platform.clone(),
            digest: digest_of(&bytes),
            media_type: self.format.manifest().to_owned(),
            bytes,
            config,
            layers,
        }
    }

    /// The lowest layer of a runnable image is the binary; every other layer is one file.
    fn archive(&self, platform: &Platform, number: usize, runs: bool) -> Vec<u8> {
        match &self.binary {
            Some(binary) if number == 0 && runs => busybox_archive(binary),
            Some(_) if number == 0 => {
                file_archive("README.txt", b"This platform holds no program.\n")
            }
            _ => {
                let seed = self.layer_seed(platform, number);
                let bytes = seeded_bytes(seed, self.layer_sizes[number]);
                file_archive(&format!("data/layer-{number}.bin"), &bytes)
            }
        }
    }

    fn layer_seed(&self, platform: &Platform, number: usize) -> u64 {
        let text = format!("{} {} {number}", self.seed, platform.architecture);
        let hash = Sha256::digest(text.as_bytes());
        u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"))
    }
}

fn config(platform: &Platform, archives: &[Vec<u8>], runs: bool) -> Value {
    const CREATED: &str = "2024-01-01T00:00:00Z";
    let history: Vec<_> = (0..archives.len())
        .map(|number| json!({"created": CREATED, "created_by": format!("layer {number}")}))
        .collect();
    let mut config = json!({
        "created": CREATED,
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": archives.iter().map(|tar| digest_of(tar)).collect::<Vec<_>>(),
        },
        "history": history,
    });
    if runs {
        config["config"]["Entrypoint"] = json!(["/bin/busybox", "echo"]);
        config["config"]["Cmd"] = json!(["hello from mirror"]);
    }
    config
}

fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec_pretty(value)
        .expect("JSON values can be written")
        .into()
}

fn file_archive(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, path, bytes, 0o644);
    archive.into_inner().expect("a Vec takes everything")
}

fn busybox_archive(binary: &Path) -> Vec<u8> {
    let bytes = std::fs::read(binary)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", binary.display()));
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "bin/busybox", &bytes, 0o755);
    let mut link = header(0, 0o777);
    link.set_entry_type(tar::EntryType::Symlink);
    archive
        .append_link(&mut link, "bin/sh", "busybox")
        .expect("a Vec takes everything");
    archive.into_inner().expect("a Vec takes everything")
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) {
    let size = u64::try_from(bytes.len()).expect("a length fits in 64 bits");
    archive
        .append_data(&mut header(size, mode), path, bytes)
        .expect("a Vec takes everything");
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_704_067_200); // 2024-01-01, so that digests never change
    header
}

/// Level 0: seeded bytes do not compress, and tests have better things to do.
fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::none());
    encoder.write_all(bytes).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything").into()
}

//! The limit on the data directory: never passed, and never a reason to fail a pull.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mirror::blobs::{Limits, Share};

use crate::client::End;
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Image, ImageSpec};

const MIB: u64 = 1024 * 1024;
const NGINX: &str = "library/nginx";

/// What a directory takes on disk, as `du` counts it.
fn used(path: &Path) -> u64 {
    // A file may go while it is looked at.
    let own = fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    own + below.map(|entry| used(&entry.path())).sum::<u64>()
}

/// Looks at the directory all the time; yields the most it took.
fn watch(path: &Path) -> impl FnOnce() -> u64 {
    let (path, over) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&over);
    let watcher = std::thread::spawn(move || {
        let mut most = 0;
        while !told.load(Ordering::SeqCst) {
            most = most.max(used(&path));
            std::thread::sleep(Duration::from_millis(5));
        }
        most
    });
    move || {
        over.store(true, Ordering::SeqCst);
        watcher.join().expect("the watcher")
    }
}

async fn limited(hub: &FakeHub, bytes: u64) -> TestMirror {
    TestMirror::start_with(hub, |settings| {
        settings.cache.limits = Limits {
            max_size: Share::Bytes(bytes),
            min_free: Share::Bytes(0),
        };
    })
    .await
}

fn images(hub: &FakeHub, number: u64, layer: u64) -> Vec<Image> {
    let size = usize::try_from(layer).expect("a small layer");
    let push = |seed: u64| {
        let spec = ImageSpec::layer_sizes(&[size, size]).seed(seed);
        hub.push_image(NGINX, &format!("v{seed}"), spec)
    };
    (0..number).map(push).collect()
}

async fn pull(mirror: &TestMirror, image: &Image) {
    let platform = image.first();
    assert_eq!(mirror.manifest(NGINX, &image.digest).await.status, 200);
    let manifest = mirror.manifest(NGINX, &platform.digest).await;
    assert_eq!(manifest.body[..], platform.bytes[..]);
    for blob in platform.blobs() {
        let answer = mirror.blob(NGINX, &blob.digest).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body[..] == blob.bytes[..], "wrong bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_never_takes_more_than_its_limit_and_every_pull_is_right() {
    let hub = FakeHub::start().await;
    let images = images(&hub, 40, MIB);
    let mirror = limited(&hub, 24 * MIB).await;
    let most = watch(mirror.data());
    for round in images.chunks(8) {
        futures_util::future::join_all(round.iter().map(|image| pull(&mirror, image))).await;
        // In daily use, so it outlives what is pulled once.
        pull(&mirror, &images[0]).await;
    }
    let most = most();
    assert!(most <= 24 * MIB, "{most} bytes at the most");
    assert!(most >= 12 * MIB, "the limit was not even near: {most}");
    let held = mirror.cached();
    assert!(
        held.contains(&images[0].first().layers[0].digest),
        "used again and again"
    );
    assert!(
        !held.contains(&images[1].first().layers[0].digest),
        "used once, longest ago"
    );
}

#[tokio::test]
async fn what_does_not_fit_passes_through() {
    let hub = FakeHub::start().await;
    let images = images(&hub, 1, 8 * MIB);
    let mirror = limited(&hub, 4 * MIB).await;
    for _ in 0..2 {
        pull(&mirror, &images[0]).await;
        let layer = &images[0].first().layers[0];
        let answer = mirror.blob(NGINX, &layer.digest).await;
        assert_eq!(
            answer.header("x-mirror-cache"),
            Some("bypass; reason=no_room; upstream=docker.io")
        );
        assert!(!mirror.cached().contains(&layer.digest));
    }
}

#[tokio::test]
async fn the_order_of_eviction_outlives_a_restart() {
    let hub = FakeHub::start().await;
    let images = images(&hub, 12, MIB);
    let mirror = limited(&hub, 12 * MIB).await;
    pull(&mirror, &images[0]).await;
    pull(&mirror, &images[1]).await;
    mirror.clock.advance(Duration::from_secs(1));
    pull(&mirror, &images[0]).await;
    let mirror = mirror.restart().await;
    for image in &images[2..] {
        mirror.clock.advance(Duration::from_secs(1));
        pull(&mirror, image).await;
    }
    let held = mirror.cached();
    assert!(
        held.contains(&images[0].first().layers[0].digest),
        "used again before the restart"
    );
    assert!(
        !held.contains(&images[1].first().layers[0].digest),
        "used once"
    );
}

/// A file system of its own, in memory, that is gone with this.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// Of `bytes` bytes; `None` for a user who may not mount, except in CI, where that is a failure.
    fn mount(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let size = format!("size={bytes}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        assert!(
            mounted || std::env::var_os("CI").is_none(),
            "cannot mount a tmpfs"
        );
        mounted.then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space that is left.
    fn fill(&self) {
        use std::io::Write as _;

        let mut file = fs::File::create(self.path().join("foreign")).expect("a file");
        for length in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![0; length]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.path().join("foreign")).expect("the file that took the space");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_gone_around_until_space_returns() {
    let Some(disk) = Tmpfs::mount(24 * MIB) else {
        return;
    };
    let hub = FakeHub::start().await;
    let images = images(&hub, 3, 2 * MIB);
    let mirror = TestMirror::start_with(&hub, |settings| {
        settings.storage.dir = disk.path().join("data");
        settings.cache.limits = Limits {
            max_size: Share::Percent(100),
            min_free: Share::Bytes(0),
        };
    })
    .await;
    pull(&mirror, &images[0]).await;
    disk.fill();
    // What makes room for the newcomer is all there is to evict; the foreign file took the rest.
    for image in &images {
        pull(&mirror, image).await;
    }
    disk.free();
    for image in &images {
        pull(&mirror, image).await;
    }
    hub.take_summary();
    for image in &images {
        pull(&mirror, image).await;
    }
    assert_eq!(hub.take_summary(), [""; 0], "kept again, without a restart");
    mirror.restart().await;
}

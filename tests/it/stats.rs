//! Who pulled what, in metrics and by `mirror stats`.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::mirror::TestMirror;
use crate::process::{Launch, Process};
use crate::support::{FakeHub, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";

fn stats(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
    command.arg("stats").arg("--dir").arg(data).args(arguments);
    command.env_clear().output().unwrap()
}

fn stats_of_hub(data: &Path) -> Value {
    let output = stats(data, &["-o", "json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
    let mut page: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(page["schema"], 1);
    page["upstreams"][0].take()
}

async fn pull(mirror: &Process, image: &Image) {
    for reference in ["latest", &image.digest, &image.first().digest] {
        assert_eq!(mirror.manifest(NGINX, reference).await.status, 200);
    }
}

fn socket(data: &Path) -> std::path::PathBuf {
    data.join("admin.sock")
}

#[tokio::test]
async fn the_program_shows_who_pulled_what_also_after_a_restart() {
    let (hub, data) = (FakeHub::start().await, tempfile::tempdir().unwrap());
    hub.set_rate_limit(Some(100));
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = Launch::of(&hub, data.path()).start().await;
    let facts = socket(data.path()).symlink_metadata().unwrap();
    assert!(facts.file_type().is_socket());
    assert_eq!(facts.permissions().mode() & 0o777, 0o600);

    for _ in 0..2 {
        pull(&mirror, &image).await;
    }
    let shown = stats_of_hub(data.path());
    assert_eq!(shown["name"], "docker.io");
    assert_eq!(
        (&shown["limit"], &shown["remaining"]),
        (&json!(100), &json!(98))
    );
    assert_eq!(shown["suspended"], false);
    let fetched = json!({"kind": "manifest_get", "code": "success", "count": 2});
    assert!(
        shown["requests"].as_array().unwrap().contains(&fetched),
        "{shown}"
    );
    let pulls = shown["pulls"].clone();
    let row = json!({"client": "127.0.0.1", "user": "anonymous", "repository": NGINX, "pulls": 2});
    assert_eq!(
        (&pulls["rows"], &pulls["total"]),
        (&json!([row]), &json!(2))
    );
    assert_eq!(
        pulls["by_client"],
        json!([{"name": "127.0.0.1", "pulls": 2}])
    );
    assert_eq!(pulls["by_repository"], json!([{"name": NGINX, "pulls": 2}]));

    let text = String::from_utf8(stats(data.path(), &[]).stdout).unwrap();
    for part in [
        "docker.io\n  limit          98 of 100 pulls left in 6h, counted to 127.0.0.1, as of ",
        "\n  state          is asked\n",
        "       2  manifest_get success\n",
        "\n  pulls                 2  since ",
        "\n  by client             2  127.0.0.1\n",
        "\n  by repository         2  library/nginx\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }

    assert_eq!(mirror.stop().await.code, Some(0));
    assert!(!socket(data.path()).exists());
    let mirror = Launch::of(&hub, data.path()).start().await;
    assert_eq!(stats_of_hub(data.path())["pulls"], pulls);
    mirror.kill().await;
    // A socket that is left of a killed process does no harm.
    assert!(socket(data.path()).exists());
    let refused = stats(data.path(), &[]);
    assert_eq!(refused.status.code(), Some(7));
    let mirror = Launch::of(&hub, data.path()).start().await;
    assert_eq!(stats_of_hub(data.path())["pulls"], pulls);
    mirror.stop().await;
}

#[test]
fn without_a_server_the_directory_and_the_next_step_are_named() {
    let data = tempfile::tempdir().unwrap();
    let output = stats(data.path(), &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "error: no answer from a mirror with the data directory {}: it is not running\n  help: start it with: mirror serve, or name the directory of the one that runs with --dir or -c\n\n",
        data.path().display()
    );
    assert_eq!((output.status.code(), said), (Some(7), expected));
    assert_eq!(output.stdout, b"");
}

async fn metrics(mirror: &TestMirror) -> Vec<String> {
    let page = mirror.get("/metrics").await.body;
    let page = String::from_utf8(page).unwrap();
    let lines = page.lines().map(str::to_owned);
    lines
        .filter(|line| line.starts_with("mirror_upstream_pulls_total"))
        .collect()
}

fn series(client: &str, pulls: u64) -> String {
    format!(
        "mirror_upstream_pulls_total{{upstream=\"docker.io\",client=\"{client}\",repository=\"{NGINX}\"}} {pulls}"
    )
}

#[tokio::test]
async fn what_nobody_waits_for_is_counted_to_the_background() {
    let hub = FakeHub::start().await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    assert_eq!(mirror.manifest(NGINX, "latest").await.status, 200);
    assert_eq!(metrics(&mirror).await, [series("127.0.0.1", 1)]);

    hub.stop_origin(Origin::Registry).await;
    mirror.clock.advance(Duration::from_mins(2));
    assert_eq!(mirror.manifest(NGINX, "latest").await.status, 200);
    hub.push_image(NGINX, "latest", ImageSpec::layers(2));
    hub.take_requests();
    hub.restart_origin(Origin::Registry).await;
    let fetched = |it: &crate::support::Recorded| {
        it.method == "GET" && it.origin == Origin::Registry && it.path.contains("/manifests/")
    };
    hub.wait_for_requests(1, fetched).await;
    let expected = [series("127.0.0.1", 1), series("background", 1)];
    while metrics(&mirror).await != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

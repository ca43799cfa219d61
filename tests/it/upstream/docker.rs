//! Docker's logins: read when needed, and again when they are old or refused.

use std::fs;
use std::path::PathBuf;

use mirror::upstream::Credentials;

use super::*;
use crate::support::Recorded;

const PRIVATE: &str = "alice/app";

/// A hub with a private image, and a directory for Docker's configuration.
struct Machine {
    hub: FakeHub,
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Machine {
    async fn new() -> Self {
        let hub = FakeHub::builder()
            .user("alice", "correct")
            .user("bob", "battery")
            .start()
            .await;
        hub.push_image(PRIVATE, "1", ImageSpec::layers(1));
        hub.make_private(PRIVATE, "alice");
        hub.push_image(NGINX, "1", ImageSpec::layers(1));
        Self {
            hub,
            directory: tempfile::tempdir().unwrap(),
            clock: clock(),
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("config.json")
    }

    /// As `docker login` does, for a part of the registry below `path`.
    fn log_in(&self, logins: &[(&str, &str, &str)]) {
        let host = host(&self.hub.registry_url());
        let entry = |(path, username, password): &(&str, &str, &str)| {
            let login = serde_json::json!({ "username": username, "password": password });
            (format!("{host}{path}"), login)
        };
        let auths: serde_json::Map<_, _> = logins.iter().map(entry).collect();
        fs::write(
            self.file(),
            serde_json::json!({ "auths": auths }).to_string(),
        )
        .unwrap();
    }

    fn upstream(&self) -> Upstream {
        let settings = Settings {
            docker_config: Some(self.file()),
            ..settings(&self.hub)
        };
        upstream_at(settings, &self.clock)
    }

    /// Who asked for tokens since the last call.
    fn users(&self) -> Vec<Option<String>> {
        let requests = self.hub.take_requests();
        let tokens = requests.iter().filter(|it| it.origin == Origin::Token);
        tokens.map(Recorded::basic_user).collect()
    }
}

async fn head(upstream: &Upstream, repository: &str) -> Result<(), UpstreamError> {
    let (name, one) = (name(repository), reference("1"));
    upstream.head_manifest(&name, &one).await.map(drop)
}

fn user(name: &str) -> Vec<Option<String>> {
    vec![Some(name.to_owned())]
}

#[tokio::test]
async fn a_login_is_read_when_it_is_first_needed() {
    let machine = Machine::new().await;
    let upstream = machine.upstream();
    assert!(
        upstream.has_credentials_for(&name(PRIVATE)),
        "nobody knows yet"
    );
    machine.log_in(&[("", "alice", "correct")]);
    head(&upstream, PRIVATE).await.unwrap();
    assert_eq!(machine.users(), user("alice"));
    assert!(upstream.has_credentials_for(&name(PRIVATE)));
    assert!(!upstream.anonymous().has_credentials_for(&name(PRIVATE)));
    // Nothing is read again, and the token is kept.
    fs::remove_file(machine.file()).unwrap();
    head(&upstream, PRIVATE).await.unwrap();
    assert_eq!(machine.users(), []);
}

#[tokio::test]
async fn without_a_file_the_upstream_is_asked_anonymously() {
    let machine = Machine::new().await;
    let upstream = machine.upstream();
    head(&upstream, NGINX).await.unwrap();
    assert_eq!(machine.users(), [None]);
    assert!(!upstream.has_credentials_for(&name(PRIVATE)));
}

#[tokio::test]
async fn a_path_is_for_a_part_and_the_configuration_goes_first() {
    let machine = Machine::new().await;
    machine.log_in(&[("", "bob", "battery"), ("/alice", "alice", "correct")]);
    let upstream = machine.upstream();
    head(&upstream, PRIVATE).await.unwrap();
    head(&upstream, NGINX).await.unwrap();
    let (alice, bob) = (Some("alice".to_owned()), Some("bob".to_owned()));
    assert_eq!(machine.users(), [alice.clone(), bob]);

    let configured = Settings {
        docker_config: Some(machine.file()),
        logins: vec![super::alice("correct")],
        ..settings(&machine.hub)
    };
    head(&upstream_at(configured, &machine.clock), NGINX)
        .await
        .unwrap();
    assert_eq!(machine.users(), [alice]);
}

#[tokio::test]
async fn a_refused_login_is_read_again_at_once() {
    let machine = Machine::new().await;
    machine.log_in(&[("", "alice", "outdated")]);
    let upstream = machine.upstream();
    let error = head(&upstream, PRIVATE).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::CredentialsRefused { .. }),
        "{error:?}"
    );
    assert!(!format!("{error:?} {upstream:?}").contains("outdated"));
    machine.log_in(&[("", "alice", "correct")]);
    // It was read just now: helpers are not run for every question.
    head(&upstream, PRIVATE).await.unwrap_err();
    assert_eq!(machine.users(), user("alice"));
    machine.clock.advance(Duration::from_secs(5));
    head(&upstream, PRIVATE).await.unwrap();
    assert_eq!(machine.users(), user("alice"));
}

#[tokio::test]
async fn a_login_that_did_not_change_stays_refused() {
    let machine = Machine::new().await;
    machine.log_in(&[("", "alice", "outdated")]);
    let upstream = machine.upstream();
    for _ in 0..3 {
        head(&upstream, PRIVATE).await.unwrap_err();
        machine.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(machine.users(), user("alice"));
}

#[tokio::test]
async fn an_old_reading_is_renewed_without_being_waited_for() {
    let machine = Machine::new().await;
    machine.log_in(&[("", "alice", "correct")]);
    let upstream = machine.upstream();
    head(&upstream, NGINX).await.unwrap();
    assert_eq!(machine.users(), user("alice"));
    machine.log_in(&[("", "bob", "battery")]);
    machine
        .clock
        .advance(Duration::from_mins(5) - Duration::from_secs(1));
    // The token lives 300 s and is renewed early, as the user who got it.
    head(&upstream, "library/redis").await.unwrap_err();
    assert_eq!(machine.users(), user("alice"));
    machine.clock.advance(Duration::from_secs(1));
    let renewed = async {
        loop {
            head(&upstream, NGINX).await.unwrap();
            if machine.users().contains(&Some("bob".into())) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_read_leaves_what_was_known() {
    let machine = Machine::new().await;
    machine.log_in(&[("", "alice", "outdated")]);
    let upstream = machine.upstream();
    head(&upstream, PRIVATE).await.unwrap_err();
    for broken in [
        "{\"auths\": \"outdated\"}".to_owned(),
        " ".repeat(1024 * 1024 + 1),
    ] {
        fs::write(machine.file(), broken).unwrap();
        machine.clock.advance(Duration::from_secs(5));
        let error = head(&upstream, PRIVATE).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::CredentialsRefused { .. }),
            "{error:?}"
        );
    }
    assert!(upstream.has_credentials_for(&name(PRIVATE)));
}

#[tokio::test]
async fn before_a_file_could_be_read_there_may_be_any_login() {
    let machine = Machine::new().await;
    fs::write(machine.file(), "{").unwrap();
    let upstream = machine.upstream();
    for _ in 0..2 {
        head(&upstream, NGINX).await.unwrap();
        let credentials = upstream.credentials_for(&name(NGINX));
        assert_eq!(credentials, Credentials::Unread);
    }
    // Helpers are not run for every question, and this was tried just now.
    machine.log_in(&[("", "alice", "correct")]);
    head(&upstream, NGINX).await.unwrap();
    assert!(upstream.has_credentials_for(&name(NGINX)));
    assert_eq!(machine.users(), [None]);
    machine.clock.advance(Duration::from_secs(5));
    head(&upstream, PRIVATE).await.unwrap();
    assert_eq!(machine.users(), user("alice"));
    let credentials = upstream.credentials_for(&name(NGINX));
    assert_eq!(credentials, Credentials::Login(None));
}

#[tokio::test]
async fn a_reading_that_takes_longer_than_a_question_is_not_begun_again() {
    let machine = Machine::new().await;
    // Whoever opens a pipe waits until somebody opens its other end.
    let made = std::process::Command::new("mkfifo")
        .arg(machine.file())
        .status();
    assert!(made.unwrap().success());
    let impatient = Settings {
        docker_config: Some(machine.file()),
        timeout: Duration::from_millis(500),
        ..settings(&machine.hub)
    };
    let upstream = upstream_at(impatient, &machine.clock);
    for _ in 0..2 {
        let error = head(&upstream, NGINX).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::Unreachable { .. }),
            "{error:?}"
        );
    }
    assert_eq!(machine.users(), []);
    let file = machine.file();
    let opening = move || fs::OpenOptions::new().write(true).open(file).map(drop);
    tokio::task::spawn_blocking(opening).await.unwrap().unwrap();
    // What cannot be read at an offset says nothing, and that is remembered for a while.
    head(&upstream, NGINX).await.unwrap();
    assert_eq!(machine.users(), [None]);
}

//! Where values come from, and which of them wins.

use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use super::*;

#[test]
fn a_variable_wins_over_the_file_and_a_flag_over_both() {
    let toml = "[server]\nlisten = \"[::]:1\"\ndrain = \"1s\"\n[storage]\ndir = \"/a\"\n[log]\nlevel = \"error\"\n";
    let variables = [
        ("MIRROR_SERVER__LISTEN", "[::]:2, unix:/run/m.sock"),
        ("MIRROR_STORAGE__DIR", "/b"),
        ("MIRROR_CACHE__TAG_TTL", "5m"),
    ];
    let sandbox = Sandbox::new(toml, &variables);
    let loaded = sandbox.load().unwrap();
    let listen: Vec<_> = loaded
        .settings
        .server
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(listen, ["[::]:2", "unix:/run/m.sock"]);
    assert_eq!(loaded.settings.storage.dir, Path::new("/b"));
    assert_eq!(loaded.settings.server.drain, Duration::from_secs(1));
    assert_eq!(loaded.settings.cache.tag_ttl, Duration::from_mins(5));

    let overrides = Overrides {
        listen: vec!["[::]:3".to_owned(), "[::]:4".to_owned()],
        dir: Some("/c".into()),
        log_level: Some("debug"),
        offline: true,
    };
    let file = sandbox.path("mirror.toml");
    let loaded = load(Some(&file), &sandbox.environment, &overrides).unwrap();
    let listen: Vec<_> = loaded
        .settings
        .server
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(listen, ["[::]:3", "[::]:4"]);
    assert_eq!(loaded.settings.storage.dir, Path::new("/c"));
    assert_eq!(loaded.settings.log.level, "debug".parse().unwrap());

    let origin = |path: &str| loaded.origins.get(path).map(ToString::to_string);
    assert_eq!(origin("server.listen").as_deref(), Some("flag --listen"));
    assert!(loaded.settings.server.offline);
    assert_eq!(origin("server.offline").as_deref(), Some("flag --offline"));
    assert_eq!(
        origin("cache.tag_ttl").as_deref(),
        Some("environment variable MIRROR_CACHE__TAG_TTL")
    );
    assert!(origin("server.drain").unwrap().ends_with("mirror.toml:3:9"));
    assert_eq!(origin("server.lock_wait"), None);
}

#[test]
fn a_wrong_value_is_an_error_even_where_it_loses() {
    let sandbox = Sandbox::new(
        "[storage]\nfsync = \"yes\"\n",
        &[("MIRROR_STORAGE__FSYNC", "never")],
    );
    assert!(
        sandbox
            .messages()
            .starts_with("error: storage.fsync: \"yes\" is unknown")
    );
}

#[test]
fn a_wrong_variable_is_named() {
    let variables = [
        ("MIRROR_SERVER__MAX_CONNECTIONS", "many"),
        ("MIRROR_CACHE__MEMORY", "1 potato"),
    ];
    assert_eq!(
        Sandbox::new("", &variables).messages(),
        r#"error: cache.memory: "1 potato" is not a size: unknown unit; the units are B, KiB, MiB, GiB, TiB and KB, MB, GB, TB
  --> environment variable MIRROR_CACHE__MEMORY
  help: write a whole number and a unit, such as "500MiB" or "1GiB"
error: server.max_connections: is out of range
  --> environment variable MIRROR_SERVER__MAX_CONNECTIONS
  help: write a whole number from 1 to 1000000"#
    );
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let variables = [("MIRROR_CACHE__TAGTTL", "1m"), ("MIRROR_SPEED", "fast")];
    assert_eq!(
        Sandbox::new("", &variables).messages(),
        "warning: MIRROR_CACHE__TAGTTL means nothing to mirror
  --> environment variable MIRROR_CACHE__TAGTTL
  help: did you mean MIRROR_CACHE__TAG_TTL?
warning: MIRROR_SPEED means nothing to mirror
  --> environment variable MIRROR_SPEED
  help: the form is MIRROR_<SECTION>__<KEY>, such as MIRROR_LOG__LEVEL"
    );
}

#[test]
fn variables_that_others_set_are_none_of_our_business() {
    let variables = [
        ("MIRROR_CONFIG", "/nonexistent"),
        ("MIRROR_PORT", "tcp://10.0.0.1:5000"),
        ("MIRROR_PORT_5000_TCP_ADDR", "10.0.0.1"),
        ("MIRROR_SERVICE_HOST", "10.0.0.1"),
        ("MIRROR_SERVICE_PORT_HTTP", "5000"),
        ("MIRRORS", "x"),
        ("MIRROR_LOG__LEVEL", ""),
    ];
    let sandbox = Sandbox::new("", &variables);
    assert_eq!(sandbox.messages(), "");
    assert_eq!(sandbox.load().unwrap().settings, Settings::default());
}

#[test]
fn a_variable_that_is_not_utf8_is_an_error() {
    let mut sandbox = Sandbox::new("", &[]);
    let variable = (
        OsString::from("MIRROR_LOG__LEVEL"),
        OsString::from_vec(vec![0xff]),
    );
    sandbox.environment = Environment::new([variable], true);
    assert_eq!(
        sandbox.messages(),
        "error: MIRROR_LOG__LEVEL is not UTF-8\n  --> environment variable MIRROR_LOG__LEVEL"
    );
}

mod secrets {
    use super::*;

    const PASSWORD: &str = "MIRROR_UPSTREAMS__DOCKER_IO__PASSWORD";
    const PASSWORD_FILE: &str = "MIRROR_UPSTREAMS__DOCKER_IO__PASSWORD_FILE";

    fn file_toml(sandbox_file: &Path) -> String {
        let path = sandbox_file.display();
        format!(
            "[upstreams.\"docker.io\"]\nusername = \"ci\"\npassword = {{ file = \"{path}\" }}\n"
        )
    }

    fn password(sandbox: &Sandbox) -> String {
        let settings = sandbox.load().unwrap().settings;
        let password = settings.upstreams["docker.io"].password.clone();
        password.unwrap().expose().to_owned()
    }

    /// What is said about a password in a file with this content.
    fn with_file(content: &str) -> Sandbox {
        let sandbox = Sandbox::new("", &[]);
        sandbox.write("secret", content);
        sandbox.write("mirror.toml", &file_toml(&sandbox.path("secret")));
        sandbox
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_newline() {
        assert_eq!(password(&with_file("hunter2")), "hunter2");
        assert_eq!(password(&with_file("hunter2\n")), "hunter2");
        assert_eq!(password(&with_file("hunter2\r\n")), "hunter2");
        assert_eq!(password(&with_file(" hunter2 \n")), " hunter2 ");
    }

    #[test]
    fn a_file_that_holds_no_secret_is_refused() {
        let said = |content: &str| with_file(content).messages();
        assert!(said("\n").contains("secret is empty"));
        assert!(said("two\nlines\n").contains("contains a control character"));
        assert!(said(&"x".repeat(65_537)).contains("longer than 64 KiB"));
        assert_eq!(password(&with_file(&"x".repeat(65_536))).len(), 65_536);
    }

    #[test]
    fn a_secret_comes_from_a_variable_that_the_file_names() {
        let toml = "[upstreams.\"docker.io\"]\nusername = \"ci\"\npassword = { env = \"HUB\" }\n";
        assert_eq!(
            password(&Sandbox::new(toml, &[("HUB", "hunter2")])),
            "hunter2"
        );
        assert_eq!(
            Sandbox::new(toml, &[]).messages(),
            r#"error: upstreams."docker.io".password: the environment variable HUB is not set
  --> mirror.toml:3:12
   |
 3 | password = …
  help: set it, or remove the key to do without"#
        );
    }

    #[test]
    fn a_secret_comes_from_our_own_variables() {
        let toml = "[upstreams.\"docker.io\"]\nusername = \"ci\"\n";
        assert_eq!(
            password(&Sandbox::new(toml, &[(PASSWORD, "hunter2")])),
            "hunter2"
        );

        let mut sandbox = Sandbox::new(toml, &[]);
        sandbox.write("secret", "hunter3\n");
        let path = sandbox.path("secret");
        let path = path.to_str().unwrap();
        sandbox.environment = environment(sandbox.directory.path(), &[(PASSWORD_FILE, path)]);
        assert_eq!(password(&sandbox), "hunter3");

        let both = [(PASSWORD, "hunter2"), (PASSWORD_FILE, path)];
        sandbox.environment = environment(sandbox.directory.path(), &both);
        let said = sandbox.messages();
        assert!(
            said.starts_with(&format!(
                "error: {PASSWORD_FILE} and {PASSWORD} are both set"
            )),
            "{said}"
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "a test prepares its files")]
mod files {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let sandbox = Sandbox::new("", &[]);
        let missing = sandbox.path("missing.toml");
        let invalid =
            load(Some(&missing), &sandbox.environment, &Overrides::default()).unwrap_err();
        assert_eq!(
            invalid.errors[0].to_string(),
            format!(
                "error: cannot read the configuration: No such file or directory (os error 2)
  --> {}
  help: name another file with --config, or none to use the defaults",
                missing.display()
            )
        );
    }

    #[test]
    fn a_file_that_is_no_text_or_too_long_is_refused() {
        let sandbox = Sandbox::new(&"#".repeat(1 << 20), &[]);
        assert!(sandbox.load().is_ok());
        sandbox.write("mirror.toml", &"#".repeat((1 << 20) + 1));
        assert!(sandbox.messages().contains("longer than 1024 KiB"));
        let directory = load(
            Some(sandbox.directory.path()),
            &sandbox.environment,
            &Overrides::default(),
        );
        assert!(
            directory.unwrap_err().errors[0]
                .message
                .contains("cannot read")
        );
    }

    /// The log level tells which file was read.
    fn read_with(sandbox: &Sandbox, variables: &[(&str, &str)]) -> (String, Option<PathBuf>) {
        let environment = environment(sandbox.directory.path(), variables)
            .with_system_file(sandbox.path("etc/mirror.toml"));
        let loaded = load(None, &environment, &Overrides::default()).unwrap();
        (format!("{:?}", loaded.settings.log.level), loaded.file)
    }

    #[test]
    fn the_first_file_that_exists_is_read_and_no_other() {
        let sandbox = Sandbox::new("", &[]);
        let home = sandbox.path("home");
        let home = ("HOME", home.to_str().unwrap());
        assert_eq!(
            read_with(&sandbox, &[home]),
            (r#"Level("info")"#.to_owned(), None)
        );

        for (path, level) in [
            ("etc/mirror.toml", "error"),
            ("home/.config/mirror/mirror.toml", "warn"),
            ("xdg/mirror/mirror.toml", "debug"),
            ("named.toml", "trace"),
        ] {
            fs::create_dir_all(sandbox.path(path).parent().unwrap()).unwrap();
            sandbox.write(path, &format!("[log]\nlevel = \"{level}\"\n"));
        }
        let (xdg, named) = (sandbox.path("xdg"), sandbox.path("named.toml"));
        let xdg = ("XDG_CONFIG_HOME", xdg.to_str().unwrap());
        let named = ("MIRROR_CONFIG", named.to_str().unwrap());
        let level = |variables: &[_]| read_with(&sandbox, variables).0;
        assert_eq!(level(&[]), r#"Level("error")"#);
        assert_eq!(level(&[home]), r#"Level("warn")"#);
        assert_eq!(level(&[home, xdg]), r#"Level("debug")"#);
        assert_eq!(level(&[home, xdg, named]), r#"Level("trace")"#);
        // The XDG specification has relative paths ignored.
        assert_eq!(
            level(&[home, ("XDG_CONFIG_HOME", "xdg")]),
            r#"Level("warn")"#
        );
    }

    #[test]
    fn a_file_that_exists_but_cannot_be_read_is_no_reason_to_look_further() {
        let sandbox = Sandbox::new("", &[]);
        let home = ("HOME", sandbox.directory.path().to_str().unwrap());
        let in_the_way = sandbox.path(".config/mirror/mirror.toml");
        fs::create_dir_all(&in_the_way).unwrap();
        let environment = environment(sandbox.directory.path(), &[home])
            .with_system_file(sandbox.path("mirror.toml"));
        let invalid = load(None, &environment, &Overrides::default()).unwrap_err();
        assert_eq!(invalid.errors[0].place, Some(Place::Path(in_the_way)));
    }
}

#[test]
fn data_goes_to_the_users_own_directory_unless_the_user_is_root() {
    let directory = |superuser, variables: &[(&str, &str)]| {
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment = Environment::new(variables, superuser);
        environment
            .with_system_file("/nonexistent".into())
            .data_directory()
    };
    let (home, xdg) = (("HOME", "/home/u"), ("XDG_DATA_HOME", "/data"));
    assert_eq!(
        directory(false, &[home]),
        Path::new("/home/u/.local/share/mirror")
    );
    assert_eq!(directory(false, &[home, xdg]), Path::new("/data/mirror"));
    assert_eq!(directory(true, &[home, xdg]), Path::new("/var/lib/mirror"));
    assert_eq!(directory(false, &[]), Path::new("/var/lib/mirror"));
}

mod upstreams {
    use super::*;

    const NAMED: &str = "[upstreams.\"ghcr.io\"]\n[upstreams.\"my-registry.corp:5000\"]\n";

    #[test]
    fn a_variable_names_an_upstream_by_letters_digits_and_underscores() {
        let variables = [
            ("MIRROR_UPSTREAMS__GHCR_IO__USERNAME", "ci"),
            ("MIRROR_UPSTREAMS__GHCR_IO__PASSWORD", "hunter2"),
            ("MIRROR_UPSTREAMS__MY_REGISTRY_CORP_5000__RETRIES", "7"),
            ("MIRROR_UPSTREAMS__DOCKER_IO__RETRIES", "8"),
        ];
        let sandbox = Sandbox::new(NAMED, &variables);
        assert_eq!(sandbox.messages(), "");
        let upstreams = sandbox.load().unwrap().settings.upstreams;
        assert_eq!(upstreams["ghcr.io"].username.as_deref(), Some("ci"));
        assert_eq!(upstreams["my-registry.corp:5000"].retries, 7);
        assert_eq!(upstreams["docker.io"].retries, 8);
    }

    #[test]
    fn every_new_key_of_an_upstream_has_a_variable() {
        let variable = |key: &str, value: &str| {
            let name = format!("MIRROR_UPSTREAMS__GHCR_IO__{key}");
            let sandbox = Sandbox::new(NAMED, &[(name.as_str(), value)]);
            sandbox.load().unwrap().settings.upstreams["ghcr.io"].clone()
        };
        assert_eq!(
            variable("TAG_TTL", "2m").tag_ttl,
            Some(Duration::from_mins(2))
        );
        assert_eq!(variable("RATE_RESERVE", "0").rate_reserve, 0);
        assert_eq!(
            variable("CREDENTIALS", "docker").credentials,
            Some(CredentialSource::Docker)
        );
        assert_eq!(variable("PROXY", "direct").proxy, ProxyChoice::Direct);
        let mirrors = variable("MIRRORS", "https://a.example/, http://b.example").mirrors;
        assert_eq!(mirrors, ["https://a.example/", "http://b.example/"]);
        let images = |list: &str| {
            let list = crate::oci::ImagePatterns::within("ghcr.io", list.split(' '));
            list.unwrap()
        };
        let allowed = variable("ALLOW", "acme/**, {a,b}").allow;
        assert_eq!(allowed, Some(images("acme/** {a,b}")));
        assert_eq!(variable("DENY", "acme/*").deny, images("acme/*"));
    }

    #[test]
    fn a_proxy_may_come_from_a_file() {
        let mut sandbox = Sandbox::new("", &[]);
        sandbox.write("proxy", "http://bot:hunter2@proxy.corp:3128\n");
        let path = sandbox.path("proxy");
        let variable = (
            "MIRROR_UPSTREAMS__DOCKER_IO__PROXY_FILE",
            path.to_str().unwrap(),
        );
        sandbox.environment = environment(sandbox.directory.path(), &[variable]);
        let hub = &sandbox.load().unwrap().settings.upstreams["docker.io"];
        let ProxyChoice::Via(proxy) = &hub.proxy else {
            panic!("{hub:?}")
        };
        let (user, password) = proxy.credentials.as_ref().unwrap();
        assert_eq!((user.as_str(), password.expose()), ("bot", "hunter2"));
    }

    #[test]
    fn a_variable_of_an_upstream_that_is_not_there_is_a_warning() {
        let variables = [
            ("MIRROR_UPSTREAMS__GCHR_IO__USERNAME", "ci"),
            ("MIRROR_UPSTREAMS__GHCR_IO__USER_NAME", "ci"),
            ("MIRROR_UPSTREAMS__QUAY_IO__PASSWORD_FILE", "/nowhere"),
        ];
        assert_eq!(
            Sandbox::new(NAMED, &variables).messages(),
            r#"warning: MIRROR_UPSTREAMS__GCHR_IO__USERNAME sets a key of an upstream that is not configured
  --> environment variable MIRROR_UPSTREAMS__GCHR_IO__USERNAME
  help: did you mean MIRROR_UPSTREAMS__GHCR_IO__USERNAME?
warning: MIRROR_UPSTREAMS__GHCR_IO__USER_NAME means nothing to mirror
  --> environment variable MIRROR_UPSTREAMS__GHCR_IO__USER_NAME
  help: did you mean MIRROR_UPSTREAMS__GHCR_IO__USERNAME?
warning: MIRROR_UPSTREAMS__QUAY_IO__PASSWORD_FILE sets a key of an upstream that is not configured
  --> environment variable MIRROR_UPSTREAMS__QUAY_IO__PASSWORD_FILE
  help: name the upstream in mirror.toml: [upstreams."quay.io"]"#
        );
    }

    #[test]
    fn a_variable_that_could_mean_two_upstreams_is_an_error() {
        let toml = "[upstreams.\"a-b.io\"]\n[upstreams.\"a.b.io\"]\n";
        assert_eq!(
            Sandbox::new(toml, &[("MIRROR_UPSTREAMS__A_B_IO__RETRIES", "1")]).messages(),
            r#"error: MIRROR_UPSTREAMS__A_B_IO__RETRIES could mean upstreams."a-b.io" or upstreams."a.b.io"
  --> environment variable MIRROR_UPSTREAMS__A_B_IO__RETRIES
  help: set these keys in mirror.toml"#
        );
    }

    #[test]
    fn no_variable_holds_tables() {
        for name in [
            "MIRROR_LISTENER",
            "MIRROR_UPSTREAMS__GHCR_IO__TAG_RULES",
            "MIRROR_UPSTREAMS__GHCR_IO__LOGINS",
        ] {
            let said = Sandbox::new(NAMED, &[(name, "hunter2")]).messages();
            assert!(
                said.contains("no variable holds a list of tables")
                    && said.contains(&format!("environment variable {name}"))
                    && !said.contains("hunter2"),
                "{said}"
            );
        }
    }
}

#[test]
fn the_environments_proxies_and_dockers_configuration_are_known() {
    let variables = [
        ("HTTPS_PROXY", "http://me:hunter2@upper.test"),
        ("https_proxy", "http://me:hunter2@lower.test"),
        ("NO_PROXY", ".corp.test"),
        ("HOME", "/home/me"),
    ];
    let ambient = |variables: &[(&str, &str)]| {
        let loaded = Sandbox::new("", variables).load().unwrap();
        loaded.settings.ambient
    };
    let found = ambient(&variables);
    let https = found.proxy.https.as_ref().unwrap();
    assert_eq!(https.expose(), "http://me:hunter2@lower.test");
    assert_eq!(found.proxy.no.as_deref(), Some(".corp.test"));
    assert_eq!(
        found.docker_config.as_deref(),
        Some(Path::new("/home/me/.docker/config.json"))
    );
    assert!(!format!("{found:?}").contains("hunter2"));
    let elsewhere = ambient(&[("HOME", "/home/me"), ("DOCKER_CONFIG", "/etc/docker")]);
    assert_eq!(
        elsewhere.docker_config.as_deref(),
        Some(Path::new("/etc/docker/config.json"))
    );
}

use http::Method;

use super::*;
use crate::oci::{ByteRange, Digest, ImagePatterns};
use crate::registry::{
    BlobContent, BlobFacts, ManifestContent, PageRequest, ReferrersContent, Reply, TagPage,
};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Routes lead to it; nothing is asked of it.
struct Unasked;

impl Registry for Unasked {
    fn manifest<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a RepositoryName,
        _: &'a Reference,
    ) -> Reply<'a, ManifestContent> {
        unreachable!("only routed to")
    }

    fn blob_facts<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a RepositoryName,
        _: Digest,
    ) -> Reply<'a, BlobFacts> {
        unreachable!("only routed to")
    }

    fn blob<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a RepositoryName,
        _: Digest,
        _: Option<ByteRange>,
    ) -> Reply<'a, BlobContent> {
        unreachable!("only routed to")
    }

    fn tags<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a RepositoryName,
        _: &'a PageRequest,
    ) -> Reply<'a, TagPage> {
        unreachable!("only routed to")
    }

    fn referrers<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a RepositoryName,
        _: Digest,
        _: Option<&'a str>,
    ) -> Reply<'a, ReferrersContent> {
        unreachable!("only routed to")
    }
}

/// A directory of docker.io, ghcr.io and registry.corp:5000 with these rules at docker.io.
fn directory(rules: &Rules) -> Directory {
    let entry = |rules: &Rules| Entry {
        registry: Arc::new(Unasked),
        rules: rules.clone(),
    };
    Directory::new(BTreeMap::from([
        ("docker.io".to_owned(), entry(rules)),
        ("ghcr.io".to_owned(), entry(&Rules::default())),
        ("registry.corp:5000".to_owned(), entry(&Rules::default())),
    ]))
}

/// Where `GET <target>` goes on a listener: `<upstream> <name>`, with the `OCI-Namespace` if there is one, or why it
/// goes nowhere.
fn routed(directory: &Directory, target: &str, listener: Option<&str>) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parsed = Request::parse(&Method::GET, path, Some(query), None).unwrap();
    let caller = Caller {
        address: None,
        request_id: "r1".into(),
    };
    match directory.route(&caller, &parsed, listener) {
        Ok(route) => {
            let echo = route.namespace_echo.map(|echo| format!(" ns={echo}"));
            format!(
                "{} {}{}",
                route.upstream,
                route.name,
                echo.unwrap_or_default()
            )
        }
        Err(RegistryError::UpstreamUnknown { host }) => format!("no {host}"),
        Err(RegistryError::NameUnknown { name }) => format!("unknown {name}"),
        Err(error) => error.to_string(),
    }
}

fn assert_routes(listener: Option<&str>, rows: &[(&str, &str)]) {
    let directory = directory(&Rules::default());
    for (target, expected) in rows {
        let found = routed(&directory, target, listener);
        assert_eq!(found, *expected, "{target}");
    }
}

#[test]
fn every_way_to_name_docker_hub_is_docker_hub() {
    assert_routes(
        None,
        &[
            ("/v2/nginx/tags/list", "docker.io library/nginx"),
            ("/v2/library/nginx/tags/list", "docker.io library/nginx"),
            ("/v2/acme/app/tags/list", "docker.io acme/app"),
            ("/v2/docker.io/nginx/tags/list", "docker.io library/nginx"),
            (
                "/v2/index.docker.io/library/nginx/tags/list",
                "docker.io library/nginx",
            ),
            ("/docker.io/v2/nginx/tags/list", "docker.io library/nginx"),
            (
                "/registry-1.docker.io/v2/nginx/tags/list",
                "docker.io library/nginx",
            ),
            (
                "/docker.io/v2/docker.io/library/nginx/tags/list",
                "docker.io library/nginx",
            ),
            (
                "/v2/nginx/tags/list?ns=docker.io",
                "docker.io library/nginx ns=docker.io",
            ),
            (
                "/v2/nginx/tags/list?ns=index.docker.io",
                "docker.io library/nginx ns=index.docker.io",
            ),
            (
                "/v2/docker.io/library/nginx/tags/list?ns=docker.io",
                "docker.io library/nginx ns=docker.io",
            ),
        ],
    );
}

#[test]
fn every_form_of_an_address_leads_to_its_upstream() {
    assert_routes(
        None,
        &[
            ("/v2/ghcr.io/acme/app/tags/list", "ghcr.io acme/app"),
            ("/ghcr.io/v2/acme/app/tags/list", "ghcr.io acme/app"),
            ("/GHCR.io/v2/acme/app/tags/list", "ghcr.io acme/app"),
            (
                "/v2/acme/app/tags/list?ns=ghcr.io",
                "ghcr.io acme/app ns=ghcr.io",
            ),
            (
                "/v2/ghcr.io/acme/app/tags/list?ns=ghcr.io",
                "ghcr.io acme/app ns=ghcr.io",
            ),
            (
                "/ghcr.io/v2/acme/app/tags/list?ns=ghcr.io",
                "ghcr.io acme/app ns=ghcr.io",
            ),
            // Only Docker Hub has `library/`.
            ("/v2/app/tags/list?ns=ghcr.io", "ghcr.io app ns=ghcr.io"),
            ("/v2/ghcr.io/app/tags/list", "ghcr.io app"),
            (
                "/registry.corp:5000/v2/a/b.c/d/tags/list",
                "registry.corp:5000 a/b.c/d",
            ),
            (
                "/v2/a/tags/list?ns=registry.corp:5000",
                "registry.corp:5000 a ns=registry.corp:5000",
            ),
            (
                "/v2/my.project/a/tags/list?ns=registry.corp:5000",
                "registry.corp:5000 my.project/a ns=registry.corp:5000",
            ),
            // What `ns` says goes before what the path says, unless it says no more than the default.
            (
                "/v2/docker.io/a/b/tags/list?ns=ghcr.io",
                "ghcr.io docker.io/a/b ns=ghcr.io",
            ),
            (
                "/docker.io/v2/a/b/tags/list?ns=ghcr.io",
                "ghcr.io a/b ns=ghcr.io",
            ),
            (
                "/v2/ghcr.io/acme/app/tags/list?ns=docker.io",
                "ghcr.io acme/app",
            ),
            (
                "/ghcr.io/v2/acme/app/tags/list?ns=docker.io",
                "ghcr.io acme/app",
            ),
        ],
    );
}

#[test]
fn what_is_not_configured_is_refused() {
    assert_routes(
        None,
        &[
            ("/v2/nginx/tags/list?ns=quay.io", "no quay.io"),
            ("/v2/nginx/tags/list?ns=127.0.0.1:1", "no 127.0.0.1:1"),
            ("/v2/a/tags/list?ns=registry.corp", "no registry.corp"),
            ("/v2/ghcr.io/a/b/tags/list?ns=quay.io", "no quay.io"),
            ("/ghcr.io/v2/a/b/tags/list?ns=quay.io", "no quay.io"),
            ("/quay.io/v2/nginx/tags/list", "no quay.io"),
            ("/hub/v2/nginx/tags/list", "no hub"),
            ("/quay.io/v2/a/b/tags/list?ns=ghcr.io", "no quay.io"),
            ("/v2/quay.io/coreos/etcd/tags/list", "no quay.io"),
            (
                "/v2/quay.io/coreos/etcd/tags/list?ns=docker.io",
                "no quay.io",
            ),
            ("/docker.io/v2/quay.io/coreos/etcd/tags/list", "no quay.io"),
            ("/docker.io/v2/ghcr.io/a/b/tags/list", "unknown ghcr.io/a/b"),
        ],
    );
    // A repository's own name may have a dot.
    let target = "/v2/acme/app.v2/tags/list";
    assert_routes(None, &[(target, "docker.io acme/app.v2")]);
}

#[test]
fn a_listener_says_what_a_name_without_an_upstream_means() {
    assert_routes(
        Some("ghcr.io"),
        &[
            ("/v2/acme/app/tags/list", "ghcr.io acme/app"),
            ("/v2/app/tags/list", "ghcr.io app"),
            ("/v2/quay.io/app/tags/list", "ghcr.io quay.io/app"),
            ("/v2/ghcr.io/acme/app/tags/list", "ghcr.io acme/app"),
            ("/v2/docker.io/nginx/tags/list", "docker.io library/nginx"),
            ("/docker.io/v2/nginx/tags/list", "docker.io library/nginx"),
            (
                "/v2/nginx/tags/list?ns=docker.io",
                "docker.io library/nginx ns=docker.io",
            ),
            (
                "/v2/a/tags/list?ns=registry.corp:5000",
                "registry.corp:5000 a ns=registry.corp:5000",
            ),
            ("/v2/a/tags/list?ns=quay.io", "no quay.io"),
        ],
    );
    assert_routes(Some("quay.io"), &[("/v2/app/tags/list", "no quay.io")]);
}

fn patterns(texts: &[&str]) -> ImagePatterns {
    ImagePatterns::parse(texts.iter().copied()).unwrap()
}

#[test]
fn rules_decide_what_may_be_pulled() {
    const OPEN: &str = "";
    const DENY: &str = "deny";
    const ALLOW: &str = "allow";
    let everything: Option<&[&str]> = None;
    let some: Option<&[&str]> = Some(&["library/**", "acme/app:1.*"]);
    let none: Option<&[&str]> = Some(&[]);
    let nothing: &[&str] = &[];
    let (blob, manifest) = (
        format!("blobs/sha256:{HEX}"),
        format!("manifests/sha256:{HEX}"),
    );
    for (allow, deny, name, what, refused_by) in [
        (everything, nothing, "acme/app", "manifests/1", OPEN),
        (everything, &["acme/**"], "acme/app", "manifests/1", DENY),
        (everything, &["acme/**"], "acme/app", &blob, DENY),
        (everything, &["acme/**"], "nginx", "manifests/1", OPEN),
        (everything, &["nginx"], "library/nginx", "manifests/1", DENY),
        (
            everything,
            &["**/*:*-rc*"],
            "nginx",
            "manifests/1-rc1",
            DENY,
        ),
        (everything, &["**/*:*-rc*"], "nginx", "manifests/1", OPEN),
        // What is no tag's own is open where only some tags are closed.
        (everything, &["**/*:*-rc*"], "nginx", &manifest, OPEN),
        (everything, &["**/*:*-rc*"], "nginx", &blob, OPEN),
        (everything, &["**/*:*-rc*"], "nginx", "tags/list", OPEN),
        (some, nothing, "nginx", "manifests/1", OPEN),
        (some, nothing, "acme/app", "manifests/1.2", OPEN),
        (some, nothing, "acme/app", "manifests/2", ALLOW),
        (some, nothing, "acme/app", &manifest, OPEN),
        (some, nothing, "acme/app", &blob, OPEN),
        (some, nothing, "acme/app", "tags/list", OPEN),
        (some, nothing, "acme/other", "manifests/1.2", ALLOW),
        (some, nothing, "acme/other", &blob, ALLOW),
        (some, nothing, "acme/other", "tags/list", ALLOW),
        (some, &["nginx:1"], "nginx", "manifests/1", DENY),
        (some, &["nginx:1"], "nginx", "manifests/2", OPEN),
        (none, nothing, "nginx", "manifests/1", ALLOW),
    ] {
        let rules = Rules {
            allow: allow.map(patterns),
            deny: patterns(deny),
        };
        let found = routed(&directory(&rules), &format!("/v2/{name}/{what}"), None);
        let key = format!("upstreams.\"docker.io\".{refused_by} of this mirror");
        let refused = found.ends_with(&key);
        assert_eq!(
            refused,
            refused_by != OPEN,
            "{rules:?} {name} {what}: {found}"
        );
        // The rules of one upstream are none of another's.
        let elsewhere = routed(
            &directory(&rules),
            &format!("/v2/ghcr.io/{name}/{what}"),
            None,
        );
        assert_eq!(elsewhere, format!("ghcr.io {name}"));
    }
    let rules = Rules {
        allow: some.map(patterns),
        deny: patterns(&["nginx:1"]),
    };
    let directory = directory(&rules);
    assert_eq!(
        routed(&directory, "/v2/nginx/manifests/1", None),
        "docker.io/library/nginx:1 is refused by upstreams.\"docker.io\".deny of this mirror"
    );
    assert_eq!(
        routed(&directory, "/v2/a/b/tags/list", None),
        "docker.io/a/b is not among upstreams.\"docker.io\".allow of this mirror"
    );
}

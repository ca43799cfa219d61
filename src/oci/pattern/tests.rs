use proptest::prelude::*;

use super::*;

fn patterns(texts: &[&str]) -> ImagePatterns {
    ImagePatterns::parse(texts.iter().copied()).unwrap()
}

/// Whether `pattern` is about an image, written in full: `ghcr.io/acme/app:1`, or without a tag for a digest.
fn is_about(pattern: &str, image: &str) -> bool {
    let (name, tag) = split_tag(image);
    let (upstream, repository) = name.split_once('/').unwrap();
    let tag = tag.map(|tag| tag.parse().unwrap());
    patterns(&[pattern]).matches(upstream, &repository.parse().unwrap(), tag.as_ref())
}

fn names() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-z0-9]{1,6}([._-][a-z0-9]{1,6})?", 1..4)
        .prop_map(|components| components.join("/"))
}

proptest! {
    #[test]
    fn every_image_is_a_pattern_of_itself_alone(
        name in names(), tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", other in "[a-zA-Z0-9_]{1,9}",
    ) {
        let image = format!("docker.io/{name}:{tag}");
        let name: RepositoryName = name.parse().unwrap();
        let (name, tag): (_, Tag) = (name.with_library(), tag.parse().unwrap());
        let list = patterns(&[&image]);
        prop_assert!(list.matches("docker.io", &name, Some(&tag)));
        prop_assert!(!list.matches("ghcr.io", &name, Some(&tag)));
        prop_assert!(!list.matches("docker.io", &name, None));
        let other: Tag = other.parse().unwrap();
        prop_assert_eq!(list.matches("docker.io", &name, Some(&other)), tag == other);
    }

    #[test]
    fn what_matches_by_a_tag_matches_as_a_repository(
        text in "([a-z*?./{},-]{1,9}/){0,3}[a-z*?.]{1,9}(:[a-z*.]{1,4})?", name in names(), tag in "[a-z0-9]{1,4}",
    ) {
        if let Ok(list) = ImagePatterns::parse([text.as_str()]) {
            let (name, tag): (RepositoryName, Tag) = (name.parse().unwrap(), tag.parse().unwrap());
            let repository = list.matches_repository("docker.io", &name);
            prop_assert!(repository || !list.matches("docker.io", &name, Some(&tag)));
            prop_assert!(!list.matches("docker.io", &name, None) || list.matches("docker.io", &name, Some(&tag)));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-zA@:/*?{},\\[\\]!^.\\\\ -]{0,40}|.{0,40}") {
        if let Ok(pattern) = text.parse::<ImagePattern>() {
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}

#[test]
fn what_is_left_out_is_docker_hubs() {
    for pattern in [
        "nginx",
        "nginx:*",
        "library/nginx",
        "docker.io/nginx",
        "docker.io/library/nginx",
    ] {
        assert!(is_about(pattern, "docker.io/library/nginx:1"), "{pattern}");
        assert!(is_about(pattern, "docker.io/library/nginx"), "{pattern}");
        assert!(!is_about(pattern, "ghcr.io/library/nginx:1"), "{pattern}");
        assert!(!is_about(pattern, "docker.io/acme/nginx:1"), "{pattern}");
    }
    assert!(is_about("localhost/nginx", "localhost/nginx"));
    assert!(is_about(
        "registry.example:5000/nginx",
        "registry.example:5000/nginx"
    ));
}

#[test]
fn wildcards_do_not_cross_a_slash() {
    assert!(is_about("acme/*", "docker.io/acme/app:1"));
    assert!(!is_about("acme/*", "docker.io/acme/app/x:1"));
    assert!(!is_about("acme/a?b", "docker.io/acme/a/b:1"));
    assert!(!is_about("*", "docker.io/acme/app:1"));
    assert!(is_about("*", "docker.io/library/nginx:1"));
    assert!(is_about("app-[0-9]", "docker.io/library/app-7:1"));
    assert!(!is_about("app-[!0-9]", "docker.io/library/app-7:1"));
}

#[test]
fn two_stars_stand_for_any_number_of_components() {
    for image in ["ghcr.io/acme/app", "ghcr.io/acme/a/b/c"] {
        assert!(is_about("ghcr.io/acme/**", image), "{image}");
        assert!(is_about("**", image), "{image}");
        assert!(is_about("ghcr.io/**", image), "{image}");
    }
    assert!(!is_about("ghcr.io/acme/**", "ghcr.io/acme"));
    assert!(is_about("docker.io/**", "docker.io/acme/app"));
    assert!(!is_about("docker.io/**", "ghcr.io/acme/app"));
    assert!(is_about("acme/**/app", "docker.io/acme/app"));
    assert!(is_about("acme/**/app", "docker.io/acme/x/y/app"));
    assert!(is_about("**/cache:tmp", "ghcr.io/acme/cache:tmp"));
}

#[test]
fn braces_stand_for_one_of_several() {
    for name in ["nginx", "postgres"] {
        let image = format!("docker.io/library/{name}:1");
        assert!(is_about("docker.io/library/{nginx,postgres}:*", &image));
        assert!(is_about("{nginx,postgres}", &image));
    }
    assert!(!is_about("{nginx,postgres}", "docker.io/library/redis:1"));
    assert!(is_about(
        "{docker.io,ghcr.io}/acme/app",
        "ghcr.io/acme/app:1"
    ));
    assert!(is_about("app{,-debug}", "docker.io/library/app:1"));
    assert!(is_about("app:{1,2}.*", "docker.io/library/app:2.7"));
}

#[test]
fn a_pattern_for_some_tags_is_not_about_digests() {
    assert!(is_about("app:dev-*", "docker.io/library/app:dev-7"));
    assert!(!is_about("app:dev-*", "docker.io/library/app:v7"));
    assert!(!is_about("app:dev-*", "docker.io/library/app"));
    assert!(is_about("app:Dev", "docker.io/library/app:Dev"));
    let list = patterns(&["app:dev-*", "app:**"]);
    let app = "library/app".parse().unwrap();
    assert!(list.matches("docker.io", &app, None), "the second one is");
    let list = patterns(&["app:dev-*"]);
    assert!(list.matches_repository("docker.io", &app));
    assert!(!list.matches_repository("docker.io", &"library/web".parse().unwrap()));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    const NAME: &str =
        "is in no image's name: those have lower-case letters, digits, '.', '_' and '-'";
    const DEPTH: &str = "stands for whole components: write it alone between slashes";
    const EACH: &str = "is within braces or brackets: write a pattern for each instead";
    let slashes = "nothing stands before, between or after slashes".to_owned();
    let digest = "'@' at character 6 begins a digest, and patterns are about names and tags";
    let cases = [
        (
            "",
            "nothing stands where the image's name has to be".to_owned(),
        ),
        (
            ":1",
            "nothing stands where the image's name has to be".to_owned(),
        ),
        (
            "nginx:",
            "nothing stands after the colon: leave it out, or write a tag".to_owned(),
        ),
        ("/nginx", slashes.clone()),
        ("acme//app", slashes.clone()),
        ("acme/", slashes),
        ("NGINX", format!("'N' at character 1 {NAME}")),
        ("nginx ", format!("' ' at character 6 {NAME}")),
        ("acme/ä", format!("'ä' at character 6 {NAME}")),
        ("a\\*", format!("'\\\\' at character 2 {NAME}")),
        (
            "app:1+2",
            "'+' at character 6 is in no image's tag: those have letters, digits, '.', '_' and '-'"
                .to_owned(),
        ),
        ("nginx@sha256:00", digest.to_owned()),
        ("acme/a**", format!("\"**\" at character 7 {DEPTH}")),
        ("app:v**", format!("\"**\" at character 6 {DEPTH}")),
        ("{acme/app,web}", format!("'/' at character 6 {EACH}")),
        ("{app:1,web:2}", format!("':' at character 5 {EACH}")),
        (
            "web,app",
            "',' at character 4 means nothing outside of braces and brackets".to_owned(),
        ),
        (
            "!web",
            "'!' at character 1 means nothing outside of braces and brackets".to_owned(),
        ),
    ];
    for (text, said) in cases {
        assert_eq!(
            text.parse::<ImagePattern>().unwrap_err().to_string(),
            said,
            "{text:?}"
        );
    }
    for text in ["{a", "a}", "[a", "[z-a]", "a[]"] {
        let error = text.parse::<ImagePattern>();
        assert!(
            matches!(error, Err(PatternError::Glob(_))),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn the_longest_pattern_and_the_longest_list() {
    let longest = "a".repeat(PATTERN_LIMIT);
    assert!(longest.parse::<ImagePattern>().is_ok());
    let error = format!("{longest}a").parse::<ImagePattern>();
    assert_eq!(error, Err(PatternError::TooLong { length: 513 }));
    let texts: Vec<_> = (0..=PATTERNS_LIMIT)
        .map(|n| format!("team-{n}/**/app-?-*:{{dev,pr}}-*"))
        .collect();
    let list = texts.iter().take(PATTERNS_LIMIT).map(String::as_str);
    let list = ImagePatterns::parse(list).unwrap();
    let name = |team: usize| format!("team-{team}/a/b/app-x-y").parse().unwrap();
    let tag: Tag = "pr-7".parse().unwrap();
    assert!(list.matches("docker.io", &name(999), Some(&tag)));
    assert!(!list.matches("docker.io", &name(1000), Some(&tag)));
    let error = ImagePatterns::parse(texts.iter().map(String::as_str));
    assert_eq!(error, Err(PatternsError::TooMany { count: 1001 }));
    let wild = vec!["*a?".repeat(170); PATTERNS_LIMIT];
    let error = ImagePatterns::parse(wild.iter().map(String::as_str));
    assert_eq!(error, Err(PatternsError::TooLarge));
}

#[test]
fn the_wrong_pattern_of_a_list_is_named() {
    let error = ImagePatterns::parse(["nginx", "a//b"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"a//b\": nothing stands before, between or after slashes"
    );
}

#[test]
fn patterns_within_an_upstream_are_about_that_one_alone() {
    let is_about = |upstream: &str, pattern: &str, image: &str| {
        let (name, tag) = split_tag(image);
        let (host, repository) = name.split_once('/').unwrap();
        let tag = tag.map(|tag| tag.parse().unwrap());
        let list = ImagePatterns::within(upstream, [pattern]).unwrap();
        list.matches(host, &repository.parse().unwrap(), tag.as_ref())
    };
    assert!(is_about("docker.io", "nginx", "docker.io/library/nginx:1"));
    assert!(is_about(
        "docker.io",
        "library/**",
        "docker.io/library/nginx"
    ));
    assert!(is_about("docker.io", "*", "docker.io/library/nginx"));
    assert!(!is_about("docker.io", "*", "docker.io/acme/app"));
    assert!(!is_about("ghcr.io", "nginx", "docker.io/library/nginx:1"));
    assert!(is_about("ghcr.io", "nginx", "ghcr.io/nginx:1"));
    assert!(!is_about("ghcr.io", "nginx", "ghcr.io/library/nginx:1"));
    for upstream in ["docker.io", "ghcr.io", "localhost:5000"] {
        let image = format!("{upstream}/acme/a/b:1.0-rc1");
        assert!(is_about(upstream, "**", &image), "{upstream}");
        assert!(is_about(upstream, "acme/**", &image), "{upstream}");
        assert!(is_about(upstream, "**/*:*-rc*", &image), "{upstream}");
        assert!(!is_about(upstream, "**", "quay.io/acme/a/b:1.0-rc1"));
    }
    // A dot does not make an upstream of a component.
    assert!(is_about(
        "corp",
        "k8s.gcr.io/pause",
        "corp/k8s.gcr.io/pause"
    ));
    let error = ImagePatterns::within("ghcr.io", ["ghcr.io/acme/**"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"ghcr.io/acme/**\": begins with \"ghcr.io\", which is left out here"
    );
    let error = ImagePatterns::within("ghcr.io", ["acme//app"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"acme//app\": nothing stands before, between or after slashes"
    );
}

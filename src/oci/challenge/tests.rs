use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn never_panics_and_keeps_the_limits(text in ".{0,120}|[A-Ba-b=,\"\\\\ /]{0,120}") {
        let challenges = parse_challenges([text.as_str(), &text].into_iter());
        prop_assert!(challenges.len() <= CHALLENGES_LIMIT);
        prop_assert!(challenges.iter().all(|challenge| challenge.params.len() <= PARAMS_LIMIT));
    }

    #[test]
    fn any_quoted_value_comes_back(value in "[ -~]{0,40}", other in "[ -~]{0,40}") {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let header = format!("Bearer service={}, realm={}", quote(&other), quote(&value));
        let bearer = parse(&header)[0].bearer().unwrap();
        prop_assert_eq!((bearer.realm, bearer.service), (value, Some(other)));
    }
}

fn parse(header: &str) -> Vec<Challenge> {
    parse_challenges([header].into_iter())
}

fn challenge(scheme: &str, params: &[(&str, &str)]) -> Challenge {
    let params = params
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    Challenge {
        scheme: scheme.into(),
        params,
    }
}

#[test]
fn docker_hubs_challenge() {
    let header = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                  scope=\"repository:library/nginx:pull\",error=\"invalid_token\"";
    let bearer = Bearer {
        realm: "https://auth.docker.io/token".into(),
        service: Some("registry.docker.io".into()),
        scope: Some("repository:library/nginx:pull".into()),
        error: Some("invalid_token".into()),
    };
    assert_eq!(parse(header)[0].bearer(), Some(bearer));
}

#[test]
fn several_challenges_share_a_header() {
    let expected = [
        challenge("Basic", &[("realm", "a, b")]),
        challenge("Negotiate", &[]),
        challenge("BEARER", &[("realm", "r"), ("scope", "x y")]),
    ];
    let header = "Basic realm=\"a, b\", Negotiate abc/+d==, BEARER realm=r,Scope = \"x y\"";
    assert_eq!(parse(header), expected);
    let lines = [
        "Basic realm=\"a, b\"",
        "Negotiate",
        "BEARER realm=r , scope=\"x y\"",
    ];
    assert_eq!(parse_challenges(lines.into_iter()), expected);
}

#[test]
fn values_without_quotes_reach_to_the_comma() {
    let header = "Bearer realm=https://auth.example/token?x=1,service=registry.example";
    let params = [
        ("realm", "https://auth.example/token?x=1"),
        ("service", "registry.example"),
    ];
    assert_eq!(parse(header), [challenge("Bearer", &params)]);
}

#[test]
fn the_first_of_two_equal_parameters_wins() {
    assert_eq!(
        parse("Bearer realm=a, Realm=b"),
        [challenge("Bearer", &[("realm", "a")])]
    );
}

#[test]
fn what_is_odd_does_not_hide_what_follows() {
    for header in [
        "realm=x, Bearer realm=r",
        "/// ?, Bearer realm=r",
        "ä, Bearer realm=r",
        ", ,Bearer realm=r,",
        "Bearer realm=r, service=\"never ends",
    ] {
        assert_eq!(
            parse(header),
            [challenge("Bearer", &[("realm", "r")])],
            "{header}"
        );
    }
}

#[test]
fn only_a_bearer_with_a_realm_is_one() {
    assert_eq!(parse("Bearer service=x")[0].bearer(), None);
    assert_eq!(parse("Basic realm=x")[0].bearer(), None);
    assert!(parse("bAsIc")[0].is_basic());
    assert!(!parse("Bearer realm=x")[0].is_basic());
}

#[test]
fn the_limits() {
    assert_eq!(
        parse(&"Basic,".repeat(CHALLENGES_LIMIT)).len(),
        CHALLENGES_LIMIT
    );
    assert_eq!(
        parse(&"Basic,".repeat(CHALLENGES_LIMIT + 1)).len(),
        CHALLENGES_LIMIT
    );
    assert_eq!(
        parse_challenges(["Basic, Basic"; CHALLENGES_LIMIT].into_iter()).len(),
        CHALLENGES_LIMIT
    );
    let params = |count| {
        (0..count)
            .map(|n| format!("p{n}=1"))
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(
        parse(&format!("A {}", params(PARAMS_LIMIT)))[0]
            .params
            .len(),
        PARAMS_LIMIT
    );
    assert_eq!(
        parse(&format!("A {}", params(PARAMS_LIMIT + 1)))[0]
            .params
            .len(),
        PARAMS_LIMIT
    );
    assert_eq!(parse(&format!("{:LIMIT$}", "Basic")).len(), 1);
    assert_eq!(parse(&format!("{:1$}", "Basic", LIMIT + 1)), []);
}

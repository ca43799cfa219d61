use proptest::prelude::*;

use super::*;

const COMPONENT: &str = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}";

fn names() -> impl Strategy<Value = String> {
    prop::collection::vec(COMPONENT, 1..5).prop_map(|components| components.join("/"))
}

proptest! {
    #[test]
    fn every_name_of_the_grammar_parses_and_prints(text in names()) {
        let name: RepositoryName = text.parse().unwrap();
        prop_assert_eq!(name.to_string(), text.clone());
        prop_assert_eq!(name.components().collect::<Vec<_>>().join("/"), text);
    }

    #[test]
    fn stripping_a_prefix_undoes_adding_it(text in names()) {
        let prefixed: RepositoryName = format!("ghcr.io/{text}").parse().unwrap();
        let (first, rest) = prefixed.strip_first();
        prop_assert_eq!(first, "ghcr.io");
        prop_assert_eq!(rest, text.parse().ok());
    }

    #[test]
    fn what_parses_cannot_leave_a_directory(text in "[a-zA-Z0-9./_%\\\\-]{0,20}|.{0,20}") {
        if let Ok(name) = text.parse::<RepositoryName>() {
            prop_assert!(name.components().all(|component| !component.is_empty() && !component.starts_with('.')));
            prop_assert!(!name.as_str().contains(['%', '\\', ':']));
        }
    }

    #[test]
    fn every_tag_of_the_grammar_parses_and_prints(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
        prop_assert_eq!(text.parse::<Tag>().unwrap().to_string(), text.clone());
        prop_assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
    }

    #[test]
    fn references_never_panic(text in ".{0,200}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string(), text);
        }
    }
}

#[test]
fn names_outside_the_grammar() {
    for text in [
        "", "/", "a/", "/a", "a//b", "..", "a/../b", ".a", "a.", "-a", "a-", "_a", "a..b", "a___b",
        "a._b", "A", "a b", "a%2fb", "a\\b", "a:1", "ä", "a/B/c", "a\0",
    ] {
        let wrong = matches!(
            text.parse::<RepositoryName>(),
            Err(NameError::Component { .. })
        );
        assert!(wrong, "{text:?}");
    }
}

#[test]
fn the_wrong_component_is_named() {
    let error = "library/NGINX/x".parse::<RepositoryName>().unwrap_err();
    assert_eq!(
        error,
        NameError::Component {
            component: "NGINX".into()
        }
    );
}

#[test]
fn the_longest_name() {
    let longest = "a".repeat(NAME_LIMIT);
    assert!(longest.parse::<RepositoryName>().is_ok());
    let error = format!("{longest}a").parse::<RepositoryName>();
    assert_eq!(error, Err(NameError::TooLong { length: 256 }));
}

#[test]
fn the_library_is_added_to_single_components_only() {
    let name = |text: &str| text.parse::<RepositoryName>().unwrap();
    assert_eq!(name("nginx").with_library(), name("library/nginx"));
    assert_eq!(name("owner/app").with_library(), name("owner/app"));
    let longest = name(&"a".repeat(NAME_LIMIT - "library/".len()));
    assert_eq!(longest.with_library().as_str().len(), NAME_LIMIT);
    let too_long = name(&"a".repeat(NAME_LIMIT - "library/".len() + 1));
    assert_eq!(too_long.with_library(), too_long);
}

#[test]
fn the_last_component_cannot_be_stripped() {
    let name: RepositoryName = "nginx".parse().unwrap();
    assert_eq!(name.strip_first(), ("nginx", None));
}

#[test]
fn tags_outside_the_grammar() {
    let too_long = "a".repeat(TAG_LIMIT + 1);
    for text in [
        "", ".", "..", "-a", ".a", "a/b", "a:b", "a b", "ä", "a%", &too_long,
    ] {
        assert_eq!(text.parse::<Tag>(), Err(TagError), "{text:?}");
    }
    assert!("a".repeat(TAG_LIMIT).parse::<Tag>().is_ok());
}

#[test]
fn a_colon_makes_a_reference_a_digest() {
    let error = "latest:1".parse::<Reference>();
    assert_eq!(
        error,
        Err(ReferenceError::Digest(DigestError::UnknownAlgorithm(
            "latest".into()
        )))
    );
    assert_eq!("".parse::<Reference>(), Err(ReferenceError::Tag(TagError)));
}

#[test]
fn json_keeps_the_grammar() {
    let name: RepositoryName = serde_json::from_str("\"library/nginx\"").unwrap();
    assert_eq!(serde_json::to_string(&name).unwrap(), "\"library/nginx\"");
    assert!(serde_json::from_str::<RepositoryName>("\"../x\"").is_err());
    assert!(serde_json::from_str::<Tag>("\"a/b\"").is_err());
}

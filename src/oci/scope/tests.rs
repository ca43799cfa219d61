use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn text_round_trips(text in "[a-z]{1,8}(\\([a-z]{1,8}\\))?:[a-z0-9./:_-]{1,40}:([a-z]{1,6}(,([a-z]{1,6}|\\*)){0,3})?") {
        prop_assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
    }

    #[test]
    fn what_parses_prints_the_same(text in ".{0,60}|[a-z():,* ]{0,30}") {
        if let Ok(scope) = text.parse::<Scope>() {
            prop_assert_eq!(scope.to_string(), text);
        }
    }
}

fn scope(text: &str) -> Scope {
    text.parse().unwrap()
}

#[test]
fn the_parts_of_a_scope() {
    let pull = Scope::pull(&"library/nginx".parse().unwrap());
    assert_eq!(pull, scope("repository:library/nginx:pull"));
    let plugin = scope("repository(plugin):localhost:5000/a/b:pull,push");
    assert_eq!(plugin.class.as_deref(), Some("plugin"));
    assert_eq!(
        (plugin.resource_type.as_str(), plugin.name.as_str()),
        ("repository", "localhost:5000/a/b")
    );
    assert_eq!(scope("registry:catalog:*").actions, ["*"]);
    assert!(scope("repository:a:").actions.is_empty());
}

#[test]
fn texts_that_are_no_scope() {
    let long = format!("repository:{}:pull", "a".repeat(LIMIT));
    let many = format!("repository:a:{}", ["pull"; ACTIONS_LIMIT + 1].join(","));
    for text in [
        "",
        ":",
        "::",
        "repository",
        "repository:a",
        "repository::pull",
        ":a:pull",
        "repository(:a:pull",
        "repository():a:pull",
        "repository(a)b:a:pull",
        "repository:a:pull,",
        "repository:a:Pull",
        "repository:a b:pull",
        "repository:a:pull push",
        &long,
        &many,
    ] {
        assert_eq!(text.parse::<Scope>(), Err(ScopeError), "{text:?}");
    }
    assert_eq!(
        scope(&format!(
            "repository:a:{}",
            ["pull"; ACTIONS_LIMIT].join(",")
        ))
        .actions
        .len(),
        ACTIONS_LIMIT
    );
}

use super::*;

fn one(query: &str, name: &str) -> Option<String> {
    Query::parse(query)
        .unwrap()
        .one(name)
        .unwrap()
        .map(Into::into)
}

#[test]
fn values_are_decoded_and_pluses_stay() {
    assert_eq!(
        one("digest=sha256%3Aab&x=1", "digest").as_deref(),
        Some("sha256:ab")
    );
    assert_eq!(
        one("a=application/vnd.x+json", "a").as_deref(),
        Some("application/vnd.x+json")
    );
    assert_eq!(one("a=%2B%C3%A4", "a").as_deref(), Some("+ä"));
    assert_eq!(one("a=b=c", "a").as_deref(), Some("b=c"));
}

#[test]
fn an_empty_value_is_none() {
    for query in ["", "&&", "a", "a=", "b=a", "=a"] {
        assert_eq!(one(query, "a"), None, "{query}");
    }
}

#[test]
fn a_repeated_parameter_is_refused_where_one_is_wanted() {
    let query = Query::parse("tag=a&tag=b&%74ag=c").unwrap();
    assert_eq!(query.one("tag"), Err(Repeated));
    assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn malformed_queries() {
    for query in [
        "a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff", "%=1", "a=%00", "a=%0d%0a", "a=\n", "a=%4ä",
    ] {
        assert_eq!(Query::parse(query).err(), Some(Malformed), "{query:?}");
    }
}

#[test]
fn the_limits() {
    assert!(Query::parse(&"a".repeat(LIMIT)).is_ok());
    assert!(Query::parse(&"a".repeat(LIMIT + 1)).is_err());
    assert!(Query::parse(&["a=1"; PAIRS_LIMIT].join("&")).is_ok());
    assert!(Query::parse(&["a=1"; PAIRS_LIMIT + 1].join("&")).is_err());
}

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn never_panics(text in ".{0,80}|[<>?&=;,\"\\\\a-z ]{0,80}") {
        let _ = next_link(&text);
    }

    #[test]
    fn a_tag_and_a_page_size_come_back(last in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", n: u64) {
        let header = format!("</v2/a/tags/list?n={n}&last={last}>; rel=\"next\"");
        prop_assert_eq!(next_link(&header), Some(NextLink { n: Some(n), last }));
    }
}

fn page(last: &str) -> NextLink {
    NextLink {
        n: None,
        last: last.into(),
    }
}

#[test]
fn forms_that_registries_send() {
    for header in [
        "</v2/a/tags/list?last=x>; rel=\"next\"",
        "<https://registry.example/v2/a/tags/list?last=x#top>;rel=next",
        "<?last=x>; title=\"a, b; c\\\"\"; REL=\"prefetch Next\"",
        "</first>; title=\"a\\\\\", <?last=x>; rel=next",
        "</first>; rel=\"first\", </v2/a?last=x>; rel=\"next\"",
        "</v2/a/tags/list?n=&last=x>; rel=\"next\"",
        "</v2/a/tags/list?n=many&last=x>; rel=\"next\"",
    ] {
        assert_eq!(next_link(header), Some(page("x")), "{header}");
    }
    assert_eq!(
        next_link("</v2/a?last=a%2Fb>; rel=\"next\""),
        Some(page("a/b"))
    );
}

#[test]
fn headers_without_a_next_page() {
    for header in [
        "",
        "<",
        "<>",
        "<?last=x>",
        "<?last=x>; rel=\"prev\"",
        "<?last=x; rel=\"next\"",
        "<?n=5>; rel=\"next\"",
        "</v2/a>; rel=\"next\"",
        "<?last=>; rel=\"next\"",
        "<?last=a&last=b>; rel=\"next\"",
        "<?last=%zz>; rel=\"next\"",
        "<?last=a%0d%0ab>; rel=\"next\"",
        "<?last=x>; title=\"rel=next\"",
        "<?last=x>; title=\"a; rel=next\"",
        "<?last=x>; title=\"a\\\"; rel=next\"",
        "</a>; title=\"a\\\", <?last=x>; rel=next\"",
    ] {
        assert_eq!(next_link(header), None, "{header}");
    }
}

#[test]
fn the_limits() {
    let link = |last: &str| format!("<?last={last}>; rel=\"next\"");
    let longest = "a".repeat(LAST_LIMIT);
    assert_eq!(next_link(&link(&longest)), Some(page(&longest)));
    assert_eq!(next_link(&link(&format!("{longest}a"))), None);
    let others = |count| format!("{}{}", "<x>; rel=prev, ".repeat(count), link("x"));
    assert_eq!(next_link(&others(LINKS_LIMIT - 1)), Some(page("x")));
    assert_eq!(next_link(&others(LINKS_LIMIT)), None);
    assert_eq!(
        next_link(&format!("{}{}", link("x"), " ".repeat(LIMIT))),
        None
    );
}

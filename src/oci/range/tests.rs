use proptest::prelude::*;

use super::*;

fn ranges() -> impl Strategy<Value = ByteRange> {
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(a, b)| ByteRange::FromTo(a.min(b), a.max(b))),
        any::<u64>().prop_map(ByteRange::From),
        any::<u64>().prop_map(ByteRange::Suffix),
        (0..20u64, 0..20u64).prop_map(|(a, b)| ByteRange::FromTo(a.min(b), a.max(b))),
        (0..20u64).prop_map(ByteRange::From),
        (0..20u64).prop_map(ByteRange::Suffix),
    ]
}

proptest! {
    #[test]
    fn a_span_is_never_empty_nor_outside(range in ranges(), total in prop_oneof![any::<u64>(), 0..20u64]) {
        match range.resolve(total) {
            Ok(span) => prop_assert!(span.start < span.end && span.end <= total && span.length() > 0),
            Err(error) => prop_assert_eq!(error.total, total),
        }
    }

    #[test]
    fn a_span_is_what_rfc_9110_says(range in ranges(), total in 0..20u64) {
        let wanted = |offset: &u64| match range {
            ByteRange::FromTo(first, last) => (first..=last).contains(offset),
            ByteRange::From(first) => *offset >= first,
            ByteRange::Suffix(length) => total - offset <= length,
        };
        let expected: Vec<u64> = (0..total).filter(wanted).collect();
        let actual: Vec<u64> = range.resolve(total).map_or_else(|_| Vec::new(), |span| (span.start..span.end).collect());
        prop_assert_eq!(actual, expected);
    }

    #[test]
    fn requests_round_trip(range in ranges()) {
        prop_assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
    }

    #[test]
    fn answers_round_trip(range in ranges(), total in 1..u64::MAX) {
        if let Ok(span) = range.resolve(total) {
            let answer = ContentRange::parse(&span.content_range(total)).unwrap();
            prop_assert_eq!((answer.start, answer.end_inclusive, answer.total), (span.start, span.end - 1, Some(total)));
        }
    }

    #[test]
    fn parsing_never_panics(text in ".{0,40}|bytes[= ][0-9,/* -]{0,40}") {
        let _ = ByteRange::parse(&text);
        let _ = ContentRange::parse(&text);
    }
}

#[test]
fn requests_that_are_understood() {
    assert_eq!(ByteRange::parse("bytes=0-0"), Some(ByteRange::FromTo(0, 0)));
    assert_eq!(ByteRange::parse("Bytes=5-"), Some(ByteRange::From(5)));
    assert_eq!(ByteRange::parse("bytes= -5 "), Some(ByteRange::Suffix(5)));
    assert_eq!(
        ByteRange::parse("bytes=0-99999999999999999999"),
        Some(ByteRange::FromTo(0, u64::MAX))
    );
}

#[test]
fn requests_that_are_ignored() {
    for header in [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-1,2-3",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1 -2",
        "items=0-1",
        "bytes 0-1",
        "bytes=1-2-3",
        "bytes=0x1-2",
    ] {
        assert_eq!(ByteRange::parse(header), None, "{header:?}");
    }
}

#[test]
fn nothing_of_nothing_is_unsatisfiable() {
    for range in [
        ByteRange::From(0),
        ByteRange::Suffix(1),
        ByteRange::FromTo(0, 0),
    ] {
        assert_eq!(range.resolve(0), Err(Unsatisfiable { total: 0 }));
    }
    let error = ByteRange::Suffix(0).resolve(9).unwrap_err();
    assert_eq!(error.content_range(), "bytes */9");
}

#[test]
fn answers_that_contradict_themselves() {
    let unknown = ContentRange {
        start: 1,
        end_inclusive: 2,
        total: None,
    };
    assert_eq!(ContentRange::parse("bytes 1-2/*"), Some(unknown));
    for header in [
        "",
        "bytes */9",
        "bytes 2-1/9",
        "bytes 0-9/9",
        "bytes 0-1",
        "items 0-1/9",
        "bytes=0-1/9",
        "bytes 0-/9",
        "bytes 0-1/99999999999999999999",
        "bytes 99999999999999999999-99999999999999999999/*",
        "bytes 0-+1/9",
    ] {
        assert_eq!(ContentRange::parse(header), None, "{header:?}");
    }
}

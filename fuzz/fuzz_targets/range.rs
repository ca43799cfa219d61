//! The first line is a header, the second the length of the content.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror::oci::{ByteRange, ContentRange};

fuzz_target!(|input: &str| {
    let (header, total) = input.split_once('\n').unwrap_or((input, "10"));
    let total: u64 = total.parse().unwrap_or(10);
    if let Some(range) = ByteRange::parse(header) {
        assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
        if let Ok(span) = range.resolve(total) {
            assert!(span.start < span.end && span.end <= total);
            let answer = ContentRange::parse(&span.content_range(total)).expect("our own header");
            assert_eq!(
                (answer.start, answer.end_inclusive, answer.total),
                (span.start, span.end - 1, Some(total))
            );
        }
    }
    if let Some(range) = ContentRange::parse(header) {
        assert!(range.start <= range.end_inclusive);
        assert!(range.total.is_none_or(|total| range.end_inclusive < total));
    }
});

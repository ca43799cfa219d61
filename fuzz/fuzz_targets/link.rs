//! A `Link` header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror::oci::next_link;

fuzz_target!(|header: &str| {
    if let Some(next) = next_link(header) {
        assert!(!next.last.is_empty() && next.last.len() <= 2048);
        assert!(!next.last.contains(char::is_control));
    }
});

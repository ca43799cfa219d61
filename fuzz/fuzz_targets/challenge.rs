//! Each line is a `WWW-Authenticate` header.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mirror::oci::parse_challenges;

fuzz_target!(|input: &str| {
    let challenges = parse_challenges(input.lines());
    assert!(challenges.len() <= 8);
    for challenge in &challenges {
        let names: HashSet<&str> = challenge
            .params
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert!(names.len() == challenge.params.len() && names.len() <= 16);
        assert!(!challenge.scheme.is_empty());
        assert!(!(challenge.is_basic() && challenge.bearer().is_some()));
    }
});

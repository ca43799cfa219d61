//! A token scope.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror::oci::Scope;

fuzz_target!(|text: &str| {
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.to_string(), text);
    }
});

//! Lines of input: method, path, query, `Range`.

#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use mirror::oci::{Reference, Request};

fuzz_target!(|input: &str| {
    let mut lines = input.splitn(4, '\n');
    let method = lines
        .next()
        .and_then(|line| Method::from_bytes(line.as_bytes()).ok());
    let (Some(method), Some(path)) = (method, lines.next()) else {
        return;
    };
    let (query, range) = (lines.next(), lines.next());
    match Request::parse(&method, path, query, range) {
        Ok(parsed) => {
            assert!(!path.contains('%') && !path.contains("/../"));
            if let Some(name) = parsed.request.name() {
                assert!(path.contains(name.as_str()));
                assert_eq!(name.as_str().parse().as_ref(), Ok(name));
            }
            again(&parsed.request);
        }
        Err(error) => {
            assert!(error.status().is_client_error());
            assert!(error.body().to_bytes().len() < 8 * 1024);
        }
    }
});

/// A manifest request, written out from its parts, reads the same.
fn again(request: &Request) {
    let Request::ManifestGet { name, reference } = request else {
        return;
    };
    let path = format!("/v2/{name}/manifests/{reference}");
    let parsed = Request::parse(&Method::GET, &path, None, None).expect("what was accepted once");
    assert_eq!(&parsed.request, request);
    assert_eq!(
        reference.to_string().parse::<Reference>().as_ref(),
        Ok(reference)
    );
}

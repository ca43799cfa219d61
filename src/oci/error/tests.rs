use serde_json::json;

use super::*;

#[test]
fn the_body_is_the_specifications() {
    let body = ErrorBody::new(Code::ManifestUnknown, "manifest \"x\" is unknown")
        .with_detail(json!({ "name": "library/nginx" }));
    assert_eq!(
        body.to_bytes(),
        r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest \"x\" is unknown","detail":{"name":"library/nginx"}}]}"#
    );
    assert_eq!(
        (body.code(), body.message()),
        (Code::ManifestUnknown, "manifest \"x\" is unknown")
    );
}

#[test]
fn control_characters_are_escaped() {
    let body = ErrorBody::new(Code::Unknown, "a\r\nb\u{1b}").to_bytes();
    assert_eq!(
        body,
        r#"{"errors":[{"code":"UNKNOWN","message":"a\r\nb\u001b"}]}"#
    );
}

use proptest::prelude::*;

use super::*;

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn digests() -> impl Strategy<Value = Digest> {
    let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)];
    (algorithm, any::<Vec<u8>>()).prop_map(|(algorithm, content)| Digest::of(algorithm, &content))
}

proptest! {
    #[test]
    fn text_round_trips(digest in digests()) {
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        prop_assert_eq!(format!("{digest:?}"), digest.to_string());
        prop_assert_eq!(digest.encoded().len(), digest.algorithm().encoded_len());
    }

    #[test]
    fn bytes_round_trip(digest in digests()) {
        prop_assert_eq!(Digest::from_bytes(digest.algorithm(), digest.as_bytes()), Some(digest));
    }

    #[test]
    fn json_round_trips(digest in digests()) {
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(&json, &format!("\"{digest}\""));
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn hashing_in_parts_is_hashing_the_whole(content: Vec<u8>, cut: prop::sample::Index) {
        let (head, tail) = content.split_at(cut.index(content.len() + 1));
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(head);
        let mut resumed = hasher.clone();
        resumed.update(tail);
        prop_assert_eq!(resumed.finish(), Digest::of(Algorithm::Sha512, &content));
    }

    #[test]
    fn what_parses_prints_the_same(text in ".{0,140}|sha(256|512):[0-9a-g]{63,65}|[a-z0-9+]{1,9}:[0-9a-f]{64}") {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }
}

#[test]
fn known_vectors() {
    assert_eq!(
        Digest::of(Algorithm::Sha256, b"").to_string(),
        format!("sha256:{EMPTY}")
    );
    assert_eq!(
        Digest::of(Algorithm::Sha512, b"abc").to_string(),
        "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    );
}

#[test]
fn unknown_algorithms_are_told_from_nonsense() {
    let unknown = |name: &str| Err(DigestError::UnknownAlgorithm(name.into()));
    assert_eq!(
        format!("blake3:{EMPTY}").parse::<Digest>(),
        unknown("blake3")
    );
    assert_eq!("sha256+b64u:x".parse::<Digest>(), unknown("sha256+b64u"));
    for text in [
        "",
        ":",
        EMPTY,
        "SHA256:00",
        "sha 256:00",
        &format!("{}:00", "a".repeat(33)),
    ] {
        assert_eq!(
            text.parse::<Digest>(),
            Err(DigestError::Malformed),
            "{text}"
        );
    }
}

#[test]
fn the_encoding_is_strict() {
    let wrong = Err(DigestError::Encoded {
        algorithm: Algorithm::Sha256,
    });
    let long = format!("{EMPTY}00");
    let short = &EMPTY[1..];
    let upper = EMPTY.to_uppercase();
    let space = format!("{short} ");
    for encoded in [
        "",
        short,
        &long,
        &upper,
        &space,
        &EMPTY.replace('e', "g"),
        &EMPTY.repeat(2),
    ] {
        assert_eq!(
            format!("sha256:{encoded}").parse::<Digest>(),
            wrong,
            "{encoded}"
        );
    }
    let short = format!("sha512:{EMPTY}").parse::<Digest>();
    assert_eq!(
        short,
        Err(DigestError::Encoded {
            algorithm: Algorithm::Sha512
        })
    );
}

#[test]
fn the_raw_length_is_the_algorithms() {
    for length in [0, 31, 33, 63, 65] {
        assert_eq!(
            Digest::from_bytes(Algorithm::Sha256, &vec![0; length]),
            None
        );
        assert_eq!(
            Digest::from_bytes(Algorithm::Sha512, &vec![0; length]),
            None
        );
    }
    assert_eq!(Digest::from_bytes(Algorithm::Sha512, &[0; 32]), None);
}

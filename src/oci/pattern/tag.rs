//! Patterns over the tags of a repository: `v*.*.*`, `{latest,nightly*}`.

use std::fmt;
use std::str::FromStr;

use globset::GlobSet;

use super::super::name::Tag;
use super::{
    PATTERN_LIMIT, PUNCTUATION, PatternError, TAG_CHARACTERS, check_any_depth, check_enclosed,
    glob, set,
};

/// A pattern over tags, with the wildcards of [`ImagePattern`](super::ImagePattern). A clone shares what is compiled.
///
/// ```
/// use mirror::oci::TagPattern;
///
/// let pattern: TagPattern = "v*.*.*".parse().unwrap();
/// assert!(pattern.matches(&"v1.2.3-rc1".parse().unwrap()));
/// assert!(!pattern.matches(&"v1.2".parse().unwrap()));
/// ```
#[derive(Clone)]
pub struct TagPattern {
    text: String,
    glob: GlobSet,
}

impl TagPattern {
    /// Whether the pattern is about `tag`.
    pub fn matches(&self, tag: &Tag) -> bool {
        self.glob.is_match(tag.as_str())
    }
}

impl FromStr for TagPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_LIMIT {
            let length = text.len();
            return Err(PatternError::TooLong { length });
        }
        if text.is_empty() {
            let place = "where the tag has to be";
            return Err(PatternError::Empty { place });
        }
        check_enclosed(text)?;
        check_characters(text)?;
        check_any_depth(text, 1)?;
        let glob = set([&glob(text)?]).map_err(|why| PatternError::Glob(why.to_string()))?;
        let text = text.to_owned();
        Ok(Self { text, glob })
    }
}

/// Refuses what matches no tag.
fn check_characters(text: &str) -> Result<(), PatternError> {
    let fits = |character: char| match character {
        '/' | ':' => false,
        _ => character.is_ascii_alphanumeric() || PUNCTUATION.contains(character),
    };
    let wrong = (1..)
        .zip(text.chars())
        .find(|(_, character)| !fits(*character));
    match wrong {
        Some((position, '@')) => Err(PatternError::Digest { position }),
        Some((position, character)) => Err(PatternError::Character {
            character,
            position,
            part: TAG_CHARACTERS,
        }),
        None => Ok(()),
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// The text makes the pattern; the rest follows from it.
impl PartialEq for TagPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TagPattern {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_about(pattern: &str, tag: &str) -> bool {
        let pattern: TagPattern = pattern.parse().unwrap();
        pattern.matches(&tag.parse().unwrap())
    }

    #[test]
    fn wildcards_stand_for_parts_of_a_tag() {
        assert!(is_about("v*.*.*", "v1.2.3"));
        assert!(!is_about("v*.*.*", "v1.2"));
        assert!(!is_about("v*.*.*", "1.2.3"));
        assert!(is_about("{latest,nightly*}", "nightly-2031"));
        assert!(!is_about("{latest,nightly*}", "latest-1"));
        assert!(is_about("[0-9]*", "7-alpine"));
        assert!(!is_about("[!0-9]*", "7-alpine"));
        assert!(is_about("?.?", "1.2") && !is_about("?.?", "1.22"));
        assert!(is_about("*", "latest") && is_about("**", "latest"));
        assert!(is_about("Dev", "Dev") && !is_about("Dev", "dev"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        const TAG: &str = "is in no image's tag: those have letters, digits, '.', '_' and '-'";
        let cases = [
            ("", "nothing stands where the tag has to be".to_owned()),
            ("nginx:1", format!("':' at character 6 {TAG}")),
            ("a/b", format!("'/' at character 2 {TAG}")),
            ("1 ", format!("' ' at character 2 {TAG}")),
            ("1+2", format!("'+' at character 2 {TAG}")),
            (
                "a@b",
                "'@' at character 2 begins a digest, and patterns are about names and tags"
                    .to_owned(),
            ),
            (
                "a,b",
                "',' at character 2 means nothing outside of braces and brackets".to_owned(),
            ),
            (
                "v**",
                "\"**\" at character 2 stands for whole components: write it alone between slashes"
                    .to_owned(),
            ),
        ];
        for (text, said) in cases {
            let error = text.parse::<TagPattern>().unwrap_err();
            assert_eq!(error.to_string(), said, "{text:?}");
        }
        for text in ["{a", "a}", "[a", "[z-a]", "a[]"] {
            let error = text.parse::<TagPattern>();
            assert!(
                matches!(error, Err(PatternError::Glob(_))),
                "{text}: {error:?}"
            );
        }
    }

    #[test]
    fn the_longest_pattern() {
        for longest in [
            "a".repeat(PATTERN_LIMIT),
            "?*".repeat(PATTERN_LIMIT / 2).replace("**", "*"),
        ] {
            assert!(longest.parse::<TagPattern>().is_ok());
        }
        let error = "a".repeat(PATTERN_LIMIT + 1).parse::<TagPattern>();
        assert_eq!(error, Err(PatternError::TooLong { length: 513 }));
    }

    proptest! {
        #[test]
        fn every_tag_is_a_pattern_of_itself_alone(
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", other in "[a-zA-Z0-9_]{1,9}",
        ) {
            prop_assert!(is_about(&tag, &tag));
            prop_assert_eq!(is_about(&tag, &other), tag == other);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-zA@:/*?{},\\[\\]!^.\\\\ -]{0,40}|.{0,40}") {
            if let Ok(pattern) = text.parse::<TagPattern>() {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}

//! Patterns over images, as a configuration names them: `nginx:1.*`, `ghcr.io/acme/**`.
//!
//! A pattern reads like an image: upstream, repository and tag, of which the first and the last may be left out. In
//! each of them `*` stands for any characters, `?` for one, `{a,b}` for one of several and `[0-9]` for one of a range;
//! none of these crosses a `/`. `**` as a whole component stands for any number of components. The limits are on what
//! is written; matching takes time in proportion to what is matched.

use std::fmt;
use std::str::FromStr;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::name::{RepositoryName, Tag};

pub use tag::TagPattern;

mod tag;

/// The longest pattern in bytes.
pub const PATTERN_LIMIT: usize = 512;

/// The most patterns of a list.
pub const PATTERNS_LIMIT: usize = 1_000;

/// The upstream of images that name none.
const DEFAULT_UPSTREAM: &str = "docker.io";

/// The namespace that Docker Hub gives to names of one component.
const LIBRARY: &str = "library";

/// The punctuation of images, and that of patterns.
const PUNCTUATION: &str = "._-/:*?{},[]!";

/// What a repository's name is made of, for a message.
const NAME_CHARACTERS: &str = "name: those have lower-case letters, digits, '.', '_' and '-'";

/// What a tag is made of, for a message.
const TAG_CHARACTERS: &str = "tag: those have letters, digits, '.', '_' and '-'";

/// Any number of components.
const ANY_DEPTH: &str = "**";

/// A pattern over images: `[<upstream>/]<repository>[:<tag>]`.
///
/// The first component is an upstream when it has a dot or a colon, or is `localhost`; without one the pattern is about
/// `docker.io`, where `library/` may be left out too. A pattern that begins with `**` is about every upstream. Without
/// a tag it is about every tag, and about what is asked for by digest.
///
/// ```
/// use mirror::oci::ImagePattern;
///
/// let pattern: ImagePattern = "nginx:1.*".parse().unwrap();
/// assert_eq!(pattern.to_string(), "nginx:1.*");
/// let error = "acme/App".parse::<ImagePattern>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "'A' at character 6 is in no image's name: those have lower-case letters, digits, '.', '_' and '-'"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern {
    text: String,
    /// Over `<upstream>/<repository>`.
    repository: Glob,
    /// `None` for every tag and every digest.
    tag: Option<Glob>,
}

/// A list of patterns, ready to be matched. Clones are cheap enough for settings, not for requests.
///
/// ```
/// use mirror::oci::ImagePatterns;
///
/// let patterns = ImagePatterns::parse(["nginx:1.*", "ghcr.io/acme/**"]).unwrap();
/// let (nginx, tag) = ("library/nginx".parse().unwrap(), "1.27".parse().unwrap());
/// assert!(patterns.matches("docker.io", &nginx, Some(&tag)));
/// assert!(!patterns.matches("docker.io", &nginx, None));
/// assert!(patterns.matches_repository("docker.io", &nginx));
/// assert!(patterns.matches("ghcr.io", &"acme/a/b".parse().unwrap(), None));
/// ```
#[derive(Clone, Default)]
pub struct ImagePatterns {
    patterns: Vec<ImagePattern>,
    /// The repositories of all patterns, in their order.
    repositories: GlobSet,
    /// The tag of each pattern, as a set of one; `None` for every tag and every digest.
    tags: Vec<Option<GlobSet>>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Longer than [`PATTERN_LIMIT`].
    #[error("a pattern has at most {PATTERN_LIMIT} bytes, not {length}")]
    TooLong {
        /// The length of the text in bytes.
        length: usize,
    },
    /// Nothing stands where a component or a tag has to be.
    #[error("nothing stands {place}")]
    Empty {
        /// Where, in words.
        place: &'static str,
    },
    /// A character that no image's name or tag has, and that is no wildcard either.
    #[error("{character:?} at character {position} is in no image's {part}")]
    Character {
        /// The first one.
        character: char,
        /// Its place, counted from 1.
        position: usize,
        /// What it was found in, and what that has, in words.
        part: &'static str,
    },
    /// A digest: what it names never changes, so no pattern is about it.
    #[error("'@' at character {position} begins a digest, and patterns are about names and tags")]
    Digest {
        /// Its place, counted from 1.
        position: usize,
    },
    /// A separator within braces or brackets.
    #[error(
        "{separator:?} at character {position} is within braces or brackets: write a pattern for each instead"
    )]
    Enclosed {
        /// `/` or `:`.
        separator: char,
        /// Its place, counted from 1.
        position: usize,
    },
    /// A character that means something within braces or brackets alone.
    #[error("{character:?} at character {position} means nothing outside of braces and brackets")]
    Unenclosed {
        /// `,` or `!`.
        character: char,
        /// Its place, counted from 1.
        position: usize,
    },
    /// `**` beside something else.
    #[error(
        "\"**\" at character {position} stands for whole components: write it alone between slashes"
    )]
    AnyDepth {
        /// Its place, counted from 1.
        position: usize,
    },
    /// The upstream, where patterns begin behind it.
    #[error("begins with {upstream:?}, which is left out here")]
    Upstream {
        /// The upstream whose patterns these are.
        upstream: String,
    },
    /// Braces or brackets that do not fit together.
    #[error("{0}")]
    Glob(String),
}

/// Why texts are no list of patterns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternsError {
    /// One of them is no pattern.
    #[error("{pattern:?}: {source}")]
    Pattern {
        /// The text.
        pattern: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// More than [`PATTERNS_LIMIT`].
    #[error("a list has at most {PATTERNS_LIMIT} patterns, not {count}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Each is a pattern, and all of them together are more than can be matched in little memory.
    #[error("the patterns are too long, all together")]
    TooLarge,
}

impl FromStr for ImagePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::read(text, complete)
    }
}

impl ImagePattern {
    /// A pattern over the images of `upstream` alone, which the text does not name.
    fn within(upstream: &str, text: &str) -> Result<Self, PatternError> {
        let (image, _) = split_tag(text);
        if image.split('/').next() == Some(upstream) && image != upstream {
            let upstream = upstream.to_owned();
            return Err(PatternError::Upstream { upstream });
        }
        Self::read(text, |image| complete_within(upstream, image))
    }

    /// `complete` puts what was left out in front of an image.
    fn read(text: &str, complete: impl Fn(&str) -> String) -> Result<Self, PatternError> {
        if text.len() > PATTERN_LIMIT {
            let length = text.len();
            return Err(PatternError::TooLong { length });
        }
        check_enclosed(text)?;
        let (image, tag) = split_tag(text);
        check_characters(text, image.len())?;
        let tag = tag.filter(|tag| !matches!(*tag, "*" | ANY_DEPTH));
        Ok(Self {
            repository: glob(&complete(image))?,
            tag: tag.map(glob).transpose()?,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ImagePatterns {
    /// Reads a list of patterns.
    ///
    /// # Errors
    /// [`PatternsError`] for the first that is none, and for too many.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, PatternsError> {
        Self::read(texts, str::parse)
    }

    /// Reads a list of patterns over the images of `upstream` alone: `[<repository>][:<tag>]`, where a repository of one
    /// component is in `library/` if the upstream is `docker.io`.
    ///
    /// # Errors
    /// [`PatternsError`] for the first that is none, and for too many.
    ///
    /// ```
    /// use mirror::oci::ImagePatterns;
    ///
    /// let patterns = ImagePatterns::within("ghcr.io", ["acme/**", "**/*:*-rc*"]).unwrap();
    /// assert!(patterns.matches("ghcr.io", &"acme/app".parse().unwrap(), None));
    /// assert!(!patterns.matches("docker.io", &"acme/app".parse().unwrap(), None));
    /// let rc = "1.0-rc2".parse().unwrap();
    /// assert!(patterns.matches("ghcr.io", &"else/app".parse().unwrap(), Some(&rc)));
    /// ```
    pub fn within<'t>(
        upstream: &str,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, PatternsError> {
        Self::read(texts, |text| ImagePattern::within(upstream, text))
    }

    fn read<'t>(
        texts: impl IntoIterator<Item = &'t str>,
        parse: impl Fn(&str) -> Result<ImagePattern, PatternError>,
    ) -> Result<Self, PatternsError> {
        let texts: Vec<_> = texts.into_iter().collect();
        let count = texts.len();
        if count > PATTERNS_LIMIT {
            return Err(PatternsError::TooMany { count });
        }
        let parse = |text: &str| {
            parse(text).map_err(|source| PatternsError::Pattern {
                pattern: text.to_owned(),
                source,
            })
        };
        let patterns: Vec<ImagePattern> = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
        let repositories = set(patterns.iter().map(|pattern| &pattern.repository))?;
        let tags = patterns.iter().map(|pattern| pattern.tag.as_ref());
        let tags = tags.map(|tag| tag.map(|tag| set([tag])).transpose());
        Ok(Self {
            tags: tags.collect::<Result<_, _>>()?,
            repositories,
            patterns,
        })
    }

    /// Whether a pattern is about `tag` of the repository; `None` stands for what is asked for by digest, which belongs
    /// to no one tag: only a pattern for every tag is about it. `repository` is the name as the upstream knows it, with
    /// `library/`.
    pub fn matches(&self, upstream: &str, repository: &RepositoryName, tag: Option<&Tag>) -> bool {
        let found = self.repositories.matches(path(upstream, repository));
        let mut tags = found.into_iter().filter_map(|at| self.tags.get(at));
        tags.any(|wanted| match (wanted, tag) {
            (None, _) => true,
            (Some(wanted), Some(tag)) => wanted.is_match(tag.as_str()),
            (Some(_), None) => false,
        })
    }

    /// Whether a pattern is about the repository, be it about some of its tags only.
    pub fn matches_repository(&self, upstream: &str, repository: &RepositoryName) -> bool {
        self.repositories.is_match(path(upstream, repository))
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// The patterns make the list; the rest follows from them.
impl PartialEq for ImagePatterns {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Eq for ImagePatterns {}

impl fmt::Debug for ImagePatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.patterns.iter().map(|pattern| &pattern.text);
        f.debug_list().entries(texts).finish()
    }
}

fn path(upstream: &str, repository: &RepositoryName) -> String {
    format!("{upstream}/{repository}")
}

/// The image and the tag: a colon before the last slash is an upstream's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => (image, Some(tag)),
        _ => (text, None),
    }
}

/// The image with its upstream and, at Docker Hub, its namespace.
fn complete(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or((image, ""));
    match rest {
        _ if first == ANY_DEPTH => image.to_owned(),
        "" => format!("{DEFAULT_UPSTREAM}/{LIBRARY}/{image}"),
        _ if !is_upstream(first) => format!("{DEFAULT_UPSTREAM}/{image}"),
        name if first == DEFAULT_UPSTREAM && name != ANY_DEPTH && !name.contains('/') => {
            format!("{DEFAULT_UPSTREAM}/{LIBRARY}/{name}")
        }
        _ => image.to_owned(),
    }
}

/// The image with the upstream that it belongs to and, at Docker Hub, its namespace.
fn complete_within(upstream: &str, image: &str) -> String {
    let host = globset::escape(upstream);
    if upstream == DEFAULT_UPSTREAM && image != ANY_DEPTH && !image.contains('/') {
        format!("{host}/{LIBRARY}/{image}")
    } else {
        format!("{host}/{image}")
    }
}

/// The rule of Docker's references, `github.com/distribution/reference`.
fn is_upstream(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

/// Refuses separators where they would not separate, and what separates nothing.
fn check_enclosed(text: &str) -> Result<(), PatternError> {
    let mut depth = 0_usize;
    for (position, character) in (1..).zip(text.chars()) {
        match character {
            '{' | '[' => depth = depth.saturating_add(1),
            '}' | ']' => depth = depth.saturating_sub(1),
            separator @ ('/' | ':') if depth > 0 => {
                return Err(PatternError::Enclosed {
                    separator,
                    position,
                });
            }
            character @ (',' | '!') if depth == 0 => {
                return Err(PatternError::Unenclosed {
                    character,
                    position,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what matches no image: it is a slip, not a wish. The image ends at byte `end`, and the tag follows.
fn check_characters(text: &str, end: usize) -> Result<(), PatternError> {
    for (position, (at, character)) in (1..).zip(text.char_indices()) {
        let part = if at < end {
            NAME_CHARACTERS
        } else {
            TAG_CHARACTERS
        };
        match character {
            '@' => return Err(PatternError::Digest { position }),
            'a'..='z' | '0'..='9' => {}
            'A'..='Z' if at >= end => {}
            _ if PUNCTUATION.contains(character) => {}
            _ => {
                return Err(PatternError::Character {
                    character,
                    position,
                    part,
                });
            }
        }
    }
    let (image, tag) = (
        text.get(..end).unwrap_or(text),
        text.get(end..).unwrap_or_default(),
    );
    check_components(image, tag)
}

fn check_components(image: &str, tag: &str) -> Result<(), PatternError> {
    let empty = |place| Err(PatternError::Empty { place });
    let mut position = 1_usize;
    for component in image.split('/') {
        if component.is_empty() {
            return empty(if image.is_empty() {
                "where the image's name has to be"
            } else {
                "before, between or after slashes"
            });
        }
        check_any_depth(component, position)?;
        position = position.saturating_add(component.len()).saturating_add(1);
    }
    match tag.strip_prefix(':') {
        Some("") => empty("after the colon: leave it out, or write a tag"),
        Some(tag) => check_any_depth(tag, position),
        None => Ok(()),
    }
}

/// `position` is that of the component's first character.
fn check_any_depth(component: &str, position: usize) -> Result<(), PatternError> {
    match component.find(ANY_DEPTH) {
        Some(at) if component != ANY_DEPTH => Err(PatternError::AnyDepth {
            position: position.saturating_add(at),
        }),
        _ => Ok(()),
    }
}

fn glob(text: &str) -> Result<Glob, PatternError> {
    let glob = GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(false)
        .empty_alternates(true)
        .build();
    glob.map_err(|error| PatternError::Glob(error.kind().to_string()))
}

fn set<'g>(globs: impl IntoIterator<Item = &'g Glob>) -> Result<GlobSet, PatternsError> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob.clone());
    }
    builder.build().map_err(|_| PatternsError::TooLarge)
}

#[cfg(test)]
mod tests;

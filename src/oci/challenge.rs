//! Authentication challenges: `WWW-Authenticate` of RFC 9110 section 11.6.1, as registries really send it.
//!
//! Several challenges may share one header, parameters come in any order, and some registries do not quote
//! values. What cannot be understood is skipped up to the next comma, so that one odd challenge does not hide
//! another.

/// The longest header value in bytes that is looked at.
const LIMIT: usize = 8 * 1024;

/// The most challenges that are kept of one answer.
const CHALLENGES_LIMIT: usize = 8;

/// The most parameters that are kept of one challenge.
const PARAMS_LIMIT: usize = 16;

/// One challenge: a scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme as it was written; compared without regard to case.
    pub scheme: String,
    /// Names in lower case, each once (the first wins), and values without quotes, in the order of the header.
    pub params: Vec<(String, String)>,
}

/// What a `Bearer` challenge asks for (distribution project, `token/jwt.md`; RFC 6750 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The URL of the token endpoint as the upstream claims it: to be checked before anything is sent there.
    pub realm: String,
    /// The name of the service that the token is for.
    pub service: Option<String>,
    /// The scopes that are needed, separated by spaces.
    pub scope: Option<String>,
    /// Why the token that was sent is not good enough, `invalid_token` for example.
    pub error: Option<String>,
}

/// The challenges of all `WWW-Authenticate` headers of one answer, in their order.
///
/// Looks at no more than 8 KiB of each value and keeps no more than 8 challenges of 16 parameters.
///
/// ```
/// use mirror::oci::parse_challenges;
///
/// let header = r#"Basic realm="x", Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
/// let challenges = parse_challenges([header].into_iter());
/// assert!(challenges[0].is_basic());
/// let bearer = challenges[1].bearer().unwrap();
/// assert_eq!(bearer.realm, "https://auth.docker.io/token");
/// assert_eq!(bearer.service.as_deref(), Some("registry.docker.io"));
/// ```
pub fn parse_challenges<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in values
        .take(CHALLENGES_LIMIT)
        .filter(|value| value.len() <= LIMIT)
    {
        Parser { rest: value }.read(&mut challenges);
    }
    challenges
}

impl Challenge {
    /// The challenge as one for a bearer token; `None` for another scheme, or when it names no realm.
    pub fn bearer(&self) -> Option<Bearer> {
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let owned = |name| self.param(name).map(Into::into);
        Some(Bearer {
            realm: owned("realm")?,
            service: owned("service"),
            scope: owned("scope"),
            error: owned("error"),
        })
    }

    /// Whether this asks for a user name and a password.
    pub fn is_basic(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("basic")
    }

    /// The value of a parameter, whose name is given in lower case.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn push(&mut self, name: &str, value: String) {
        let name = name.to_ascii_lowercase();
        if self.params.len() < PARAMS_LIMIT && self.param(&name).is_none() {
            self.params.push((name, value));
        }
    }
}

/// Reads a header value from left to right; every step consumes something or ends.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn read(mut self, challenges: &mut Vec<Challenge>) {
        let mut current: Option<Challenge> = None;
        loop {
            self.rest = self.rest.trim_start_matches([',', ' ', '\t']);
            if self.rest.is_empty() || challenges.len() >= CHALLENGES_LIMIT {
                break;
            }
            let token = self.token();
            if token.is_empty() {
                self.skip_to_comma();
            } else if self.equals() {
                let value = self.value();
                if let (Some(challenge), Some(value)) = (current.as_mut(), value) {
                    challenge.push(token, value);
                }
            } else {
                challenges.extend(current.take());
                current = Some(Challenge {
                    scheme: token.into(),
                    params: Vec::new(),
                });
                self.skip_token68();
            }
        }
        challenges.extend(current);
        challenges.truncate(CHALLENGES_LIMIT);
    }

    /// The longest run of token characters (RFC 9110 section 5.6.2), perhaps none.
    fn token(&mut self) -> &'a str {
        self.take(|character| {
            character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
        })
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self
            .rest
            .find(|character| !belongs(character))
            .unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    /// Consumes `BWS "=" BWS`, or nothing.
    fn equals(&mut self) -> bool {
        match self.rest.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(rest) => {
                self.rest = rest.trim_start_matches([' ', '\t']);
                true
            }
            None => false,
        }
    }

    /// A quoted string without its quotes and escapes, or everything up to a comma or blank.
    fn value(&mut self) -> Option<String> {
        match self.rest.strip_prefix('"') {
            Some(rest) => {
                self.rest = rest;
                self.quoted()
            }
            None => Some(
                self.take(|character| !matches!(character, ',' | ' ' | '\t'))
                    .into(),
            ),
        }
    }

    /// The rest of a quoted string after its first quote; `None` when it never ends.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.chars();
        loop {
            match characters.next() {
                Some('"') => break,
                Some('\\') => value.extend(characters.next()),
                Some(character) => value.push(character),
                None => {
                    self.rest = "";
                    return None;
                }
            }
        }
        self.rest = characters.as_str();
        Some(value)
    }

    /// Skips the `token68` that some schemes (`Negotiate`) have in place of parameters.
    fn skip_token68(&mut self) {
        let mut ahead = Self {
            rest: self.rest.trim_start_matches([' ', '\t']),
        };
        let is_token68 =
            |character: char| character.is_ascii_alphanumeric() || "-._~+/".contains(character);
        if ahead.take(is_token68).is_empty() {
            return;
        }
        ahead.take(|character| character == '=');
        ahead.take(|character| matches!(character, ' ' | '\t'));
        if ahead.rest.is_empty() || ahead.rest.starts_with(',') {
            self.rest = ahead.rest;
        }
    }

    fn skip_to_comma(&mut self) {
        self.take(|character| character != ',');
    }
}

#[cfg(test)]
mod tests;

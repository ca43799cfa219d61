//! A value as somebody wrote it, and what a key makes of it.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::{ByteSize, ListenAddress, suggest};
use crate::blobs::Share;
use crate::oci::ImagePatterns;
use crate::sys::secret::Secret;

/// Longer waits are mistakes, and would overflow the arithmetic of deadlines.
const LONGEST_DURATION: Duration = Duration::from_hours(24 * 365);

/// What an address looks like.
const ADDRESS_HELP: &str =
    r#"write an address such as "127.0.0.1:5000", "[::]:5000" or "unix:/run/mirror.sock""#;

/// What a list of patterns over images looks like.
const PATTERNS_HELP: &str = r#"write a list of patterns such as ["nginx:1.*", "acme/**"]"#;

/// More mirrors of one registry than anybody has, and each may be waited for.
const MIRRORS_LIMIT: usize = 16;

/// A value before a key gives it a type. It may hold a secret, and is never shown as a whole.
pub(super) enum Value {
    /// From a variable or a flag: its type is whatever the key wants.
    Bare(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer in the range of `i64`.
    Integer(i64),
    /// A TOML boolean, or a flag that is there or not.
    Boolean(bool),
    /// A TOML array, or a flag given several times.
    List(Vec<Self>),
    /// A TOML table.
    Table(Table),
    /// A path from a flag, which need not be UTF-8.
    Path(PathBuf),
    /// Any other TOML type, with its name.
    Other(&'static str),
}

/// Where a part of a value stands in the configuration file, in bytes. A variable's parts stand nowhere.
pub(super) type Span = Option<Range<usize>>;

/// A TOML table.
pub(super) struct Table {
    pub(super) fields: Vec<Field>,
    pub(super) span: Span,
    /// Whether all of its lines could be read.
    pub(super) is_whole: bool,
}

/// A key of a TOML table, and its value.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) name_span: Span,
    pub(super) value: Value,
    pub(super) value_span: Span,
}

/// What is wrong with a value, and what to write instead.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) help: String,
    /// The field of a table that it is about.
    pub(super) field: Option<&'static str>,
    /// The part of the value that it is about; `None` for the whole.
    pub(super) span: Span,
    /// What else is wrong with the value.
    pub(super) further: Vec<Self>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
            field: None,
            span: None,
            further: Vec::new(),
        }
    }

    /// Says which part of the value it is about.
    pub(super) fn at(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// Says which field of a table it is about.
    pub(super) fn of(self, field: &'static str) -> Self {
        let field = Some(field);
        Self { field, ..self }
    }

    /// All of them as one, in the order of the file; `None` when there are none.
    pub(super) fn all(mut faults: Vec<Self>) -> Option<Self> {
        faults.sort_by_key(|fault| fault.span.as_ref().map(|span| span.start));
        let mut faults = faults.into_iter();
        let first = faults.next()?;
        let further = faults.collect();
        Some(Self { further, ..first })
    }
}

impl Value {
    /// The type's name with its article.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Bare(_) | Self::Text(_) | Self::Path(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }

    /// The characters of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Bare(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn str_or(&self, wanted: &str, help: &str) -> Result<&str, Fault> {
        self.as_str()
            .ok_or_else(|| Fault::new(format!("expected {wanted}, found {}", self.kind()), help))
    }

    /// A string that is not empty.
    pub(super) fn text(&self) -> Result<String, Fault> {
        let text = self.str_or("a string", "put it in quotes")?;
        if text.is_empty() {
            return Err(Fault::new("is empty", "remove the key or give it a value"));
        }
        Ok(text.to_owned())
    }

    pub(super) fn secret(&self) -> Result<Secret, Fault> {
        self.text().map(Secret::new)
    }

    pub(super) fn path(&self) -> Result<PathBuf, Fault> {
        match self {
            Self::Path(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
            Self::Path(_) => Err(Fault::new("is empty", "name a directory")),
            _ => self.text().map(PathBuf::from),
        }
    }

    /// A duration of at least `least`.
    pub(super) fn duration(&self, least: Duration) -> Result<Duration, Fault> {
        const HELP: &str = r#"write a number and a unit, such as "30s", "5m" or "1h 30m""#;
        let text = self.str_or("a duration", HELP)?;
        let duration = humantime::parse_duration(text)
            .map_err(|_| Fault::new(format!("{text:?} is not a duration"), HELP))?;
        if duration < least {
            let least = humantime::format_duration(least);
            return Err(Fault::new(
                format!("{text:?} is too short"),
                format!("write at least {least}"),
            ));
        }
        if duration > LONGEST_DURATION {
            let message = format!("{text:?} is too long");
            return Err(Fault::new(message, "write at most 365 days"));
        }
        Ok(duration)
    }

    pub(super) fn size(&self) -> Result<ByteSize, Fault> {
        const HELP: &str = r#"write a whole number and a unit, such as "500MiB" or "1GiB""#;
        if let Self::Integer(bytes) = self {
            return u64::try_from(*bytes)
                .map(ByteSize::bytes)
                .map_err(|_| Fault::new(format!("{bytes} is not a size"), HELP));
        }
        let text = self.str_or("a size", HELP)?;
        text.parse()
            .map_err(|why| Fault::new(format!("{text:?} is not a size: {why}"), HELP))
    }

    /// A size, or a part of the file system such as `80%`.
    pub(super) fn share(&self) -> Result<Share, Fault> {
        const HELP: &str =
            "write a size such as \"200GiB\", or a part of the file system such as \"80%\"";
        let Some(percent) = self.as_str().and_then(|text| text.trim().strip_suffix('%')) else {
            return self.size().map(|size| Share::Bytes(size.as_u64()));
        };
        match percent.trim_end().parse() {
            Ok(percent @ 0..=100) => Ok(Share::Percent(percent)),
            _ => Err(Fault::new(
                format!("{percent:?} is not a number from 0 to 100"),
                HELP,
            )),
        }
    }

    pub(super) fn count(&self, range: RangeInclusive<u32>) -> Result<u32, Fault> {
        let (least, most) = (range.start(), range.end());
        let help = format!("write a whole number from {least} to {most}");
        let number = match self {
            Self::Integer(number) => Some(*number),
            Self::Bare(text) => text.parse().ok(),
            _ => {
                let message = format!("expected a whole number, found {}", self.kind());
                return Err(Fault::new(message, help));
            }
        };
        number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| Fault::new("is out of range", help))
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        match self {
            Self::Boolean(value) => Ok(*value),
            Self::Bare(text) if text == "true" => Ok(true),
            Self::Bare(text) if text == "false" => Ok(false),
            _ => Err(Fault::new(
                format!("expected true or false, found {}", self.kind()),
                "write true or false, without quotes",
            )),
        }
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Result<T, Fault> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let all = format!("write {}", quoted_list(&names));
        let text = self.str_or("a string", &all)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let help = suggest::closest(text, names).map(|name| format!("did you mean {name:?}?"));
            Fault::new(format!("{text:?} is unknown"), help.unwrap_or(all))
        })
    }

    /// One address or several, without duplicates. A [`Bare`](Self::Bare) value separates them by commas.
    pub(super) fn listen(&self) -> Result<Vec<ListenAddress>, Fault> {
        const HELP: &str = ADDRESS_HELP;
        let texts: Vec<&str> = match self {
            Self::Bare(text) => text.split(',').map(str::trim).collect(),
            Self::List(items) => items
                .iter()
                .map(|item| item.str_or("an address", HELP))
                .collect::<Result<_, _>>()?,
            _ => vec![self.str_or("an address or a list of them", HELP)?],
        };
        if texts.is_empty() {
            return Err(Fault::new("names no address", HELP));
        }
        let mut addresses = Vec::with_capacity(texts.len());
        for text in texts {
            let address = address(text)?;
            if addresses.contains(&address) && !is_any_port(&address) {
                let message = format!("\"{address}\" is listed twice");
                return Err(Fault::new(message, "remove one of them"));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// One address, which is a string.
    pub(super) fn one_address(&self) -> Result<ListenAddress, Fault> {
        let text = self.str_or("an address", ADDRESS_HELP)?;
        address(text)
    }

    /// One pattern over images or several. A [`Bare`](Self::Bare) value separates them by commas.
    pub(super) fn images(&self) -> Result<ImagePatterns, Fault> {
        let texts = self.patterns()?;
        ImagePatterns::parse(texts).map_err(|why| Fault::new(why.to_string(), PATTERNS_HELP))
    }

    /// The same over the images of one upstream, which the patterns do not name.
    pub(super) fn images_within(&self, upstream: &str) -> Result<ImagePatterns, Fault> {
        let texts = self.patterns()?;
        ImagePatterns::within(upstream, texts)
            .map_err(|why| Fault::new(why.to_string(), PATTERNS_HELP))
    }

    fn patterns(&self) -> Result<Vec<&str>, Fault> {
        match self {
            Self::Bare(text) => Ok(split_outside_braces(text)),
            Self::List(items) => items
                .iter()
                .map(|item| item.str_or("a pattern over images", PATTERNS_HELP))
                .collect(),
            _ => Ok(vec![
                self.str_or("a list of patterns over images", PATTERNS_HELP)?,
            ]),
        }
    }

    /// An absolute http or https URL that holds neither credentials nor a query.
    pub(super) fn url(&self) -> Result<Uri, Fault> {
        const HELP: &str = r#"write a URL such as "https://registry-1.docker.io""#;
        let text = self.str_or("a URL", HELP)?;
        let uri: Uri = text.parse().map_err(|_| Fault::new("is not a URL", HELP))?;
        if !matches!(uri.scheme_str(), Some("http" | "https"))
            || uri.host().is_none_or(str::is_empty)
        {
            return Err(Fault::new("is not an http or https URL", HELP));
        }
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(Fault::new(
                "holds credentials",
                "move them to the keys username and password",
            ));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(Fault::new("has a query or a fragment", HELP));
        }
        Ok(uri)
    }

    /// One URL or several, at most [`MIRRORS_LIMIT`]. A [`Bare`](Self::Bare) value separates them by commas.
    pub(super) fn urls(&self) -> Result<Vec<Uri>, Fault> {
        const HELP: &str = r#"write a list of URLs such as ["https://mirror.gcr.io"]"#;
        let texts: Vec<&str> = match self {
            Self::Bare(text) => text.split(',').map(str::trim).collect(),
            Self::List(items) => items
                .iter()
                .map(|item| item.str_or("a URL", HELP))
                .collect::<Result<_, _>>()?,
            _ => vec![self.str_or("a list of URLs", HELP)?],
        };
        if texts.len() > MIRRORS_LIMIT {
            let message = format!("has {} entries, more than {MIRRORS_LIMIT}", texts.len());
            return Err(Fault::new(message, "name the nearest ones"));
        }
        let url = |(number, text): (usize, &str)| {
            let url = Self::Bare(text.to_owned()).url();
            url.map_err(|fault| Fault::new(format!("entry {number} {}", fault.message), HELP))
        };
        (1..).zip(texts).map(url).collect()
    }
}

fn address(text: &str) -> Result<ListenAddress, Fault> {
    text.parse()
        .map_err(|why| Fault::new(format!("{text:?}: {why}"), ADDRESS_HELP))
}

/// Port 0 stands for a fresh port each time.
pub(super) const fn is_any_port(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp { port: 0, .. })
}

/// The parts of `a,b{c,d}`: a comma within braces is the pattern's own.
fn split_outside_braces(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let is_separator = |character| {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    };
    text.split(is_separator).map(str::trim).collect()
}

/// `"a", "b" or "c"`.
pub(super) fn quoted_list(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

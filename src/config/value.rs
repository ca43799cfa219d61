//! A value as somebody wrote it, and what a key makes of it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::{ByteSize, ListenAddress, suggest};
use crate::blobs::Share;
use crate::oci::ImagePatterns;
use crate::sys::secret::Secret;

/// Longer waits are mistakes, and would overflow the arithmetic of deadlines.
const LONGEST_DURATION: Duration = Duration::from_hours(24 * 365);

/// A value before a key gives it a type. It may hold a secret, and is never shown as a whole.
pub(super) enum Value {
    /// From a variable or a flag: its type is whatever the key wants.
    Bare(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer in the range of `i64`.
    Integer(i64),
    /// A TOML array, or a flag given several times.
    List(Vec<Self>),
    /// A TOML table.
    Table(Vec<(String, Self)>),
    /// A path from a flag, which need not be UTF-8.
    Path(PathBuf),
    /// Any other TOML type, with its name.
    Other(&'static str),
}

/// What is wrong with a value, and what to write instead.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) help: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

impl Value {
    /// The type's name with its article.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Bare(_) | Self::Text(_) | Self::Path(_) => "a string",
            Self::Integer(_) => "an integer",
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

    fn str_or(&self, wanted: &str, help: &str) -> Result<&str, Fault> {
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
        const HELP: &str =
            r#"write an address such as "127.0.0.1:5000", "[::]:5000" or "unix:/run/mirror.sock""#;
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
            let address = text
                .parse()
                .map_err(|why| Fault::new(format!("{text:?}: {why}"), HELP))?;
            if addresses.contains(&address) && !is_any_port(&address) {
                let message = format!("\"{address}\" is listed twice");
                return Err(Fault::new(message, "remove one of them"));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// One pattern over images or several. A [`Bare`](Self::Bare) value separates them by commas.
    pub(super) fn images(&self) -> Result<ImagePatterns, Fault> {
        const HELP: &str = r#"write a list of patterns such as ["nginx:1.*", "acme/**"]"#;
        let texts = match self {
            Self::Bare(text) => split_outside_braces(text),
            Self::List(items) => items
                .iter()
                .map(|item| item.str_or("a pattern over images", HELP))
                .collect::<Result<_, _>>()?,
            _ => vec![self.str_or("a list of patterns over images", HELP)?],
        };
        ImagePatterns::parse(texts).map_err(|why| Fault::new(why.to_string(), HELP))
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
}

/// Port 0 stands for a fresh port each time.
const fn is_any_port(address: &ListenAddress) -> bool {
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
fn quoted_list(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

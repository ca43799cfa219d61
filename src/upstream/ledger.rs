//! What the upstream says of its rate limit.
//!
//! Docker Hub sends `RateLimit-Limit: 100;w=21600`, `RateLimit-Remaining: 76;w=21600` and `Docker-RateLimit-Source`
//! with its answers to manifest requests, `HEAD` included, and with its 429s. Other registries send nothing.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::sys::clock::Timestamp;

/// The longest wait that a `Retry-After` is believed: Docker Hub's window.
pub(super) const LONGEST_WAIT: Duration = Duration::from_hours(6);

/// The header that tells how many pulls are left.
const REMAINING: &str = "ratelimit-remaining";

/// The longest source in bytes that is kept.
const SOURCE_LIMIT: usize = 128;

/// The upstream's rate limit as of its last answer. Empty while it has not said anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Pulls allowed per window.
    pub limit: Option<u64>,
    /// Pulls left in the window.
    pub remaining: Option<u64>,
    /// The window's length.
    pub window: Option<Duration>,
    /// To whom the pulls are counted: an address or an account.
    pub source: Option<String>,
    /// When the upstream last said so.
    pub updated: Option<Timestamp>,
    /// Until when the upstream asked not to be asked, by `Retry-After`; `None` once it has answered again.
    pub limited_until: Option<Timestamp>,
}

impl Ledger {
    /// Enters what an answer of the registry itself says. Returns whether it said anything.
    pub(super) fn enter(&mut self, headers: &HeaderMap, now: Timestamp) -> bool {
        let limit = counted(headers, "ratelimit-limit");
        let remaining = counted(headers, REMAINING);
        if limit.is_none() && remaining.is_none() {
            return false;
        }
        self.limit = limit.map(|(count, _)| count).or(self.limit);
        self.remaining = remaining.map(|(count, _)| count);
        let window =
            |counted: Option<(u64, Option<Duration>)>| counted.and_then(|(_, window)| window);
        self.window = window(limit).or(window(remaining)).or(self.window);
        self.source = text(headers, "docker-ratelimit-source")
            .filter(|source| source.len() <= SOURCE_LIMIT)
            .map(Into::into)
            .or(self.source.take());
        self.updated = Some(now);
        true
    }

    /// The same, or nothing when it is of another window, or of the future: the clock was set.
    pub(super) fn believed(&self, now: Timestamp) -> Self {
        let window = self.window.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let age = self.updated.and_then(|updated| now.since(updated));
        match age {
            Some(age) if age < window => self.clone(),
            _ => Self::default(),
        }
    }
}

/// Whether an answer tells how many pulls are left.
pub(super) fn tells_what_is_left(headers: &HeaderMap) -> bool {
    counted(headers, REMAINING).is_some()
}

/// How long `Retry-After` asks us to wait (RFC 9110 section 10.2.3), at most six hours.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse().map(Duration::from_secs) {
        Ok(wait) => wait,
        // A date that has passed asks for no wait.
        Err(_) => http_date(value)?.since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

pub(super) fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_add(wait))
}

/// `100;w=21600`: a count, and the length of its window in seconds.
fn counted(headers: &HeaderMap, name: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text(headers, name)?.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let window = parts
        .find_map(|part| part.strip_prefix("w="))
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    Some((count, window))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7); the two obsolete forms are not read.
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let fields: Vec<&str> = text.split(' ').take(7).collect();
    let [_, day, month, year, time, "GMT"] = fields.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().position(|known| known == month)?;
    let clock: Vec<u64> = time
        .split(':')
        .map(|part| part.parse().ok().filter(|number| *number <= 60))
        .collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock.as_slice() else {
        return None;
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let year = number(year).filter(|year| (1970..=9999).contains(year))?;
    let day = number(day).filter(|day| (1..=31).contains(day))?;
    let days = days_before(year, u64::try_from(month).ok()?) + day - 1;
    let seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
    Some(Timestamp::from_millis(seconds * 1000))
}

/// Days from 1 January 1970 to the first of `month` (0 is January) of `year`, which is not before 1970.
fn days_before(year: u64, month: u64) -> u64 {
    const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    let months: u64 = (0..month).zip(LENGTHS).map(|(_, length)| length).sum();
    years + months + u64::from(leap(year) && month > 1)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn docker_hubs_headers_are_entered() {
        let mut ledger = Ledger::default();
        let sent = headers(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
            ("docker-ratelimit-source", "203.0.113.7"),
        ]);
        assert!(ledger.enter(&sent, NOW));
        let expected = Ledger {
            limit: Some(100),
            remaining: Some(76),
            window: Some(Duration::from_hours(6)),
            source: Some("203.0.113.7".into()),
            updated: Some(NOW),
            limited_until: None,
        };
        assert_eq!(ledger, expected);
        assert!(!ledger.enter(&HeaderMap::new(), Timestamp::from_millis(1)));
        assert_eq!(ledger, expected);
    }

    #[test]
    fn a_ledger_is_believed_within_its_window_alone() {
        let mut ledger = Ledger::default();
        ledger.enter(&headers(&[("ratelimit-remaining", "7;w=60")]), NOW);
        assert_eq!(ledger.believed(NOW), ledger);
        let last = later(NOW, Duration::from_millis(59_999));
        assert_eq!(ledger.believed(last), ledger);
        for odd in [
            later(NOW, Duration::from_mins(1)),
            Timestamp::from_millis(NOW.as_millis() - 1),
        ] {
            assert_eq!(ledger.believed(odd), Ledger::default());
        }
    }

    #[test]
    fn odd_limits_are_not_entered() {
        for odd in ["", "many", "-1;w=5", "99999999999999999999"] {
            let mut ledger = Ledger::default();
            assert!(!ledger.enter(&headers(&[("ratelimit-limit", odd)]), NOW));
            assert_eq!(ledger, Ledger::default(), "{odd}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        let wait = |value| retry_after(&headers(&[("retry-after", value)]), NOW);
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        assert_eq!(wait("99999999"), Some(LONGEST_WAIT));
        assert_eq!(
            wait("Sun, 06 Nov 1994 08:50:37 GMT"),
            Some(Duration::from_mins(1))
        );
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:36 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Sat, 06 Nov 9999 08:49:37 GMT"), Some(LONGEST_WAIT));
        for odd in [
            "",
            "soon",
            "-3",
            "1.5",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
        ] {
            assert_eq!(wait(odd), None, "{odd}");
        }
    }

    #[test]
    fn dates_count_leap_years() {
        let seconds = |text| http_date(text).map(|at| at.as_millis() / 1000);
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Tue, 29 Feb 2000 12:00:00 GMT"), Some(951_825_600));
        assert_eq!(
            seconds("Mon, 01 Mar 2100 00:00:00 GMT"),
            Some(4_107_542_400)
        );
    }
}

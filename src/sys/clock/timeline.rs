//! A wall clock that does not jump.
//!
//! Ages of tags, of negative answers and of a rate limit are differences of times that an earlier process may have
//! noted. Somebody may set the machine's clock in between, by a year in either direction. As long as the machine runs
//! its uptime tells what has really passed; so a timeline goes on from the anchor that the last process noted, and
//! only a start of the machine takes it back to the machine's clock. It never goes back.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{Clock, Timestamp};

/// Differences below this are a clock that is slow, fast, or was adjusted: the clock is believed.
const TOLERANCE: Duration = Duration::from_mins(5);

/// A moment of a timeline, as it is noted for the next process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The machine's boot, by a name without spaces.
    pub boot: String,
    /// How long the machine had been running.
    pub uptime: Duration,
    /// What the timeline showed then.
    pub wall: Timestamp,
}

/// How the machine's clock was found to differ from the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// It is ahead by this much.
    Ahead(Duration),
    /// It is behind by this much.
    Behind(Duration),
}

/// A clock whose wall time goes on from an [`Anchor`].
#[derive(Debug)]
pub struct Timeline {
    clock: Arc<dyn Clock>,
    began: Timestamp,
    since: Duration,
    jump: Option<Jump>,
}

impl Timeline {
    /// The timeline of `last` in the machine's present `boot`; without both it begins with what `clock` shows.
    pub fn resume(clock: Arc<dyn Clock>, boot: Option<&str>, last: Option<&Anchor>) -> Self {
        let (shown, since) = (clock.wall(), clock.uptime());
        let expected = last.map(|last| last.expected(boot, since));
        let (began, jump) = match expected {
            None => (shown, None),
            Some(Expected::NotBefore(anchor)) => {
                (shown.max(anchor), jump(shown.max(anchor), shown))
            }
            Some(Expected::Exactly(exact)) => match jump(exact, shown) {
                None => (shown.max(exact), None),
                jumped => (exact, jumped),
            },
        };
        Self {
            clock,
            began,
            since,
            jump,
        }
    }

    /// How the machine's clock differed from this timeline when it was resumed, if it was set.
    pub const fn jump(&self) -> Option<Jump> {
        self.jump
    }

    /// The present moment, to be noted. `None` where the boot has no name: its uptime would mean nothing later.
    pub fn anchor(&self, boot: Option<&str>) -> Option<Anchor> {
        Some(Anchor {
            boot: boot?.to_owned(),
            uptime: self.clock.uptime(),
            wall: self.wall(),
        })
    }
}

impl Clock for Timeline {
    fn wall(&self) -> Timestamp {
        let passed = self.clock.uptime().saturating_sub(self.since);
        self.began.later(passed)
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn uptime(&self) -> Duration {
        self.clock.uptime()
    }
}

/// What the timeline shows now, by what was noted.
enum Expected {
    Exactly(Timestamp),
    /// The machine was started since: nobody knows how long it stood still.
    NotBefore(Timestamp),
}

impl Anchor {
    fn expected(&self, boot: Option<&str>, uptime: Duration) -> Expected {
        match uptime.checked_sub(self.uptime) {
            Some(passed) if boot == Some(self.boot.as_str()) => {
                Expected::Exactly(self.wall.later(passed))
            }
            _ => Expected::NotBefore(self.wall),
        }
    }
}

fn jump(expected: Timestamp, shown: Timestamp) -> Option<Jump> {
    let ahead = shown.since(expected).unwrap_or_default();
    let behind = expected.since(shown).unwrap_or_default();
    if ahead > TOLERANCE {
        Some(Jump::Ahead(ahead))
    } else if behind > TOLERANCE {
        Some(Jump::Behind(behind))
    } else {
        None
    }
}

/// `3f2c... 5000 1700000000000`: boot, uptime and wall time in milliseconds.
impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot, uptime, wall } = self;
        write!(f, "{boot} {} {}", uptime.as_millis(), wall.as_millis())
    }
}

/// A text that is no anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a boot, an uptime and a time")]
pub struct InvalidAnchor;

impl FromStr for Anchor {
    type Err = InvalidAnchor;

    fn from_str(text: &str) -> Result<Self, InvalidAnchor> {
        let fields: Vec<&str> = text.split(' ').take(4).collect();
        let [boot, uptime, wall] = fields.as_slice() else {
            return Err(InvalidAnchor);
        };
        let millis = |text: &str| text.parse::<u64>().map_err(|_| InvalidAnchor);
        Ok(Self {
            boot: (*boot).to_owned(),
            uptime: Duration::from_millis(millis(uptime)?),
            wall: Timestamp::from_millis(millis(wall)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::ManualClock;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);
    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn year_back(from: Timestamp) -> Timestamp {
        let year = u64::try_from(YEAR.as_millis()).unwrap();
        Timestamp::from_millis(from.as_millis() - year)
    }

    /// The clock, and the anchor of a process that ran before it.
    fn noted() -> (Arc<ManualClock>, Anchor) {
        let clock = ManualClock::starting_at(START);
        clock.advance(HOUR);
        let first = Timeline::resume(Arc::<ManualClock>::clone(&clock), Some("a"), None);
        assert_eq!(first.wall(), START.later(HOUR));
        let anchor = first.anchor(Some("a")).unwrap();
        (clock, anchor.to_string().parse().unwrap())
    }

    fn resumed(clock: &Arc<ManualClock>, boot: &str, anchor: &Anchor) -> Timeline {
        Timeline::resume(Arc::<ManualClock>::clone(clock), Some(boot), Some(anchor))
    }

    #[test]
    fn a_clock_that_is_set_changes_no_age_while_the_machine_runs() {
        for (shown, jump) in [
            (START.later(HOUR * 2 + YEAR), Jump::Ahead(YEAR)),
            (year_back(START.later(HOUR * 2)), Jump::Behind(YEAR)),
        ] {
            let (clock, anchor) = noted();
            clock.advance(HOUR);
            clock.set_wall(shown);
            let timeline = resumed(&clock, "a", &anchor);
            assert_eq!(timeline.wall(), START.later(HOUR * 2));
            assert_eq!(timeline.jump(), Some(jump));
            clock.advance(HOUR);
            clock.set_wall(year_back(START));
            assert_eq!(timeline.wall(), START.later(HOUR * 3));
        }
    }

    #[test]
    fn an_adjusted_clock_is_believed_unless_it_goes_back() {
        let (clock, anchor) = noted();
        clock.set_wall(START.later(HOUR + Duration::from_secs(90)));
        let timeline = resumed(&clock, "a", &anchor);
        assert_eq!(timeline.wall(), clock.wall());
        assert_eq!(timeline.jump(), None);
        clock.set_wall(START.later(HOUR.saturating_sub(Duration::from_secs(90))));
        let timeline = resumed(&clock, "a", &anchor);
        assert_eq!(timeline.wall(), START.later(HOUR));
        assert_eq!(timeline.jump(), None);
    }

    #[test]
    fn a_machine_that_was_started_anew_is_believed_unless_it_goes_back() {
        let (clock, anchor) = noted();
        clock.set_wall(START.later(YEAR));
        let timeline = resumed(&clock, "b", &anchor);
        assert_eq!(
            (timeline.wall(), timeline.jump()),
            (START.later(YEAR), None)
        );
        clock.set_wall(year_back(START.later(HOUR)));
        let timeline = resumed(&clock, "b", &anchor);
        assert_eq!(timeline.wall(), START.later(HOUR));
        assert_eq!(timeline.jump(), Some(Jump::Behind(YEAR)));
    }

    #[test]
    fn what_is_no_anchor_is_refused() {
        for text in ["", "a", "a 1", "a 1 x", "a -1 5", "a 1 5 6"] {
            assert_eq!(text.parse::<Anchor>(), Err(InvalidAnchor), "{text:?}");
        }
    }
}

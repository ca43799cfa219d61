//! Sizes in bytes, as people write them.

use std::fmt;
use std::str::FromStr;

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A number of bytes.
///
/// Written as a whole number and a unit: `500MiB`, `1 GiB`, `10GB`. Binary and decimal units are told apart, case
/// is not; a number alone counts bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `bytes` bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// Not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// No whole number in front.
    #[error("a size starts with a whole number")]
    Number,
    /// Something other than a unit behind the number.
    #[error("unknown unit; the units are B, KiB, MiB, GiB, TiB and KB, MB, GB, TB")]
    Unit,
    /// More than 2^64 - 1 bytes.
    #[error("larger than any disk")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(InvalidSize::Number);
        }
        let number: u64 = number.parse().map_err(|_| InvalidSize::TooLarge)?;
        let scale = scale(unit.trim_start()).ok_or(InvalidSize::Unit)?;
        number
            .checked_mul(scale)
            .map(Self)
            .ok_or(InvalidSize::TooLarge)
    }
}

fn scale(unit: &str) -> Option<u64> {
    let known = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
    match unit {
        "" => Some(1),
        _ => UNITS.iter().find(known).map(|(_, scale)| *scale),
    }
}

/// The largest binary unit that needs no fraction; reads back as the same size.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, scale): &&(&str, u64)| self.0 >= *scale && self.0.is_multiple_of(*scale);
        let (unit, scale) = UNITS[..5].iter().rev().find(fits).unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", self.0 / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn binary_and_decimal_units_differ() {
        let bytes = |text: &str| text.parse().map(ByteSize::as_u64);
        assert_eq!(bytes("1GiB"), Ok(1_073_741_824));
        assert_eq!(bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(bytes("500 mib"), Ok(524_288_000));
        assert_eq!(bytes("17"), Ok(17));
        assert_eq!(bytes("18446744073709551615B"), Ok(u64::MAX));
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_the_reason() {
        let error = |text: &str| text.parse::<ByteSize>().unwrap_err();
        assert_eq!(error(""), InvalidSize::Number);
        assert_eq!(error("-1GiB"), InvalidSize::Number);
        assert_eq!(error("80%"), InvalidSize::Unit);
        assert_eq!(error("10g"), InvalidSize::Unit);
        assert_eq!(error("1.5GiB"), InvalidSize::Unit);
        assert_eq!(error("18446744073709551616"), InvalidSize::TooLarge);
        assert_eq!(error("16777216TiB"), InvalidSize::TooLarge);
    }

    proptest! {
        #[test]
        fn every_size_reads_back(bytes: u64) {
            let size = ByteSize::bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn what_parses_reads_back(text in "[0-9]{0,20} ?[kKmMgGtTiIbB]{0,3}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }
    }
}

//! The numbers that PostgreSQL counts in: WAL positions, timelines and system identifiers.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A position in the WAL, in bytes since its beginning. `0/0` is PostgreSQL's "invalid" position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, PostgreSQL's text for "none".
    pub const INVALID: Self = Self(0);

    /// Whether this is a position at all, and not `0/0`.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The bytes from `earlier` to this position, or `None` when `earlier` is the later one.
    #[must_use]
    pub fn checked_sub(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseLsnError { text: text.to_owned() };
        let (high, low) = text.split_once('/').ok_or_else(refused)?;
        let high = parse_hex_u32(high).ok_or_else(refused)?;
        let low = parse_hex_u32(low).ok_or_else(refused)?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl Add<u64> for Lsn {
    type Output = Self;

    /// The position `bytes` further on, saturating at the end of the address space.
    fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl Sub<Lsn> for Lsn {
    type Output = u64;

    /// The bytes from `earlier` to this position, 0 when `earlier` is the later one.
    fn sub(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A timeline of a cluster: 1 after initdb, one more after each promotion. 0 means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for TimelineId {
    type Err = ParseNumberError;

    /// Reads the decimal form, as a `--target-timeline` or a history file has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| ParseNumberError {
            text: text.to_owned(),
            what: "a timeline",
        })
    }
}

/// The identifier that initdb gives a cluster; all its copies share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for SystemId {
    type Err = ParseNumberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| ParseNumberError {
            text: text.to_owned(),
            what: "a system identifier",
        })
    }
}

/// A text that is no WAL position.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no WAL position: two hexadecimal numbers with a slash are expected, like 16/B374D848")]
pub struct ParseLsnError {
    /// The text.
    pub text: String,
}

/// A text that is not the number it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not {what}: a decimal number is expected")]
pub struct ParseNumberError {
    /// The text.
    pub text: String,
    /// The kind of number that was expected.
    pub what: &'static str,
}

/// 1 to 8 hexadecimal digits, without the sign that `from_str_radix` would take.
fn parse_hex_u32(text: &str) -> Option<u32> {
    let plausible = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plausible.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_form_is_postgresqls() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn(0).to_string(), "0/0");
        assert_eq!("16/b374d848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("FFFFFFFF/FFFFFFFF".parse(), Ok(Lsn(u64::MAX)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "/",
            "16",
            "16/",
            "/1",
            "+1/2",
            "1/-2",
            "1/2/3",
            "123456789/0",
            "0/123456789",
            "g/1",
            " 1/1",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Lsn(5) + 7, Lsn(12));
        assert_eq!(Lsn(u64::MAX) + 1, Lsn(u64::MAX));
        assert_eq!(Lsn(12) - Lsn(5), 7);
        assert_eq!(Lsn(5).checked_sub(Lsn(12)), None);
    }

    proptest! {
        #[test]
        fn every_position_survives_its_text(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,24}") {
            let _ = text.parse::<Lsn>();
        }
    }
}

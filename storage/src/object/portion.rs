//! Large archived files lie in parts, each an object of its own.
//!
//! ```text
//!   up to 16 MiB of plaintext   one object        <file>-<name>
//!   more                        parts of 8 MiB    <file>-<name>.p001of128 … <file>-<name>.p128of128
//! ```
//!
//! The number of parts follows from the file's length alone, so no further object has to tell it. Each path has the
//! number of all parts, so a listing shows whether a file is complete.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::payload::MAX_FILE_LENGTH;

/// The longest archived file that lies in one object, in bytes of plaintext: a WAL segment of the usual size.
pub const LARGEST_SINGLE_OBJECT: u64 = 16 << 20;
/// The plaintext of every part but the last, which may be shorter, in bytes.
pub const FILE_PART_LENGTH: u64 = 8 << 20;
/// The most parts of a file.
pub const MOST_PARTS: u16 = {
    let most = MAX_FILE_LENGTH.div_ceil(FILE_PART_LENGTH);
    assert!(most == 128, "one bit of a u128 for each");
    128
};
/// A file that lies in parts has more than [`LARGEST_SINGLE_OBJECT`] bytes.
const FEWEST_PARTS: u16 = 3;

/// The number of parts of a file with so many bytes; `None` if one object holds the whole file.
#[must_use]
pub fn parts_of(plain_length: u64) -> Option<u16> {
    let parts = || u16::try_from(plain_length.div_ceil(FILE_PART_LENGTH)).unwrap_or(u16::MAX);
    (plain_length > LARGEST_SINGLE_OBJECT).then(parts)
}

/// The number of a part, and the number of all parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FilePart {
    number: u16,
    of: u16,
}

impl FilePart {
    /// Part `number` of `of`, counted from 1. `None` if no file has such a part.
    #[must_use]
    pub fn new(number: u16, of: u16) -> Option<Self> {
        let may_be = (FEWEST_PARTS..=MOST_PARTS).contains(&of) && (1..=of).contains(&number);
        may_be.then_some(Self { number, of })
    }

    /// All parts of a file with `of` parts, in order; empty if no file has so many.
    pub fn all(of: u16) -> impl Iterator<Item = Self> {
        (1..=of.min(MOST_PARTS)).filter_map(move |number| Self::new(number, of))
    }

    /// The part's number, from 1.
    #[must_use]
    pub fn number(self) -> u16 {
        self.number
    }

    /// The number of all parts.
    #[must_use]
    pub fn of(self) -> u16 {
        self.of
    }

    /// Whether no part follows.
    #[must_use]
    pub fn is_last(self) -> bool {
        self.number == self.of
    }

    /// Whether a part can hold so many bytes of plaintext; the file's length is not known here.
    #[must_use]
    pub fn may_hold(self, plain_length: u64) -> bool {
        match self.is_last() {
            true => (1..=FILE_PART_LENGTH).contains(&plain_length),
            false => plain_length == FILE_PART_LENGTH,
        }
    }

    /// The length of the part, in bytes, in a file of `file_length` bytes.
    #[must_use]
    pub fn length_in(self, file_length: u64) -> u64 {
        let before = u64::from(self.number.saturating_sub(1)) * FILE_PART_LENGTH;
        file_length.saturating_sub(before).min(FILE_PART_LENGTH)
    }

    /// Splits a name into the rest and the part, which is at its end: `.p003of128`.
    pub(crate) fn split(name: &str) -> Option<(&str, Option<Self>)> {
        let Some((rest, text)) = name.rsplit_once(".p") else {
            return Some((name, None));
        };
        let (number, of) = text.split_once("of")?;
        let part = Self::new(number.parse().ok()?, of.parse().ok()?)?;
        (part.to_string() == text).then_some((rest, Some(part)))
    }
}

/// `003of128`
impl fmt::Display for FilePart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:03}of{:03}", self.number, self.of)
    }
}

/// The objects that a name of an archived file stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Portion {
    /// One object with the whole file.
    #[default]
    Whole,
    /// All parts, and their number: to delete them or look for them, not to read them.
    AllParts(u16),
    /// One part.
    Part(FilePart),
}

impl Portion {
    /// All objects of a file of `plain_length` bytes.
    #[must_use]
    pub fn of_length(plain_length: u64) -> Self {
        parts_of(plain_length).map_or(Self::Whole, Self::AllParts)
    }

    /// The part, if the portion is one.
    #[must_use]
    pub fn part(self) -> Option<FilePart> {
        match self {
            Self::Part(part) => Some(part),
            Self::Whole | Self::AllParts(_) => None,
        }
    }
}

/// The parts of a file that a listing has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsSeen {
    of: u16,
    seen: u128,
}

impl PartsSeen {
    /// The parts after the first listed one.
    #[must_use]
    pub fn first(part: FilePart) -> Self {
        let mut seen = Self { of: part.of, seen: 0 };
        seen.add(part);
        seen
    }

    /// Adds a part. A part with another number of all parts belongs to another file, and is ignored.
    pub fn add(&mut self, part: FilePart) {
        if part.of == self.of {
            self.seen |= 1 << (part.number - 1);
        }
    }

    /// The number of all parts of the file.
    #[must_use]
    pub fn of(self) -> u16 {
        self.of
    }

    /// Whether all parts are there.
    #[must_use]
    pub fn is_complete(self) -> bool {
        self.seen.count_ones() == u32::from(self.of)
    }

    /// Whether the parts are those of an interrupted upload. An upload writes parts in order, up to `ahead` at once,
    /// and the last part only after all others.
    #[must_use]
    pub fn is_cut(self, ahead: u32) -> bool {
        let highest = u128::BITS - self.seen.leading_zeros();
        highest < u32::from(self.of) && highest - self.seen.count_ones() < ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_parts_follows_from_the_length() {
        assert_eq!(parts_of(0), None);
        assert_eq!(parts_of(16 << 20), None);
        assert_eq!(parts_of((16 << 20) + 1), Some(3));
        assert_eq!(parts_of(64 << 20), Some(8));
        assert_eq!(parts_of(1 << 30), Some(128));
        let length = (20 << 20) + 5;
        let parts: Vec<_> = FilePart::all(parts_of(length).unwrap()).collect();
        let lengths: Vec<u64> = parts.iter().map(|part| part.length_in(length)).collect();
        assert_eq!(lengths, [8 << 20, 8 << 20, (4 << 20) + 5]);
        assert!(std::iter::zip(&parts, &lengths).all(|(part, length)| part.may_hold(*length)));
        assert!(!parts[0].may_hold(5) && !parts[2].may_hold(0) && !parts[2].may_hold((8 << 20) + 1));
    }

    #[test]
    fn parts_have_one_spelling() {
        let part = FilePart::new(3, 128).unwrap();
        assert_eq!(part.to_string(), "003of128");
        assert_eq!(FilePart::split("x.p003of128"), Some(("x", Some(part))));
        assert_eq!(FilePart::split("x"), Some(("x", None)));
        for bad in [
            "x.p3of128",
            "x.p003of0128",
            "x.p000of128",
            "x.p129of128",
            "x.p001of129",
            "x.p001of002",
            "x.p001of2",
            "x.p+01of128",
            "x.p",
            "x.p001of",
        ] {
            assert_eq!(FilePart::split(bad), None, "{bad}");
        }
        assert_eq!(FilePart::all(2).count(), 0);
        assert_eq!(FilePart::all(u16::MAX).count(), 0);
        assert_eq!(FilePart::all(128).count(), 128);
    }

    #[test]
    fn a_listing_shows_whether_all_parts_are_there() {
        let seen = |numbers: &[u16]| {
            let part = |number: &u16| FilePart::new(*number, 5).unwrap();
            let mut seen = PartsSeen::first(part(&numbers[0]));
            numbers.iter().for_each(|number| seen.add(part(number)));
            seen
        };
        assert!(seen(&[5, 1, 3, 2, 4]).is_complete());
        assert!(!seen(&[5, 1, 3, 2]).is_complete());
        // An interrupted upload: the first parts are there, except those in flight.
        assert!(seen(&[1, 2]).is_cut(2) && seen(&[1, 3]).is_cut(2) && seen(&[2]).is_cut(2));
        assert!(!seen(&[3]).is_cut(2) && !seen(&[1, 4]).is_cut(2));
        assert!(!seen(&[1, 2, 3, 5]).is_cut(2), "the last one is written last");
        // The part of another file.
        let mut other = seen(&[1, 2, 3, 4]);
        other.add(FilePart::new(5, 6).unwrap());
        assert!(!other.is_complete());
        let all: Vec<_> = FilePart::all(128).collect();
        let mut seen = PartsSeen::first(all[0]);
        all.iter().for_each(|part| seen.add(*part));
        assert!(seen.is_complete() && !seen.is_cut(2));
    }
}

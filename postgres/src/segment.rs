//! WAL segments: their size, their names and the positions that belong to a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Lsn, TimelineId};

/// The bytes of a WAL segment: a power of two from 1 MiB to 1 GiB, fixed for a cluster by `initdb --wal-segsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// 16 MiB, initdb's default.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Takes a number of bytes.
    ///
    /// # Errors
    /// The number is no power of two between 1 MiB and 1 GiB.
    pub fn new(bytes: u32) -> Result<Self, SegmentSizeError> {
        let allowed = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        allowed.then_some(Self(bytes)).ok_or(SegmentSizeError { bytes })
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// The number of segments that share one `log` number, that is, fit in 4 GiB.
    #[must_use]
    pub fn segments_per_log(self) -> u32 {
        // At least 4 (1 GiB) and at most 4096 (1 MiB), so the quotient of 2^32 fits.
        u32::MAX / self.0 + 1
    }
}

impl Default for SegmentSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl From<SegmentSize> for u32 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}MB", self.0 >> 20)
    }
}

/// A number that no WAL segment can have as its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes is no WAL segment size: a power of two from 1 MiB to 1 GiB is expected")]
pub struct SegmentSizeError {
    /// The size that was given.
    pub bytes: u32,
}

/// The name of a WAL segment, 24 hexadecimal digits: timeline, log and segment (`XLogFileName` in xlog_internal.h).
///
/// Ordered as the files of one timeline follow each other, timelines one after the other.
///
/// ```
/// use pgmesh_postgres::{SegmentName, SegmentSize};
///
/// let size = SegmentSize::new(16 << 20).unwrap();
/// let segment: SegmentName = "0000000100000000000000FF".parse()?;
/// assert_eq!(segment.start(size).to_string(), "0/FF000000");
/// assert_eq!(segment.next(size).to_string(), "000000010000000100000000");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline that the segment belongs to.
    pub timeline: TimelineId,
    /// The high 32 bits of its positions.
    pub log: u32,
    /// Its number within the 4 GiB of `log`.
    pub segment: u32,
}

impl SegmentName {
    /// The segment of `timeline` that holds the byte at `lsn`.
    #[must_use]
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        let (log, offset) = halves(lsn.0);
        Self {
            timeline,
            log,
            segment: offset / size.bytes(),
        }
    }

    /// The last segment of the WAL that ends just before `lsn`, a backup's stop position for example. At the very start
    /// of a segment it is the segment before (`XLByteToPrevSeg`).
    #[must_use]
    pub fn ending_at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self::containing(timeline, Lsn(lsn.0.saturating_sub(1)), size)
    }

    /// Whether a cluster with segments of `size` can have a segment of this name.
    #[must_use]
    pub fn is_possible(&self, size: SegmentSize) -> bool {
        self.timeline.0 != 0 && self.segment < size.segments_per_log()
    }

    /// The position of its first byte.
    #[must_use]
    pub fn start(&self, size: SegmentSize) -> Lsn {
        Lsn(u64::from(self.log) << 32) + u64::from(self.segment) * u64::from(size.bytes())
    }

    /// The position after its last byte, where the next segment starts.
    #[must_use]
    pub fn end(&self, size: SegmentSize) -> Lsn {
        self.start(size) + u64::from(size.bytes())
    }

    /// The segment that follows on the same timeline; for the last one of the address space, the segment itself.
    #[must_use]
    pub fn next(&self, size: SegmentSize) -> Self {
        Self::containing(self.timeline, self.end(size), size)
    }

    /// The first 16 digits, timeline and log: the segment's directory in the archive.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

impl FromStr for SegmentName {
    type Err = ParseSegmentNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseSegmentNameError { text: text.to_owned() };
        if text.len() != 24 {
            return Err(refused());
        }
        let part = |range: std::ops::Range<usize>| text.get(range).and_then(parse_upper_hex).ok_or_else(refused);
        Ok(Self {
            timeline: TimelineId(part(0..8)?),
            log: part(8..16)?,
            segment: part(16..24)?,
        })
    }
}

impl Serialize for SegmentName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SegmentName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A text that names no WAL segment.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no WAL segment name: 24 upper-case hexadecimal digits are expected")]
pub struct ParseSegmentNameError {
    /// The text.
    pub text: String,
}

/// Exactly 8 hexadecimal digits, upper case as PostgreSQL writes them: one name has one spelling.
pub(crate) fn parse_upper_hex(text: &str) -> Option<u32> {
    let plausible = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    plausible.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// The high and the low 32 bits.
#[allow(clippy::cast_possible_truncation)] // Both halves are taken on purpose.
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_size() -> impl Strategy<Value = SegmentSize> {
        (20u32..=30).prop_map(|shift| SegmentSize::new(1 << shift).unwrap())
    }

    #[test]
    fn names_are_postgresqls() {
        let size = SegmentSize::DEFAULT;
        let name = SegmentName::containing(TimelineId(1), "16/B374D848".parse().unwrap(), size);
        assert_eq!(name.to_string(), "0000000100000016000000B3");
        assert_eq!(name.directory(), "0000000100000016");
        assert_eq!(name.start(size).to_string(), "16/B3000000");
        assert_eq!(name.end(size).to_string(), "16/B4000000");
        assert_eq!(
            "0000000100000016000000FF"
                .parse::<SegmentName>()
                .unwrap()
                .next(size)
                .to_string(),
            "000000010000001700000000"
        );
    }

    #[test]
    fn a_stop_at_a_boundary_needs_the_segment_before() {
        let size = SegmentSize::DEFAULT;
        let at = |text: &str| SegmentName::ending_at(TimelineId(2), text.parse().unwrap(), size).to_string();
        assert_eq!(at("0/3000000"), "000000020000000000000002");
        assert_eq!(at("0/3000001"), "000000020000000000000003");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "00000001000000160000",
            "0000000100000016000000b3",
            "0000000100000016000000B3.partial",
            "+000000100000016000000B3",
        ] {
            assert!(text.parse::<SegmentName>().is_err(), "{text:?} was taken");
        }
        assert!(
            !"000000010000000000000100"
                .parse::<SegmentName>()
                .unwrap()
                .is_possible(SegmentSize::DEFAULT)
        );
        assert!(
            !"000000000000000000000001"
                .parse::<SegmentName>()
                .unwrap()
                .is_possible(SegmentSize::DEFAULT)
        );
    }

    #[test]
    fn sizes_are_bounded() {
        for bytes in [0, 1 << 19, 3 << 20, 1 << 31, u32::MAX] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes} was taken");
        }
        assert_eq!(SegmentSize::DEFAULT.segments_per_log(), 256);
        assert_eq!(SegmentSize::new(1 << 30).unwrap().segments_per_log(), 4);
        assert_eq!(SegmentSize::new(1 << 20).unwrap().segments_per_log(), 4096);
    }

    proptest! {
        #[test]
        fn every_position_lies_in_its_segment(lsn in 0..u64::MAX - (1 << 31), timeline in 1u32.., size in any_size()) {
            let name = SegmentName::containing(TimelineId(timeline), Lsn(lsn), size);
            prop_assert!(name.is_possible(size));
            prop_assert!(name.start(size) <= Lsn(lsn) && Lsn(lsn) < name.end(size));
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            prop_assert_eq!(name.next(size).start(size), name.end(size));
            prop_assert!(name < name.next(size));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{20,26}") {
            let _ = text.parse::<SegmentName>();
        }
    }
}

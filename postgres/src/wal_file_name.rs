//! The names of all files of a WAL archive: PostgreSQL's own, and the names of the files that pgmesh adds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::segment::parse_upper_hex;
use crate::{SegmentName, TimelineId};

/// A file of a WAL archive: a file of `pg_wal` that `archive_command` is given, named as PostgreSQL names it
/// (xlog_internal.h), or a file that a node makes from one.
///
/// ```
/// use pgmesh_postgres::WalFileName;
///
/// let file: WalFileName = "00000002.history".parse()?;
/// assert_eq!(file.timeline().0, 2);
/// assert!("0000000100000000000000".parse::<WalFileName>().is_err(), "too short");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileName {
    /// `000000010000000000000001`: a complete segment.
    Segment(SegmentName),
    /// `000000010000000000000001.partial`: the last segment of a timeline that ended inside it. Of full size.
    Partial(SegmentName),
    /// `00000002.history`: the ancestors of a timeline.
    History(TimelineId),
    /// `000000010000000000000001.00000028.backup`: the record that a backup writes when it stops.
    BackupHistory {
        /// The segment that the backup started in.
        segment: SegmentName,
        /// The start position's offset in that segment, in bytes.
        offset: u32,
    },
    /// `000000010000000000000001.map`: the blocks that a complete segment has changed
    /// ([`SegmentMap`](crate::wal::SegmentMap)). PostgreSQL has no such file, and no recovery needs it: it can always
    /// be made anew from the segment.
    Map(SegmentName),
    /// `000000010000000000000001.00112233AABBCCDD.aside`: another content under the name of a segment or `.partial`
    /// file. No recovery along the archive's history can need it. It is kept, and never handed out.
    Aside {
        /// The name that PostgreSQL gave the file.
        segment: SegmentName,
        /// The beginning of its content's digest.
        digest: [u8; 8],
    },
}

impl WalFileName {
    /// The timeline that the file belongs to.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        match self {
            Self::Segment(segment)
            | Self::Partial(segment)
            | Self::BackupHistory { segment, .. }
            | Self::Aside { segment, .. }
            | Self::Map(segment) => segment.timeline,
            Self::History(timeline) => *timeline,
        }
    }

    /// The segment that the name begins with; a history file has none.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentName> {
        match self {
            Self::Segment(segment)
            | Self::Partial(segment)
            | Self::BackupHistory { segment, .. }
            | Self::Aside { segment, .. }
            | Self::Map(segment) => Some(*segment),
            Self::History(_) => None,
        }
    }

    /// Whether the file holds WAL, and so starts with a [`WalHeader`](crate::WalHeader).
    #[must_use]
    pub fn holds_wal(&self) -> bool {
        matches!(self, Self::Segment(_) | Self::Partial(_) | Self::Aside { .. })
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(formatter),
            Self::Partial(segment) => write!(formatter, "{segment}.partial"),
            Self::History(timeline) => write!(formatter, "{:08X}.history", timeline.0),
            Self::BackupHistory { segment, offset } => {
                write!(formatter, "{segment}.{offset:08X}.backup")
            }
            Self::Map(segment) => write!(formatter, "{segment}.map"),
            Self::Aside { segment, digest } => {
                write!(formatter, "{segment}.{:016X}.aside", u64::from_be_bytes(*digest))
            }
        }
    }
}

impl FromStr for WalFileName {
    type Err = ParseWalFileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseWalFileNameError { text: text.to_owned() })
    }
}

impl Serialize for WalFileName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WalFileName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A text that names no file of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no file of a WAL archive: a segment, .partial, .history, .backup, .map or .aside name is expected"
)]
pub struct ParseWalFileNameError {
    /// The text.
    pub text: String,
}

fn parse(text: &str) -> Option<WalFileName> {
    let mut parts = text.split('.');
    let (stem, second, third) = (parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    match (second, third) {
        (None, None) => Some(WalFileName::Segment(stem.parse().ok()?)),
        (Some("partial"), None) => Some(WalFileName::Partial(stem.parse().ok()?)),
        (Some("map"), None) => Some(WalFileName::Map(stem.parse().ok()?)),
        (Some("history"), None) => Some(WalFileName::History(TimelineId(parse_upper_hex(stem)?))),
        (Some(digest), Some("aside"))
            if digest.len() == 16 && !digest.contains(|digit: char| digit.is_ascii_lowercase()) =>
        {
            Some(WalFileName::Aside {
                segment: stem.parse().ok()?,
                digest: u64::from_str_radix(digest, 16)
                    .ok()
                    .filter(|_| digest.chars().all(|digit| digit.is_ascii_hexdigit()))?
                    .to_be_bytes(),
            })
        }
        (Some(offset), Some("backup")) => Some(WalFileName::BackupHistory {
            segment: stem.parse().ok()?,
            offset: parse_upper_hex(offset)?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: SegmentName = SegmentName {
        timeline: TimelineId(0xA),
        log: 0x16,
        segment: 0xB3,
    };

    #[test]
    fn names_are_postgresqls() {
        for (name, text) in [
            (WalFileName::Segment(SEGMENT), "0000000A00000016000000B3"),
            (WalFileName::Partial(SEGMENT), "0000000A00000016000000B3.partial"),
            (WalFileName::History(TimelineId(0xA)), "0000000A.history"),
            (WalFileName::Map(SEGMENT), "0000000A00000016000000B3.map"),
            (
                WalFileName::BackupHistory {
                    segment: SEGMENT,
                    offset: 0x28,
                },
                "0000000A00000016000000B3.00000028.backup",
            ),
            (
                WalFileName::Aside {
                    segment: SEGMENT,
                    digest: [0, 1, 2, 3, 0xAA, 0xBB, 0xCC, 0xDD],
                },
                "0000000A00000016000000B3.00010203AABBCCDD.aside",
            ),
        ] {
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(name.timeline(), TimelineId(0xA));
            assert_eq!(
                name.holds_wal(),
                !["history", "backup", "map"].iter().any(|end| text.ends_with(end))
            );
        }
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            ".",
            "RECOVERYHISTORY",
            "0000000a.history",
            "0000000A.history.partial",
            "0000000A.map",
            "0000000A00000016000000B3.map.map",
            "0000000A00000016000000B3.backup",
            "0000000A00000016000000B3.28.backup",
            "0000000A00000016000000B3.28.aside",
            "0000000A00000016000000B3.aside",
            "0000000A00000016000000B3.00010203aabbccdd.aside",
            "0000000A00000016000000B3.+0010203AABBCCDD.aside",
            "0000000A00000016000000B3.00000028.backup.done",
            "../0000000A.history",
            "0000000A00000016000000B3.partial.",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_written_the_same(text in "[0-9A-F]{8}([0-9A-F]{16})?(\\.([0-9A-F]{8}|[0-9A-F]{16}))?(\\.(partial|history|backup|map|aside))?") {
            if let Ok(name) = text.parse::<WalFileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}

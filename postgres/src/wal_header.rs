//! The header at the beginning of every WAL segment.

use thiserror::Error;

use crate::fields::{u16_at, u32_at, u64_at};
use crate::{Lsn, PgVersion, SegmentName, SegmentSize, SegmentSizeError, SystemId, TimelineId, UnsupportedVersion};

/// `XLP_LONG_HEADER`: the fields that identify the segment are there.
const LONG_HEADER: u16 = 0x0002;
/// `XLP_ALL_FLAGS`: any other bit means that this is no WAL page.
const ALL_FLAGS: u16 = 0x000F;

/// The long header of a segment's first page (`XLogLongPageHeaderData` in xlog_internal.h).
///
/// It names the cluster and the position of the segment, so that a segment is not archived under another segment's
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// `xlp_magic`, which tells the version.
    pub magic: u16,
    /// `xlp_info`, flag bits.
    pub info: u16,
    /// The timeline of the first record on the page. Older than the name's in the first segment of a new timeline.
    pub timeline: TimelineId,
    /// The position of the segment's first byte.
    pub page_address: Lsn,
    /// The cluster that wrote it.
    pub system_id: SystemId,
    /// The size of the cluster's segments.
    pub segment_size: SegmentSize,
    /// The size of a WAL page (`XLOG_BLCKSZ`) in bytes.
    pub block_size: u32,
    version: PgVersion,
}

impl WalHeader {
    /// The number of bytes that [`parse`](Self::parse) needs.
    pub const LENGTH: usize = 40;

    /// Reads the header from a segment's first bytes; more than [`LENGTH`](Self::LENGTH) may be given.
    ///
    /// # Errors
    /// The bytes are too few, or are no header of a supported version.
    pub fn parse(bytes: &[u8]) -> Result<Self, WalHeaderError> {
        let too_short = || WalHeaderError::TooShort { length: bytes.len() };
        let magic = u16_at(bytes, 0).ok_or_else(too_short)?;
        let info = u16_at(bytes, 2).ok_or_else(too_short)?;
        let timeline = TimelineId(u32_at(bytes, 4).ok_or_else(too_short)?);
        let page_address = Lsn(u64_at(bytes, 8).ok_or_else(too_short)?);
        let system_id = SystemId(u64_at(bytes, 24).ok_or_else(too_short)?);
        let segment_size = u32_at(bytes, 32).ok_or_else(too_short)?;
        let block_size = u32_at(bytes, 36).ok_or_else(too_short)?;

        let version = PgVersion::from_wal_magic(magic)?;
        if info & LONG_HEADER == 0 || info & !ALL_FLAGS != 0 {
            return Err(WalHeaderError::NotLong { info });
        }
        let segment_size = SegmentSize::new(segment_size)?;
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return Err(WalHeaderError::BlockSize { block_size });
        }
        Ok(Self {
            magic,
            info,
            timeline,
            page_address,
            system_id,
            segment_size,
            block_size,
            version,
        })
    }

    /// The version of PostgreSQL that wrote the segment.
    #[must_use]
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// Checks that a file of `length` bytes with this header is the whole segment `name`. The same check fits
    /// `.partial` files: PostgreSQL renames the last segment of a timeline as it is, in full length.
    ///
    /// Invariant 12 begins here: a file is archived only under the name that its header gives. The caller compares the
    /// cluster's identity and version.
    ///
    /// # Errors
    /// Address, timeline or length contradict the name.
    pub fn check(&self, name: SegmentName, length: u64) -> Result<(), WalHeaderError> {
        if !name.is_possible(self.segment_size) {
            return Err(WalHeaderError::ImpossibleName {
                name,
                segment_size: self.segment_size,
            });
        }
        let expected = name.start(self.segment_size);
        if self.page_address != expected {
            return Err(WalHeaderError::Address {
                name,
                expected,
                found: self.page_address,
            });
        }
        // The first segment of a new timeline begins as a copy of the old timeline's segment, header included; so a
        // lower timeline is right.
        if self.timeline.0 == 0 || self.timeline > name.timeline {
            return Err(WalHeaderError::Timeline {
                name,
                found: self.timeline,
            });
        }
        if length != u64::from(self.segment_size.bytes()) {
            return Err(WalHeaderError::Length {
                name,
                expected: self.segment_size,
                found: length,
            });
        }
        Ok(())
    }
}

/// A fault of a WAL segment's header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WalHeaderError {
    /// The file ends within the header.
    #[error("a WAL segment's header has {expected} bytes, this file only {length}", expected = WalHeader::LENGTH)]
    TooShort {
        /// The bytes that there are.
        length: usize,
    },
    /// The magic number is of no supported version. A file without WAL gives this error too.
    #[error("reading a WAL segment's header: {0}")]
    Version(#[from] UnsupportedVersion),
    /// The page is not the first page of a segment, or no WAL.
    #[error("the first page of a WAL segment has the flags {info:#06x}, which are not those of a long header")]
    NotLong {
        /// `xlp_info`.
        info: u16,
    },
    /// The header names a size that no segment has.
    #[error("reading a WAL segment's header: {0}")]
    SegmentSize(#[from] SegmentSizeError),
    /// The header names a size that no WAL page has.
    #[error("a WAL segment's header says that its pages have {block_size} bytes")]
    BlockSize {
        /// `xlp_xlog_blcksz`.
        block_size: u32,
    },
    /// No cluster with segments of this size has a segment of this name.
    #[error("no segment {name} exists where segments have {segment_size}")]
    ImpossibleName {
        /// The name of the file.
        name: SegmentName,
        /// The segment size in the header.
        segment_size: SegmentSize,
    },
    /// The header is another segment's, as in a file that was recycled and not yet written.
    #[error("segment {name} must begin at {expected}, its header says {found}")]
    Address {
        /// The name of the file.
        name: SegmentName,
        /// The start position of the segment of that name.
        expected: Lsn,
        /// The position in the header.
        found: Lsn,
    },
    /// The content's timeline is later than the name's.
    #[error("segment {name} is of timeline {timeline}, its header says {found}", timeline = name.timeline)]
    Timeline {
        /// The name of the file.
        name: SegmentName,
        /// The timeline in the header.
        found: TimelineId,
    },
    /// The file is truncated, or has bytes too many.
    #[error("segment {name} must have {expected} ({expected_bytes} bytes), it has {found} bytes", expected_bytes = expected.bytes())]
    Length {
        /// The name of the file.
        name: SegmentName,
        /// The segment size in the header.
        expected: SegmentSize,
        /// The length of the file in bytes.
        found: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 16 << 20;

    fn header(timeline: u32, address: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD110u16.to_le_bytes());
        bytes.extend(0x0006u16.to_le_bytes());
        bytes.extend(timeline.to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(7_123_456_789_012_345_678u64.to_le_bytes());
        bytes.extend((16u32 << 20).to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes
    }

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_header_says_where_its_segment_belongs() {
        let header = WalHeader::parse(&header(1, 0x16_B300_0000)).unwrap();
        assert_eq!(header.version(), PgVersion::V15);
        assert_eq!(header.system_id, SystemId(7_123_456_789_012_345_678));
        assert_eq!(header.segment_size, SegmentSize::DEFAULT);
        assert_eq!(header.check(name("0000000100000016000000B3"), SIZE), Ok(()));
        assert!(matches!(
            header.check(name("0000000100000016000000B4"), SIZE),
            Err(WalHeaderError::Address { .. })
        ));
    }

    #[test]
    fn the_first_segment_of_a_new_timeline_has_the_old_ones_header() {
        let header = WalHeader::parse(&header(2, 0x0300_0000)).unwrap();
        assert_eq!(header.check(name("000000030000000000000003"), SIZE), Ok(()));
        assert!(matches!(
            header.check(name("000000010000000000000003"), SIZE),
            Err(WalHeaderError::Timeline { .. })
        ));
    }

    #[test]
    fn a_truncated_segment_is_refused() {
        let header = WalHeader::parse(&header(1, 0x0300_0000)).unwrap();
        for length in [0, 8192, SIZE - 1, SIZE + 1] {
            assert!(matches!(
                header.check(name("000000010000000000000003"), length),
                Err(WalHeaderError::Length { .. })
            ));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let good = header(1, 0);
        let broken = |offset: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[offset] = value;
            WalHeader::parse(&bytes).unwrap_err()
        };
        assert!(matches!(
            WalHeader::parse(&good[..39]),
            Err(WalHeaderError::TooShort { length: 39 })
        ));
        assert!(matches!(WalHeader::parse(&[0; 8192]), Err(WalHeaderError::Version(_))));
        assert!(matches!(
            broken(0, 0x06),
            WalHeaderError::Version(UnsupportedVersion::Major { major: 13 })
        ));
        assert!(matches!(broken(2, 0x04), WalHeaderError::NotLong { .. }));
        assert!(matches!(broken(2, 0x12), WalHeaderError::NotLong { .. }));
        assert!(matches!(broken(34, 0x03), WalHeaderError::SegmentSize(_)));
        assert!(matches!(broken(36, 0x01), WalHeaderError::BlockSize { .. }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), segment: u32, length: u64) {
            let _ = WalHeader::parse(&bytes);
            let mut plausible = header(1, 0);
            for (place, byte) in plausible.iter_mut().zip(&bytes).skip(4) {
                *place = *byte;
            }
            if let Ok(header) = WalHeader::parse(&plausible) {
                let _ = header.check(SegmentName { timeline: TimelineId(1), log: u32::MAX, segment }, length);
            }
        }
    }
}

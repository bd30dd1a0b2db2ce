//! The tablespaces that a segment of WAL creates. Their redo uses a directory outside of the data directory, with all
//! files in it.

use super::piece::Piece;
use super::reader::{Ends, Head, SegmentReader, Tail};
use super::record::{self, Record};
use crate::fields::u32_at;
use crate::{Lsn, PgVersion, SegmentName, SegmentSize, WalHeader};

/// `RM_TBLSPC_ID` (rmgrlist.h).
const MANAGER: u8 = 5;
/// `XLOG_TBLSPC_CREATE` (tablespace.h).
const CREATE: u8 = 0x00;
/// `MAXPGPATH`: no location is longer, its terminating zero included.
const MAX_LOCATION: usize = 1024;
/// The longest record that creates a tablespace: its header, the data's header, a top-level transaction, an origin.
const MAX_RECORD: u32 = 1100;

/// A tablespace that a record creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTablespace {
    /// The position of the record.
    pub at: Lsn,
    /// The OID, the name of the link.
    pub oid: u32,
    /// Its directory; empty for a tablespace inside of the data directory (`allow_in_place_tablespaces`).
    pub location: String,
}

/// The tablespaces that a segment creates. Records behind an invalid record are not read: PostgreSQL does not replay
/// them either.
#[derive(Debug)]
pub struct CreatedTablespaces {
    /// The tablespaces of the records that lie wholly in the segment.
    pub whole: Vec<CreatedTablespace>,
    /// The version of PostgreSQL that wrote the segment.
    pub version: PgVersion,
    /// The size of the cluster's segments.
    pub size: SegmentSize,
    ends: Ends,
}

impl CreatedTablespaces {
    /// The tablespaces of the segment `name`; `bytes` is the whole segment. `None` if the bytes are no WAL of a known
    /// version: PostgreSQL replays nothing of it either.
    #[must_use]
    pub fn of(name: SegmentName, bytes: &[u8]) -> Option<Self> {
        let mut search = TablespaceSearch::new(name);
        search.feed(bytes);
        search.finish()
    }

    /// Whether the segment begins inside a record that may create a tablespace. If so, call [`joined`](Self::joined)
    /// with the segment before.
    #[must_use]
    pub fn may_begin_with_one(&self) -> bool {
        match &self.ends.head {
            // The location ends with a zero.
            Head::Ends(piece) => piece.length <= MAX_RECORD && piece.kept.last() == Some(&0),
            Head::None | Head::GoesOn(_) | Head::Overwritten => false,
        }
    }

    /// The tablespace whose record began in the segment `before`.
    #[must_use]
    pub fn joined(&self, before: &Self) -> Option<CreatedTablespace> {
        let (Some(Tail { start, piece }), Head::Ends(rest)) = (&before.ends.tail, &self.ends.head) else {
            return None;
        };
        let mut record: Piece = piece.clone();
        record.join(rest, MAX_RECORD as usize);
        record.check().ok()?;
        let length = record::total_length(&record.kept).ok()?;
        let mut blocks = Vec::new();
        let record = record::parse(*start, &record.kept, length, self.version, &mut blocks).ok()?;
        created(&record)
    }
}

/// Looks for the tablespaces that a segment creates; its bytes come in pieces.
#[derive(Debug)]
pub struct TablespaceSearch {
    name: SegmentName,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    Start,
    /// No WAL of a known version.
    Nothing,
    Records {
        reader: Box<SegmentReader>,
        whole: Vec<CreatedTablespace>,
        version: PgVersion,
        size: SegmentSize,
        is_over: bool,
    },
}

impl TablespaceSearch {
    /// A search in the segment `name`.
    #[must_use]
    pub fn new(name: SegmentName) -> Self {
        Self {
            name,
            reading: Reading::Start,
        }
    }

    /// Takes the next bytes. The first ones hold the segment's header.
    pub fn feed(&mut self, bytes: &[u8]) {
        if matches!(self.reading, Reading::Start) {
            self.reading = WalHeader::parse(bytes).map_or(Reading::Nothing, |header| {
                let (size, version): (SegmentSize, PgVersion) = (header.segment_size, header.version());
                Reading::Records {
                    reader: Box::new(SegmentReader::new(self.name, size, version)),
                    whole: Vec::new(),
                    version,
                    size,
                    is_over: false,
                }
            });
        }
        if let Reading::Records {
            reader,
            whole,
            is_over: is_over @ false,
            ..
        } = &mut self.reading
        {
            let fed = reader.feed(bytes, &mut |record| {
                whole.extend(created(record));
                Ok(())
            });
            // A segment may end with the remains of an older one, so an error is no failure.
            *is_over = fed.is_err();
        }
    }

    /// The tablespaces, after the whole segment was fed; as [`CreatedTablespaces::of`].
    #[must_use]
    pub fn finish(self) -> Option<CreatedTablespaces> {
        match self.reading {
            Reading::Records {
                reader,
                whole,
                version,
                size,
                ..
            } => Some(CreatedTablespaces {
                whole,
                version,
                size,
                ends: reader.seen(),
            }),
            Reading::Start | Reading::Nothing => None,
        }
    }
}

/// The tablespace that a record creates (`xl_tblspc_create_rec`).
fn created(record: &Record<'_>) -> Option<CreatedTablespace> {
    if record.resource_manager != MANAGER || record.operation() != CREATE {
        return None;
    }
    let location = record.data.get(4..)?.split(|byte| *byte == 0).next()?;
    let location = location.get(..MAX_LOCATION).unwrap_or(location);
    Some(CreatedTablespace {
        at: record.start,
        oid: u32_at(record.data, 0)?,
        location: String::from_utf8_lossy(location).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::writer::{Writer, record_of};
    use super::*;

    fn data(oid: u32, location: &str) -> Vec<u8> {
        [&oid.to_le_bytes(), location.as_bytes(), &[0]].concat()
    }

    /// Every tablespace of these segments, found by reading the segments one after the other.
    fn found(segments: &[(SegmentName, Vec<u8>)]) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        let mut before: Option<CreatedTablespaces> = None;
        for (name, bytes) in segments {
            let read = CreatedTablespaces::of(*name, bytes).unwrap();
            if read.may_begin_with_one() {
                found.extend(before.as_ref().and_then(|before| read.joined(before)));
            }
            found.extend(read.whole.iter().cloned());
            before = Some(read);
        }
        found
            .into_iter()
            .map(|created| (created.oid, created.location))
            .collect()
    }

    proptest! {
        #[test]
        fn every_tablespace_is_found_wherever_its_record_lies(
            steps in prop::collection::vec((0usize..5, 0usize..700_000, 1usize..1000), 1..12),
            major in 14u32..=18,
        ) {
            let version = PgVersion::from_major(major).unwrap();
            let mut writer = Writer::new(version);
            let mut expected = Vec::new();
            for (number, (kind, filler, length)) in steps.into_iter().enumerate() {
                writer.write(&record_of(version, 10, 0x20, &[], &vec![7; filler]));
                let location = format!("/{}", "x".repeat(length));
                let oid = 16_384 + u32::try_from(number).unwrap();
                match kind {
                    // The same manager's record of another kind, and the same kind of another manager.
                    0 => writer.write(&record_of(version, MANAGER, 0x10, &[], &oid.to_le_bytes())),
                    1 => writer.write(&record_of(version, 6, CREATE, &[], &data(oid, &location))),
                    _ => {
                        writer.write(&record_of(version, MANAGER, CREATE, &[], &data(oid, &location)));
                        expected.push((oid, location));
                    }
                }
            }
            prop_assert_eq!(found(&writer.segments()), expected);
        }
    }

    #[test]
    fn a_record_that_two_segments_cut_is_found_wherever_they_cut_it() {
        let version = PgVersion::V15;
        let location = format!("/{}", "x".repeat(200));
        let mut seen = 0;
        for room in (8..400).step_by(8) {
            let mut writer = Writer::new(version);
            let record = record_of(version, MANAGER, CREATE, &[], &data(16_385, &location));
            let used = usize::try_from(Writer::size().bytes()).unwrap() - room;
            // As much as ends so far before the segment does.
            let pages = used / 8192;
            let filler = used - 40 - pages * 24 - 24 - 5;
            writer.write(&record_of(
                version,
                10,
                0x20,
                &[],
                &vec![7; filler.next_multiple_of(8) - 5],
            ));
            writer.write(&record);
            let segments = writer.segments();
            assert_eq!(found(&segments), [(16_385, location.clone())], "{room}");
            seen += usize::from(
                CreatedTablespaces::of(segments[0].0, &segments[0].1)
                    .unwrap()
                    .whole
                    .is_empty(),
            );
        }
        assert!(seen > 20, "{seen} records were cut");
    }

    #[test]
    fn what_is_no_wal_creates_nothing() {
        let name = "000000010000000000000001".parse().unwrap();
        assert!(CreatedTablespaces::of(name, b"no WAL").is_none());
        // Zeros behind the header, as in a segment that was cut.
        let mut writer = Writer::new(PgVersion::V15);
        writer.write(&record_of(PgVersion::V15, MANAGER, CREATE, &[], &data(1, "/a")));
        let (name, mut bytes) = writer.segments().remove(0);
        bytes[16_384..].fill(0);
        let read = CreatedTablespaces::of(name, &bytes).unwrap();
        assert_eq!((read.whole.len(), read.may_begin_with_one()), (1, false));
    }
}

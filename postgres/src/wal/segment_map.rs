//! The changes of one segment of WAL alone.

use super::ChangeMap;
use super::change_codec;
use super::changes;
use super::codec::{Input, MapFormatError, put, put_bytes};
use super::error::WalError;
use super::piece::Piece;
use super::reader::{Head, SegmentReader, Tail};
use super::record::{self, MAX_LENGTH};
use crate::{Lsn, PgVersion, SegmentName, SegmentSize, TimelineId};

/// The first byte of a stored map.
const FORMAT: u8 = SegmentMap::FORMAT;
/// The bytes that are kept of a record which begins or ends in another segment. The needed fields are in its first 1000
/// bytes, except in a transaction's record: for that one, 5,000 dropped relations fit.
const KEPT: usize = 64 << 10;
/// The longest reason, in bytes.
const MAX_REASON: usize = 300;

/// The changes of one segment of WAL alone: the blocks of the records that lie wholly in it, and the parts of the
/// records that cross its borders, for a [`Joiner`](super::Joiner). Or the reason why they are unknown.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentMap {
    pub(super) name: SegmentName,
    pub(super) size: SegmentSize,
    pub(super) version: PgVersion,
    pub(super) content: Result<Content, String>,
}

/// The content of a segment that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub head: Head,
    pub changes: ChangeMap,
    pub tail: Option<Tail>,
}

/// Makes the map of a segment that comes in parts.
#[derive(Debug)]
pub struct SegmentMapper {
    name: SegmentName,
    size: SegmentSize,
    version: PgVersion,
    reader: SegmentReader,
    changes: ChangeMap,
    failed: Option<WalError>,
}

impl SegmentMapper {
    /// A mapper for the segment `name` of a cluster.
    #[must_use]
    pub fn new(name: SegmentName, size: SegmentSize, version: PgVersion) -> Self {
        Self {
            name,
            size,
            version,
            reader: SegmentReader::new(name, size, version),
            changes: ChangeMap::default(),
            failed: None,
        }
    }

    /// Takes only the records before `to`, of a segment that is still being written. The map serves for a range that
    /// ends at `to`. It must not be stored: it lacks the later records.
    #[must_use]
    pub fn up_to(self, to: Lsn) -> Self {
        let reader = self.reader.up_to(to);
        Self { reader, ..self }
    }

    /// Takes the next bytes of the segment, in parts of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            let (changes, version) = (&mut self.changes, self.version);
            let fed = self
                .reader
                .feed(bytes, &mut |record| changes::add(changes, record, version));
            self.failed = fed.err();
        }
    }

    /// The map, after all of the segment was fed.
    #[must_use]
    pub fn finish(self) -> SegmentMap {
        let (changes, version) = (self.changes, self.version);
        let ends = self.failed.map_or_else(|| self.reader.finish(), Err);
        let content = ends.map(|ends| Content {
            head: match ends.head {
                Head::Ends(piece) => Head::Ends(piece.cut(KEPT)),
                Head::GoesOn(piece) => Head::GoesOn(piece.cut(KEPT)),
                head @ (Head::None | Head::Overwritten) => head,
            },
            changes,
            tail: ends.tail.map(|tail| telling(tail, version)),
        });
        let map = SegmentMap {
            name: self.name,
            size: self.size,
            version: self.version,
            content: content.map_err(|error| reason(&error.to_string())),
        };
        if map.encode().len() > SegmentMap::MAX_LENGTH {
            return map.unusable("its map would be too long");
        }
        map
    }
}

impl SegmentMap {
    /// The format of an encoded map: its first byte.
    pub const FORMAT: u8 = 1;

    /// The most bytes that a stored map has.
    pub const MAX_LENGTH: usize = 3 << 20;

    /// The map of the segment `name` of a cluster; `bytes` is the whole segment. Never fails: an unusable map has the
    /// reason.
    #[must_use]
    pub fn of(name: SegmentName, size: SegmentSize, version: PgVersion, bytes: &[u8]) -> Self {
        let mut mapper = SegmentMapper::new(name, size, version);
        mapper.feed(bytes);
        mapper.finish()
    }

    /// The segment.
    #[must_use]
    pub fn name(&self) -> SegmentName {
        self.name
    }

    /// The timeline of the segment's name.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.name.timeline
    }

    /// The position of the segment's first byte.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.name.start(self.size)
    }

    /// The size of the cluster's segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// The version of PostgreSQL that wrote the segment.
    #[must_use]
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The changes of the records that lie wholly in the segment.
    ///
    /// # Errors
    /// The reason why they are unknown: then a range that contains the segment has no map.
    pub fn changes(&self) -> Result<&ChangeMap, &str> {
        self.content
            .as_ref()
            .map(|content| &content.changes)
            .map_err(String::as_str)
    }

    /// The stored form, at most [`MAX_LENGTH`](Self::MAX_LENGTH) bytes: one map, one sequence of bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        put(&mut bytes, u64::from(self.version.major()));
        put(&mut bytes, u64::from(self.size.bytes().trailing_zeros()));
        put(&mut bytes, u64::from(self.name.timeline.0));
        put(&mut bytes, u64::from(self.name.log));
        put(&mut bytes, u64::from(self.name.segment));
        match &self.content {
            Err(reason) => {
                bytes.push(0);
                put_bytes(&mut bytes, reason.as_bytes());
            }
            Ok(content) => {
                bytes.push(1);
                put_head(&mut bytes, &content.head);
                change_codec::put_changes(&mut bytes, &content.changes);
                match &content.tail {
                    None => bytes.push(0),
                    Some(tail) => {
                        bytes.push(1);
                        put(&mut bytes, tail.start - self.start());
                        put_piece(&mut bytes, &tail.piece);
                    }
                }
            }
        }
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// The bytes are no map, or of an unknown format.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapFormatError> {
        let malformed = |part| MapFormatError::Malformed { part };
        if bytes.len() > Self::MAX_LENGTH {
            return Err(MapFormatError::TooLong { length: bytes.len() });
        }
        let mut input = Input::new(bytes);
        let format = input.u8("format")?;
        if format != FORMAT {
            return Err(MapFormatError::Format { format });
        }
        let version = PgVersion::from_major(input.u32("version")?).map_err(|_| malformed("version"))?;
        let size = 1u32.checked_shl(input.u32("segment size")?).unwrap_or_default();
        let size = SegmentSize::new(size).map_err(|_| malformed("segment size"))?;
        let name = SegmentName {
            timeline: TimelineId(input.u32("timeline")?),
            log: input.u32("log")?,
            segment: input.u32("segment")?,
        };
        if !name.is_possible(size) {
            return Err(malformed("segment"));
        }
        let content = match input.u8("content")? {
            0 => {
                let text = input.bytes("reason", MAX_REASON)?;
                Err(std::str::from_utf8(text).map_err(|_| malformed("reason"))?.to_owned())
            }
            1 => Ok(Content {
                head: head(&mut input)?,
                changes: change_codec::changes(&mut input, size)?,
                tail: match input.u8("tail")? {
                    0 => None,
                    1 => Some(tail(&mut input, name, size)?),
                    _ => return Err(malformed("tail")),
                },
            }),
            _ => return Err(malformed("content")),
        };
        input
            .is_empty()
            .then_some(Self {
                name,
                size,
                version,
                content,
            })
            .ok_or(malformed("end"))
    }

    /// The same map, without content, for this reason.
    fn unusable(mut self, why: &str) -> Self {
        self.content = Err(reason(why));
        self
    }
}

/// A begun record, cut to the bytes that tell its changes.
fn telling(tail: Tail, version: PgVersion) -> Tail {
    let length = record::total_length(&tail.piece.kept).ok();
    let needed = length.and_then(|length| changes::telling_length(&tail.piece.kept, length, version));
    Tail {
        start: tail.start,
        piece: tail.piece.cut(needed.unwrap_or(KEPT).min(KEPT)),
    }
}

/// A reason, cut to `MAX_REASON` bytes.
fn reason(text: &str) -> String {
    let mut text = text.to_owned();
    while text.len() > MAX_REASON {
        text.pop();
    }
    text
}

fn put_head(bytes: &mut Vec<u8>, head: &Head) {
    match head {
        Head::None => bytes.push(0),
        Head::Ends(piece) => {
            bytes.push(1);
            put_piece(bytes, piece);
        }
        Head::GoesOn(piece) => {
            bytes.push(2);
            put_piece(bytes, piece);
        }
        Head::Overwritten => bytes.push(3),
    }
}

fn head(input: &mut Input<'_>) -> Result<Head, MapFormatError> {
    Ok(match input.u8("head")? {
        0 => Head::None,
        1 => Head::Ends(piece(input)?),
        2 => Head::GoesOn(piece(input)?),
        3 => Head::Overwritten,
        _ => return Err(MapFormatError::Malformed { part: "head" }),
    })
}

fn tail(input: &mut Input<'_>, name: SegmentName, size: SegmentSize) -> Result<Tail, MapFormatError> {
    let offset = input.u32("tail")?;
    let within = offset < size.bytes() && offset % 8 == 0;
    let start = within.then(|| name.start(size) + u64::from(offset));
    Ok(Tail {
        start: start.ok_or(MapFormatError::Malformed { part: "tail" })?,
        piece: piece(input)?,
    })
}

fn put_piece(bytes: &mut Vec<u8>, piece: &Piece) {
    put(bytes, u64::from(piece.length));
    put(bytes, u64::from(piece.checksum));
    put_bytes(bytes, &piece.kept);
}

fn piece(input: &mut Input<'_>) -> Result<Piece, MapFormatError> {
    let piece = Piece {
        length: input.u32("piece")?,
        checksum: input.u32("piece")?,
        kept: input.bytes("piece", KEPT)?.to_vec(),
    };
    let possible = piece.length <= MAX_LENGTH && piece.kept.len() <= piece.length as usize;
    possible
        .then_some(piece)
        .ok_or(MapFormatError::Malformed { part: "piece" })
}

//! Records out of the pages of one segment (xlogreader.c).

use super::error::{WalError, WalProblem};
use super::page_header::{Beginning, PageHeader};
use super::piece::Piece;
use super::record::{self, BlockReference, HEADER_LENGTH, Record, header_checksum};
use crate::{Lsn, PgVersion, SegmentName, SegmentSize, TimelineId, WalHeader};

/// The bytes of a record over several pages that are kept. Only the records of transactions and dropped databases are
/// read so far: this is enough for a transaction that drops 87,000 relations.
const KEPT: usize = 1 << 20;
/// Records begin at multiples of this (`MAXIMUM_ALIGNOF`).
const ALIGNMENT: usize = 8;

/// The callback for each record.
pub type Each<'a> = dyn FnMut(&Record<'_>) -> Result<(), WalProblem> + 'a;

/// The beginning of a segment, in relation to the segments before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// With a record.
    None,
    /// With the last part of a record that began in an earlier segment.
    Ends(Piece),
    /// With a part of a record that takes all of this segment and goes on in the next.
    GoesOn(Piece),
    /// With a record. A record that began in an earlier segment was never ended, and does not count.
    Overwritten,
}

/// A record that was begun in the segment and goes on in the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The position of the record.
    pub start: Lsn,
    /// Its part in this segment.
    pub piece: Piece,
}

/// Takes a segment in parts of any size, and hands out the records that lie wholly in it. Keeps at most a page and a
/// record.
#[derive(Debug)]
pub struct SegmentReader {
    size: SegmentSize,
    version: PgVersion,
    name: SegmentName,
    /// The bytes of a page; 0 until the segment's header is read.
    page_size: usize,
    /// The first bytes of a page that is not complete yet.
    begun_page: Vec<u8>,
    /// The position of the next page.
    position: Lsn,
    /// The timeline of the last page.
    timeline: TimelineId,
    head: Head,
    state: State,
    /// The record before, if it lies in this segment.
    previous: Option<Lsn>,
    /// Records from here on are not read.
    to: Option<Lsn>,
    blocks: Vec<BlockReference>,
}

/// The content that the next page has to begin with.
#[derive(Debug)]
enum State {
    /// Any content: the first page decides.
    Start,
    /// The rest of a record that began before this segment, and the number of its missing bytes.
    InHead(u32),
    /// A record.
    BetweenRecords,
    /// The rest of a record, and the number of its missing bytes.
    InRecord(Tail, u32),
    /// None: the rest of the segment is not read.
    Ended,
}

/// The incomplete records at both ends of a segment.
#[derive(Debug)]
pub(super) struct Ends {
    pub head: Head,
    pub tail: Option<Tail>,
}

impl SegmentReader {
    /// Reads the segment `name` of a cluster.
    #[must_use]
    pub fn new(name: SegmentName, size: SegmentSize, version: PgVersion) -> Self {
        Self {
            size,
            version,
            name,
            page_size: 0,
            begun_page: Vec::new(),
            position: name.start(size),
            timeline: TimelineId(0),
            head: Head::None,
            state: State::Start,
            previous: None,
            to: None,
            blocks: Vec::new(),
        }
    }

    /// Reads only the records before `to`: in a segment that is still being written, later bytes may be those of an
    /// older file.
    #[must_use]
    pub fn up_to(self, to: Lsn) -> Self {
        Self { to: Some(to), ..self }
    }

    /// Takes the next bytes of the segment, and calls `each` for the records that end in them.
    ///
    /// # Errors
    /// The bytes are no WAL of this segment, or `each` fails. The reader is of no use after that.
    pub fn feed(&mut self, mut bytes: &[u8], each: &mut Each<'_>) -> Result<(), WalError> {
        while !bytes.is_empty() {
            let wanted = if self.page_size == 0 {
                WalHeader::LENGTH
            } else {
                self.page_size
            };
            if self.begun_page.is_empty() && bytes.len() >= wanted && self.page_size != 0 {
                let (page, rest) = bytes.split_at(wanted);
                bytes = rest;
                self.page(page, each)?;
                continue;
            }
            let missing = wanted.saturating_sub(self.begun_page.len());
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            self.begun_page.extend_from_slice(part);
            bytes = rest;
            if self.begun_page.len() < wanted {
                break;
            }
            if self.page_size == 0 {
                self.page_size = self.segment_header()?;
                self.begun_page.reserve(self.page_size);
            } else {
                let page = std::mem::take(&mut self.begun_page);
                self.page(&page, each)?;
            }
        }
        Ok(())
    }

    /// Checks that the whole segment was fed, or with [`up_to`](Self::up_to) all records before its position.
    ///
    /// # Errors
    /// Bytes are missing, or there are too many.
    pub(super) fn finish(self) -> Result<Ends, WalError> {
        let start = self.name.start(self.size);
        let found = self.position - start + self.begun_page.len() as u64;
        let expected = u64::from(self.size.bytes());
        let enough = self.to.is_some() && matches!(self.state, State::Ended);
        if found != expected && !enough {
            let problem = WalProblem::Length { expected, found };
            return Err(WalError { at: start, problem });
        }
        Ok(self.seen())
    }

    /// The incomplete records at both ends of the bytes fed so far, even if the segment is not complete.
    pub(super) fn seen(self) -> Ends {
        let head = match (self.head, &self.state) {
            (Head::Ends(piece), State::InHead(_)) => Head::GoesOn(piece),
            (head, _) => head,
        };
        let tail = match self.state {
            State::InRecord(tail, _) => Some(tail),
            _ => None,
        };
        Ends { head, tail }
    }

    /// The size of a page, from the header of the segment.
    fn segment_header(&self) -> Result<usize, WalError> {
        let header = WalHeader::parse(&self.begun_page).and_then(|header| {
            header.check(self.name, u64::from(header.segment_size.bytes()))?;
            Ok(header)
        });
        let checked = header.map_err(WalProblem::from).and_then(|header| {
            let same = header.version() == self.version && header.segment_size == self.size;
            same.then_some(header.block_size as usize)
                .ok_or(WalProblem::OtherCluster)
        });
        checked.map_err(|problem| WalError {
            at: self.position,
            problem,
        })
    }

    fn page(&mut self, page: &[u8], each: &mut Each<'_>) -> Result<(), WalError> {
        let at = self.position;
        let state = std::mem::replace(&mut self.state, State::Ended);
        if !matches!(state, State::Ended) {
            let begun = self.begin_page(page, state).map_err(|problem| WalError { at, problem });
            let (state, place) = begun?;
            self.state = self.records(page, state, place, each)?;
        }
        self.position = self.position + page.len() as u64;
        Ok(())
    }

    /// Reads the header of a page. Gives the state to go on with, and the position of the first byte behind the header.
    fn begin_page(&mut self, page: &[u8], state: State) -> Result<(State, usize), WalProblem> {
        let header = PageHeader::parse(page, self.version, matches!(state, State::Start))?;
        if header.address != self.position {
            return Err(WalProblem::Address { found: header.address });
        }
        if header.timeline < self.timeline || header.timeline > self.name.timeline {
            return Err(WalProblem::Timeline { found: header.timeline });
        }
        self.timeline = header.timeline;
        let expected = match &state {
            State::InHead(missing) | State::InRecord(_, missing) => *missing,
            State::Start | State::BetweenRecords | State::Ended => 0,
        };
        let state = match (state, header.beginning) {
            (state, Beginning::Overwritten) => {
                if matches!(state, State::Start | State::InHead(_)) {
                    self.head = Head::Overwritten;
                }
                State::BetweenRecords
            }
            (State::Start | State::BetweenRecords, Beginning::Record) => State::BetweenRecords,
            (State::Start, Beginning::Continuation(missing)) if (1..=record::MAX_LENGTH).contains(&missing) => {
                self.head = Head::Ends(Piece::default());
                State::InHead(missing)
            }
            (state @ (State::InHead(_) | State::InRecord(..)), Beginning::Continuation(found)) if found == expected => {
                state
            }
            (_, Beginning::Record) => return Err(WalProblem::Continuation { expected, found: 0 }),
            (_, Beginning::Continuation(found)) => return Err(WalProblem::Continuation { expected, found }),
        };
        Ok((state, header.length))
    }

    /// Reads the content of a page behind its header: the rest of a record, whole records, and the beginning of a
    /// record. Gives the state for the next page.
    fn records(
        &mut self,
        page: &[u8],
        mut state: State,
        mut place: usize,
        each: &mut Each<'_>,
    ) -> Result<State, WalError> {
        let page_start = self.position;
        loop {
            let rest = page.get(place..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(state);
            }
            let at = page_start + place as u64;
            let failed = |at: Lsn| move |problem| WalError { at, problem };
            let taken;
            (state, taken) = match state {
                State::InHead(missing) => {
                    let (part, missing) = part_of(rest, missing);
                    if let Head::Ends(piece) = &mut self.head {
                        piece.add(part, KEPT);
                    }
                    let next = if missing == 0 {
                        State::BetweenRecords
                    } else {
                        State::InHead(missing)
                    };
                    (next, part.len())
                }
                State::InRecord(mut tail, missing) => {
                    let (part, missing) = part_of(rest, missing);
                    tail.piece.add(part, KEPT);
                    let next = if missing == 0 {
                        let start = tail.start;
                        tail.piece.check().map_err(failed(start))?;
                        self.record(start, &tail.piece.kept, tail.piece.length, each)
                            .map_err(failed(start))?
                    } else {
                        State::InRecord(tail, missing)
                    };
                    (next, part.len())
                }
                State::BetweenRecords if self.to.is_some_and(|to| at >= to) => return Ok(State::Ended),
                State::BetweenRecords => {
                    let length = record::total_length(rest).map_err(failed(at))?;
                    let (part, missing) = part_of(rest, length);
                    let next = if missing == 0 {
                        let (header, body) = part.split_at(HEADER_LENGTH.min(part.len()));
                        header_checksum(header, crc32c::crc32c(body)).map_err(failed(at))?;
                        self.record(at, part, length, each).map_err(failed(at))?
                    } else {
                        let mut piece = Piece::default();
                        piece.add(part, KEPT);
                        State::InRecord(Tail { start: at, piece }, missing)
                    };
                    (next, part.len())
                }
                State::Start | State::Ended => return Ok(State::Ended),
            };
            place = (place + taken).next_multiple_of(ALIGNMENT);
        }
    }

    /// Hands out a record whose checksum is right.
    fn record(&mut self, start: Lsn, bytes: &[u8], length: u32, each: &mut Each<'_>) -> Result<State, WalProblem> {
        let found = record::previous(bytes);
        if let Some(expected) = self.previous.replace(start).filter(|expected| *expected != found) {
            return Err(WalProblem::Previous { expected, found });
        }
        let record = record::parse(start, bytes, length, self.version, &mut self.blocks)?;
        each(&record)?;
        Ok(if record.is_switch() {
            State::Ended
        } else {
            State::BetweenRecords
        })
    }
}

/// The bytes of a record that lacks `missing` bytes, as far as `rest` has them; and the number of bytes that it still
/// lacks.
fn part_of(rest: &[u8], missing: u32) -> (&[u8], u32) {
    let (part, _) = rest.split_at(rest.len().min(missing as usize));
    (
        part,
        missing.saturating_sub(u32::try_from(part.len()).unwrap_or(u32::MAX)),
    )
}

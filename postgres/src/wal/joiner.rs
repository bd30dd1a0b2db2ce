//! Maps of consecutive segments, joined.

use thiserror::Error;

use super::changes;
use super::error::{WalError, WalProblem};
use super::piece::Piece;
use super::reader::{Head, Tail};
use super::record;
use super::{ChangeMap, SegmentMap};
use crate::{Lsn, PgVersion, SegmentName, SegmentSize, TimelineId, WalHeader};

/// The bytes that are kept of a record over several segments.
const KEPT: usize = 1 << 20;

/// Joins the maps of consecutive segments of one timeline into the map of a range of WAL, and joins the parts of
/// records that cross segment borders.
#[derive(Debug)]
pub struct Joiner {
    size: SegmentSize,
    version: PgVersion,
    to: Lsn,
    next: SegmentName,
    begun: Begun,
    changes: ChangeMap,
}

/// The record that the last segment ended in.
#[derive(Debug)]
enum Begun {
    /// None.
    Nothing,
    /// A record that began before the first segment, and so before the range.
    BeforeRange,
    /// A record of the range.
    Record(Tail),
}

/// Why a range of WAL has no map. Then all files must be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoMap {
    /// A segment is missing between others, or is of another timeline.
    #[error("segment {expected} must follow, and {found} came")]
    Hole {
        /// The segment that must come next.
        expected: SegmentName,
        /// The segment that came.
        found: SegmentName,
    },
    /// The segment was written by another version, or segments have another size.
    #[error("segment {segment} is of another cluster: of another version of PostgreSQL or with another segment size")]
    OtherCluster {
        /// The segment.
        segment: SegmentName,
    },
    /// The segment's changes are unknown.
    #[error("segment {segment}: {reason}")]
    Unusable {
        /// The segment.
        segment: SegmentName,
        /// The reason.
        reason: String,
    },
    /// A record over several segments could not be read.
    #[error(transparent)]
    Record(#[from] WalError),
    /// The segments end before the range does.
    #[error("the WAL from segment {next} on is missing, up to {to}")]
    Incomplete {
        /// The segment that must come next.
        next: SegmentName,
        /// The end of the range.
        to: Lsn,
    },
}

impl Joiner {
    /// A joiner for the WAL of one timeline from `from` to `to`. A record begins at each of the two.
    #[must_use]
    pub fn new(timeline: TimelineId, size: SegmentSize, version: PgVersion, from: Lsn, to: Lsn) -> Self {
        Self {
            size,
            version,
            // A range without bytes needs no segment.
            to: if from < to { to } else { Lsn::INVALID },
            next: SegmentName::containing(timeline, from, size),
            begun: Begun::BeforeRange,
            changes: ChangeMap::default(),
        }
    }

    /// The segment whose map must come next; `None` when nothing is missing. A segment that has only its header in the
    /// range is not wanted: a backup usually begins at such a place, and that segment is archived only after the backup
    /// has begun.
    #[must_use]
    pub fn wanted(&self) -> Option<SegmentName> {
        let missing = match &self.begun {
            Begun::Record(tail) => tail.start < self.to,
            Begun::Nothing | Begun::BeforeRange => false,
        };
        let header = WalHeader::LENGTH as u64;
        (missing || self.next.start(self.size) + header < self.to).then_some(self.next)
    }

    /// Takes the map of the next segment.
    ///
    /// # Errors
    /// The map is of another segment, or makes a map of the range impossible. The joiner is of no use then.
    pub fn add(&mut self, map: &SegmentMap) -> Result<(), NoMap> {
        let segment = map.name();
        if segment != self.next {
            return Err(NoMap::Hole {
                expected: self.next,
                found: segment,
            });
        }
        if map.version() != self.version || map.segment_size() != self.size {
            return Err(NoMap::OtherCluster { segment });
        }
        let content = map.content.as_ref().map_err(|reason| NoMap::Unusable {
            segment,
            reason: reason.clone(),
        })?;
        let begun = std::mem::replace(&mut self.begun, Begun::Nothing);
        let begun = self.head(map.start(), begun, &content.head)?;
        self.changes.merge(&content.changes);
        self.begun = match &content.tail {
            Some(tail) => Begun::Record(tail.clone()),
            None => begun,
        };
        self.next = segment.next(self.size);
        Ok(())
    }

    /// The map of the range. It may name changes of all segments that the range touches.
    ///
    /// # Errors
    /// Segments are missing.
    pub fn finish(self) -> Result<ChangeMap, NoMap> {
        match self.wanted() {
            Some(next) => Err(NoMap::Incomplete { next, to: self.to }),
            None => Ok(self.changes),
        }
    }

    /// Joins the head of this segment to the begun record. Gives the record that goes on behind the head, if there is
    /// one.
    fn head(&mut self, at: Lsn, begun: Begun, head: &Head) -> Result<Begun, NoMap> {
        Ok(match (begun, head) {
            (Begun::Nothing | Begun::BeforeRange, Head::None) | (_, Head::Overwritten) => Begun::Nothing,
            (Begun::BeforeRange, Head::Ends(_)) => Begun::Nothing,
            (Begun::BeforeRange, Head::GoesOn(_)) => Begun::BeforeRange,
            (Begun::Record(tail), Head::GoesOn(piece)) => {
                let (tail, missing) = joined(tail, piece)?;
                if missing == 0 {
                    return Err(continuation(at, 0, piece.length));
                }
                Begun::Record(tail)
            }
            (Begun::Record(tail), Head::Ends(piece)) => {
                let (tail, missing) = joined(tail, piece)?;
                if missing != 0 {
                    return Err(continuation(at, missing, 0));
                }
                self.record(&tail).map_err(|problem| WalError {
                    at: tail.start,
                    problem,
                })?;
                Begun::Nothing
            }
            (Begun::Nothing, Head::Ends(piece) | Head::GoesOn(piece)) => return Err(continuation(at, 0, piece.length)),
            (Begun::Record(tail), Head::None) => {
                let (_, missing) = joined(tail, &Piece::default())?;
                return Err(continuation(at, missing, 0));
            }
        })
    }

    /// Adds the changes of a record over several segments.
    fn record(&mut self, tail: &Tail) -> Result<(), WalProblem> {
        let piece = &tail.piece;
        piece.check()?;
        let mut blocks = Vec::new();
        let record = record::parse(tail.start, &piece.kept, piece.length, self.version, &mut blocks)?;
        changes::add(&mut self.changes, &record, self.version)
    }
}

/// A record with its next piece, and the number of bytes that it still lacks.
fn joined(mut tail: Tail, piece: &Piece) -> Result<(Tail, u32), NoMap> {
    tail.piece.join(piece, KEPT);
    let missing = missing_of(&tail.piece).map_err(|problem| WalError {
        at: tail.start,
        problem,
    })?;
    Ok((tail, missing))
}

/// The number of bytes that a record lacks.
fn missing_of(piece: &Piece) -> Result<u32, WalProblem> {
    let length = record::total_length(&piece.kept)?;
    length
        .checked_sub(piece.length)
        .ok_or(WalProblem::RecordLength { length: piece.length })
}

fn continuation(at: Lsn, expected: u32, found: u32) -> NoMap {
    WalError {
        at,
        problem: WalProblem::Continuation { expected, found },
    }
    .into()
}

//! Why WAL could not be read.

use thiserror::Error;

use crate::{Lsn, TimelineId, WalHeaderError};

/// A fault in WAL, and its position.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("WAL at {at}: {problem}")]
pub struct WalError {
    /// The page or the record.
    pub at: Lsn,
    /// The fault.
    pub problem: WalProblem,
}

/// A fault in WAL, or a reason why no map can be made of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WalProblem {
    /// The segment's own header is wrong.
    #[error(transparent)]
    Segment(#[from] WalHeaderError),
    /// The file is of another version or size than its cluster.
    #[error("the segment is of another cluster: of another version of PostgreSQL or with another segment size")]
    OtherCluster,
    /// The file ends early, or has bytes too many.
    #[error("the segment has {found} bytes, not {expected}")]
    Length {
        /// The size of a segment in bytes.
        expected: u64,
        /// The bytes that there are.
        found: u64,
    },
    /// No page of this version, or a long header in the place of a short one.
    #[error("no page begins here: magic {magic:#06x}, flags {flags:#06x}")]
    Page {
        /// `xlp_magic`.
        magic: u16,
        /// `xlp_info`.
        flags: u16,
    },
    /// The page was written for another position, as in a file that was recycled.
    #[error("the page says that it belongs at {found}")]
    Address {
        /// `xlp_pageaddr`.
        found: Lsn,
    },
    /// The timeline is lower than the page before's, or higher than that of the segment's name.
    #[error("the page is of timeline {found}, which cannot be here")]
    Timeline {
        /// `xlp_tli`.
        found: TimelineId,
    },
    /// A record goes on at the start of the page, but the page's header says otherwise; or the other way round.
    #[error("a record of which {expected} bytes are missing meets a page that goes on with {found}")]
    Continuation {
        /// The missing bytes of the record; 0 without a record.
        expected: u32,
        /// `xlp_rem_len`.
        found: u32,
    },
    /// No record has this length; 0 if nothing was written.
    #[error("no record has {length} bytes")]
    RecordLength {
        /// `xl_tot_len`.
        length: u32,
    },
    /// The record was damaged.
    #[error("the record's checksum does not match")]
    Checksum,
    /// The record's `xl_prev` is not the position of the record before.
    #[error("the record says that {found} came before it, and that was {expected}")]
    Previous {
        /// The position of the record before.
        expected: Lsn,
        /// `xl_prev`.
        found: Lsn,
    },
    /// The record contradicts itself.
    #[error("the record's {part} cannot be so")]
    Malformed {
        /// Its part.
        part: &'static str,
    },
    /// The record is so long that a needed part of it was not kept.
    #[error("the record is too long to be looked at")]
    TooLong,
    /// The record changes files in an unknown way.
    #[error("the record changes files in an unknown way (resource manager {resource_manager}, info {info:#04x})")]
    UnknownChange {
        /// `xl_rmid`.
        resource_manager: u8,
        /// `xl_info`.
        info: u8,
    },
    /// With `wal_level=minimal` files change without WAL.
    #[error("wal_level is minimal, so files change without WAL")]
    MinimalLevel,
}

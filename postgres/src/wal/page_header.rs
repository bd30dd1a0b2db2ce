//! The header of a WAL page.

use super::error::WalProblem;
use crate::fields::{u16_at, u32_at, u64_at};
use crate::{Lsn, PgVersion, TimelineId, WalHeader};

/// `XLP_FIRST_IS_CONTRECORD`: the page begins inside a record.
const CONTINUES: u16 = 0x0001;
/// `XLP_LONG_HEADER`: first page of a segment.
const LONG_HEADER: u16 = 0x0002;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: a record was begun before this page, and never ended.
const OVERWRITES: u16 = 0x0008;
/// `XLP_ALL_FLAGS`: any other bit means that this is no WAL page.
const ALL_FLAGS: u16 = 0x000F;

/// How a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// With a record, or with no rest of a record.
    Record,
    /// With the next part of a record, and the number of the record's missing bytes, on this page and later ones.
    Continuation(u32),
    /// With a record. The record before it was never ended, and does not count.
    Overwritten,
}

/// The header of a page (`XLogPageHeaderData` in xlog_internal.h).
#[derive(Clone, Copy, Debug)]
pub(super) struct PageHeader {
    pub timeline: TimelineId,
    pub address: Lsn,
    pub beginning: Beginning,
    /// The bytes that the header takes.
    pub length: usize,
}

impl PageHeader {
    /// The length of a header, except on a segment's first page.
    pub const SHORT: usize = 24;

    /// Reads the header of a page. `first`: the page is the first page of a segment, which has a long header.
    pub fn parse(page: &[u8], version: PgVersion, first: bool) -> Result<Self, WalProblem> {
        let magic = u16_at(page, 0).unwrap_or_default();
        let flags = u16_at(page, 2).unwrap_or_default();
        let expected = if first { LONG_HEADER } else { 0 };
        if PgVersion::from_wal_magic(magic) != Ok(version) || flags & !ALL_FLAGS != 0 || flags & LONG_HEADER != expected
        {
            return Err(WalProblem::Page { magic, flags });
        }
        let short = || WalProblem::Page { magic, flags };
        let remaining = u32_at(page, 16).ok_or_else(short)?;
        let beginning = if flags & OVERWRITES != 0 {
            Beginning::Overwritten
        } else if flags & CONTINUES != 0 {
            Beginning::Continuation(remaining)
        } else {
            Beginning::Record
        };
        Ok(Self {
            timeline: TimelineId(u32_at(page, 4).ok_or_else(short)?),
            address: Lsn(u64_at(page, 8).ok_or_else(short)?),
            beginning,
            length: if first { WalHeader::LENGTH } else { Self::SHORT },
        })
    }
}

//! WAL records (xlogrecord.h).

use super::RelationFork;
use super::error::WalProblem;
use super::versions::has_hole_length;
use crate::fields::{u16_at, u32_at, u64_at};
use crate::{Fork, Lsn, PgVersion};

/// The bytes of a record's header.
pub(super) const HEADER_LENGTH: usize = 24;
/// `XLogRecordMaxSize`. Versions before 16 do not check it when they write, but cannot read a longer record either.
pub(super) const MAX_LENGTH: u32 = 1020 << 20;

/// The highest id of a block in a record.
const MAX_BLOCK_ID: u8 = 32;
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_LEVEL_XID: u8 = 252;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const SAME_RELATION: u8 = 0x80;

/// `XLR_SPECIAL_REL_UPDATE`: the record changes files of relations in another way than by its blocks.
const SPECIAL_UPDATE: u8 = 0x01;

/// A block that a record has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockReference {
    /// The fork that the block belongs to.
    pub fork: RelationFork,
    /// Its number within the fork.
    pub block: u32,
}

/// One record of the WAL.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its position.
    pub start: Lsn,
    /// The resource manager that wrote it and can apply it (`xl_rmid`). Extensions have numbers from 128 on.
    pub resource_manager: u8,
    /// `xl_info`: the upper half is the resource manager's.
    pub info: u8,
    /// The blocks that it changes, in the order of their ids.
    pub blocks: &'a [BlockReference],
    /// The main data; of a long record, its beginning.
    pub(super) data: &'a [u8],
    /// The length of the main data, with the bytes that are not in `data`.
    pub(super) data_length: usize,
    /// The length of the record's header and of the headers of its blocks and data.
    pub(super) headers_length: usize,
}

impl Record<'_> {
    /// The resource manager's half of `info`.
    pub(super) fn operation(&self) -> u8 {
        self.info & 0xF0
    }

    /// Whether the record ends the segment, and the next record is in the next segment (`XLOG_SWITCH`).
    pub(super) fn is_switch(&self) -> bool {
        self.resource_manager == 0 && self.operation() == 0x40
    }

    /// Whether the record changes files in another way than by its blocks.
    pub(super) fn is_special(&self) -> bool {
        self.info & SPECIAL_UPDATE != 0
    }

    /// The number at `offset` of the data.
    pub(super) fn data_u32(&self, offset: usize) -> Result<u32, WalProblem> {
        if let Some(number) = u32_at(self.data, offset) {
            return Ok(number);
        }
        let within = offset.checked_add(4).is_some_and(|end| end <= self.data_length);
        Err(if within {
            WalProblem::TooLong
        } else {
            WalProblem::Malformed { part: "data" }
        })
    }
}

/// The length that a record's header begins with, if a record can have it.
pub(super) fn total_length(bytes: &[u8]) -> Result<u32, WalProblem> {
    let length = u32_at(bytes, 0).unwrap_or_default();
    let possible = (HEADER_LENGTH..=MAX_LENGTH as usize).contains(&(length as usize));
    possible.then_some(length).ok_or(WalProblem::RecordLength { length })
}

/// The position of the record before this one.
pub(super) fn previous(bytes: &[u8]) -> Lsn {
    Lsn(u64_at(bytes, 8).unwrap_or_default())
}

/// Checks the checksum in a record's header. `body` is the checksum of all bytes behind the header.
pub(super) fn header_checksum(header: &[u8], body: u32) -> Result<(), WalProblem> {
    let covered = header.get(..20).unwrap_or_default();
    let matches = u32_at(header, 20) == Some(crc32c::crc32c_append(body, covered));
    matches.then_some(()).ok_or(WalProblem::Checksum)
}

/// Reads a record of `length` bytes. `bytes` has the first ones; the blocks are put into `blocks`.
pub(super) fn parse<'a>(
    start: Lsn,
    bytes: &'a [u8],
    length: u32,
    version: PgVersion,
    blocks: &'a mut Vec<BlockReference>,
) -> Result<Record<'a>, WalProblem> {
    blocks.clear();
    let mut headers = Headers {
        bytes,
        at: HEADER_LENGTH,
        length: length as usize,
    };
    let mut relation: Option<(u32, u32, u32)> = None;
    // The length of the blocks and data that the headers have announced so far, and the main data's part of it.
    let (mut announced, mut data_length) = (0, 0);
    while headers.rest() > announced {
        match headers.u8()? {
            DATA_SHORT => {
                data_length = usize::from(headers.u8()?);
                announced += data_length;
                break;
            }
            DATA_LONG => {
                data_length = headers.u32()? as usize;
                announced = announced.saturating_add(data_length);
                break;
            }
            ORIGIN => headers.skip(2)?,
            TOP_LEVEL_XID => headers.skip(4)?,
            id if id <= MAX_BLOCK_ID => {
                announced += headers.block(version, &mut relation, blocks)?;
            }
            _ => return Err(WalProblem::Malformed { part: "block ids" }),
        }
    }
    if headers.rest() != announced {
        return Err(WalProblem::Malformed { part: "length" });
    }
    let data_start = headers.length - data_length;
    Ok(Record {
        start,
        resource_manager: bytes.get(17).copied().unwrap_or_default(),
        info: bytes.get(16).copied().unwrap_or_default(),
        blocks,
        data: bytes.get(data_start.min(bytes.len())..).unwrap_or_default(),
        data_length,
        headers_length: headers.at,
    })
}

/// The headers of a record's blocks and data, all of which come before the blocks and the data themselves.
struct Headers<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The record's length, which may be more than `bytes` has.
    length: usize,
}

impl Headers<'_> {
    /// The bytes of the record that were not yet read.
    fn rest(&self) -> usize {
        self.length.saturating_sub(self.at)
    }

    /// Reads a block's header. Gives the number of bytes that it announces.
    fn block(
        &mut self,
        version: PgVersion,
        relation: &mut Option<(u32, u32, u32)>,
        blocks: &mut Vec<BlockReference>,
    ) -> Result<usize, WalProblem> {
        let flags = self.u8()?;
        let mut announced = usize::from(self.u16()?);
        if flags & HAS_IMAGE != 0 {
            announced += usize::from(self.u16()?);
            self.skip(2)?;
            let image = self.u8()?;
            if has_hole_length(version, image) {
                self.skip(2)?;
            }
        }
        if flags & SAME_RELATION == 0 {
            *relation = Some((self.u32()?, self.u32()?, self.u32()?));
        }
        let malformed = |part| WalProblem::Malformed { part };
        let (tablespace, database, number) = relation.ok_or_else(|| malformed("relation"))?;
        let fork = Fork::from_number(u32::from(flags & FORK_MASK)).ok_or_else(|| malformed("fork"))?;
        let fork = RelationFork {
            tablespace,
            database,
            relation: number,
            fork,
        };
        blocks.push(BlockReference {
            fork,
            block: self.u32()?,
        });
        Ok(announced)
    }

    fn u8(&mut self) -> Result<u8, WalProblem> {
        let value = self.bytes.get(self.at).copied();
        self.step(1, value)
    }

    fn u16(&mut self) -> Result<u16, WalProblem> {
        let value = u16_at(self.bytes, self.at);
        self.step(2, value)
    }

    fn u32(&mut self) -> Result<u32, WalProblem> {
        let value = u32_at(self.bytes, self.at);
        self.step(4, value)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), WalProblem> {
        self.step(bytes, Some(()))
    }

    fn step<T>(&mut self, bytes: usize, value: Option<T>) -> Result<T, WalProblem> {
        if self.rest() < bytes {
            return Err(WalProblem::Malformed { part: "headers" });
        }
        self.at += bytes;
        value.ok_or(WalProblem::TooLong)
    }
}

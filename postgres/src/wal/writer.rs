//! WAL that tests write: records laid out over pages and segments as PostgreSQL lays them out.

use super::RelationFork;
use crate::{Lsn, PgVersion, SegmentName, SegmentSize, TimelineId};

/// The segments of the tests: the smallest that there are.
pub const SIZE: u32 = 1 << 20;
const PAGE: usize = 8192;
const LONG: usize = 40;
const SHORT: usize = 24;

/// A block of a record.
#[derive(Clone, Debug)]
pub struct Block {
    pub fork: RelationFork,
    pub block: u32,
    /// Whether to leave out the relation, since it is the same as the block before's.
    pub same: bool,
    /// `bimg_info` and the bytes of a page image.
    pub image: Option<(u8, Vec<u8>)>,
    pub data: Vec<u8>,
}

/// The magic number of a version's pages.
fn magic(version: PgVersion) -> u16 {
    match version {
        PgVersion::V14 => 0xD10D,
        PgVersion::V15 => 0xD110,
        PgVersion::V16 => 0xD113,
        PgVersion::V17 => 0xD116,
        PgVersion::V18 => 0xD118,
    }
}

/// Whether an image with these bits has a hole length: a second implementation, to check the first.
fn has_hole_length(version: PgVersion, bits: u8) -> bool {
    let compressed = if version == PgVersion::V14 { 2 } else { 0x1C };
    bits & 1 == 1 && bits & compressed != 0
}

/// A record of any version whose blocks have no compressed images.
pub fn record(resource_manager: u8, info: u8, blocks: &[Block], data: &[u8]) -> Vec<u8> {
    record_of(PgVersion::V15, resource_manager, info, blocks, data)
}

/// A record with 0 as the position of the record before.
pub fn record_of(version: PgVersion, resource_manager: u8, info: u8, blocks: &[Block], data: &[u8]) -> Vec<u8> {
    let (mut headers, mut bodies) = (Vec::<u8>::new(), Vec::<u8>::new());
    for (id, block) in blocks.iter().enumerate() {
        let flags = block.fork.fork.number() as u8
            | if block.image.is_some() { 0x10 } else { 0 }
            | if block.data.is_empty() { 0 } else { 0x20 }
            | if block.same { 0x80 } else { 0 };
        headers.extend([id as u8, flags]);
        headers.extend((block.data.len() as u16).to_le_bytes());
        if let Some((bits, image)) = &block.image {
            headers.extend((image.len() as u16).to_le_bytes());
            headers.extend([7, 0, *bits]);
            if has_hole_length(version, *bits) {
                headers.extend([9, 9]);
            }
            bodies.extend(image);
        }
        if !block.same {
            for number in [block.fork.tablespace, block.fork.database, block.fork.relation] {
                headers.extend(number.to_le_bytes());
            }
        }
        headers.extend(block.block.to_le_bytes());
        bodies.extend(&block.data);
    }
    match data.len() {
        0 => (),
        1..=255 => headers.extend([255, data.len() as u8]),
        _ => {
            headers.push(254);
            headers.extend((data.len() as u32).to_le_bytes());
        }
    }
    let mut record = vec![0; 24];
    record[16] = info;
    record[17] = resource_manager;
    record.extend(headers);
    record.extend(bodies);
    record.extend(data);
    let length = record.len() as u32;
    record[..4].copy_from_slice(&length.to_le_bytes());
    seal(&mut record, Lsn(0));
    record
}

/// Sets the position of the record before, and the checksum.
fn seal(record: &mut [u8], previous: Lsn) {
    record[8..16].copy_from_slice(&previous.0.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes WAL from the start of a segment on.
pub struct Writer {
    version: PgVersion,
    first: SegmentName,
    previous: Lsn,
    bytes: Vec<u8>,
    /// The next page begins after a record that was never ended.
    overwrites: bool,
}

impl Writer {
    pub fn new(version: PgVersion) -> Self {
        Self {
            version,
            first: "000000030000000200000FFE".parse().unwrap(),
            previous: Lsn(0),
            bytes: Vec::new(),
            overwrites: false,
        }
    }

    pub fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    /// The position of the next record.
    pub fn position(&self) -> Lsn {
        let at = self.bytes.len();
        let header = match (at % PAGE, at % SIZE as usize) {
            (0, 0) => LONG,
            (0, _) => SHORT,
            _ => 0,
        };
        self.first.start(Self::size()) + (at + header) as u64
    }

    /// Writes a record.
    pub fn write(&mut self, record: &[u8]) {
        let mut record = record.to_vec();
        seal(&mut record, self.previous);
        self.previous = self.position();
        self.lay_out(&record, usize::MAX);
    }

    /// Begins a record and stops at the end of its page, as a killed server does. Does nothing if the whole record fits
    /// on the page.
    pub fn break_off(&mut self, record: &[u8]) {
        let room = PAGE - self.bytes.len() % PAGE;
        if room < PAGE && record.len() > room {
            let mut record = record.to_vec();
            seal(&mut record, self.previous);
            self.lay_out(&record, room);
            self.overwrites = true;
            self.write(&self::record(0, 0xD0, &[], &[0; 16]));
        }
    }

    /// Ends the segment.
    pub fn switch(&mut self) {
        self.write(&record(0, 0x40, &[], &[]));
        let end = self.bytes.len().next_multiple_of(SIZE as usize);
        self.bytes.resize(end, 0);
    }

    fn lay_out(&mut self, record: &[u8], limit: usize) {
        let mut rest = record;
        let mut written = 0;
        while !rest.is_empty() && written < limit {
            if self.bytes.len().is_multiple_of(PAGE) {
                let continued = if rest.len() < record.len() {
                    rest.len() as u32
                } else {
                    0
                };
                self.page_header(continued);
            }
            let room = (PAGE - self.bytes.len() % PAGE).min(rest.len());
            self.bytes.extend(&rest[..room]);
            rest = &rest[room..];
            written += room;
        }
        let end = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(end, 0);
    }

    fn page_header(&mut self, continued: u32) {
        let at = self.bytes.len();
        let long = at.is_multiple_of(SIZE as usize);
        let flags = u16::from(continued > 0)
            | if long { 2 } else { 0 }
            | if std::mem::take(&mut self.overwrites) { 8 } else { 0 };
        self.bytes.extend(magic(self.version).to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.first.timeline.0.to_le_bytes());
        self.bytes
            .extend((self.first.start(Self::size()).0 + at as u64).to_le_bytes());
        self.bytes.extend(continued.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend(SIZE.to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    pub fn timeline(&self) -> TimelineId {
        self.first.timeline
    }

    pub fn start(&self) -> Lsn {
        self.first.start(Self::size())
    }

    /// All segments; the last one is ended first.
    pub fn segments(mut self) -> Vec<(SegmentName, Vec<u8>)> {
        if self.bytes.is_empty() || !self.bytes.len().is_multiple_of(SIZE as usize) {
            self.switch();
        }
        let mut name = self.first;
        let mut segments = Vec::new();
        for bytes in self.bytes.chunks(SIZE as usize) {
            segments.push((name, bytes.to_vec()));
            name = name.next(Self::size());
        }
        segments
    }
}

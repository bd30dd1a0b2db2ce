//! Input that looks like WAL, for all targets. A fuzzer does not guess checksums, so this code sets them.

use pgmesh_postgres::{PgVersion, SegmentName, SegmentSize, TimelineId};

/// The smallest segments that there are.
const SIZE: u32 = 1 << 20;
/// `XLOG_BLCKSZ`.
const PAGE: usize = 8192;
/// The headers of a segment's first page and of the others.
const HEADERS: [usize; 2] = [40, 24];

/// The segment that input is read as.
#[must_use]
pub fn name() -> SegmentName {
    SegmentName {
        timeline: TimelineId(3),
        log: 0,
        segment: 5,
    }
}

/// The size of segments.
///
/// # Panics
/// Never: 1 MiB is one.
#[must_use]
pub fn size() -> SegmentSize {
    SegmentSize::new(SIZE).expect("1 MiB is a size of segments")
}

/// The version that a byte chooses, and its pages' magic number.
#[must_use]
pub fn version(byte: u8) -> (PgVersion, u16) {
    [
        (PgVersion::V14, 0xD10D),
        (PgVersion::V15, 0xD110),
        (PgVersion::V16, 0xD113),
        (PgVersion::V17, 0xD116),
        (PgVersion::V18, 0xD118),
    ][usize::from(byte) % 5]
}

/// Makes a segment of input: the first pages carry it, with the headers and the checksums of records that they need to
/// be looked at; flags and lengths of continued records are the input's. The rest of the segment is zero.
#[must_use]
pub fn segment(name: SegmentName, magic: u16, input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(input.len() + PAGE);
    let (mut rest, mut page, mut previous) = (input, 0usize, 0);
    while !rest.is_empty() {
        let start = bytes.len();
        let header = HEADERS[usize::from(page > 0)];
        let taken = rest.len().min(6 + PAGE - header);
        let (part, after) = rest.split_at(taken);
        rest = after;
        let field = |at: usize| part.get(at).copied().unwrap_or_default();
        let flags = field(0) & 0x0D | if page == 0 { 2 } else { 0 };
        bytes.extend(magic.to_le_bytes());
        bytes.extend([flags, 0]);
        bytes.extend((u32::from(field(1) % 4)).to_le_bytes());
        bytes.extend((name.start(size()).0 + start as u64).to_le_bytes());
        bytes.extend([field(2), field(3), field(4), 0]);
        bytes.extend([0; 4]);
        if page == 0 {
            bytes.extend(77u64.to_le_bytes());
            bytes.extend(SIZE.to_le_bytes());
            bytes.extend((PAGE as u32).to_le_bytes());
        }
        bytes.extend(part.get(6..).unwrap_or_default());
        let end = start + PAGE;
        bytes.resize(end, 0);
        let first = name.start(size()).0 + (start + header) as u64;
        seal(&mut bytes[start + header..end], first, &mut previous);
        page += 1;
    }
    bytes
}

/// Sets the previous position and the checksum of each record that lies wholly on a page. `first` is the position of
/// the page's content.
fn seal(page: &mut [u8], first: u64, previous: &mut u64) {
    let mut at = 0;
    while let Some(length) = page.get(at..at + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(record) = (length >= 24)
            .then(|| page.get_mut(at..at.saturating_add(length)))
            .flatten()
        else {
            return;
        };
        record[8..16].copy_from_slice(&previous.to_le_bytes());
        *previous = first + at as u64;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&checksum.to_le_bytes());
        at = (at + length).next_multiple_of(8);
    }
}

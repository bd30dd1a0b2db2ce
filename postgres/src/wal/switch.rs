//! Where the records of a segment end that was switched before it was full.

use super::reader::SegmentReader;
use crate::{Lsn, SegmentName, WalHeader};

/// `SizeOfXLogRecord`: a switch has no data. A multiple of the alignment of records.
const LENGTH: u64 = 24;

/// The first position behind the record that switched the segment `name`, all of whose bytes are given; `None` where no
/// such record can be read. What lies behind it is nothing: a primary fills it with zeros, and a standby that was not
/// sent them has what the file held before.
#[must_use]
pub fn switched_at(name: SegmentName, bytes: &[u8]) -> Option<Lsn> {
    let header = WalHeader::parse(bytes).ok()?;
    let mut reader = SegmentReader::new(name, header.segment_size, header.version());
    let mut found = None;
    // Behind the record there may be anything.
    let _ = reader.feed(bytes, &mut |record| {
        if record.is_switch() && found.is_none() {
            found = record.start.0.checked_add(LENGTH).map(Lsn);
        }
        Ok(())
    });
    found
}

//! The end of the records of a segment that was switched before it was full.

use super::reader::SegmentReader;
use crate::{Lsn, SegmentName, WalHeader};

/// `SizeOfXLogRecord`: a switch has no data. A multiple of the alignment of records.
const LENGTH: u64 = 24;

/// Looks for the record that switched a segment; its bytes come in pieces. The bytes behind that record mean nothing: a
/// primary fills them with zeros; a standby does not receive them, and keeps the file's old content.
#[derive(Debug)]
pub struct SwitchSearch {
    name: SegmentName,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    Reading(Box<SegmentReader>),
    /// Found, or the bytes are no WAL.
    Ended(Option<Lsn>),
}

impl SwitchSearch {
    /// A search in the segment `name`.
    #[must_use]
    pub fn new(name: SegmentName) -> Self {
        Self {
            name,
            state: State::Start,
        }
    }

    /// Takes the next bytes. The first ones hold the segment's header.
    pub fn feed(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Start) {
            self.state = match WalHeader::parse(bytes) {
                Ok(header) => {
                    let reader = SegmentReader::new(self.name, header.segment_size, header.version());
                    State::Reading(Box::new(reader))
                }
                Err(_) => State::Ended(None),
            };
        }
        let State::Reading(reader) = &mut self.state else {
            return;
        };
        let mut found = None;
        let fed = reader.feed(bytes, &mut |record| {
            if record.is_switch() && found.is_none() {
                found = record.start.0.checked_add(LENGTH).map(Lsn);
            }
            Ok(())
        });
        // The bytes behind the record are no records.
        if found.is_some() || fed.is_err() {
            self.state = State::Ended(found);
        }
    }

    /// The first position behind the record, once the record was fed.
    #[must_use]
    pub fn found(&self) -> Option<Lsn> {
        match self.state {
            State::Ended(found) => found,
            State::Start | State::Reading(_) => None,
        }
    }
}

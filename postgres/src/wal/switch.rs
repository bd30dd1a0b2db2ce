//! Where the records of a segment end that was switched before it was full.

use super::reader::SegmentReader;
use crate::{Lsn, SegmentName, WalHeader};

/// `SizeOfXLogRecord`: a switch has no data. A multiple of the alignment of records.
const LENGTH: u64 = 24;

/// Looks for the record that switched a segment, whose bytes come in pieces. What lies behind that record is nothing: a
/// primary fills it with zeros, and a standby that was not sent them has what the file held before.
#[derive(Debug)]
pub struct SwitchSearch {
    name: SegmentName,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    Reading(Box<SegmentReader>),
    /// Found, or what came is no WAL.
    Ended(Option<Lsn>),
}

impl SwitchSearch {
    /// In the segment `name`.
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
        // Behind the record there may be anything.
        if found.is_some() || fed.is_err() {
            self.state = State::Ended(found);
        }
    }

    /// The first position behind the record, if it has come.
    #[must_use]
    pub fn found(&self) -> Option<Lsn> {
        match self.state {
            State::Ended(found) => found,
            State::Start | State::Reading(_) => None,
        }
    }
}

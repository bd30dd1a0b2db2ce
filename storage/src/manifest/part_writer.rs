use serde::{Deserialize, Serialize};

use super::file_entry::{EntryKind, Extent, FileEntry, InvalidEntry};
use super::fingerprints::Fingerprints;
use crate::wire;

/// The length of a full part, in bytes.
pub const PART_LENGTH: usize = 1 << 20;

/// A file with more extents is written as several records, so that no part grows far beyond [`PART_LENGTH`].
pub(super) const EXTENTS_PER_RECORD: usize = 4096;

/// A record of a part; a part is a list of records.
#[derive(Serialize, Deserialize)]
pub(super) enum PartRecord {
    /// An entry. If `more` is set, it has only the first of its extents, and the rest follow.
    Entry { entry: FileEntry, more: bool },
    /// The next extents of the entry before.
    Extents { extents: Vec<Extent>, more: bool },
    /// The fingerprints of the entry that comes next. Not in parts of early versions.
    Fingerprints(Fingerprints),
}

/// Turns entries into parts of a manifest, in the order given.
#[derive(Debug, Default)]
pub struct PartWriter {
    records: Vec<u8>,
    count: u64,
}

impl PartWriter {
    /// A writer without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next entry. Gives the parts that became full: mostly none, several for a file of very many extents.
    ///
    /// # Errors
    /// The entry could not be restored; it is not taken then.
    pub fn push(&mut self, mut entry: FileEntry) -> Result<Vec<Vec<u8>>, InvalidEntry> {
        entry.check()?;
        let mut parts = Vec::new();
        if let Some(fingerprints) = entry.fingerprints.take() {
            self.add(&PartRecord::Fingerprints(fingerprints), &mut parts);
        }
        let rest = match &mut entry.kind {
            EntryKind::File { extents, .. } if extents.len() > EXTENTS_PER_RECORD => {
                extents.split_off(EXTENTS_PER_RECORD)
            }
            _ => Vec::new(),
        };
        let more = !rest.is_empty();
        self.add(&PartRecord::Entry { entry, more }, &mut parts);
        let mut pieces = rest.chunks(EXTENTS_PER_RECORD).peekable();
        while let Some(piece) = pieces.next() {
            let record = PartRecord::Extents {
                extents: piece.to_vec(),
                more: pieces.peek().is_some(),
            };
            self.add(&record, &mut parts);
        }
        Ok(parts)
    }

    /// Gives the last part, if it has any entry.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u8>> {
        (self.count > 0).then(|| self.take())
    }

    fn add(&mut self, record: &PartRecord, parts: &mut Vec<Vec<u8>>) {
        self.records.extend_from_slice(&wire::encode(record));
        self.count += 1;
        if self.records.len() >= PART_LENGTH {
            parts.push(self.take());
        }
    }

    /// A list on the wire is its length, then its elements.
    fn take(&mut self) -> Vec<u8> {
        let mut part = wire::encode(&self.count);
        part.append(&mut self.records);
        self.count = 0;
        part
    }
}

use std::collections::BTreeMap;

use thiserror::Error;

use super::file_entry::{EntryKind, Extent, FileEntry, InvalidEntry};
use super::fingerprints::Fingerprints;
use super::part_writer::{EXTENTS_PER_RECORD, PART_LENGTH, PartRecord};
use crate::digest::Digest;
use crate::wire;

/// The longest part that is read: a full part and its last record.
pub const MAX_PART_LENGTH: usize = 4 * PART_LENGTH;

/// The most extents of one file: 1 TiB in pages. Bounds the memory of an entry that goes on over many records.
const MAX_EXTENTS: usize = 1 << 27;

/// Why a part cannot be read.
#[derive(Debug, Error)]
pub enum PartError {
    /// The bytes are no part.
    #[error("decoding a part of the manifest: {0}")]
    Decode(#[from] wire::DecodeError),
    /// An entry that a restore must not write.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// A continuation without its beginning, or a beginning without its continuation: parts are missing or out of
    /// order.
    #[error("parts of the manifest are missing or out of order near {path:?}")]
    Order {
        /// The entry near the fault; empty if none is known.
        path: String,
    },
}

/// Reads parts of a manifest in their order. Every entry is checked.
#[derive(Debug, Default)]
pub struct PartReader {
    /// An entry whose extents go on in the next record.
    begun: Option<FileEntry>,
    /// The fingerprints of the entry that comes next.
    fingerprints: Option<Fingerprints>,
}

impl PartReader {
    /// A reader before the first part.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries that are complete with this part. An entry that goes on in the next part is returned with that part.
    ///
    /// # Errors
    /// Bytes that are no part, impossible entries, parts out of order.
    pub fn entries(&mut self, part: &[u8]) -> Result<Vec<FileEntry>, PartError> {
        let records: Vec<PartRecord> = wire::decode(part, MAX_PART_LENGTH)?;
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let (entry, more) = match (record, self.begun.take()) {
                (PartRecord::Fingerprints(fingerprints), None) if self.fingerprints.is_none() => {
                    self.fingerprints = Some(fingerprints);
                    continue;
                }
                (PartRecord::Fingerprints(_), begun) => return Err(out_of_order(begun)),
                (PartRecord::Entry { mut entry, more }, None) => {
                    entry.fingerprints = self.fingerprints.take();
                    (entry, more)
                }
                (PartRecord::Extents { extents, more }, Some(mut begun)) => {
                    append(&mut begun, extents)?;
                    (begun, more)
                }
                (PartRecord::Extents { .. }, None) => return Err(out_of_order(None)),
                (PartRecord::Entry { .. }, Some(begun)) => return Err(out_of_order(Some(begun))),
            };
            if more {
                self.begun = Some(entry);
            } else {
                entry.check()?;
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The chunks that one part names, sorted, each once. Needs no other part.
    ///
    /// # Errors
    /// Bytes that are no part.
    pub fn chunks(part: &[u8]) -> Result<Vec<Digest>, PartError> {
        Ok(Self::chunk_lengths(part)?.into_keys().collect())
    }

    /// As [`chunks`](Self::chunks), and checks that a restore may write every entry. Keeps no entry.
    ///
    /// # Errors
    /// Bytes that are no part, or an entry that a restore must not write.
    pub fn checked_chunks(part: &[u8], version_directory: &str) -> Result<Vec<Digest>, PartError> {
        let records: Vec<PartRecord> = wire::decode(part, MAX_PART_LENGTH)?;
        for record in &records {
            if let PartRecord::Entry { entry, .. } = record {
                entry.check_place()?;
                entry.check_tablespace(version_directory)?;
            }
        }
        Ok(lengths(records).into_keys().collect())
    }

    /// The chunks that one part names, each with the highest offset in it that the part uses. That is the chunk's
    /// length, if all of the chunk belongs to files of the part. Needs no other part.
    ///
    /// # Errors
    /// Bytes that are no part.
    pub fn chunk_lengths(part: &[u8]) -> Result<BTreeMap<Digest, u64>, PartError> {
        Ok(lengths(wire::decode(part, MAX_PART_LENGTH)?))
    }

    /// Checks that no entry was left unfinished by the last part.
    ///
    /// # Errors
    /// An entry is unfinished.
    pub fn finish(self) -> Result<(), PartError> {
        match self.begun {
            None if self.fingerprints.is_some() => Err(out_of_order(None)),
            None => Ok(()),
            begun => Err(out_of_order(begun)),
        }
    }
}

fn lengths(records: Vec<PartRecord>) -> BTreeMap<Digest, u64> {
    let mut chunks = BTreeMap::new();
    for record in records {
        let extents = match record {
            PartRecord::Entry { entry, .. } => match entry.kind {
                EntryKind::File { extents, .. } => extents,
                EntryKind::Directory | EntryKind::Link { .. } => continue,
            },
            PartRecord::Extents { extents, .. } => extents,
            PartRecord::Fingerprints(Fingerprints { base, patch }) => [base, patch].concat(),
        };
        for extent in extents {
            let end = u64::from(extent.offset) + u64::from(extent.length);
            let length: &mut u64 = chunks.entry(extent.digest).or_default();
            *length = (*length).max(end);
        }
    }
    chunks
}

fn append(begun: &mut FileEntry, mut more: Vec<Extent>) -> Result<(), PartError> {
    match &mut begun.kind {
        EntryKind::File { extents, .. }
            if more.len() <= EXTENTS_PER_RECORD && extents.len() + more.len() <= MAX_EXTENTS =>
        {
            extents.append(&mut more);
            Ok(())
        }
        _ => Err(out_of_order(Some(begun.clone()))),
    }
}

fn out_of_order(entry: Option<FileEntry>) -> PartError {
    PartError::Order {
        path: entry.map(|entry| entry.path).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::file_entry::BlockRange;
    use super::super::part_writer::PartWriter;
    use super::*;

    fn write(entries: &[FileEntry]) -> Vec<Vec<u8>> {
        let mut writer = PartWriter::new();
        let mut parts = Vec::new();
        for entry in entries {
            parts.extend(writer.push(entry.clone()).unwrap());
        }
        parts.extend(writer.finish());
        parts
    }

    fn read(parts: &[Vec<u8>]) -> Result<Vec<FileEntry>, PartError> {
        let mut reader = PartReader::new();
        let mut entries = Vec::new();
        for part in parts {
            entries.extend(reader.entries(part)?);
        }
        reader.finish()?;
        Ok(entries)
    }

    fn file(path: &str, extents: u32) -> FileEntry {
        FileEntry {
            path: path.into(),
            kind: EntryKind::File {
                size: u64::from(extents) * 8192,
                crc32c: 7,
                extents: (0..extents)
                    .map(|number| Extent {
                        digest: Digest([number.to_le_bytes()[0]; 32]),
                        offset: number,
                        length: 8192,
                    })
                    .collect(),
                bad_pages: vec![BlockRange { first: 3, count: 1 }],
            },
            modified: -1,
            mode: 0o600,
            user: Some("postgres".into()),
            group: None,
            fingerprints: (extents != 1).then(|| Fingerprints {
                base: vec![Extent {
                    digest: Digest([255; 32]),
                    offset: 12,
                    length: 12,
                }],
                patch: vec![],
            }),
        }
    }

    #[test]
    fn a_file_of_very_many_extents_is_spread_over_parts() {
        let entries = [file("a", 1), file("base/1/1", 131_072), file("z", 2)];
        let parts = write(&entries);
        assert!(parts.len() >= 4, "{} parts", parts.len());
        for part in &parts {
            assert!(part.len() < 2 * PART_LENGTH);
        }
        assert_eq!(read(&parts).unwrap(), entries);
        for missing in 0..parts.len() {
            let mut some = parts.clone();
            some.remove(missing);
            assert!(read(&some).is_err(), "without part {missing}");
        }
        let mut swapped = parts.clone();
        swapped.swap(0, 1);
        assert!(matches!(read(&swapped), Err(PartError::Order { .. })));
    }

    #[test]
    fn many_files_are_spread_over_parts() {
        let entries: Vec<_> = (0..30_000).map(|number| file(&format!("base/5/{number}"), 1)).collect();
        let parts = write(&entries);
        assert!(parts.len() >= 2);
        assert_eq!(read(&parts).unwrap(), entries);
    }

    #[test]
    fn the_border_of_a_record_is_no_special_case() {
        let limit = u32::try_from(EXTENTS_PER_RECORD).unwrap();
        for extents in [limit - 1, limit, limit + 1, 2 * limit, 2 * limit + 1] {
            let entries = [file("a", extents), file("b", 0)];
            assert_eq!(read(&write(&entries)).unwrap(), entries);
        }
    }

    #[test]
    fn the_chunks_of_a_part_are_known_without_its_neighbours() {
        let parts = write(&[file("a", 3), file("base/1/1", 131_072)]);
        let named: BTreeSet<_> = parts
            .iter()
            .flat_map(|part| PartReader::chunks(part).unwrap())
            .collect();
        let all: BTreeSet<_> = (0..=u8::MAX).map(|byte| Digest([byte; 32])).collect();
        assert_eq!(named, all);
        assert_eq!(PartReader::chunks(&write(&[file("a", 2)]).concat()).unwrap().len(), 3);
        let lengths = PartReader::chunk_lengths(&write(&[file("a", 2)]).concat()).unwrap();
        assert_eq!(lengths.into_values().collect::<Vec<_>>(), [8192, 8193, 24]);
        assert!(PartReader::chunks(b"\xff").is_err());
    }

    #[test]
    fn no_entries_no_parts() {
        assert_eq!(write(&[]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn entries_that_cannot_be_are_neither_written_nor_read() {
        let mut bad = file("../../etc/passwd", 1);
        assert!(PartWriter::new().push(bad.clone()).is_err());
        let part = wire::encode(&vec![PartRecord::Entry {
            entry: bad.clone(),
            more: false,
        }]);
        assert!(matches!(read(&[part]), Err(PartError::Entry(_))));
        bad.path = "ok".into();
        let part = wire::encode(&vec![PartRecord::Entry { entry: bad, more: true }]);
        assert!(matches!(read(&[part]), Err(PartError::Order { .. })));
        assert!(matches!(
            read(&[vec![0; MAX_PART_LENGTH + 1]]),
            Err(PartError::Decode(_))
        ));
    }

    fn any_entry() -> impl Strategy<Value = FileEntry> {
        let extent = (any::<[u8; 32]>(), any::<u32>(), 1_u32..).prop_map(|(digest, offset, length)| Extent {
            digest: Digest(digest),
            offset,
            length,
        });
        let bad_pages = prop::collection::vec((any::<u32>(), 1_u32..), 0..3).prop_map(|ranges| {
            ranges
                .into_iter()
                .map(|(first, count)| BlockRange { first, count })
                .collect()
        });
        let kind = prop_oneof![
            Just(EntryKind::Directory),
            "[^\0]{1,30}".prop_map(|destination| EntryKind::Link { destination }),
            (prop::collection::vec(extent, 0..20), any::<u32>(), bad_pages).prop_map(|(extents, crc32c, bad_pages)| {
                EntryKind::File {
                    size: extents.iter().map(|extent| u64::from(extent.length)).sum(),
                    crc32c,
                    extents,
                    bad_pages,
                }
            }),
        ];
        let name = prop::option::of("[a-z]{1,8}");
        (
            "[^/.\0]{1,9}(/[^/.\0]{1,9}){0,3}",
            kind,
            any::<i64>(),
            0_u32..0o1000,
            name.clone(),
            name,
        )
            .prop_map(|(path, kind, modified, mode, user, group)| FileEntry {
                path,
                kind,
                modified,
                mode,
                user,
                group,
                fingerprints: None,
            })
            .prop_flat_map(|entry| {
                let is_file = matches!(entry.kind, EntryKind::File { .. });
                (Just(entry), any::<bool>().prop_map(move |has| has && is_file))
            })
            .prop_map(|(mut entry, has_fingerprints)| {
                entry.fingerprints = has_fingerprints.then(Fingerprints::default);
                entry
            })
    }

    proptest! {
        #[test]
        fn round_trip(entries in prop::collection::vec(any_entry(), 0..20)) {
            prop_assert_eq!(read(&write(&entries)).unwrap(), entries);
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = read(&[bytes]);
        }

        #[test]
        fn a_cut_part_is_refused(entries in prop::collection::vec(any_entry(), 1..5), cut: prop::sample::Index) {
            let part = write(&entries).concat();
            prop_assert!(read(&[part[..cut.index(part.len())].to_vec()]).is_err());
        }
    }
}

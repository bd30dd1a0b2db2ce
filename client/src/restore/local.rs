//! `--delta`: which pages of a file in the data directory equal the backup's.

use super::disk::failed;
use crate::crc::append;
use crate::read_at::read_at;
use pgmesh_protocol::Failure;
use pgmesh_storage::{FINGERPRINT_PAGE, FileEntry, FingerprintSeed, PageFingerprint};
use rustix::fs::{FileType, Stat};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const PAGE: u64 = FINGERPRINT_PAGE as u64;
/// Read at once, in bytes: whole pages.
const READ: usize = 1 << 20;

/// A file of the backup, as it is in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its fingerprints in the backup; none where its size and time are trusted.
    pub table: Option<Arc<[PageFingerprint]>>,
    /// All of it, in order, in stretches that equal the backup's or not.
    pub stretches: Vec<Stretch>,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Its place in the file.
    pub bytes: Range<u64>,
    /// Its CRC-32C, where it equals the backup's.
    pub kept: Option<u32>,
}

impl Local {
    /// A file of which nothing is known: all of it is fetched.
    pub fn unknown(size: u64) -> Self {
        let stretch = |size| Stretch {
            bytes: 0..size,
            kept: None,
        };
        Self {
            table: None,
            stretches: (size > 0).then_some(size).map(stretch).into_iter().collect(),
        }
    }

    /// A file whose size and time equal the backup's, which is taken for proof.
    pub fn trusted(size: u64, crc32c: u32) -> Self {
        let stretch = |size| Stretch {
            bytes: 0..size,
            kept: Some(crc32c),
        };
        Self {
            table: None,
            stretches: (size > 0).then_some(size).map(stretch).into_iter().collect(),
        }
    }

    /// Compares a file with its fingerprints. Pages that are not there differ.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn compare(
        file: Option<&File>,
        path: &Path,
        size: u64,
        table: Vec<PageFingerprint>,
        seed: FingerprintSeed,
    ) -> Result<Self, Failure> {
        let mut stretches = Vec::new();
        if let Some(file) = file {
            compare(file, size, &table, seed, &mut stretches).map_err(failed("reading", path))?;
        }
        let seen = stretches.last().map_or(0, |stretch| stretch.bytes.end);
        add(&mut stretches, seen..size, None);
        Ok(Self {
            table: Some(table.into()),
            stretches,
        })
    }
}

/// Whether size and time of a file in the data directory equal the backup's.
pub fn has_size_and_time(found: &Stat, entry: &FileEntry) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
        && u64::try_from(found.st_size) == Ok(entry.size())
        && found.st_mtime == entry.modified
}

fn compare(
    file: &File,
    size: u64,
    table: &[PageFingerprint],
    seed: FingerprintSeed,
    stretches: &mut Vec<Stretch>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ.min(usize::try_from(size).unwrap_or(READ))];
    let mut at = 0;
    let mut pages = table.iter();
    while at < size {
        let want = usize::try_from((size - at).min(READ as u64)).unwrap_or(READ);
        let Some(piece) = buffer.get_mut(..want) else { break };
        let have = read_at(file, piece, at)?;
        let read = piece.get(..have).unwrap_or_default();
        for (content, expected) in read.chunks(FINGERPRINT_PAGE).zip(&mut pages) {
            let end = at + content.len() as u64;
            // If the file was cut, its last page is shorter, and so another page.
            let kept = (seed.page(content) == *expected).then_some(expected.crc32c);
            add(stretches, at..end, kept);
            at = end;
        }
        if have < want {
            break;
        }
    }
    Ok(())
}

/// Adds a run of bytes to the last stretch, or as a new one.
fn add(stretches: &mut Vec<Stretch>, bytes: Range<u64>, kept: Option<u32>) {
    if bytes.is_empty() {
        return;
    }
    match (stretches.last_mut(), kept) {
        (Some(last), None) if last.kept.is_none() => last.bytes.end = bytes.end,
        (
            Some(Stretch {
                bytes: last,
                kept: Some(sum),
            }),
            Some(crc),
        ) => {
            *sum = append(*sum, crc, bytes.end - bytes.start);
            last.end = bytes.end;
        }
        _ => stretches.push(Stretch { bytes, kept }),
    }
}

/// Whether a run of bytes of a file can be checked page by page.
pub fn is_of_pages(bytes: &Range<u64>, size: u64) -> bool {
    bytes.start.is_multiple_of(PAGE) && (bytes.end.is_multiple_of(PAGE) || bytes.end == size)
}

/// Whether bytes that belong at `at` in a file have its fingerprints.
pub fn is_right(bytes: &[u8], at: u64, table: &[PageFingerprint], seed: FingerprintSeed) -> bool {
    let first = usize::try_from(at / PAGE).unwrap_or(usize::MAX);
    let mut pages = bytes.chunks(FINGERPRINT_PAGE).enumerate();
    pages.all(|(index, page)| table.get(first + index) == Some(&seed.page(page)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    proptest! {
        #[test]
        fn what_is_kept_is_right_and_what_is_right_is_kept(
            size in 0usize..60_000,
            damaged in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            length in 0usize..70_000,
        ) {
            let content: Vec<u8> = (0..size).map(|at| (at / 3).to_le_bytes()[0]).collect();
            let seed = FingerprintSeed::draw().unwrap();
            let table: Vec<_> = content.chunks(FINGERPRINT_PAGE).map(|page| seed.page(page)).collect();
            let mut found = content.clone();
            found.resize(length, 7);
            let mut wrong = std::collections::BTreeSet::new();
            for index in damaged.iter().take_while(|_| length > 0) {
                let at = index.index(length);
                found[at] ^= 0x55;
                wrong.insert(at / FINGERPRINT_PAGE);
            }
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&found).unwrap();
            let local = Local::compare(Some(file.as_file()), file.path(), size as u64, table.clone(), seed).unwrap();
            let mut next = 0;
            for stretch in &local.stretches {
                prop_assert_eq!(stretch.bytes.start, next);
                next = stretch.bytes.end;
                let (from, to) = (usize::try_from(stretch.bytes.start).unwrap(), usize::try_from(next).unwrap());
                prop_assert!(is_of_pages(&stretch.bytes, size as u64));
                if let Some(crc) = stretch.kept {
                    prop_assert_eq!(&found[from..to], &content[from..to]);
                    prop_assert_eq!(crc, crc32c::crc32c(&content[from..to]));
                } else {
                    for page in from / FINGERPRINT_PAGE..to.div_ceil(FINGERPRINT_PAGE) {
                        let end = ((page + 1) * FINGERPRINT_PAGE).min(size);
                        prop_assert!(wrong.contains(&page) || end > found.len(), "page {} is fetched", page);
                    }
                }
                prop_assert!(is_right(&content[from..to], stretch.bytes.start, &table, seed));
            }
            prop_assert_eq!(next, size as u64);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_all_wrong() {
        let seed = FingerprintSeed::draw().unwrap();
        let table = vec![seed.page(b"x")];
        let local = Local::compare(None, Path::new("/nonexistent/file"), 1, table, seed).unwrap();
        assert_eq!(
            local.stretches,
            [Stretch {
                bytes: 0..1,
                kept: None
            }]
        );
        assert_eq!(Local::trusted(0, 0).stretches, []);
    }
}

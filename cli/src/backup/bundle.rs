//! Bundles: small files, and the short ends of larger ones, share chunks.
//!
//! A reader has one open bundle. Its digest is known only when it is full, so the entries of the files in it wait for it.

use pgmesh_storage::{Digest, EntryKind, Extent, FileEntry};

/// Pieces below this size, in bytes, are bundled; larger ones are chunks of their own.
pub const BUNDLE_BELOW: usize = 256 << 10;
/// The plaintext size of a full chunk, in bytes.
pub const CHUNK_SIZE: usize = 1 << 20;

/// How many bytes of a file of `size` bytes go into a bundle: its last piece, when that is small.
pub fn bundled_length(size: u64) -> usize {
    let last = usize::try_from(size % CHUNK_SIZE as u64).unwrap_or(0);
    if last < BUNDLE_BELOW { last } else { 0 }
}

/// An open bundle with the files that wait for it.
#[derive(Default)]
pub struct Bundle {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
}

struct Waiting {
    number: u64,
    entry: FileEntry,
    offset: u32,
    length: u32,
}

/// A bundle that is full: one chunk, and the entries that are complete with its digest.
pub struct Sealed {
    /// The chunk's plaintext.
    pub bytes: Vec<u8>,
    /// The files that wait for the chunk's digest.
    pub waiting: WaitingFiles,
}

/// Files whose entries lack an extent in a bundle.
pub struct WaitingFiles(Vec<Waiting>);

impl Bundle {
    /// Whether a piece of this size must wait for the next bundle.
    pub fn is_full_for(&self, length: usize) -> bool {
        !self.bytes.is_empty() && self.bytes.len() + length > CHUNK_SIZE
    }

    /// Adds the last piece of a file, which is entry `number`; the caller has made room with [`Self::seal`].
    pub fn add(&mut self, number: u64, entry: FileEntry, piece: &[u8]) {
        assert!(
            self.bytes.len() + piece.len() <= CHUNK_SIZE,
            "a bundle is no larger than a chunk"
        );
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(CHUNK_SIZE);
        }
        self.bytes.extend_from_slice(piece);
        self.waiting.push(Waiting {
            number,
            entry,
            offset,
            length,
        });
    }

    /// Takes the bundle, leaving an empty one; none where nothing is in it.
    pub fn seal(&mut self) -> Option<Sealed> {
        if self.waiting.is_empty() {
            return None;
        }
        let Self { bytes, waiting } = std::mem::take(self);
        Some(Sealed {
            bytes,
            waiting: WaitingFiles(waiting),
        })
    }
}

impl WaitingFiles {
    /// The entries with their numbers, each with its extent in the bundle of that digest.
    pub fn complete(self, digest: Digest) -> impl Iterator<Item = (u64, FileEntry)> {
        self.0.into_iter().map(move |waiting| {
            let mut entry = waiting.entry;
            if let EntryKind::File { extents, .. } = &mut entry.kind {
                extents.push(Extent {
                    digest,
                    offset: waiting.offset,
                    length: waiting.length,
                });
            }
            (waiting.number, entry)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::DigestSuite;

    fn file(path: &str, size: u64) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            kind: EntryKind::File {
                size,
                crc32c: 0,
                extents: vec![],
                bad_pages: vec![],
            },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    #[test]
    fn every_piece_is_found_again_at_its_extent() {
        let mut bundle = Bundle::default();
        bundle.add(0, file("a", 3), b"abc");
        bundle.add(1, file("b", 2), b"de");
        let Sealed { bytes, waiting } = bundle.seal().unwrap();
        let digest = DigestSuite::Blake3.digest(&bytes);
        let pieces: Vec<_> = waiting
            .complete(digest)
            .map(|(number, entry)| {
                entry.check().unwrap();
                let EntryKind::File { extents, .. } = entry.kind else {
                    unreachable!()
                };
                let at = extents[0].offset as usize;
                (number, bytes[at..at + extents[0].length as usize].to_vec())
            })
            .collect();
        assert_eq!(pieces, [(0, b"abc".to_vec()), (1, b"de".to_vec())]);
        assert!(bundle.seal().is_none());
    }

    #[test]
    fn a_bundle_never_outgrows_a_chunk() {
        let mut bundle = Bundle::default();
        assert!(!bundle.is_full_for(CHUNK_SIZE));
        bundle.add(0, file("a", 1), b"x");
        assert!(bundle.is_full_for(CHUNK_SIZE));
        assert!(!bundle.is_full_for(CHUNK_SIZE - 1));
    }

    #[test]
    fn only_small_ends_are_bundled() {
        let chunk = CHUNK_SIZE as u64;
        let lengths = [0, 1, 262_143, 262_144, chunk, chunk + 8192, 2 * chunk - 1].map(bundled_length);
        assert_eq!(lengths, [0, 1, 262_143, 0, 0, 8192, 0]);
    }
}

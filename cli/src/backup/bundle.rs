//! Bundles: small files, and the short ends of larger ones, share chunks.
//!
//! A worker has one open bundle. Its digest is known only when it is full, so the entries of the files in it wait for it.

use pgmesh_storage::{Digest, Extent, FileEntry, FileKind};

/// Pieces below this size are bundled; larger ones are chunks of their own.
pub const BUNDLE_BELOW: usize = 256 << 10;
/// The plaintext size of a full chunk.
pub const CHUNK_SIZE: usize = 1 << 20;

/// An open bundle with the files that wait for it.
#[derive(Default)]
pub struct Bundle {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
}

struct Waiting {
    entry: FileEntry,
    offset: u32,
    length: u32,
}

/// A bundle that is full: one chunk, and the entries that are complete with its digest.
pub struct Sealed {
    /// The chunk's plaintext.
    pub bytes: Vec<u8>,
    waiting: Vec<Waiting>,
}

impl Bundle {
    /// Whether a piece of this size must wait for the next bundle.
    pub fn is_full_for(&self, length: usize) -> bool {
        !self.bytes.is_empty() && self.bytes.len() + length > CHUNK_SIZE
    }

    /// Adds the last piece of a file; the caller has made room with [`Self::seal`].
    pub fn add(&mut self, entry: FileEntry, piece: &[u8]) {
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        assert!(self.bytes.len() + piece.len() <= CHUNK_SIZE, "a bundle is no larger than a chunk");
        self.bytes.extend_from_slice(piece);
        self.waiting.push(Waiting { entry, offset, length });
    }

    /// Takes the bundle, leaving an empty one; none where nothing is in it.
    pub fn seal(&mut self) -> Option<Sealed> {
        if self.waiting.is_empty() {
            return None;
        }
        let Self { bytes, waiting } = std::mem::take(self);
        Some(Sealed { bytes, waiting })
    }
}

impl Sealed {
    /// The entries, each with its extent in the bundle.
    pub fn entries(self, digest: Digest) -> impl Iterator<Item = FileEntry> {
        self.waiting.into_iter().map(move |waiting| {
            let mut entry = waiting.entry;
            if let FileKind::File { extents, .. } = &mut entry.kind {
                extents.push(Extent { digest, offset: waiting.offset, length: waiting.length });
            }
            entry
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
            kind: FileKind::File { size, crc32c: 0, extents: vec![], bad_pages: vec![] },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    #[test]
    fn every_piece_is_found_again_at_its_extent() {
        let mut bundle = Bundle::default();
        bundle.add(file("a", 3), b"abc");
        bundle.add(file("b", 2), b"de");
        let sealed = bundle.seal().unwrap();
        let bytes = sealed.bytes.clone();
        let digest = DigestSuite::Blake3.digest(&bytes);
        let pieces: Vec<_> = sealed
            .entries(digest)
            .map(|entry| match entry.kind {
                FileKind::File { extents, .. } => {
                    let at = extents[0].offset as usize;
                    bytes[at..at + extents[0].length as usize].to_vec()
                }
                _ => unreachable!(),
            })
            .collect();
        assert_eq!(pieces, [b"abc".to_vec(), b"de".to_vec()]);
        assert!(bundle.seal().is_none());
    }

    #[test]
    fn a_bundle_never_outgrows_a_chunk() {
        let mut bundle = Bundle::default();
        assert!(!bundle.is_full_for(CHUNK_SIZE));
        bundle.add(file("a", 1), b"x");
        assert!(bundle.is_full_for(CHUNK_SIZE));
        assert!(!bundle.is_full_for(CHUNK_SIZE - 1));
    }
}

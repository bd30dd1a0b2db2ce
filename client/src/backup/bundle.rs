//! Bundles: small files, the short ends of larger ones, changed pages and fingerprints share chunks.
//!
//! A bundle's digest is known only when it is full, so the extents in it wait for it.

/// Pieces below this size, in bytes, are bundled; larger ones are chunks of their own.
pub const BUNDLE_BELOW: usize = 256 << 10;
/// The plaintext size of a full chunk, in bytes.
pub const CHUNK_SIZE: usize = 1 << 20;

/// How many bytes of a file of `size` bytes go into a bundle: its last piece, when that is small.
pub fn bundled_length(size: u64) -> usize {
    let last = usize::try_from(size % CHUNK_SIZE as u64).unwrap_or(0);
    if last < BUNDLE_BELOW { last } else { 0 }
}

/// Which of the lists of extents of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// The file's content.
    Content,
    /// The base of its fingerprints.
    Base,
    /// The patch of its fingerprints.
    Patch,
}

/// An extent that waits for the digest of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number of the file's entry.
    pub file: u64,
    /// In which of its lists.
    pub list: List,
    /// Which extent of the list.
    pub index: usize,
}

/// An open bundle with the extents that wait for it.
#[derive(Debug, Default)]
pub struct Bundle {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Bundle {
    /// How many bytes are still free, of [`CHUNK_SIZE`].
    pub fn room(&self) -> usize {
        CHUNK_SIZE.saturating_sub(self.bytes.len())
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many extents wait.
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }

    /// Adds a piece, for which there is room, and answers with its offset.
    pub fn add(&mut self, piece: &[u8]) -> u32 {
        assert!(piece.len() <= self.room(), "a bundle is no larger than a chunk");
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(CHUNK_SIZE.min(piece.len().max(BUNDLE_BELOW)));
        }
        self.bytes.extend_from_slice(piece);
        offset
    }

    /// The extent that is to get the digest, unless it waits already.
    pub fn wait(&mut self, slot: Slot) {
        if self.slots.last() != Some(&slot) {
            self.slots.push(slot);
        }
    }

    /// The extent that was added last, if it is still the end of the bundle.
    pub fn last(&self) -> Option<Slot> {
        self.slots.last().copied()
    }

    /// Takes the bundle, leaving an empty one: its bytes, and the extents that wait for their digest; none where it is
    /// empty.
    pub fn seal(&mut self) -> Option<(Vec<u8>, Vec<Slot>)> {
        let Self { bytes, slots } = std::mem::take(self);
        (!slots.is_empty()).then_some((bytes, slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_wait_together() {
        let slot = |file| Slot {
            file,
            list: List::Content,
            index: 0,
        };
        let mut bundle = Bundle::default();
        assert_eq!((bundle.add(b"abc"), bundle.room()), (0, CHUNK_SIZE - 3));
        bundle.wait(slot(0));
        bundle.wait(slot(0));
        assert_eq!(bundle.add(b"de"), 3);
        bundle.wait(slot(1));
        assert_eq!(bundle.seal(), Some((b"abcde".to_vec(), vec![slot(0), slot(1)])));
        assert_eq!(bundle.seal(), None);
    }

    #[test]
    fn only_small_ends_are_bundled() {
        let chunk = CHUNK_SIZE as u64;
        let lengths = [0, 1, 262_143, 262_144, chunk, chunk + 8192, 2 * chunk - 1].map(bundled_length);
        assert_eq!(lengths, [0, 1, 262_143, 0, 0, 8192, 0]);
    }
}

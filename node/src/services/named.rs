//! The chunks that a backup names, in memory that does not grow with them.

use pgmesh_storage::Digest;

/// Bits for each chunk: of ten million others one is taken for one of these.
const BITS: u64 = 64;
/// The most bytes: half a million chunks. Of a backup with more, more others are taken for its own.
const LARGEST: u64 = 4 << 20;
const SMALLEST: u64 = 4 << 10;

/// A Bloom filter. Digests are as good as random: their parts are the positions.
#[derive(Debug)]
pub(crate) struct Named {
    words: Vec<u64>,
}

impl Named {
    /// Room for about so many chunks.
    pub(crate) fn with_room(chunks: u64) -> Self {
        let bytes = (chunks.saturating_mul(BITS) / 8).clamp(SMALLEST, LARGEST);
        let words = usize::try_from(bytes / 8).unwrap_or(1);
        Self { words: vec![0; words] }
    }

    /// Notes a chunk.
    pub(crate) fn add(&mut self, digest: &Digest) {
        for (word, bit) in self.positions(digest) {
            if let Some(word) = self.words.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Whether it may be one of these; never `false` for one that is.
    pub(crate) fn may_have(&self, digest: &Digest) -> bool {
        let mut positions = self.positions(digest).into_iter();
        positions.all(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    fn positions(&self, digest: &Digest) -> [(usize, u64); 8] {
        let (parts, _) = digest.as_bytes().as_chunks::<4>();
        let mut positions = [(0, 0); 8];
        for (position, part) in positions.iter_mut().zip(parts) {
            let number = u32::from_le_bytes(*part) as usize;
            *position = (number / 64 % self.words.len().max(1), 1 << (number % 64));
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::DigestSuite;

    #[test]
    fn none_of_its_own_is_missed_and_few_others_are_taken_for_one() {
        let digest = |number: u32| DigestSuite::Blake3.digest(&number.to_le_bytes());
        let mut named = Named::with_room(10_000);
        for number in 0..10_000 {
            named.add(&digest(number));
        }
        assert!((0..10_000).all(|number| named.may_have(&digest(number))));
        let others = (10_000..110_000).filter(|number| named.may_have(&digest(*number)));
        assert!(others.count() <= 2);
    }
}

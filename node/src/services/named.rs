//! The chunks that a backup names, in memory that does not grow with them.

use crate::bloom::Bloom;
use pgmesh_storage::Digest;

/// Bits for each chunk: of ten million other chunks, one is taken for a named chunk.
const BITS: u64 = 64;
/// The most bytes: half a million chunks. Of a backup with more, more others are taken for its own.
const LARGEST: u64 = 4 << 20;

/// The chunks. Digests are as good as random: their parts are the hashes.
#[derive(Debug)]
pub(crate) struct Named(Bloom);

impl Named {
    /// Room for about so many chunks.
    pub(crate) fn with_room(chunks: u64) -> Self {
        Self(Bloom::with_room(chunks, BITS, LARGEST))
    }

    /// Notes a chunk.
    pub(crate) fn add(&mut self, digest: &Digest) {
        self.0.add(hashes(digest));
    }

    /// Whether the backup may name the chunk; never `false` for a chunk that it names.
    pub(crate) fn may_have(&self, digest: &Digest) -> bool {
        self.0.may_have(hashes(digest))
    }
}

fn hashes(digest: &Digest) -> impl Iterator<Item = u64> {
    let (parts, _) = digest.as_bytes().as_chunks::<4>();
    parts.iter().map(|part| u32::from_le_bytes(*part).into())
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

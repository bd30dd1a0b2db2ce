//! A Bloom filter: whether an item is in a set, in memory that does not grow with the set (invariant 11).

/// The filter. The caller computes the hashes of an item, and chooses their number.
#[derive(Debug)]
pub(crate) struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    /// The fewest bytes.
    const SMALLEST: u64 = 4 << 10;

    /// Room for about so many items with so many bits each, in at most `largest` bytes.
    pub(crate) fn with_room(items: u64, bits: u64, largest: u64) -> Self {
        let bytes = (items.saturating_mul(bits) / 8).clamp(Self::SMALLEST, largest);
        let words = usize::try_from(bytes / 8).unwrap_or(1);
        Self { words: vec![0; words] }
    }

    /// Adds an item with these hashes.
    pub(crate) fn add(&mut self, hashes: impl Iterator<Item = u64>) {
        for hash in hashes {
            let (word, bit) = self.place(hash);
            if let Some(word) = self.words.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Whether an item with these hashes may be in the set; never `false` for an item of the set.
    pub(crate) fn may_have(&self, mut hashes: impl Iterator<Item = u64>) -> bool {
        hashes.all(|hash| {
            let (word, bit) = self.place(hash);
            self.words.get(word).is_some_and(|word| word & bit != 0)
        })
    }

    fn place(&self, hash: u64) -> (usize, u64) {
        let bit = hash % (self.words.len().max(1) as u64 * 64);
        (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
    }
}

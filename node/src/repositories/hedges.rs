//! The ration of reads that are asked twice: a tenth of all reads, so that a mesh under load is not loaded more by its
//! impatience.

use std::sync::atomic::{AtomicU32, Ordering};

/// Parts of a hedge that a read earns, and that a hedge costs.
const EARNED: u32 = 1;
const COST: u32 = 10;
/// The most that is saved up.
const MOST: u32 = 20 * COST;

/// The ration of this node.
pub struct Hedges(AtomicU32);

impl Default for Hedges {
    fn default() -> Self {
        Self(AtomicU32::new(MOST))
    }
}

impl Hedges {
    /// A read was begun.
    pub fn earn(&self) {
        let earned = |saved: u32| (saved < MOST).then_some(saved + EARNED);
        // Nothing to add where all is saved up.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Whether a hedge may be taken; it is, then.
    pub fn spend(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_in_ten_may_be_asked_twice() {
        let hedges = Hedges::default();
        while hedges.spend() {}
        let mut taken = 0;
        for _ in 0..1000 {
            hedges.earn();
            taken += u32::from(hedges.spend());
        }
        assert_eq!(taken, 100);
    }
}

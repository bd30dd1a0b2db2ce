//! Numbers that look random and come again with the same seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64): good enough to choose moments and bytes.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Starts from `PGMESH_SEED`, or from the clock, and prints the seed, so that a failed run can be repeated.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Self::seed_from_environment())
    }

    /// The seed of [`from_environment`](Self::from_environment), for callers that derive several generators from it.
    #[must_use]
    pub fn seed_from_environment() -> u64 {
        let seed = std::env::var("PGMESH_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos()) ^ now.as_secs()
        });
        println!("PGMESH_SEED={seed}");
        seed
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit.max(1)
    }

    /// A number from 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        // As many bits as the number can hold.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

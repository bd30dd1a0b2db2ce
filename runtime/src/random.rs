//! Random bytes of a process.
//!
//! [`fill`] is for bytes that only must differ: identifiers of requests, eras, pauses. [`secret`] is for keys,
//! initialization vectors, tokens and serial numbers: an attacker who can guess one breaks a promise.
//!
//! In debug builds [`seed`] makes both repeatable, so that the history of a simulated process is a function of its
//! seed.

use std::sync::{Mutex, PoisonError};

/// The operating system gave no random bytes.
pub use getrandom::Error;

/// The generator of a seeded process; without one the operating system is asked.
static SEEDED: Mutex<Option<SplitMix>> = Mutex::new(None);

/// Fills `bytes` with bytes that differ from one call to the next.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    let mut seeded = SEEDED.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *seeded {
        Some(generator) => generator.fill(bytes),
        None => {
            drop(seeded);
            from_system(bytes)?;
        }
    }
    Ok(())
}

/// Fills `bytes` with secret bytes: no attacker can guess them.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn secret(bytes: &mut [u8]) -> Result<(), Error> {
    if cfg!(debug_assertions) {
        fill(bytes)
    } else {
        from_system(bytes)
    }
}

/// From now on the random bytes of this process follow from `seed` and from the order in which they are asked for.
/// For simulations: two processes of one seed draw the same identifiers. So it does nothing in a release build.
pub fn seed(seed: u64) {
    if !cfg!(debug_assertions) {
        return;
    }
    *SEEDED.lock().unwrap_or_else(PoisonError::into_inner) = Some(SplitMix(seed));
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
fn from_system(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes)
}

/// The generator splitmix64: small, and good enough to choose pauses and names.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            for (byte, drawn) in piece.iter_mut().zip(self.bits().to_le_bytes()) {
                *byte = drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: fn(&mut [u8]) -> Result<(), Error>) -> [u8; 20] {
        let mut bytes = [0; 20];
        draw(&mut bytes).unwrap();
        bytes
    }

    // One test: the seed is the process's, and tests share one.
    #[test]
    fn a_seed_repeats_what_is_drawn_in_debug_builds_only() {
        assert_ne!(drawn(fill), drawn(fill));
        assert_ne!(drawn(secret), drawn(secret));
        seed(7);
        let first = (drawn(fill), drawn(fill), drawn(secret));
        seed(7);
        let again = (drawn(fill), drawn(fill), drawn(secret));
        assert_eq!(first == again, cfg!(debug_assertions));
        assert_ne!(first.0, first.1);
        seed(8);
        assert_ne!(drawn(fill), first.0);
    }
}

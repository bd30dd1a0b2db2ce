//! `repair-rate`: how many bytes a second repairs write to one repository.
//!
//! Each write books its place in time: the next one may begin when the bytes before it have had the time that the rate
//! gives them. Nothing is saved up while there is nothing to do.

use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The rate of this node's repairs.
pub struct Pace {
    bytes_per_second: Option<u64>,
    free_at: Mutex<BTreeMap<RepoKey, Instant>>,
}

impl Pace {
    /// Unlimited where no rate is given.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
            free_at: Mutex::default(),
        }
    }

    /// Waits until so many bytes may be written.
    pub async fn wait(&self, repo: RepoKey, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let (begin, end) = book(free_at.get(&repo).copied(), Instant::now(), takes);
            free_at.insert(repo, end);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

/// When a write that takes so long may begin, and when the one after it may. Pure.
fn book(free_at: Option<Instant>, now: Instant, takes: Duration) -> (Instant, Instant) {
    let begin = free_at.unwrap_or(now).max(now);
    (begin, begin + takes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_waits_for_those_before_it_and_nothing_is_saved_up() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (first, free) = book(None, now, second);
        assert_eq!((first, free), (now, now + second), "the first begins at once");
        let (second_begins, free) = book(Some(free), now, 3 * second);
        assert_eq!((second_begins, free), (now + second, now + 4 * second));
        let later = now + 100 * second;
        assert_eq!(book(Some(free), later, second), (later, later + second));
    }

    #[tokio::test]
    async fn without_a_rate_nothing_waits() {
        let pace = Pace::new(None);
        pace.wait(RepoKey::new(1).unwrap(), u64::MAX).await;
    }
}

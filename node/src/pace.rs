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
            let now = Instant::now();
            let begin = free_at.get(&repo).copied().unwrap_or(now).max(now);
            free_at.insert(repo, begin + takes);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_written_no_faster_than_the_rate() {
        let (pace, repo) = (Pace::new(Some(1 << 20)), RepoKey::new(1).unwrap());
        let began = Instant::now();
        for _ in 0..5 {
            pace.wait(repo, 1 << 20).await;
        }
        assert_eq!(began.elapsed().as_secs(), 4, "the first begins at once");
        // What was not used while idle is not made up for.
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        pace.wait(repo, 1 << 20).await;
        pace.wait(repo, 1 << 20).await;
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[tokio::test]
    async fn without_a_rate_nothing_waits() {
        let pace = Pace::new(None);
        pace.wait(RepoKey::new(1).unwrap(), u64::MAX).await;
    }
}

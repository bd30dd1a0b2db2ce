//! Signs of work: by them the client tells its node, while it has nothing else to ask for, that a backup or a restore
//! really works.
//!
//! A process whose connection lives may hang all the same, on a file system that has gone. Its session would keep the
//! stanza locked and hold up all deletion.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A wait that takes longer has failed without saying so: PostgreSQL answers within `db-timeout`, and a data directory
/// is walked within hours.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The work of a process under its session. All its workers share it.
#[derive(Debug, Default)]
pub struct Activity {
    done: AtomicU64,
    waiting: Mutex<Vec<Instant>>,
}

/// As long as it lives, the process waits for a call that shows no progress.
#[derive(Debug)]
pub struct Waiting {
    activity: Arc<Activity>,
    since: Instant,
}

impl Activity {
    /// Counts a piece of work.
    pub fn mark(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a wait.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        let since = Instant::now();
        self.lock().push(since);
        Waiting {
            activity: self.clone(),
            since,
        }
    }

    /// Whether the process has worked since the last call with this `seen`, or waits, and not for too long.
    pub fn is_alive(&self, seen: &mut u64) -> bool {
        let done = self.done.load(Ordering::Relaxed);
        let moves = std::mem::replace(seen, done) != done;
        moves || self.lock().iter().any(|since| since.elapsed() < LONGEST_WAIT)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.activity.lock();
        if let Some(at) = waiting.iter().position(|since| *since == self.since) {
            waiting.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_nothing_and_waits_for_nothing_is_not_alive() {
        let (activity, mut seen) = (Arc::new(Activity::default()), 0);
        assert!(!activity.is_alive(&mut seen));
        activity.mark();
        assert!(activity.is_alive(&mut seen));
        assert!(!activity.is_alive(&mut seen), "nothing more");
        let waiting = activity.wait();
        assert!(activity.is_alive(&mut seen) && activity.is_alive(&mut seen));
        drop(waiting);
        assert!(!activity.is_alive(&mut seen));
        let stale = Instant::now().checked_sub(LONGEST_WAIT);
        if let Some(stale) = stale {
            activity.lock().push(stale);
            assert!(!activity.is_alive(&mut seen), "for ever is too long");
        }
    }
}

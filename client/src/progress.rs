//! How far a piece of work has come: told to the program around it, and in the log a line for every tenth of the work.

use crate::activity::Activity;
use crate::text::size;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A user's view of a piece of work while it goes on. It is dropped when the work ends.
pub trait Bar: fmt::Debug + Send + Sync {
    /// The work has so many bytes more than was known at the start.
    fn grow(&self, bytes: u64);

    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
}

/// For a program without a display.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBar;

impl Bar for NoBar {
    fn grow(&self, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {}
}

/// How far a piece of work has come, in bytes. Shared by all workers.
#[derive(Debug)]
pub struct Progress {
    what: String,
    bar: Box<dyn Bar>,
    total: AtomicU64,
    done: AtomicU64,
    /// Tenths that the log has heard of.
    announced: AtomicU64,
    /// Each step is a sign of life.
    activity: Arc<Activity>,
}

impl Progress {
    /// Begins: `what` is a word for the user (`backup`), `total` the bytes to do, and `bar` shows them.
    pub fn start(what: impl Into<String>, total: u64, bar: Box<dyn Bar>) -> Self {
        let (total, done) = (AtomicU64::new(total), AtomicU64::new(0));
        Self {
            what: what.into(),
            bar,
            total,
            done,
            announced: AtomicU64::new(0),
            activity: Arc::default(),
        }
    }

    /// Tells also the activity of every step.
    pub fn watched(mut self, activity: Arc<Activity>) -> Self {
        self.activity = activity;
        self
    }

    /// More to do than was known at the start.
    pub fn grow(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.bar.grow(bytes);
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.activity.mark();
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let total = self.total.load(Ordering::Relaxed);
        self.bar.advance(bytes);
        let tenths = tenths(done, total);
        if self.announced.fetch_max(tenths, Ordering::Relaxed) < tenths {
            tracing::info!("{}: {}% ({} of {})", self.what, tenths * 10, size(done), size(total));
        }
    }

    /// Bytes done and bytes to do in all.
    pub fn state(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// Whole tenths of the work that are done; none while there is nothing to do.
fn tenths(done: u64, total: u64) -> u64 {
    if total == 0 {
        return 0;
    }
    u64::try_from(u128::from(done) * 10 / u128::from(total))
        .unwrap_or(10)
        .min(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_of_the_work() {
        let cases = [
            (0, 0, 0),
            (0, 100, 0),
            (9, 100, 0),
            (10, 100, 1),
            (99, 100, 9),
            (100, 100, 10),
            (200, 100, 10),
        ];
        for (done, total, expected) in cases {
            assert_eq!(tenths(done, total), expected, "{done} of {total}");
        }
        assert_eq!(tenths(u64::MAX, u64::MAX), 10);
    }

    #[test]
    fn workers_add_up() {
        let progress = Progress::start("backup", 1000, Box::new(NoBar));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| progress.advance(2)));
            }
        });
        progress.grow(24);
        assert_eq!(progress.state(), (800, 1024));
        assert_eq!(progress.announced.load(Ordering::Relaxed), 8);
    }
}

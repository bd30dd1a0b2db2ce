//! How long synced appends take, here and on the followers: a leader whose disk is slow makes all clients wait,
//! although others could lead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Older appends say nothing of the disk's present pace.
const WINDOW: Duration = Duration::from_secs(10);
/// So many appends of a disk are remembered.
const KEPT: usize = 64;

/// The last appends of each disk. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskPace(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    own: Appends,
    /// When the own append began that is not on disk yet.
    running: Option<Instant>,
    /// Of the followers; with the way to them and back.
    others: BTreeMap<u64, Appends>,
}

/// When the last appends ended, and how long they took.
#[derive(Debug, Default)]
struct Appends(Vec<(Instant, Duration)>);

impl Appends {
    fn add(&mut self, now: Instant, took: Duration) {
        if self.0.len() >= KEPT {
            self.0.remove(0);
        }
        self.0.push((now, took));
    }

    /// The median of the appends of the last ten seconds.
    fn typical(&self, now: Instant) -> Option<Duration> {
        let recent = self.0.iter().filter(|(at, _)| now.duration_since(*at) < WINDOW);
        let mut took: Vec<Duration> = recent.map(|(_, took)| *took).collect();
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }
}

/// How long appends take at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppendTimes {
    /// On this node's disk; none where nothing was appended in the last ten seconds.
    pub own: Option<Duration>,
    /// On the followers' disks, with the way to them and back.
    pub others: BTreeMap<u64, Duration>,
}

impl DiskPace {
    /// An append to the own log begins.
    pub(crate) fn begin(&self) {
        self.lock().begin(Instant::now());
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.lock().end(Instant::now());
    }

    /// A follower has acknowledged entries that were sent to it so long ago.
    pub(crate) fn acknowledged(&self, node_id: u64, took: Duration) {
        self.lock().acknowledged(node_id, took, Instant::now());
    }

    pub(crate) fn times(&self) -> AppendTimes {
        self.lock().times(Instant::now())
    }

    /// A panic of another holder leaves nothing half-changed here: go on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn begin(&mut self, now: Instant) {
        self.running = Some(now);
    }

    fn end(&mut self, now: Instant) {
        if let Some(began) = self.running.take() {
            self.own.add(now, now.duration_since(began));
        }
    }

    fn acknowledged(&mut self, node_id: u64, took: Duration, now: Instant) {
        self.others.entry(node_id).or_default().add(now, took);
    }

    fn times(&self, now: Instant) -> AppendTimes {
        // An append that hangs takes at least as long as it has hung. An append that has just begun says nothing.
        let hangs = self.running.map(|began| now.duration_since(began));
        let own = self.own.typical(now);
        let others = self.others.iter();
        AppendTimes {
            own: hangs.filter(|hangs| own.is_none_or(|own| *hangs > own)).or(own),
            others: others
                .filter_map(|(node_id, appends)| Some((*node_id, appends.typical(now)?)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_append_that_hangs_counts_before_its_end_and_old_ones_do_not() {
        let (mut pace, start) = (Inner::default(), Instant::now());
        assert_eq!(pace.times(start), AppendTimes::default());
        for number in 0..3 {
            pace.begin(start + ms(10 * number));
            pace.end(start + ms(10 * number + 4));
        }
        pace.acknowledged(2, ms(9), start);
        let times = pace.times(start + ms(30));
        assert_eq!(times.own, Some(ms(4)));
        assert_eq!(times.others, BTreeMap::from([(2, ms(9))]));
        pace.begin(start + ms(30));
        assert_eq!(pace.times(start + ms(31)).own, Some(ms(4)));
        assert_eq!(pace.times(start + ms(3030)).own, Some(ms(3000)));
        pace.end(start + ms(3030));
        assert_eq!(pace.times(start + ms(3031)).own, Some(ms(4)), "one of many");
        assert_eq!(pace.times(start + ms(3030) + WINDOW), AppendTimes::default());
    }
}

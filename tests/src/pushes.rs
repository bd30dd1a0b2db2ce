//! Pushes of forged segments during any story.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::Figures;
use crate::host::Host;
use crate::wait::wait_for;
use crate::wal::WalForge;

/// The time in which a segment must be acknowledged, with as many tries as it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// The segments that several pushers work on together. Like PostgreSQL, a pusher tries each segment until it is
/// acknowledged.
#[derive(Debug, Default)]
pub struct Pushes {
    next: AtomicU32,
    end: AtomicBool,
    failed: AtomicU32,
    acknowledged: Mutex<BTreeMap<u32, Acknowledged>>,
}

/// An acknowledged push.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    at: Instant,
    /// The time of the successful try.
    took: Duration,
}

/// Lets the pushers end also if the test panics: otherwise the test would wait for them for ever.
struct EndWhenDropped<'a>(&'a Pushes);

impl Drop for EndWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Relaxed);
    }
}

impl Pushes {
    /// Has each of `hosts` push segment after segment while `story` goes on. Returns all pushes, after the last one has
    /// been acknowledged.
    #[must_use]
    pub fn during(hosts: &[&Host], forge: &WalForge, story: impl FnOnce(&Self)) -> Self {
        let pushes = Self::default();
        thread::scope(|scope| {
            for host in hosts {
                scope.spawn(|| pushes.push_until_the_end(host, forge));
            }
            let _end = EndWhenDropped(&pushes);
            story(&pushes);
        });
        pushes
    }

    /// Pushes segment after segment. A push that is under way at the end is still finished, so that the acknowledged
    /// segments have no gap.
    fn push_until_the_end(&self, host: &Host, forge: &WalForge) {
        while !self.end.load(Ordering::Relaxed) {
            self.push_next(host, forge);
        }
    }

    /// Pushes the next segment, as often as it takes.
    pub fn push_next(&self, host: &Host, forge: &WalForge) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let file = forge.make(number);
        let mut took = Duration::ZERO;
        wait_for(&format!("segment {number} to be acknowledged"), LIMIT, || {
            let outcome = host.push(&file);
            if outcome.code() != Some(0) {
                println!("segment {number}: {outcome}");
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            took = outcome.elapsed;
            outcome.code() == Some(0)
        });
        let at = Instant::now();
        let mut acknowledged = self.acknowledged.lock().expect("no pusher has panicked");
        acknowledged.insert(number, Acknowledged { at, took });
        fs::remove_file(file).expect("removing a pushed segment");
    }

    /// The numbers of the acknowledged segments.
    #[must_use]
    pub fn acknowledged(&self) -> BTreeSet<u32> {
        let acknowledged = self.acknowledged.lock().expect("no pusher has panicked");
        acknowledged.keys().copied().collect()
    }

    /// The number of failed tries so far.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many more segments are acknowledged.
    pub fn wait_for_more(&self, count: usize) {
        let before = self.acknowledged().len();
        wait_for(&format!("{count} more pushes"), LIMIT, || {
            self.acknowledged().len() >= before + count
        });
    }

    /// The longest time without an acknowledgement that overlaps the time from one moment to another.
    #[must_use]
    pub fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let acknowledged = self.acknowledged.lock().expect("no pusher has panicked");
        let mut moments: Vec<Instant> = acknowledged.values().map(|ack| ack.at).collect();
        moments.sort();
        let pauses = moments.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
        pauses.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The durations of the pushes that were acknowledged from one moment to another.
    #[must_use]
    pub fn times(&self, from: Instant, to: Instant) -> Figures {
        let acknowledged = self.acknowledged.lock().expect("no pusher has panicked");
        let within = acknowledged.values().filter(|ack| ack.at >= from && ack.at <= to);
        Figures::new(within.map(|ack| ack.took).collect())
    }

    /// Asserts that each acknowledged segment is delivered with its pushed content.
    pub fn assert_all_are_there(&self, host: &Host, forge: &WalForge) {
        /// The number of segments that are fetched at once.
        const READERS: usize = 4;
        let numbers: Vec<u32> = self.acknowledged().into_iter().collect();
        thread::scope(|scope| {
            for part in numbers.chunks(numbers.len().div_ceil(READERS).max(1)) {
                scope.spawn(move || {
                    for &number in part {
                        assert_is_there(host, forge, number);
                    }
                });
            }
        });
    }
}

fn assert_is_there(host: &Host, forge: &WalForge, number: u32) {
    let name = forge.name(number);
    let fetched = forge.path(&format!("fetched-{name}"));
    host.get(&name, &fetched).succeeds();
    let content = fs::read(&fetched).expect("the fetched segment");
    assert!(content == forge.content(number), "{name} is different");
    fs::remove_file(fetched).expect("removing a fetched segment");
}

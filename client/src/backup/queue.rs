//! Jobs on their way from the feed to the readers, and how far the readers may run ahead of each other (invariant 11).
//!
//! Entries reach the manifest in the order of the walk, so an entry that is finished early waits in memory for those
//! before it. Two things hold entries back: a large file that takes seconds to read, and fingerprints, which wait until
//! a bundle of them is full. An example: one file of 8 KiB is followed by a million empty ones, which have no
//! fingerprints. Its own never fill a bundle, so without a limit the million waits for it. Therefore no job is given
//! out that lies too far behind the entry that the manifest waits for; then each reader that has nothing to do ends its
//! bundle of fingerprints as it is.

use super::job::ReadyJob;
use super::plan::JOB_ENTRIES;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch};

/// Jobs that wait for a reader, with the fingerprints that their files had: at most 3 MiB for a file of 1 GiB.
const JOBS_WAITING: usize = 2;
/// How far ahead of the manifest a job may be for each reader, in entries: as many as it reads and as wait for its
/// bundle of fingerprints, several times over.
const AHEAD_PER_READER: usize = 4 * JOB_ENTRIES;
/// And at least. So many finished entries of small files take about 10 MiB; the entry of a file of 1 GiB takes 40 KiB
/// by itself.
const LEAST_AHEAD: usize = 16 * JOB_ENTRIES;

/// The next task of a reader.
#[derive(Debug)]
pub enum Next {
    /// The reader reads these files.
    Job(ReadyJob),
    /// The reader ends its bundles: the manifest waits for entries that a reader holds back.
    Flush,
    /// There are no more jobs.
    End,
}

/// The queue that all readers of a backup take jobs from.
pub struct JobQueue {
    state: Mutex<State>,
    arrived: Condvar,
    room: Semaphore,
    /// How far a job may be ahead of the manifest, in entries.
    ahead: u64,
    /// How many entries the manifest has taken.
    taken: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<ReadyJob>,
    /// How often the readers were told to end their bundles.
    flushes: u64,
    is_closed: bool,
}

/// The orders that one reader has had already.
#[derive(Debug, Default)]
pub struct Told {
    flushes: u64,
}

/// Closes the queue when it is dropped, also after a failure: no more jobs come.
pub struct Closing<'a>(&'a JobQueue);

impl JobQueue {
    /// An empty queue for so many readers.
    pub fn new(readers: usize) -> Self {
        Self::with(JOBS_WAITING, LEAST_AHEAD.max(AHEAD_PER_READER * readers))
    }

    /// With room for so many jobs, of which none is as far ahead of the manifest.
    pub fn with(room: usize, ahead: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            room: Semaphore::new(room),
            ahead: ahead as u64,
            taken: watch::Sender::new(0),
        }
    }

    /// Puts a job in, when there is room and the manifest has come near enough.
    pub async fn put(&self, job: ReadyJob) {
        let is_near = |taken: &u64| job.number < taken.saturating_add(self.ahead);
        let mut taken = self.taken.subscribe();
        let may_go = is_near(&taken.borrow());
        if !may_go {
            self.lock().flushes += 1;
            self.arrived.notify_all();
            // Its sender lives as long as the queue.
            taken.wait_for(is_near).await.ok();
        }
        // It is never closed.
        if let Ok(place) = self.room.acquire().await {
            place.forget();
        }
        self.lock().jobs.push_back(job);
        self.arrived.notify_one();
    }

    /// Takes note that the manifest has so many entries.
    pub fn has_taken(&self, entries: u64) {
        self.taken.send_replace(entries);
    }

    /// Closes the queue when the answer is dropped.
    pub fn closing(&self) -> Closing<'_> {
        Closing(self)
    }

    /// Waits for a reader's next task. A job comes before all else.
    pub fn next(&self, told: &mut Told) -> Next {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.room.add_permits(1);
                return Next::Job(job);
            }
            if told.flushes != state.flushes {
                told.flushes = state.flushes;
                return Next::Flush;
            }
            if state.is_closed {
                return Next::End;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn job(number: u64) -> ReadyJob {
        ReadyJob {
            number,
            entries: Vec::new(),
        }
    }

    fn number(next: &Next) -> Option<u64> {
        match next {
            Next::Job(job) => Some(job.number),
            Next::Flush | Next::End => None,
        }
    }

    #[tokio::test]
    async fn jobs_wait_for_room_and_for_the_manifest() {
        let queue = JobQueue::with(2, 10);
        let (mut one, mut other) = (Told::default(), Told::default());
        queue.put(job(0)).await;
        queue.put(job(9)).await;
        assert!(queue.put(job(9)).now_or_never().is_none(), "no room");
        assert_eq!(number(&queue.next(&mut one)), Some(0));
        assert!(queue.put(job(10)).now_or_never().is_none(), "too far ahead");
        // Each reader is told once, when it has nothing else to do.
        assert_eq!(number(&queue.next(&mut one)), Some(9));
        assert!(matches!(queue.next(&mut one), Next::Flush));
        assert!(matches!(queue.next(&mut other), Next::Flush));
        queue.has_taken(1);
        queue.put(job(10)).now_or_never().unwrap();
        assert_eq!(number(&queue.next(&mut other)), Some(10));
        drop(queue.closing());
        assert!(matches!(queue.next(&mut one), Next::End));
    }

    #[test]
    fn readers_that_wait_are_woken() {
        let queue = JobQueue::with(1, 10);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| queue.next(&mut Told::default())))
                .collect();
            assert!(queue.put(job(10)).now_or_never().is_none());
            for reader in waiting {
                assert!(matches!(reader.join().unwrap(), Next::Flush));
            }
            let last = scope.spawn(|| queue.next(&mut Told { flushes: 1 }));
            drop(queue.closing());
            assert!(matches!(last.join().unwrap(), Next::End));
        });
    }
}

//! Watching the requests to one repository: each begins, and then succeeds, fails, is answered or is given up.

use crate::health::{Health, Work};
use pgmesh_protocol::{HealthInfo, now_unix};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of writes under way to one repository at once; a single larger one goes alone. A slow repository holds no more
/// of this node's memory (invariant 11): beyond it, it is passed over, and owed the object.
const WRITING: u64 = 48 << 20;

/// The health of one repository, and the bytes of writes under way there.
#[derive(Default)]
pub struct Watch {
    health: Mutex<Health>,
    writing: AtomicU64,
    /// Whether the last failure was the write of an object: a read that succeeds says nothing about writes.
    failed_writing: AtomicBool,
}

impl Watch {
    /// Whether requests should be sent there now.
    pub fn admits(&self) -> bool {
        self.health().admits(Instant::now())
    }

    /// Whether a write of so many bytes should be sent there now.
    pub fn admits_write(&self, bytes: u64) -> bool {
        let writing = self.writing.load(Ordering::Relaxed);
        self.admits() && (writing == 0 || writing.saturating_add(bytes) <= WRITING)
    }

    /// Whether a read should be sent there as a probe: else an idle repository would stay down. A repository that
    /// failed at a write owes the object, and the repair of that debt serves as the probe.
    pub fn waits_for_a_probe(&self) -> bool {
        !self.failed_writing.load(Ordering::Relaxed) && self.health().waits_for_a_probe(Instant::now())
    }

    /// Where it stands among replicas; lower is better.
    pub fn rank(&self) -> (bool, u32, Duration) {
        self.health().rank(Instant::now())
    }

    /// After this time without an answer a read is also asked of another repository.
    pub fn hedge_after(&self) -> Duration {
        self.health().hedge_after(Instant::now())
    }

    /// For `info`.
    pub fn info(&self) -> HealthInfo {
        self.health().info()
    }

    /// Forgets past failures.
    pub fn forgive(&self) {
        self.health().forgive();
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>, work: Work, bytes: u64) -> Attempt {
        let now = Instant::now();
        self.health().began(now);
        self.writing.fetch_add(bytes, Ordering::Relaxed);
        Attempt {
            watch: self.clone(),
            work,
            bytes,
            began: now,
            ended: false,
        }
    }

    /// A panic of another holder leaves nothing half-changed in this state: go on.
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way. Dropped without an end, it was given up.
pub struct Attempt {
    watch: Arc<Watch>,
    work: Work,
    bytes: u64,
    began: Instant,
    ended: bool,
}

impl Attempt {
    /// The request succeeded.
    pub fn succeeded(mut self) {
        self.ended = true;
        self.watch
            .health()
            .succeeded(self.work, self.began.elapsed(), Instant::now());
    }

    /// The repository is well; the object is not.
    pub fn answered(mut self) {
        self.ended = true;
        self.watch.health().answered(Instant::now());
    }

    /// The repository failed.
    pub fn failed(mut self, why: String) {
        self.ended = true;
        self.watch.failed_writing.store(self.bytes > 0, Ordering::Relaxed);
        self.watch.health().failed(why, self.began, Instant::now(), now_unix());
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.watch.writing.fetch_sub(self.bytes, Ordering::Relaxed);
        if !self.ended {
            self.watch.failed_writing.store(self.bytes > 0, Ordering::Relaxed);
            self.watch
                .health()
                .given_up(self.began.elapsed(), Instant::now(), now_unix());
        }
    }
}

//! Invariant 11: memory is bounded. Whatever holds a body in memory holds a part of the budget while it does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units of this many bytes, so that the count fits a semaphore.
const UNIT: u64 = 4096;

/// A number of bytes that may be held at once.
#[derive(Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
    /// How many wait for a part.
    waiting: Arc<AtomicUsize>,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub struct Held {
    permit: Mutex<OwnedSemaphorePermit>,
    waiting: Arc<AtomicUsize>,
}

/// One that waits, until dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Whether somebody waits for a part of the budget.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Gives back what is more than so many bytes.
    pub fn keep_only(&self, bytes: u64) {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        let spare = permit.num_permits().saturating_sub(kept);
        drop(permit.split(spare));
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Self {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
            waiting: Arc::default(),
        }
    }

    /// Waits for so many bytes. What is larger than the whole budget waits for all of it: one such body at a time.
    pub async fn hold(&self, bytes: u64) -> Held {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        let waiting = Waiting::begin(&self.waiting);
        let acquired = self.units.clone().acquire_many_owned(units).await;
        drop(waiting);
        match acquired {
            Ok(permit) => Held {
                permit: Mutex::new(permit),
                waiting: self.waiting.clone(),
            },
            // The semaphore is never closed; waiting for ever is the honest answer to a state that cannot be.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_budget_is_never_exceeded_and_always_comes_back() {
        let budget = Budget::new(10 * UNIT);
        let first = budget.hold(6 * UNIT).await;
        let waiting = budget.hold(5 * UNIT);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(first);
        let _second = waiting.await;
    }

    #[tokio::test]
    async fn what_is_not_needed_any_more_is_given_back_early() {
        let budget = Budget::new(10 * UNIT);
        let held = budget.hold(8 * UNIT).await;
        held.keep_only(3 * UNIT);
        assert_eq!(budget.units.available_permits(), 7);
        held.keep_only(5 * UNIT);
        assert_eq!(budget.units.available_permits(), 7);
        drop(held);
        assert_eq!(budget.units.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_budget_gets_all_of_it() {
        let budget = Budget::new(2 * UNIT);
        let all = budget.hold(100 * UNIT).await;
        assert_eq!(budget.units.available_permits(), 0);
        drop(all);
        assert_eq!(budget.units.available_permits(), 2);
    }
}

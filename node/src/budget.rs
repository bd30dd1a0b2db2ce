//! Invariant 11: memory is bounded. Whatever holds a body in memory holds a part of the budget while it does.
//!
//! The parts are divided among accounts ([`Account`]), so that no client's use of memory keeps another client's
//! requests waiting (decision 42). `pool` has the rules.

mod pool;

use pgmesh_transport::Account;
use pool::{Pool, Ticket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The budget is counted in units of this many bytes.
const UNIT: u64 = 4096;

/// The period at which asks that wait are looked at again, since their turns change.
const LOOK: Duration = Duration::from_secs(1);

/// A number of bytes that may be held at once.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: Mutex<Pool>,
    started: Instant,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    account: Account,
    units: Mutex<u32>,
}

/// An ask for a part. Dropped before its end, it is withdrawn.
struct Ask<'b> {
    budget: &'b Budget,
    account: &'b Account,
    units: u32,
    ticket: Ticket,
    is_taken: bool,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Self(Arc::new(Inner {
            pool: Mutex::new(Pool::new(total)),
            started: Instant::now(),
        }))
    }

    /// Waits for so many bytes for the node's own work. An ask that is larger than the whole budget waits for all of
    /// it: one such body at a time.
    pub async fn hold(&self, bytes: u64) -> Held {
        self.hold_for(&Account::Mesh, bytes).await
    }

    /// Waits for so many bytes for a peer's request. Whoever holds a part already must not wait for another part that
    /// cannot fit beside it.
    pub async fn hold_for(&self, account: &Account, bytes: u64) -> Held {
        let (granted, mut told) = oneshot::channel();
        let mut ask = self.ask(account, bytes, granted);
        // The sender stays in the pool until the ask is granted or withdrawn.
        while tokio::time::timeout(LOOK, &mut told).await.is_err() {
            let now = self.now();
            self.pool().settle(now);
        }
        ask.is_taken = true;
        Held {
            budget: self.clone(),
            account: account.clone(),
            units: Mutex::new(ask.units),
        }
    }

    fn ask<'b>(&'b self, account: &'b Account, bytes: u64, granted: oneshot::Sender<()>) -> Ask<'b> {
        let now = self.now();
        let mut pool = self.pool();
        let units = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .min(pool.total());
        let ticket = pool.ask(account, units, granted, now);
        Ask {
            budget: self,
            account,
            units,
            ticket,
            is_taken: false,
        }
    }

    /// How many asks wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.pool().waiting()
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let now = self.budget.now();
        let mut pool = self.budget.pool();
        if !pool.withdraw(self.account, self.ticket, now) {
            pool.give_back(self.account, self.units, now);
        }
    }
}

impl Held {
    /// Whether somebody waits for a part of the budget.
    pub fn is_wanted(&self) -> bool {
        self.budget.pool().waiting() > 0
    }

    /// Gives back what is more than so many bytes.
    pub fn keep_only(&self, bytes: u64) {
        let kept = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = units.saturating_sub(kept);
        if spare > 0 {
            *units -= spare;
            self.budget.pool().give_back(&self.account, spare, self.budget.now());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let units = *self.units.lock().unwrap_or_else(PoisonError::into_inner);
        self.budget.pool().give_back(&self.account, units, self.budget.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Account {
        Account::of_stanzas(&[name.parse().unwrap()])
    }

    #[tokio::test]
    async fn the_budget_is_never_exceeded_and_always_comes_back() {
        let budget = Budget::new(10 * UNIT);
        let first = budget.hold(6 * UNIT).await;
        let waiting = budget.hold(5 * UNIT);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert!(first.is_wanted());
        drop(first);
        let second = waiting.await;
        assert!(!second.is_wanted());
        drop(second);
        assert_eq!(budget.pool().free(), 10);
    }

    #[tokio::test]
    async fn what_is_not_needed_any_more_is_given_back_early() {
        let budget = Budget::new(10 * UNIT);
        let held = budget.hold(8 * UNIT).await;
        held.keep_only(3 * UNIT);
        assert_eq!(budget.pool().free(), 7);
        held.keep_only(5 * UNIT);
        assert_eq!(budget.pool().free(), 7);
        drop(held);
        assert_eq!(budget.pool().free(), 10);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_budget_gets_all_of_it() {
        let budget = Budget::new(2 * UNIT);
        let all = budget.hold(100 * UNIT).await;
        assert_eq!(budget.pool().free(), 0);
        drop(all);
        assert_eq!(budget.pool().free(), 2);
    }

    #[tokio::test]
    async fn an_ask_that_is_dropped_takes_nothing() {
        let budget = Budget::new(10 * UNIT);
        let all = budget.hold(10 * UNIT).await;
        {
            let waiting = budget.hold(5 * UNIT);
            tokio::pin!(waiting);
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            drop(all);
            assert_eq!(budget.pool().free(), 5, "it is granted, and not taken");
        }
        assert_eq!(budget.pool().free(), 10);
        assert_eq!(budget.pool().waiting(), 0);
    }

    /// A change of turns grants an ask though nothing is asked and nothing comes back.
    #[tokio::test]
    async fn a_small_ask_passes_a_large_one_that_waits_for_long() {
        let budget = Budget::new(10 * UNIT);
        let (a, b, c) = (account("a"), account("b"), account("c"));
        let slow = budget.hold_for(&a, 4 * UNIT).await;
        let large = budget.hold_for(&b, 10 * UNIT);
        tokio::pin!(large);
        assert!(futures::poll!(large.as_mut()).is_pending());
        let small = budget.hold_for(&c, 5 * UNIT);
        let passed = tokio::time::timeout(10 * pool::TURN, async {
            tokio::select! {
                held = small => held,
                _ = &mut large => unreachable!("the slow one holds a part"),
            }
        });
        drop(passed.await.unwrap());
        drop(slow);
        large.await;
    }
}

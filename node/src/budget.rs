//! Invariant 11: memory is bounded. Whatever holds a body in memory holds a part of the budget while it does.
//!
//! The parts are divided among accounts ([`Account`]), so that no client's use of memory keeps another client's
//! requests waiting (decision 42). `pool` has the rules.

mod pool;

use pgmesh_transport::Account;
use pool::{Pool, TRANSFER_TIME, Ticket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The budget is counted in units of this many bytes.
const UNIT: u64 = 4096;

/// A client that waits for so long for memory that others hold is told that the node is busy: another node may be idle.
const BUSY_AFTER: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 5 });

/// The wait for memory in the middle of a long request.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// The memory was not free in time, since others hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// The bytes that were asked for.
    pub bytes: u64,
    /// How long they were waited for.
    pub waited: Duration,
}

/// A transfer was given up, since others need the memory that is held for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp;

/// An ask for a part. Dropped before its end, it is withdrawn.
struct Ask<'b> {
    budget: &'b Budget,
    account: &'b Account,
    units: u32,
    ticket: Ticket,
    is_taken: bool,
}

/// A transfer under way, until dropped.
struct Transfer<'h> {
    budget: &'h Budget,
    ticket: Ticket,
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
        loop {
            if let Ok(held) = self.hold_within(&Account::Mesh, bytes, Duration::MAX).await {
                return held;
            }
        }
    }

    /// Waits for so many bytes for a peer's request.
    ///
    /// # Errors
    /// Others have held the memory for [`BUSY_AFTER`]. An account that waits for what it holds itself goes on waiting.
    pub async fn hold_for(&self, account: &Account, bytes: u64) -> Result<Held, Busy> {
        let limit = match account {
            Account::Mesh => Duration::MAX,
            Account::Monitors | Account::Stanzas(_) => BUSY_AFTER,
        };
        self.hold_within(account, bytes, limit).await
    }

    /// Takes so many bytes if they are free, and nobody has waited for them longer.
    pub fn try_hold(&self, account: &Account, bytes: u64) -> Option<Held> {
        let (granted, mut told) = oneshot::channel();
        let mut ask = self.ask(account, bytes, granted);
        ask.is_taken = told.try_recv().is_ok();
        ask.is_taken.then(|| self.held(account, ask.units))
    }

    fn held(&self, account: &Account, units: u32) -> Held {
        Held {
            budget: self.clone(),
            account: account.clone(),
            units: Mutex::new(units),
        }
    }

    /// Waits longer, for a part of a request that would be repeated as a whole.
    ///
    /// # Errors
    /// As [`Self::hold_for`], after [`PATIENCE`].
    pub async fn hold_patiently(&self, account: &Account, bytes: u64) -> Result<Held, Busy> {
        self.hold_within(account, bytes, PATIENCE).await
    }

    async fn hold_within(&self, account: &Account, bytes: u64, limit: Duration) -> Result<Held, Busy> {
        let (granted, mut told) = oneshot::channel();
        let mut ask = self.ask(account, bytes, granted);
        let mut waited = Duration::ZERO;
        loop {
            // The sender stays in the pool until the ask is granted or withdrawn.
            if tokio::time::timeout(TRANSFER_TIME, &mut told).await.is_ok() {
                ask.is_taken = true;
                return Ok(self.held(account, ask.units));
            }
            waited += TRANSFER_TIME;
            let now = self.now();
            let mut pool = self.pool();
            if !pool.waits_for_others(account, ask.units) {
                continue;
            }
            if waited >= limit {
                drop(pool);
                return Err(Busy { bytes, waited });
            }
            pool.cut_for(account, ask.units, now);
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

    /// Receives or sends the bytes that this part is held for. The transfer is dropped if others, who hold less, wait
    /// for memory and the transfer takes its time: a silent sender, or a receiver that does not read.
    ///
    /// # Errors
    /// It was dropped. The stream cannot be used any more.
    pub async fn transfer<F: Future>(&self, transfer: F) -> Result<F::Output, GivenUp> {
        let (cut, told) = oneshot::channel();
        let _under_way = self.begin_transfer(cut);
        tokio::select! {
            biased;
            done = transfer => Ok(done),
            Ok(()) = told => Err(GivenUp),
        }
    }

    fn begin_transfer(&self, cut: oneshot::Sender<()>) -> Transfer<'_> {
        let units = *self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let (budget, now) = (&self.budget, self.budget.now());
        let ticket = budget.pool().begin_transfer(&self.account, units, cut, now);
        Transfer { budget, ticket }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let units = *self.units.lock().unwrap_or_else(PoisonError::into_inner);
        self.budget.pool().give_back(&self.account, units, self.budget.now());
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.budget.pool().end_transfer(self.ticket);
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

    #[tokio::test]
    async fn a_client_that_others_keep_waiting_is_told_that_the_node_is_busy() {
        let budget = Budget::new(10 * UNIT);
        let all = budget.hold(10 * UNIT).await;
        let a = account("a");
        let busy = budget.hold_for(&a, UNIT).await.unwrap_err();
        assert_eq!((busy.bytes, busy.waited), (UNIT, BUSY_AFTER));
        drop(all);
        let _mine = budget.hold_for(&a, 10 * UNIT).await.unwrap();
        let own = budget.hold_for(&a, UNIT);
        let waits = tokio::time::timeout(2 * BUSY_AFTER, own).await;
        assert!(waits.is_err(), "it waits for itself");
    }

    /// The times of transfers are real ones.
    #[tokio::test]
    async fn a_silent_transfer_is_given_up_when_an_account_that_holds_less_waits() {
        let budget = Budget::new(10 * UNIT);
        let (a, b) = (account("a"), account("b"));
        let held = budget.hold_for(&a, 10 * UNIT).await.unwrap();
        let silent = async move {
            let given_up = held.transfer(std::future::pending::<()>()).await;
            assert_eq!(given_up, Err(GivenUp));
        };
        let (other, ()) = tokio::join!(budget.hold_for(&b, 2 * UNIT), silent);
        other.unwrap();
        assert_eq!(budget.pool().free(), 10);
    }
}

//! Invariant 11: memory is bounded. Whatever holds a body in memory holds a part of the budget while it does.

mod pool;

use pgmesh_transport::{Account, Stream, StreamCode, StreamError};
use pool::{Pool, Ticket};

pub(crate) use pool::Urgency;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The budget is counted in units of this many bytes.
const UNIT: u64 = 4096;

/// The memory of a push of 16 MiB that cannot be compressed, into two repositories of the node.
const PUSH: u64 = 64 << 20;

/// A number of bytes that may be held at once, shared among accounts (decision 42).
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    pool: Mutex<Pool>,
    started: Instant,
}

/// A part of the budget; given back when dropped.
pub struct Held {
    budget: Budget,
    account: Account,
    units: Mutex<u32>,
}

/// An ask that waits. When it is dropped, it is withdrawn.
struct Ask<'b> {
    budget: &'b Budget,
    account: &'b Account,
    units: u32,
    ticket: Ticket,
    is_taken: bool,
}

/// A request's bytes in memory that is held, until dropped.
pub(crate) struct Moving {
    budget: Budget,
    account: Account,
    ticket: Ticket,
    is_active: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Moving {
    /// Moves bytes. The transfer ends early if others have waited too long for the memory; the client is told that the
    /// node is busy.
    ///
    /// # Errors
    /// [`StreamError::Busy`]; or those of the transfer.
    pub(crate) async fn transfer<T>(
        &mut self,
        stream: &mut Stream,
        transfer: impl AsyncFnOnce(&mut Stream) -> Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        self.is_active.store(true, Ordering::Relaxed);
        let result = tokio::select! {
            biased;
            result = transfer(stream) => Some(result),
            _ = &mut self.ended => None,
        };
        self.is_active.store(false, Ordering::Relaxed);
        result.unwrap_or_else(|| {
            stream.stop(StreamCode::BUSY);
            Err(StreamError::Busy)
        })
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.budget.pool().end(&self.account, self.ticket);
    }
}

impl Budget {
    /// A budget of so many bytes, that leaves room for a push of each account: a quarter, or what a push takes, if that
    /// is no more than half.
    pub fn new(bytes: u64) -> Self {
        let total = units_of(bytes).max(1);
        let room = (total / 4).max(units_of(PUSH)).min(total / 2);
        Self::with(total, room)
    }

    /// A budget of so many bytes for one account.
    pub fn of_one(bytes: u64) -> Self {
        Self::with(units_of(bytes).max(1), 0)
    }

    fn with(total: u32, room: u32) -> Self {
        Self(Arc::new(Inner {
            pool: Mutex::new(Pool::new(total, room)),
            started: Instant::now(),
        }))
    }

    /// Waits for so many bytes for the node's own work. What is larger than the whole budget waits for all of it: one
    /// such body at a time.
    pub async fn hold(&self, bytes: u64) -> Held {
        self.hold_for(&Account::Nodes, bytes).await
    }

    /// Waits for so many bytes for an account, as [`hold`](Self::hold).
    pub async fn hold_for(&self, account: &Account, bytes: u64) -> Held {
        self.hold_with(account, bytes, Urgency::Usual).await
    }

    /// Waits for so many bytes for an account, before or behind its other asks.
    pub(crate) async fn hold_with(&self, account: &Account, bytes: u64, urgency: Urgency) -> Held {
        let (granted, told) = oneshot::channel();
        let mut ask = self.ask(account, (bytes, urgency), granted);
        // The pool drops no ask without a grant while somebody waits for it.
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
        ask.is_taken = true;
        Held {
            budget: self.clone(),
            account: account.clone(),
            units: Mutex::new(ask.units),
        }
    }

    fn ask<'b>(
        &'b self,
        account: &'b Account,
        (bytes, urgency): (u64, Urgency),
        granted: oneshot::Sender<()>,
    ) -> Ask<'b> {
        let now = self.now();
        let mut pool = self.pool();
        let units = units_of(bytes).min(pool.total());
        Ask {
            budget: self,
            account,
            units,
            ticket: pool.ask(account, (units, urgency), granted, now),
            is_taken: false,
        }
    }

    /// Ends a transfer where another account has waited too long for memory. The node looks once a second.
    pub(crate) fn end_overdue(&self) {
        let now = self.now();
        let mut pool = self.pool();
        pool.look(now);
        let ended = pool.end_overdue(now);
        drop(pool);
        if let Some((account, units)) = ended {
            let mib = (units * UNIT) >> 20;
            tracing::warn!(
                "others wait for memory: a transfer of {account}, who hold {mib} MiB of node-buffer, is ended"
            );
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

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
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
        let kept = units_of(bytes);
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = units.saturating_sub(kept);
        if spare > 0 {
            *units -= spare;
            self.budget.pool().give_back(&self.account, spare, self.budget.now());
        }
    }

    /// Bytes of this stream begin to move in this memory.
    pub(crate) fn moving(&self, stream: &Stream) -> Moving {
        let units = *self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, ended) = oneshot::channel();
        let now = self.budget.now();
        let is_active = Arc::<AtomicBool>::default();
        let bytes = (stream.moved(), is_active.clone());
        let ticket = self.budget.pool().begin(&self.account, units, bytes, end, now);
        Moving {
            is_active,
            budget: self.budget.clone(),
            account: self.account.clone(),
            ticket,
            ended,
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
    use futures::FutureExt;

    /// What an ask gets at once.
    fn ready(ask: impl Future<Output = Held>) -> Option<Held> {
        ask.now_or_never()
    }

    fn budget(units: u32) -> Budget {
        Budget::with(units, 0)
    }

    #[tokio::test]
    async fn the_budget_is_never_exceeded_and_always_comes_back() {
        let budget = budget(10);
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
        let budget = budget(10);
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
        let budget = Budget::new(4 * UNIT);
        let all = budget.hold(100 * UNIT).await;
        assert_eq!(budget.pool().free(), 0);
        drop(all);
        assert_eq!(budget.pool().free(), 4);
    }

    #[tokio::test]
    async fn an_ask_that_is_dropped_takes_nothing() {
        let budget = budget(10);
        let all = budget.hold(10 * UNIT).await;
        {
            let waiting = budget.hold(5 * UNIT);
            tokio::pin!(waiting);
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            drop(all);
            assert_eq!(budget.pool().free(), 5, "it is granted, and not taken");
        }
        assert_eq!(budget.pool().free(), 10);
        assert_eq!(budget.waiting(), 0);
    }

    /// Half of a small budget is left free, a push of a usual one, and a quarter of a large one.
    #[test]
    fn an_account_leaves_room_for_a_push_of_another() {
        let aa = Account::of_stanzas(&["aa".parse().unwrap()]);
        let bb = Account::of_stanzas(&["bb".parse().unwrap()]);
        for (total, most) in [(16, 8), (160, 96), (1024, 768)] {
            let budget = Budget::new(total << 20);
            let mib = |number: usize| (number as u64) << 20;
            let _first = ready(budget.hold_for(&aa, mib(1))).unwrap();
            let _rest = ready(budget.hold_for(&aa, mib(most - 1))).unwrap();
            let rest = ready(budget.hold_for(&aa, (total << 20) - mib(most)));
            assert!(rest.is_some(), "nobody else was here");
            drop(rest);
            drop(ready(budget.hold_for(&bb, 1)));
            assert!(ready(budget.hold_for(&aa, 1)).is_none(), "of {total}");
            assert!(ready(budget.hold_for(&bb, (total << 20) - mib(most))).is_some());
        }
    }
}

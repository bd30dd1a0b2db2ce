//! The division of the budget among accounts. Pure: times are given, in the running time of the process.
//!
//! ```text
//! ask ─► queue of the account ─► settle: the account that holds least comes first
//!                                   │
//!                                   ├── it holds nothing, or at most half with this: granted when it fits
//!                                   └── it would hold more than half: granted when the largest ask of each other
//!                                       account that was here lately still fits beside it
//! ```
//!
//! If an account that holds little waits all the same, transfers of the account that holds most are cut, the newest
//! first, until that account is down to an equal share.

use pgmesh_transport::Account;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// An account counts as present for so long after its last ask: longer than between two segments of a quiet cluster.
const PRESENT: Duration = Duration::from_secs(600);
/// A transfer is cut for others at the earliest after so long: an ordinary one is over by then.
pub(super) const TRANSFER_TIME: Duration = Duration::from_secs(1);
/// Accounts that are gone are forgotten this often.
const FORGETTING: Duration = Duration::from_secs(60);

/// An ask, or a transfer, by number.
pub(super) type Ticket = u64;

/// The division of the budget. All amounts are in units.
#[derive(Debug)]
pub(super) struct Pool {
    total: u32,
    free: u32,
    shares: HashMap<Account, Share>,
    transfers: BTreeMap<Ticket, Transfer>,
    tickets: Ticket,
    waiting: usize,
    forgot: Duration,
}

/// One account's part.
#[derive(Debug, Default)]
struct Share {
    held: u32,
    asks: VecDeque<Ask>,
    /// Its largest ask since it came.
    largest: u32,
    seen: Duration,
}

/// Units that are waited for.
#[derive(Debug)]
struct Ask {
    ticket: Ticket,
    units: u32,
    granted: oneshot::Sender<()>,
}

/// A body or an answer under way, for which units are held.
#[derive(Debug)]
struct Transfer {
    account: Account,
    units: u32,
    since: Duration,
    cut: oneshot::Sender<()>,
}

impl Pool {
    pub(super) fn new(total: u32) -> Self {
        Self {
            total,
            free: total,
            shares: HashMap::new(),
            transfers: BTreeMap::new(),
            tickets: 0,
            waiting: 0,
            forgot: Duration::ZERO,
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// How many asks wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Asks for units, at most the whole budget. `granted` is told when the account has them.
    pub(super) fn ask(&mut self, account: &Account, units: u32, granted: oneshot::Sender<()>, now: Duration) -> Ticket {
        self.forget_absent(now);
        let ticket = self.next_ticket();
        let share = self.shares.entry(account.clone()).or_default();
        if now.saturating_sub(share.seen) > PRESENT {
            share.largest = 0;
        }
        share.seen = now;
        share.largest = share.largest.max(units);
        share.asks.push_back(Ask { ticket, units, granted });
        self.waiting += 1;
        self.settle(now);
        ticket
    }

    /// Withdraws an ask; false if it was granted before.
    pub(super) fn withdraw(&mut self, account: &Account, ticket: Ticket, now: Duration) -> bool {
        let Some(share) = self.shares.get_mut(account) else {
            return false;
        };
        let asked = share.asks.len();
        share.asks.retain(|ask| ask.ticket != ticket);
        let is_withdrawn = share.asks.len() < asked;
        if is_withdrawn {
            self.waiting = self.waiting.saturating_sub(1);
            self.settle(now);
        }
        is_withdrawn
    }

    /// Takes units back that the account held.
    pub(super) fn give_back(&mut self, account: &Account, units: u32, now: Duration) {
        self.free = self.free.saturating_add(units).min(self.total);
        if let Some(share) = self.shares.get_mut(account) {
            share.held = share.held.saturating_sub(units);
            share.seen = now;
        }
        self.settle(now);
    }

    /// Whether the account, if its ask waits, waits for others and not for itself.
    pub(super) fn waits_for_others(&self, account: &Account, units: u32) -> bool {
        let held = self.held(account);
        held == 0 || held.saturating_add(units) <= self.half()
    }

    /// A transfer begins, for which the account holds units. `cut` is told when others need them.
    pub(super) fn begin_transfer(
        &mut self,
        account: &Account,
        units: u32,
        cut: oneshot::Sender<()>,
        now: Duration,
    ) -> Ticket {
        let ticket = self.next_ticket();
        let transfer = Transfer {
            account: account.clone(),
            units,
            since: now,
            cut,
        };
        self.transfers.insert(ticket, transfer);
        ticket
    }

    /// A transfer has ended.
    pub(super) fn end_transfer(&mut self, ticket: Ticket) {
        self.transfers.remove(&ticket);
    }

    /// Cuts transfers of accounts that hold more than an equal share, so that this account gets its units.
    pub(super) fn cut_for(&mut self, account: &Account, units: u32, now: Duration) {
        let present = self
            .shares
            .values()
            .filter(|share| share.held > 0 || !share.asks.is_empty());
        let equal = self.total / u32::try_from(present.count()).unwrap_or(u32::MAX).max(1);
        let mut held: HashMap<Account, u32> = self.shares.iter().map(|(of, share)| (of.clone(), share.held)).collect();
        held.remove(account);
        let mut free = self.free;
        while free < units {
            let above = held.iter().filter(|(_, held)| **held > equal);
            let Some(most) = above.max_by_key(|(_, held)| **held).map(|(of, _)| of.clone()) else {
                return;
            };
            let newest = self.transfers.iter().rev();
            let mut newest = newest.filter(|(_, transfer)| {
                transfer.account == most && now.saturating_sub(transfer.since) >= TRANSFER_TIME
            });
            let Some(transfer) = newest.next().map(|(ticket, _)| *ticket) else {
                held.remove(&most);
                continue;
            };
            if let Some(transfer) = self.transfers.remove(&transfer) {
                free = free.saturating_add(transfer.units);
                if let Some(held) = held.get_mut(&most) {
                    *held = held.saturating_sub(transfer.units);
                }
                // If nobody listens any more, the transfer has just ended.
                let _ = transfer.cut.send(());
            }
        }
    }

    /// Grants asks, those of the account that holds least first, until one does not fit: the free units are kept for
    /// that one.
    fn settle(&mut self, now: Duration) {
        while self.waiting > 0 {
            let askers = self.shares.iter().filter_map(|(account, share)| {
                let ask = share.asks.front()?;
                self.may_take(account, share.held, ask.units, now)
                    .then_some((share.held, ask.ticket, ask.units, account))
            });
            let Some((_, _, units, account)) = askers.min_by_key(|(held, ticket, _, _)| (*held, *ticket)) else {
                return;
            };
            if units > self.free {
                return;
            }
            let account = account.clone();
            self.grant(&account);
        }
    }

    fn grant(&mut self, account: &Account) {
        let Some(share) = self.shares.get_mut(account) else {
            return;
        };
        let Some(ask) = share.asks.pop_front() else {
            return;
        };
        self.waiting = self.waiting.saturating_sub(1);
        share.held = share.held.saturating_add(ask.units);
        self.free = self.free.saturating_sub(ask.units);
        // An asker that has gone withdraws its ask, finds it granted, and gives the units back.
        let _ = ask.granted.send(());
    }

    /// Whether an account may have more, if there is enough.
    fn may_take(&self, account: &Account, held: u32, units: u32, now: Duration) -> bool {
        if held == 0 || held.saturating_add(units) <= self.half() {
            return true;
        }
        let is_present = |share: &&Share| share.held > 0 || now.saturating_sub(share.seen) <= PRESENT;
        let others = self.shares.iter().filter(|(other, _)| *other != account);
        let others = others.map(|(_, share)| share).filter(is_present);
        let largest = others.map(|share| share.largest.min(self.half())).max();
        self.free.saturating_sub(units) >= largest.unwrap_or_default()
    }

    fn forget_absent(&mut self, now: Duration) {
        if now.saturating_sub(self.forgot) < FORGETTING {
            return;
        }
        self.forgot = now;
        self.shares
            .retain(|_, share| share.held > 0 || !share.asks.is_empty() || now.saturating_sub(share.seen) <= PRESENT);
    }

    fn held(&self, account: &Account) -> u32 {
        self.shares.get(account).map_or(0, |share| share.held)
    }

    fn half(&self) -> u32 {
        self.total / 2
    }

    fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(name: &str) -> Account {
        Account::of_stanzas(&[name.parse().unwrap()])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An asker, and whether it has been granted its units.
    struct Asked {
        ticket: Ticket,
        granted: oneshot::Receiver<()>,
    }

    impl Asked {
        fn of(pool: &mut Pool, account: &Account, units: u32, now: Duration) -> Self {
            let (sender, granted) = oneshot::channel();
            let ticket = pool.ask(account, units, sender, now);
            Self { ticket, granted }
        }

        fn is_granted(&mut self) -> bool {
            self.granted.try_recv().is_ok()
        }
    }

    #[test]
    fn an_account_alone_has_all() {
        let (mut pool, a) = (Pool::new(100), account("a"));
        for _ in 0..10 {
            assert!(Asked::of(&mut pool, &a, 10, at(0)).is_granted());
        }
        assert_eq!(pool.free(), 0);
        let mut large = Asked::of(&mut pool, &a, 100, at(0));
        assert!(!large.is_granted());
        pool.give_back(&a, 100, at(1));
        assert!(large.is_granted());
    }

    /// One account holds more than half only as far as the others' largest ask still fits at once.
    #[test]
    fn an_account_that_takes_all_it_can_leaves_room_for_each_that_was_here_lately() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        assert!(Asked::of(&mut pool, &b, 30, at(0)).is_granted());
        pool.give_back(&b, 30, at(0));
        let granted = (0..10)
            .filter(|_| Asked::of(&mut pool, &a, 10, at(1)).is_granted())
            .count();
        assert_eq!((granted, pool.free()), (7, 30));
        assert!(Asked::of(&mut pool, &b, 30, at(2)).is_granted());
        pool.give_back(&b, 30, at(2));
        assert_eq!(pool.free(), 30);
        // An account that has not come for a long time is not waited for.
        pool.give_back(&a, 10, at(700));
        assert_eq!(pool.free(), 10, "the three that waited have theirs");
    }

    #[test]
    fn the_account_that_holds_least_comes_first() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        assert!(Asked::of(&mut pool, &a, 50, at(0)).is_granted());
        assert!(Asked::of(&mut pool, &a, 50, at(0)).is_granted());
        let mut again = Asked::of(&mut pool, &a, 50, at(1));
        let mut other = Asked::of(&mut pool, &b, 40, at(2));
        pool.give_back(&a, 50, at(3));
        assert!(other.is_granted() && !again.is_granted());
        assert!(pool.waits_for_others(&b, 10) && !pool.waits_for_others(&a, 10));
    }

    #[test]
    fn the_newest_transfers_of_the_account_that_holds_most_are_cut_and_no_more_than_is_needed() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        let mut cuts = Vec::new();
        for _ in 0..10 {
            assert!(Asked::of(&mut pool, &a, 10, at(0)).is_granted());
            let (sender, cut) = oneshot::channel();
            pool.begin_transfer(&a, 10, sender, at(0));
            cuts.push(cut);
        }
        let mut other = Asked::of(&mut pool, &b, 20, at(0));
        pool.cut_for(&b, 20, at(0));
        assert!(
            cuts.iter_mut().all(|cut| cut.try_recv().is_err()),
            "they may be over soon"
        );
        pool.cut_for(&b, 20, at(2));
        let cut: Vec<bool> = cuts.iter_mut().map(|cut| cut.try_recv().is_ok()).collect();
        assert_eq!(
            cut,
            [false, false, false, false, false, false, false, false, true, true]
        );
        pool.give_back(&a, 20, at(2));
        assert!(other.is_granted());
        // An account that has its equal share keeps it.
        pool.cut_for(&a, 100, at(9));
        pool.cut_for(&b, 90, at(9));
        let cut = cuts.iter_mut().filter_map(|cut| cut.try_recv().ok()).count();
        assert_eq!(cut, 3, "down to half");
    }

    #[test]
    fn an_ask_that_is_given_up_holds_nobody_up() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        assert!(Asked::of(&mut pool, &a, 60, at(0)).is_granted());
        let large = Asked::of(&mut pool, &b, 100, at(0));
        let mut small = Asked::of(&mut pool, &account("c"), 10, at(0));
        assert!(!small.is_granted(), "the free units are kept for the first");
        assert!(pool.withdraw(&b, large.ticket, at(1)));
        assert!(small.is_granted());
        assert!(!pool.withdraw(&b, large.ticket, at(1)));
    }

    proptest! {
        /// Whatever is asked and given back: no more is granted than there is, all comes back, and nobody waits for
        /// ever.
        #[test]
        fn units_are_neither_made_nor_lost(steps: Vec<(u8, u8, bool)>) {
            let mut pool = Pool::new(100);
            let mut held: Vec<(Account, u32)> = Vec::new();
            let mut asked: Vec<(Account, u32, Asked)> = Vec::new();
            for (number, (name, units, gives_back)) in steps.into_iter().enumerate() {
                let now = at(number as u64);
                let account = account(&format!("s{}", name % 4));
                if gives_back && !held.is_empty() {
                    let (account, units) = held.swap_remove(usize::from(units) % held.len());
                    pool.give_back(&account, units, now);
                } else {
                    let units = u32::from(units).min(100);
                    asked.push((account.clone(), units, Asked::of(&mut pool, &account, units, now)));
                }
                collect(&mut asked, &mut held);
                let sum: u32 = held.iter().map(|(_, units)| units).sum();
                prop_assert_eq!(sum + pool.free(), 100);
            }
            while let Some((account, units)) = held.pop() {
                pool.give_back(&account, units, at(10_000));
                collect(&mut asked, &mut held);
            }
            prop_assert_eq!((asked.len(), pool.free(), pool.waiting()), (0, 100, 0));
        }
    }

    fn collect(asked: &mut Vec<(Account, u32, Asked)>, held: &mut Vec<(Account, u32)>) {
        for (account, units, mut ask) in std::mem::take(asked) {
            match ask.is_granted() {
                true => held.push((account, units)),
                false => asked.push((account, units, ask)),
            }
        }
    }
}

//! The division of the budget among accounts. Pure: times are given, in the running time of the process.
//!
//! ```text
//! ask ─► queue of the account ─► the account that holds least comes first; after TURN, the ask that waits longest
//!                                   │
//!                                   ├── it holds nothing, or at most half with this: granted when it fits
//!                                   ├── it would hold more than half: granted when the largest asks of all other
//!                                   │   accounts that were here lately still fit beside it
//!                                   └── it does not fit: free memory is kept for it, in turns; smaller asks pass
//! ```

use pgmesh_transport::Account;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// An account counts as present for so long after its last ask: longer than between two segments of a quiet cluster.
const PRESENT: Duration = Duration::from_secs(600);
/// An ask that does not fit keeps free memory in turns of this length.
pub(super) const TURN: Duration = if cfg!(test) {
    Duration::from_millis(500)
} else {
    Duration::from_secs(10)
};
/// Accounts that are gone are forgotten this often.
const FORGETTING: Duration = Duration::from_secs(60);

/// An ask, by number.
pub(super) type Ticket = u64;

/// The division of the budget. All amounts are in units.
#[derive(Debug)]
pub(super) struct Pool {
    total: u32,
    free: u32,
    shares: HashMap<Account, Share>,
    tickets: Ticket,
    waiting: usize,
    forgot: Duration,
}

/// One account's part.
#[derive(Debug, Default)]
struct Share {
    held: u32,
    asks: VecDeque<Ask>,
    /// When its first ask became the first.
    first_since: Duration,
    /// Its largest ask, since it came, that was granted.
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

/// The first ask of an account, as far as its order and its units are concerned.
struct First<'p> {
    account: &'p Account,
    held: u32,
    ticket: Ticket,
    units: u32,
    waited: Duration,
}

impl First<'_> {
    /// An ask that has waited for a turn comes first, in the order in which they came. Else the account that holds
    /// least does.
    fn order(&self) -> (bool, u32, Ticket) {
        match self.waited >= TURN {
            true => (false, 0, self.ticket),
            false => (true, self.held, self.ticket),
        }
    }

    /// The free units that are kept for it while it does not fit: in its first turn at most half of the budget, so that
    /// smaller asks pass a large one; in the second turn all that it needs; in the third none, since the memory that is
    /// missing may belong to slow transfers; and so on.
    fn keeps(&self, half: u32) -> u32 {
        match self.waited.as_millis() / TURN.as_millis() % 3 {
            0 => self.units.min(half),
            1 => self.units,
            _ => 0,
        }
    }
}

impl Pool {
    pub(super) fn new(total: u32) -> Self {
        Self {
            total,
            free: total,
            shares: HashMap::new(),
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
        self.tickets += 1;
        let ticket = self.tickets;
        let share = self.shares.entry(account.clone()).or_default();
        if now.saturating_sub(share.seen) > PRESENT {
            share.largest = 0;
        }
        share.seen = now;
        if share.asks.is_empty() {
            share.first_since = now;
        }
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
        if share.asks.front().is_some_and(|first| first.ticket == ticket) {
            share.first_since = now;
        }
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

    /// Grants the asks that may have their units now. A change of turns grants some, too: it is called again and again
    /// while asks wait.
    pub(super) fn settle(&mut self, now: Duration) {
        while self.waiting > 0 {
            let Some(account) = self.next(now).cloned() else {
                return;
            };
            self.grant(&account, now);
        }
    }

    /// The account whose first ask is granted next.
    fn next(&self, now: Duration) -> Option<&Account> {
        let firsts = self.shares.iter().filter_map(|(account, share)| {
            let ask = share.asks.front()?;
            self.may_take(account, share.held, ask.units, now).then_some(First {
                account,
                held: share.held,
                ticket: ask.ticket,
                units: ask.units,
                waited: now.saturating_sub(share.first_since),
            })
        });
        let mut firsts: Vec<First<'_>> = firsts.collect();
        firsts.sort_by_key(First::order);
        let mut spare = self.free;
        for first in firsts {
            if first.units <= spare {
                return Some(first.account);
            }
            spare = spare.saturating_sub(first.keeps(self.half()));
        }
        None
    }

    fn grant(&mut self, account: &Account, now: Duration) {
        let Some(share) = self.shares.get_mut(account) else {
            return;
        };
        let Some(ask) = share.asks.pop_front() else {
            return;
        };
        self.waiting = self.waiting.saturating_sub(1);
        share.first_since = now;
        share.held = share.held.saturating_add(ask.units);
        // No room is kept for the node's own work and its administrators: it comes seldom, and after a turn at most.
        if *account != Account::Mesh {
            share.largest = share.largest.max(ask.units);
        }
        self.free = self.free.saturating_sub(ask.units);
        // An asker that has gone withdraws its ask, finds it granted, and gives the units back.
        let _ = ask.granted.send(());
    }

    /// Whether an account may have more, if there is enough: up to half of the budget it always may, and beyond half as
    /// far as it leaves room for the largest ask of each other account that is present.
    fn may_take(&self, account: &Account, held: u32, units: u32, now: Duration) -> bool {
        let then = held.saturating_add(units);
        if held == 0 || then <= self.half() {
            return true;
        }
        let is_present = |share: &&Share| share.held > 0 || now.saturating_sub(share.seen) <= PRESENT;
        let others = self.shares.iter().filter(|(other, _)| *other != account);
        let others = others.map(|(_, share)| share).filter(is_present);
        let room = others.fold(0_u32, |room, share| room.saturating_add(share.largest));
        then <= self.total.saturating_sub(room.min(self.half()))
    }

    fn forget_absent(&mut self, now: Duration) {
        if now.saturating_sub(self.forgot) < FORGETTING {
            return;
        }
        self.forgot = now;
        self.shares
            .retain(|_, share| share.held > 0 || !share.asks.is_empty() || now.saturating_sub(share.seen) <= PRESENT);
    }

    fn half(&self) -> u32 {
        self.total / 2
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

    /// The room of one account is not used up by another one.
    #[test]
    fn room_is_left_for_each_other_account() {
        let (mut pool, a, b, c) = (Pool::new(100), account("a"), account("b"), account("c"));
        for other in [&b, &c] {
            assert!(Asked::of(&mut pool, other, 20, at(0)).is_granted());
            pool.give_back(other, 20, at(0));
        }
        let granted = (0..10).filter(|_| Asked::of(&mut pool, &a, 10, at(1)).is_granted());
        assert_eq!(granted.count(), 6);
        assert!(Asked::of(&mut pool, &b, 20, at(2)).is_granted());
        assert!(Asked::of(&mut pool, &c, 20, at(2)).is_granted());
    }

    #[test]
    fn the_account_that_holds_least_comes_first() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        assert!(Asked::of(&mut pool, &a, 50, at(0)).is_granted());
        assert!(Asked::of(&mut pool, &a, 50, at(0)).is_granted());
        let mut again = Asked::of(&mut pool, &a, 50, at(0));
        let mut other = Asked::of(&mut pool, &b, 40, at(0));
        pool.give_back(&a, 50, at(0));
        assert!(other.is_granted() && !again.is_granted());
    }

    #[test]
    fn an_ask_that_is_given_up_holds_nobody_up() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        assert!(Asked::of(&mut pool, &a, 60, at(0)).is_granted());
        let large = Asked::of(&mut pool, &b, 50, at(0));
        let mut small = Asked::of(&mut pool, &account("c"), 10, at(0));
        assert!(!small.is_granted(), "the free units are kept for the first");
        assert!(pool.withdraw(&b, large.ticket, at(0)));
        assert!(small.is_granted());
        assert!(!pool.withdraw(&b, large.ticket, at(0)));
    }

    /// An ask of the whole budget leaves half of it to others, then has a turn in which all that comes back is its own,
    /// and then a turn in which it stands back.
    #[test]
    fn a_large_ask_holds_others_up_for_one_turn() {
        let (mut pool, a, b, c) = (Pool::new(100), account("a"), account("b"), account("c"));
        assert!(Asked::of(&mut pool, &a, 20, at(0)).is_granted());
        let mut large = Asked::of(&mut pool, &b, 100, at(0));
        let small = |pool: &mut Pool, now| {
            let mut ask = Asked::of(pool, &c, 30, now);
            let is_granted = ask.is_granted();
            match is_granted {
                true => pool.give_back(&c, 30, now),
                false => assert!(pool.withdraw(&c, ask.ticket, now)),
            }
            is_granted
        };
        assert!(small(&mut pool, at(0)));
        assert!(!small(&mut pool, TURN));
        assert!(small(&mut pool, 2 * TURN), "the memory of a may not come back for long");
        assert!(small(&mut pool, 3 * TURN));
        assert!(!small(&mut pool, 4 * TURN));
        pool.give_back(&a, 20, 4 * TURN);
        assert!(large.is_granted());
    }

    /// Many small asks of accounts that hold less do not keep an ask waiting for ever: the node's own, for example.
    #[test]
    fn an_ask_that_has_waited_for_a_turn_comes_first() {
        let mut pool = Pool::new(100);
        let mesh = Account::Mesh;
        assert!(Asked::of(&mut pool, &mesh, 40, at(0)).is_granted());
        let clients = ["a", "b", "c"].map(account);
        for client in &clients {
            assert!(Asked::of(&mut pool, client, 20, at(0)).is_granted());
        }
        let mut own = Asked::of(&mut pool, &mesh, 10, at(0));
        let again: Vec<_> = clients
            .iter()
            .map(|client| Asked::of(&mut pool, client, 20, at(0)))
            .collect();
        pool.give_back(&clients[0], 20, TURN / 2);
        assert!(!own.is_granted(), "an account that holds less comes first");
        pool.give_back(&clients[1], 20, TURN);
        assert!(own.is_granted());
        drop(again);
    }

    /// Room is kept for asks that were granted, and none for the node's own.
    #[test]
    fn an_ask_that_was_not_granted_keeps_no_room() {
        let (mut pool, a, b) = (Pool::new(100), account("a"), account("b"));
        assert!(Asked::of(&mut pool, &Account::Mesh, 50, at(0)).is_granted());
        let greedy = Asked::of(&mut pool, &b, 90, at(0));
        assert!(pool.withdraw(&b, greedy.ticket, at(0)));
        pool.give_back(&Account::Mesh, 50, at(0));
        let granted = (0..10).filter(|_| Asked::of(&mut pool, &a, 10, at(1)).is_granted());
        assert_eq!(granted.count(), 10);
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

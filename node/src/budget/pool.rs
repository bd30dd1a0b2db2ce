//! The division of the budget among accounts. Pure: times are given, in the running time of the process.
//!
//! ```text
//! ask ─► queue of its account ─► the first asks of all accounts: who holds least comes first
//!                                  ├── the account holds nothing, or is alone: granted where it is free
//!                                  ├── the account holds some: granted where `room` stays free beside it
//!                                  └── it has waited for PATIENCE: it comes first, and free units are kept for it
//! ```
//!
//! So an account that takes all it can get leaves room for a push of each other account, one after the other. Nothing
//! is ended for others, but for one case: [`Pool::end_overdue`].

use pgmesh_transport::Account;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// An account counts as present for so long after its last ask: longer than between two segments of a quiet cluster.
const PRESENT: Duration = Duration::from_secs(600);
/// When an account has waited for so long, its ask comes first, and free units are kept for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for the node's own work and for other nodes: nobody waits for their answers.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Free units are kept for so long, and then for so long not: the units that are missing may belong to slow transfers.
const KEEPING: Duration = Duration::from_secs(60);
/// When an account has waited for so long, the one that holds most has to end some of its transfers. An
/// `archive-push` asks another node after half of its time, 30 s.
const OVERDUE: Duration = Duration::from_secs(10);
/// A transfer is looked at for so long before it is called slow.
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes a second. The oldest transfer of an account is ended, too, if it is slower.
const SLOW: u64 = 4 << 10;
/// An ask that was withdrawn and comes again within this time has waited since then: a client asks again when it has
/// heard nothing.
const COMING_AGAIN: Duration = Duration::from_secs(15);

/// Which asks of an account come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// PostgreSQL waits for a push, and stops when its disk is full of WAL.
    Push,
    /// Everything else.
    Usual,
}

/// An ask or a transfer, by number.
pub(super) type Ticket = u64;

/// The division of the budget. All amounts are in units.
#[derive(Debug)]
pub(super) struct Pool {
    total: u32,
    free: u32,
    /// The units that an account which holds some leaves free.
    room: u32,
    shares: HashMap<Account, Share>,
    tickets: Ticket,
    waiting: usize,
}

/// One account's part. It is forgotten when it holds nothing, asks for nothing, and was not here for [`PRESENT`].
#[derive(Debug, Default)]
struct Share {
    held: u32,
    asks: VecDeque<Ask>,
    /// Since when it waits, while it gets nothing.
    late_since: Option<Duration>,
    /// Its last ask or return.
    seen: Duration,
    /// Its requests that send or receive in memory that they hold, the oldest first.
    transfers: BTreeMap<Ticket, Transfer>,
}

/// Units that are waited for.
#[derive(Debug)]
struct Ask {
    ticket: Ticket,
    units: u32,
    urgency: Urgency,
    granted: oneshot::Sender<()>,
}

/// Bytes on their way from or to a client, of one request.
#[derive(Debug)]
struct Transfer {
    units: u32,
    since: Duration,
    /// The bytes that have moved so far.
    moved: Arc<AtomicU64>,
    /// Whether bytes are to move now: else the node works on them.
    is_active: Arc<AtomicBool>,
    /// The bytes that had moved at a time.
    mark: (Duration, u64),
    is_slow: bool,
    /// Dropped when the transfer has to end.
    end: Option<oneshot::Sender<()>>,
}

impl Transfer {
    fn look(&mut self, now: Duration) {
        let (since, before) = self.mark;
        let took = now.saturating_sub(since);
        let moved = self.moved.load(Ordering::Relaxed);
        if !self.is_active.load(Ordering::Relaxed) {
            (self.mark, self.is_slow) = ((now, moved), false);
        } else if took >= WINDOW {
            self.is_slow = moved.saturating_sub(before) < SLOW.saturating_mul(took.as_secs());
            self.mark = (now, moved);
        }
    }
}

/// The first ask of an account, as far as its order matters.
struct First<'p> {
    account: &'p Account,
    held: u32,
    ticket: Ticket,
    units: u32,
    waited: Duration,
}

impl First<'_> {
    fn patience(&self) -> Duration {
        match self.account {
            Account::Nodes => LONG_PATIENCE,
            _ => PATIENCE,
        }
    }

    fn has_waited(&self) -> bool {
        self.waited >= self.patience()
    }

    fn order(&self) -> (bool, u32, std::cmp::Reverse<Duration>, Ticket) {
        let held = if self.has_waited() { 0 } else { self.held };
        (!self.has_waited(), held, std::cmp::Reverse(self.waited), self.ticket)
    }

    /// Whether free units are kept for it: else smaller asks would pass it for ever.
    fn keeps(&self, most: u32) -> bool {
        let over = self.waited.saturating_sub(self.patience());
        let is_fair = self.held == 0 || self.held.saturating_add(self.units) <= most;
        self.has_waited() && is_fair && (over.as_millis() / KEEPING.as_millis()).is_multiple_of(2)
    }
}

impl Pool {
    /// A pool of so many units, of which each account that holds some leaves `room` free for others.
    pub(super) fn new(total: u32, room: u32) -> Self {
        Self {
            total,
            free: total,
            room,
            shares: HashMap::new(),
            tickets: 0,
            waiting: 0,
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

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    /// Asks for units, at most the whole budget. `granted` is told when the account has them.
    pub(super) fn ask(
        &mut self,
        account: &Account,
        (units, urgency): (u32, Urgency),
        granted: oneshot::Sender<()>,
        now: Duration,
    ) -> Ticket {
        let ticket = self.ticket();
        let share = self.shares.entry(account.clone()).or_default();
        let is_new = now.saturating_sub(share.seen) > COMING_AGAIN;
        if share.asks.is_empty() && (is_new || share.late_since.is_none()) {
            share.late_since = Some(now);
        }
        share.seen = now;
        let place = share.asks.partition_point(|ask| ask.urgency <= urgency);
        let ask = Ask {
            ticket,
            units: units.min(self.total),
            urgency,
            granted,
        };
        share.asks.insert(place, ask);
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
        if share.asks.len() == asked {
            return false;
        }
        share.seen = now;
        self.waiting = self.waiting.saturating_sub(1);
        self.settle(now);
        true
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

    /// The bytes of a request begin to move in units that the account holds. `end` is dropped when they have to stop.
    pub(super) fn begin(
        &mut self,
        account: &Account,
        units: u32,
        (moved, is_active): (Arc<AtomicU64>, Arc<AtomicBool>),
        end: oneshot::Sender<()>,
        now: Duration,
    ) -> Ticket {
        let ticket = self.ticket();
        let mark = (now, moved.load(Ordering::Relaxed));
        let transfer = Transfer {
            units,
            since: now,
            moved,
            is_active,
            mark,
            is_slow: false,
            end: Some(end),
        };
        let share = self.shares.entry(account.clone()).or_default();
        share.transfers.insert(ticket, transfer);
        ticket
    }

    /// The bytes have moved, or will not any more.
    pub(super) fn end(&mut self, account: &Account, ticket: Ticket) {
        if let Some(share) = self.shares.get_mut(account) {
            share.transfers.remove(&ticket);
        }
    }

    /// Looks at what the passing of time changes: the accounts that are present, and for whom units are kept.
    pub(super) fn look(&mut self, now: Duration) {
        self.shares.retain(|_, share| {
            let is_used = share.held > 0 || !share.asks.is_empty() || !share.transfers.is_empty();
            is_used || now.saturating_sub(share.seen) <= PRESENT
        });
        self.settle(now);
    }

    /// Grants the asks that may have their units now.
    fn settle(&mut self, now: Duration) {
        while self.waiting > 0 {
            let Some(account) = self.next(now) else { return };
            self.grant(&account, now);
        }
    }

    /// The first asks of all accounts, in the order in which they are granted.
    fn firsts(&self, now: Duration) -> Vec<First<'_>> {
        let firsts = self.shares.iter().filter_map(|(account, share)| {
            let ask = share.asks.front()?;
            let since = share.late_since.unwrap_or(now);
            Some(First {
                account,
                held: share.held,
                ticket: ask.ticket,
                units: ask.units,
                waited: now.saturating_sub(since),
            })
        });
        let mut firsts: Vec<First<'_>> = firsts.collect();
        firsts.sort_by_key(First::order);
        firsts
    }

    /// The account whose first ask is granted next.
    fn next(&self, now: Duration) -> Option<Account> {
        for first in self.firsts(now) {
            if first.units.saturating_add(self.room_beside(&first, now)) <= self.free {
                return Some(first.account.clone());
            }
            if first.keeps(self.total.saturating_sub(self.room)) {
                return None;
            }
        }
        None
    }

    /// The units that stay free when an ask is granted. None for an account that holds nothing, that is the only client
    /// of late, or that has waited and holds no more than leaves the room.
    fn room_beside(&self, first: &First<'_>, now: Duration) -> u32 {
        let is_present = |share: &Share| share.held > 0 || now.saturating_sub(share.seen) <= PRESENT;
        let is_other = |account: &Account| account != first.account && matches!(account, Account::Stanzas(_));
        let is_fair = first.held.saturating_add(first.units) <= self.total.saturating_sub(self.room);
        let mut others = self.shares.iter();
        match first.held > 0
            && !(first.has_waited() && is_fair)
            && others.any(|(account, share)| is_other(account) && is_present(share))
        {
            true => self.room,
            false => 0,
        }
    }

    fn grant(&mut self, account: &Account, now: Duration) {
        let Some(share) = self.shares.get_mut(account) else {
            return;
        };
        let Some(ask) = share.asks.pop_front() else { return };
        self.waiting = self.waiting.saturating_sub(1);
        share.late_since = (!share.asks.is_empty()).then_some(now);
        share.held = share.held.saturating_add(ask.units);
        self.free = self.free.saturating_sub(ask.units);
        // An asker that has gone withdraws its ask, finds it granted, and gives the units back.
        let _ = ask.granted.send(());
    }

    /// Ends a transfer where another client's account waits for too long: the youngest one of the account that holds
    /// most, if that is more than its part of the budget by the number of accounts. The oldest one goes on, since a
    /// slow link would never get anything done otherwise, unless it hardly moves. Nothing is ended in vain: with what
    /// is free the ask has to fit. The account and what it held, if one was ended.
    pub(super) fn end_overdue(&mut self, now: Duration) -> Option<(Account, u64)> {
        for transfer in self.shares.values_mut().flat_map(|share| share.transfers.values_mut()) {
            transfer.look(now);
        }
        if self.waiting == 0 {
            return None;
        }
        let is_used = |share: &&Share| share.held > 0 || !share.asks.is_empty();
        let accounts = self.shares.values().filter(is_used).count().max(1);
        let part = self.total / u32::try_from(accounts).unwrap_or(u32::MAX);
        let firsts = self.firsts(now);
        let late = firsts.iter().find(|first| {
            let is_client = *first.account != Account::Nodes;
            is_client && first.held < part && first.waited >= OVERDUE
        })?;
        let needed = late.units.saturating_add(self.room_beside(late, now));
        let missing = needed.saturating_sub(self.free);
        let late = late.account.clone();
        let others = self
            .shares
            .iter()
            .filter(|(account, share)| **account != late && share.held > part);
        let helping = others.filter(|(_, share)| share.ending(now).map(|(_, units)| units).sum::<u32>() >= missing);
        let (account, _) = helping.max_by_key(|(_, share)| share.held)?;
        let account = account.clone();
        let share = self.shares.get_mut(&account)?;
        let (ticket, _) = share.ending(now).next_back()?;
        share.transfers.get_mut(&ticket)?.end = None;
        Some((account, u64::from(share.held)))
    }
}

impl Share {
    /// The transfers that may be ended, with their units, the oldest first.
    fn ending(&self, now: Duration) -> impl DoubleEndedIterator<Item = (Ticket, u32)> + '_ {
        let oldest = self.transfers.keys().next().copied();
        self.transfers.iter().filter_map(move |(ticket, transfer)| {
            // What has begun just now frees little, and its client would come again at once.
            let is_young = now.saturating_sub(transfer.since) < PATIENCE;
            let is_kept = Some(*ticket) == oldest && !transfer.is_slow;
            let is_active = transfer.is_active.load(Ordering::Relaxed);
            let may_end = transfer.end.is_some() && is_active && !is_young && !is_kept;
            may_end.then_some((*ticket, transfer.units))
        })
    }
}

#[cfg(test)]
mod tests;

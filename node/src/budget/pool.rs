//! The division of the budget among accounts. Pure: times are given, in the running time of the process.
//!
//! ```text
//! ask ─► queue of its account ─► the first asks of all accounts: who holds least comes first
//!                                  ├── the account holds nothing: granted where it is free
//!                                  ├── the account holds some: granted where `room` stays free beside it
//!                                  └── it has waited for PATIENCE: it comes first, and free units are kept for it
//! ```
//!
//! So an account that takes all it can get leaves room for a push of each other account, one after the other. Nothing
//! is ended for others, but for one case: [`Pool::overdue`].

use pgmesh_transport::Account;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// An ask that has waited for so long comes first, and free units are kept for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// When an ask has waited for so long, the account that holds most has to end some of its transfers.
const OVERDUE: Duration = Duration::from_secs(30);
/// The oldest transfer of an account is ended, too, when it has taken so long and is slower than [`SLOW`].
const GRACE: Duration = Duration::from_secs(60);
/// Bytes a second.
const SLOW: u64 = 16 << 10;

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

/// One account's part. It is forgotten when it holds nothing and asks for nothing.
#[derive(Debug, Default)]
struct Share {
    held: u32,
    asks: VecDeque<Ask>,
    /// What it sends or receives in memory that it holds, the oldest first.
    transfers: BTreeMap<Ticket, Transfer>,
}

/// Units that are waited for.
#[derive(Debug)]
struct Ask {
    ticket: Ticket,
    units: u32,
    since: Duration,
    granted: oneshot::Sender<()>,
}

/// Bytes on their way from or to a client.
#[derive(Debug)]
struct Transfer {
    since: Duration,
    /// How long they may take at [`SLOW`].
    limit: Duration,
    /// Dropped when the transfer has to end.
    end: Option<oneshot::Sender<()>>,
}

/// The first ask of an account, as far as its order matters.
struct First<'p> {
    account: &'p Account,
    held: u32,
    ticket: Ticket,
    units: u32,
    has_waited: bool,
}

impl First<'_> {
    fn order(&self) -> (bool, u32, Ticket) {
        match self.has_waited {
            true => (false, 0, self.ticket),
            false => (true, self.held, self.ticket),
        }
    }
}

impl Pool {
    /// A pool of so many units, of which each account that holds some leaves `room` free.
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
    pub(super) fn ask(&mut self, account: &Account, units: u32, granted: oneshot::Sender<()>, now: Duration) -> Ticket {
        let ticket = self.ticket();
        let ask = Ask {
            ticket,
            units: units.min(self.total),
            since: now,
            granted,
        };
        self.shares.entry(account.clone()).or_default().asks.push_back(ask);
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
        self.waiting = self.waiting.saturating_sub(1);
        self.forget(account);
        self.settle(now);
        true
    }

    /// Takes units back that the account held.
    pub(super) fn give_back(&mut self, account: &Account, units: u32, now: Duration) {
        self.free = self.free.saturating_add(units).min(self.total);
        if let Some(share) = self.shares.get_mut(account) {
            share.held = share.held.saturating_sub(units);
        }
        self.forget(account);
        self.settle(now);
    }

    /// Bytes begin to move in memory that the account holds. `end` is dropped when they have to stop.
    pub(super) fn begin(&mut self, account: &Account, length: u64, end: oneshot::Sender<()>, now: Duration) -> Ticket {
        let ticket = self.ticket();
        let transfer = Transfer {
            since: now,
            limit: GRACE + Duration::from_secs(length / SLOW),
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
        self.forget(account);
    }

    fn forget(&mut self, account: &Account) {
        let is_gone = |share: &Share| share.held == 0 && share.asks.is_empty() && share.transfers.is_empty();
        if self.shares.get(account).is_some_and(is_gone) {
            self.shares.remove(account);
        }
    }

    /// Grants the asks that may have their units now.
    fn settle(&mut self, now: Duration) {
        while self.waiting > 0 {
            let Some(account) = self.next(now) else { return };
            self.grant(&account);
        }
    }

    /// The account whose first ask is granted next.
    fn next(&self, now: Duration) -> Option<Account> {
        let firsts = self.shares.iter().filter_map(|(account, share)| {
            let ask = share.asks.front()?;
            Some(First {
                account,
                held: share.held,
                ticket: ask.ticket,
                units: ask.units,
                has_waited: now.saturating_sub(ask.since) >= PATIENCE,
            })
        });
        let mut firsts: Vec<First<'_>> = firsts.collect();
        firsts.sort_by_key(First::order);
        for first in firsts {
            let room = if first.held == 0 { 0 } else { self.room };
            if first.units.saturating_add(room) <= self.free {
                return Some(first.account.clone());
            }
            // Else smaller asks would pass it for ever.
            if first.has_waited && first.held == 0 {
                return None;
            }
        }
        None
    }

    fn grant(&mut self, account: &Account) {
        let Some(share) = self.shares.get_mut(account) else {
            return;
        };
        let Some(ask) = share.asks.pop_front() else { return };
        self.waiting = self.waiting.saturating_sub(1);
        share.held = share.held.saturating_add(ask.units);
        self.free = self.free.saturating_sub(ask.units);
        // An asker that has gone withdraws its ask, finds it granted, and gives the units back.
        let _ = ask.granted.send(());
    }

    /// Ends a transfer where another account waits for too long: the youngest one of the account that holds most, if
    /// that is more than its part of the budget by the number of accounts. The oldest one goes on, since a slow link
    /// would never get anything done otherwise, unless it hardly moves. The account and what it held, if one was ended.
    pub(super) fn overdue(&mut self, now: Duration) -> Option<(Account, u64)> {
        if self.waiting == 0 {
            return None;
        }
        let accounts = u32::try_from(self.shares.len()).unwrap_or(u32::MAX).max(1);
        let part = self.total / accounts;
        let is_late = |share: &Share| {
            let first = share.asks.front();
            share.held < part && first.is_some_and(|ask| now.saturating_sub(ask.since) >= OVERDUE)
        };
        let late = self.shares.iter().find(|(_, share)| is_late(share))?.0.clone();
        let others = self
            .shares
            .iter_mut()
            .filter(|(account, share)| **account != late && share.held > part);
        let (account, most) = others.max_by_key(|(_, share)| share.held)?;
        let oldest = most.transfers.keys().next().copied();
        let may_end = |(ticket, transfer): &(&Ticket, &mut Transfer)| {
            let took = now.saturating_sub(transfer.since);
            // What has begun just now frees little, and its client would come again at once.
            transfer.end.is_some() && took >= PATIENCE && (Some(**ticket) != oldest || took >= transfer.limit)
        };
        let (_, transfer) = most.transfers.iter_mut().rev().find(may_end)?;
        transfer.end = None;
        Some((account.clone(), u64::from(most.held)))
    }
}

#[cfg(test)]
mod tests;

//! The share of each account in a server's connections, windows and streams.
//!
//! A connection costs memory that no budget counts: its state, the bytes that have arrived and are not read yet, and a
//! task for each open stream. So an account ([`Account`]) has a few connections with large windows, and more with small
//! ones ([`Rank`]). All clients together leave room for nodes (decision 42).
//!
//! ```text
//! Session ──► Arc<Guest> ◄── each open stream
//! ```
//!
//! A connection counts until its last stream has ended: a client that connects again gets no more.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    account::Account,
    tuning::{MAX_SESSIONS, Rank},
};

/// Connections of clients at once: the rest of [`MAX_SESSIONS`] is for nodes and for handshakes.
pub(crate) const MAX_CLIENT_SESSIONS: usize = MAX_SESSIONS - 512;

/// The most connections of one account.
pub(crate) const MAX_ACCOUNT_SESSIONS: usize = 512;

/// Each account may have as many connections, if there is one at all.
const OWN_SESSIONS: usize = 32;

/// The connections of an account with the largest windows, and with middle ones.
const WIDE: usize = 4;
const MIDDLE: usize = 16;
/// With so many connections of all clients none is narrow.
const FEW: usize = 64;

/// Why a client gets no connection now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Full {
    /// The reason, for the client.
    pub(crate) reason: String,
}

/// The clients of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    count: usize,
    /// The connections of each account, by number: the oldest first.
    accounts: HashMap<Account, BTreeSet<u64>>,
}

/// A client's connection, counted until it and its streams are dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    account: Account,
    number: u64,
}

impl Guests {
    /// Counts a connection of an account. None for nodes, which are not counted.
    pub(crate) fn admit(&self, account: Account) -> Result<Option<Arc<Guest>>, Full> {
        if account == Account::Nodes {
            return Ok(None);
        }
        let mut inner = self.lock();
        let own = inner.accounts.get(&account).map_or(0, BTreeSet::len);
        let free = MAX_CLIENT_SESSIONS.saturating_sub(inner.count);
        if free == 0 {
            let reason = format!("clients have {MAX_CLIENT_SESSIONS} connections already");
            return Err(Full { reason });
        }
        // As many as are free: whoever has many gets no more while the node is short of them.
        if own >= MAX_ACCOUNT_SESSIONS.min(free.max(OWN_SESSIONS)) {
            let reason = format!("{account} have {own} connections already");
            return Err(Full { reason });
        }
        inner.next += 1;
        inner.count += 1;
        let number = inner.next;
        inner.accounts.entry(account.clone()).or_default().insert(number);
        drop(inner);
        Ok(Some(Arc::new(Guest {
            guests: self.clone(),
            account,
            number,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// The connection's rank now. It rises when older connections of the account end, and never falls.
    pub(crate) fn rank(&self) -> Rank {
        let inner = self.guests.lock();
        let own = inner.accounts.get(&self.account);
        let older = own.map_or(0, |own| {
            own.iter()
                .take(MIDDLE)
                .take_while(|number| **number < self.number)
                .count()
        });
        match older {
            0..WIDE => Rank::Wide,
            _ if older < MIDDLE || inner.count <= FEW => Rank::Middle,
            _ => Rank::Narrow,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inner = self.guests.lock();
        inner.count = inner.count.saturating_sub(1);
        if let Some(own) = inner.accounts.get_mut(&self.account) {
            own.remove(&self.number);
            if own.is_empty() {
                inner.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Account {
        Account::of_stanzas(&[name.parse().unwrap()])
    }

    fn admitted(guests: &Guests, account: &Account, count: usize) -> Vec<Arc<Guest>> {
        let admit = |_| guests.admit(account.clone()).unwrap().unwrap();
        (0..count).map(admit).collect()
    }

    #[test]
    fn an_account_has_a_most_of_connections() {
        let guests = Guests::default();
        let mut first = admitted(&guests, &account("a"), MAX_ACCOUNT_SESSIONS);
        let refused = guests.admit(account("a")).unwrap_err();
        assert_eq!(refused.reason, "the clients of stanza a have 512 connections already");
        let _other = admitted(&guests, &account("b"), 1);
        first.pop();
        admitted(&guests, &account("a"), 1);
    }

    #[test]
    fn where_connections_are_short_whoever_has_many_gets_no_more() {
        let guests = Guests::default();
        let names: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
        let _many: Vec<_> = names
            .iter()
            .map(|name| admitted(&guests, &account(name), 500))
            .collect();
        // 584 are free.
        let _greedy = admitted(&guests, &account("greedy"), 292);
        assert!(
            guests.admit(account("greedy")).is_err(),
            "292 are free, as many as it has"
        );
        assert!(guests.admit(account("s0")).is_err());
        let _late = admitted(&guests, &account("late"), 146);
        assert!(guests.admit(account("late")).is_err());
    }

    #[test]
    fn each_account_has_some_and_all_clients_together_leave_room_for_nodes() {
        let guests = Guests::default();
        let accounts = MAX_CLIENT_SESSIONS / OWN_SESSIONS;
        let all: Vec<_> = (0..accounts)
            .map(|number| admitted(&guests, &account(&format!("s{number}")), OWN_SESSIONS))
            .collect();
        let refused = guests.admit(account("late")).unwrap_err();
        assert_eq!(refused.reason, "clients have 3584 connections already");
        assert!(guests.admit(Account::Nodes).unwrap().is_none(), "a node is not counted");
        drop(all);
        assert_eq!(guests.lock().count, 0);
        assert!(guests.lock().accounts.is_empty());
    }

    #[test]
    fn a_connection_rises_when_older_ones_have_ended() {
        let guests = Guests::default();
        let mut own = admitted(&guests, &account("a"), 18);
        assert_eq!(own[17].rank(), Rank::Middle, "few are here");
        let _others = admitted(&guests, &account("c"), FEW);
        let ranks: Vec<Rank> = own.iter().map(|guest| guest.rank()).collect();
        assert!(ranks[..4].iter().all(|rank| *rank == Rank::Wide), "{ranks:?}");
        assert!(ranks[4..16].iter().all(|rank| *rank == Rank::Middle), "{ranks:?}");
        assert!(ranks[16..].iter().all(|rank| *rank == Rank::Narrow), "{ranks:?}");
        own.drain(..2);
        assert_eq!(own[3].rank(), Rank::Wide);
        assert_eq!(own[15].rank(), Rank::Middle);
        let other = admitted(&guests, &account("b"), 1);
        assert_eq!(other[0].rank(), Rank::Wide);
    }
}

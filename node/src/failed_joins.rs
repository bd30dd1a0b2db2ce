//! Joins with tokens that nobody knows. A look into this node's own catalog costs next to nothing; asking the leader
//! whether a token is good that this node has not heard of costs other nodes something, and a line in the log costs
//! the disk. So both are limited. A token that this node knows is never refused for it.

use pgmesh_transport::network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failed joins are counted for so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Unknown tokens from one address in that time.
const OF_AN_ADDRESS: u32 = 10;
/// Unknown tokens in all.
const OF_ALL: u32 = 100;
/// Addresses that are counted: those behind them count in all only.
const ADDRESSES: usize = 1024;

/// How many joins have failed lately.
#[derive(Default)]
pub(crate) struct FailedJoins(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// When the window began, in this process's running time.
    since: Duration,
    all: u32,
    by_address: HashMap<IpAddr, u32>,
    /// Failures that no line of the log counts yet.
    unsaid: u32,
    /// When the log had its last line, in this process's running time.
    said: Option<Duration>,
}

impl FailedJoins {
    /// Whether the leader is asked for a token that this node does not know, from this address.
    pub(crate) fn may_ask(&self, address: IpAddr, now: Duration) -> bool {
        let mut counts = self.lock();
        counts.turn(now);
        let address = network(address);
        // An address that is beyond its own limit takes nothing from the others.
        let of_address = counts.by_address.get(&address).copied();
        if of_address.unwrap_or_default() >= OF_AN_ADDRESS || counts.all >= OF_ALL {
            return false;
        }
        counts.all += 1;
        if of_address.is_some() || counts.by_address.len() < ADDRESSES {
            *counts.by_address.entry(address).or_default() += 1;
        }
        true
    }

    /// The leader has known the token: it was no failure.
    pub(crate) fn was_good(&self, address: IpAddr) {
        let mut counts = self.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.by_address.get_mut(&network(address)) {
            *count = count.saturating_sub(1);
        }
    }

    /// A join has failed: how many have since the last line in the log, if it is time for one.
    pub(crate) fn failed(&self, now: Duration) -> Option<u32> {
        let mut counts = self.lock();
        counts.unsaid = counts.unsaid.saturating_add(1);
        if counts.said.is_some_and(|said| now.saturating_sub(said) < WINDOW) {
            return None;
        }
        counts.said = Some(now);
        Some(std::mem::take(&mut counts.unsaid))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn turn(&mut self, now: Duration) {
        if now.saturating_sub(self.since) >= WINDOW {
            self.since = now;
            self.all = 0;
            self.by_address.clear();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn at(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn an_address_that_tries_often_is_refused_for_a_while_and_others_are_not() {
        let joins = FailedJoins::default();
        for _ in 0..OF_AN_ADDRESS {
            assert!(joins.may_ask(at(1), NOW));
        }
        assert!(!joins.may_ask(at(1), NOW));
        assert!(joins.may_ask(at(2), NOW));
        assert!(joins.may_ask(at(1), NOW + WINDOW));
    }

    /// It used the limit of all up, and no host could join by this node.
    #[test]
    fn one_address_leaves_the_others_their_tries() {
        let joins = FailedJoins::default();
        for _ in 0..10 * OF_ALL {
            joins.may_ask(at(1), NOW);
        }
        assert!(joins.may_ask(at(2), NOW));
    }

    /// A host has 2^64 addresses there.
    #[test]
    fn the_addresses_of_one_network_are_counted_together() {
        let joins = FailedJoins::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for last in 0..OF_AN_ADDRESS {
            assert!(joins.may_ask(address(&format!("2001:db8:0:1::{last:x}")), NOW));
        }
        assert!(!joins.may_ask(address("2001:db8:0:1:ffff::1"), NOW));
        assert!(joins.may_ask(address("2001:db8:0:2::1"), NOW));
    }

    #[test]
    fn all_addresses_together_are_limited_too() {
        let joins = FailedJoins::default();
        for number in 0..OF_ALL {
            assert!(joins.may_ask(at(u8::try_from(number).unwrap()), NOW));
        }
        assert!(!joins.may_ask(at(200), NOW));
        joins.was_good(at(7));
        joins.was_good(at(8));
        assert!(joins.may_ask(at(200), NOW), "two were none");
    }

    #[test]
    fn the_log_has_a_line_a_minute() {
        let joins = FailedJoins::default();
        assert_eq!(joins.failed(NOW), Some(1));
        for _ in 0..2400 {
            assert_eq!(joins.failed(NOW + WINDOW / 2), None);
        }
        assert_eq!(joins.failed(NOW + WINDOW), Some(2401));
    }
}

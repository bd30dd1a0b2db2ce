//! Sessions that were seen without a holder, and since when.

use pgmesh_raft::{LogIndex, SessionId};
use std::collections::HashMap;
use std::time::Duration;

/// A session in the catalog, under this node's name, that has no holder here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unheld {
    pub(crate) session: SessionId,
    pub(crate) lease: LogIndex,
    /// How long its holder is waited for.
    pub(crate) grace: Duration,
}

struct Sighting {
    lease: LogIndex,
    since: Duration,
    grace: Duration,
}

/// The sessions that the looks so far have shown.
#[derive(Default)]
pub(crate) struct Sightings(HashMap<SessionId, Sighting>);

impl Sightings {
    /// Takes the result of a look: all sessions without a holder, or a failure. Returns the sessions that have been
    /// without a holder, under one lease, in every look for as long as their grace. A look fails without a majority. No
    /// holder could have come back then, so all earlier sightings are forgotten.
    pub(crate) fn observe<E>(&mut self, now: Duration, look: Result<&[Unheld], E>) -> Result<Vec<Unheld>, E> {
        let unheld = look.inspect_err(|_| self.0.clear())?;
        self.0.retain(|session, seen| {
            let still = |found: &Unheld| found.session == *session && found.lease == seen.lease;
            unheld.iter().any(still)
        });
        let mut due = Vec::new();
        for found in unheld {
            let seen = self.0.entry(found.session).or_insert(Sighting {
                lease: found.lease,
                since: now,
                grace: found.grace,
            });
            if now.saturating_sub(seen.since) >= seen.grace {
                due.push(*found);
            }
        }
        Ok(due)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn unheld(session: u64, lease: u64) -> Unheld {
        Unheld {
            session: SessionId(LogIndex(session)),
            lease: LogIndex(lease),
            grace: at(30),
        }
    }

    fn seen(sightings: &mut Sightings, seconds: u64, unheld: &[Unheld]) -> Vec<Unheld> {
        sightings.observe::<()>(at(seconds), Ok(unheld)).unwrap()
    }

    #[test]
    fn a_session_is_due_when_every_look_has_shown_it_unheld() {
        let mut sightings = Sightings::default();
        let (one, two) = (unheld(1, 1), unheld(2, 2));
        assert!(seen(&mut sightings, 0, &[one]).is_empty());
        assert!(seen(&mut sightings, 29, &[one, two]).is_empty());
        assert_eq!(seen(&mut sightings, 30, &[one, two]), [one]);
        // Held in between: its time begins anew.
        assert!(seen(&mut sightings, 40, &[two]).is_empty());
        assert!(seen(&mut sightings, 41, &[one, two]).is_empty());
        assert_eq!(seen(&mut sightings, 59, &[one, two]), [two]);
        assert!(!sightings.is_empty());
    }

    #[test]
    fn another_lease_is_another_life() {
        let mut sightings = Sightings::default();
        assert!(seen(&mut sightings, 0, &[unheld(1, 1)]).is_empty());
        assert!(seen(&mut sightings, 31, &[unheld(1, 9)]).is_empty());
        assert_eq!(seen(&mut sightings, 61, &[unheld(1, 9)]), [unheld(1, 9)]);
    }

    #[test]
    fn after_a_look_that_failed_the_time_begins_anew() {
        let mut sightings = Sightings::default();
        let one = unheld(1, 1);
        assert!(seen(&mut sightings, 0, &[one]).is_empty());
        assert_eq!(sightings.observe(at(29), Err("no majority")), Err("no majority"));
        assert!(sightings.is_empty());
        assert!(seen(&mut sightings, 31, &[one]).is_empty());
        assert!(seen(&mut sightings, 60, &[one]).is_empty());
        assert_eq!(seen(&mut sightings, 61, &[one]), [one]);
    }

    #[test]
    fn the_first_sighting_decides_how_long_is_waited() {
        let mut sightings = Sightings::default();
        let short = Unheld {
            grace: at(8),
            ..unheld(1, 1)
        };
        assert!(seen(&mut sightings, 0, &[short]).is_empty());
        assert_eq!(seen(&mut sightings, 8, &[unheld(1, 1)]), [unheld(1, 1)]);
    }
}

//! Sessions: objects that are read or written under a session are not deleted while it is open (invariant 5). So no
//! session may stay open without a holder.
//!
//! ```text
//! own      this node's own work: repair, verify
//! clients  backups and restores of this node's clients, each of one connection at a time
//!   └────── keeping ── sightings, running_time    ends sessions without a holder, or without progress
//! silences (by the leader)                        ends the sessions of dead nodes
//! verifying                                       few verifications for clients at once
//! ```
//!
//! The catalog says which node keeps a session alive, since when (its lease), and by which request it was opened. No
//! session is ended after a single look, or without a majority: a client that has lost its node must first have been
//! able to go to another.

mod clients;
#[cfg(test)]
mod histories;
mod keeping;
mod own;
mod running_time;
mod sightings;
mod silences;
#[cfg(test)]
mod tests;
mod verifying;

pub(crate) use clients::{ClientSessions, ConnectionNumber, ResumeKey, holder_words};
pub use own::{OpenSession, SharedSession};
pub(crate) use running_time::RunningTime;
pub(crate) use silences::Silences;
pub(crate) use verifying::Verifications;

use std::time::Duration;

/// How long sessions are waited for, all measured by one process's own running time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimes {
    /// `session-timeout`: a client's session without progress for so long is ended.
    pub timeout: Duration,
    /// A session whose connection has ended waits so long for its holder: longer than it takes a holder to notice that
    /// a node is gone and to find another.
    pub orphaned: Duration,
    /// A session under this node's name that this process knows nothing of is ended when it has been seen so for so
    /// long.
    pub unheld: Duration,
    /// A node that the leader has not heard of for so long holds no sessions any more.
    pub dead: Duration,
}

impl SessionTimes {
    /// With this `session-timeout`.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            timeout,
            ..Self::default()
        }
    }
}

impl Default for SessionTimes {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30 * 60),
            orphaned: Duration::from_secs(8),
            unheld: Duration::from_secs(30),
            dead: Duration::from_secs(30),
        }
    }
}

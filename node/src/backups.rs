//! Backups, and the sessions of clients that take, restore or verify them. `services/backup.rs` takes a backup in,
//! `services/session.rs` begins and ends sessions, `sessions/` keeps them.

use crate::core::Core;
use crate::reads::Reads;
use crate::sessions::{ClientSessions, Verifications};
use std::ops::Deref;
use std::sync::Arc;

/// Takes backups, and keeps the sessions of clients.
pub struct Backups {
    core: Arc<Core>,
    pub(crate) reads: Arc<Reads>,
    /// The sessions of clients, and the connections that hold them.
    pub(crate) clients: ClientSessions,
    /// The verifications of clients.
    pub(crate) verifications: Verifications,
}

impl Deref for Backups {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Backups {
    pub(crate) fn new(core: Arc<Core>, reads: Arc<Reads>) -> Self {
        Self {
            core,
            reads,
            clients: ClientSessions::default(),
            verifications: Verifications::default(),
        }
    }
}

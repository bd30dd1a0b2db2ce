//! The backup sessions that this node serves, with what was agreed when they began.

use crate::{Failure, code};
use pgmesh_raft::SessionId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `backup-ack` of each open session.
#[derive(Default)]
pub(crate) struct Backups {
    acks: Mutex<HashMap<SessionId, usize>>,
}

impl Backups {
    pub(crate) fn began(&self, session: SessionId, ack: usize) {
        self.lock().insert(session, ack);
    }

    pub(crate) fn ended(&self, session: SessionId) {
        self.lock().remove(&session);
    }

    /// How many repositories must have what the session stores.
    pub(crate) fn ack(&self, session: SessionId) -> Result<usize, Failure> {
        self.lock().get(&session).copied().ok_or_else(|| {
            Failure::new(code::LOCK_ACQUIRE, format!("backup session {session} has ended"))
                .remedy("run the backup again: what is stored already is not sent twice")
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, usize>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

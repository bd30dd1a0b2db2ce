//! The backup sessions that this node keeps alive: what was agreed when they began, and which connection works under them.
//!
//! A session outlives its connection for a while: its holder may come back, here or through another node, and go on.

use crate::failure::chain;
use crate::protocol::ResumeBackup;
use crate::{Failure, Node, code};
use pgmesh_raft::{Command, LogIndex, SessionId, SessionKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a session whose connection has ended waits for its holder: longer than it takes a holder to notice that a node
/// is gone and to find another.
pub(crate) const ORPHANED: Duration = Duration::from_secs(8);

/// How long until a node without a majority looks again for sessions that it has left behind.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Proves that a session is the bearer's.
pub(crate) type ResumeKey = [u8; 16];

/// A connection of this node, by number.
pub(crate) type ConnectionNumber = u64;

struct Open {
    ack: usize,
    connection: Option<ConnectionNumber>,
}

/// The open sessions.
#[derive(Default)]
pub(crate) struct Backups {
    open: Mutex<HashMap<SessionId, Open>>,
}

impl Backups {
    /// A session began, or goes on, on this connection.
    pub(crate) fn attach(&self, session: SessionId, ack: usize, connection: ConnectionNumber) {
        let connection = Some(connection);
        self.lock().insert(session, Open { ack, connection });
    }

    pub(crate) fn ended(&self, session: SessionId) {
        self.lock().remove(&session);
    }

    /// The sessions of a connection that has ended; they have none now.
    pub(crate) fn detach(&self, connection: ConnectionNumber) -> Vec<SessionId> {
        let mut detached = Vec::new();
        for (session, open) in self.lock().iter_mut() {
            if open.connection == Some(connection) {
                open.connection = None;
                detached.push(*session);
            }
        }
        detached
    }

    /// Whether a connection works under it.
    pub(crate) fn is_attached(&self, session: SessionId) -> bool {
        self.lock().get(&session).is_some_and(|open| open.connection.is_some())
    }

    /// A session serves only the connection that opened it or took it up: another client's is none of its business.
    pub(crate) fn check_held(&self, session: u64, connection: ConnectionNumber) -> Result<(), Failure> {
        let open = self.lock();
        match open.get(&SessionId(LogIndex(session))) {
            Some(open) if open.connection == Some(connection) => Ok(()),
            _ => Err(ended(session, ", or is another connection's")),
        }
    }

    /// How many repositories must have what the session stores.
    pub(crate) fn ack(&self, session: SessionId) -> Result<usize, Failure> {
        let open = self.lock();
        open.get(&session)
            .map(|open| open.ack)
            .ok_or_else(|| ended(session.0.0, ""))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(session: u64, or: &str) -> Failure {
    Failure::new(code::LOCK_ACQUIRE, format!("backup session {session} has ended{or}"))
        .remedy("run the backup again: what is stored already is not sent twice")
}

impl Node {
    /// Goes on with a session that was begun on another connection, here or at another node.
    pub(crate) async fn resume_backup(
        &self,
        actor: &str,
        resume: &ResumeBackup,
        connection: ConnectionNumber,
    ) -> Result<(), Failure> {
        let session = SessionId(LogIndex(resume.session));
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view.session(session)?.ok_or_else(|| ended(resume.session, ""))?;
        let is_its = record.kind == SessionKind::Backup
            && record.stanza.as_ref() == Some(&resume.stanza)
            && record.resume_key == Some(resume.resume_key);
        if !is_its {
            return Err(ended(resume.session, ", or is another client's"));
        }
        // Before the catalog has it: whoever watches over orphans must see that it is attached.
        self.backups.attach(session, usize::from(resume.backup_ack), connection);
        if record.node == self.name {
            return Ok(());
        }
        let command = Command::AdoptSession {
            session,
            node: self.name.clone(),
            key: resume.resume_key,
        };
        match self.catalog.propose(actor, command).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.backups.ended(session);
                Err(error.into())
            }
        }
    }

    /// Ends the sessions of a connection that has ended, unless their holder comes back in time.
    pub(crate) fn orphan(self: &Arc<Self>, actor: String, connection: ConnectionNumber) {
        let orphans = self.backups.detach(connection);
        if orphans.is_empty() {
            return;
        }
        let node = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ORPHANED).await;
            for session in orphans {
                if !node.backups.is_attached(session) {
                    let reason = format!("the connection of {actor} ended, and it did not come back");
                    node.backups.ended(session);
                    node.expire(node.actor(), session, Some(node.name.clone()), &reason)
                        .await;
                }
            }
        });
    }

    /// Sessions that an earlier process of this node left behind: backups whose holders do not come back, and its own work.
    /// They are looked for in a view that shows all of them; what this process opens meanwhile it knows by the time that any
    /// is ended.
    pub(crate) async fn end_earlier_sessions(self: Arc<Self>) {
        let view = loop {
            match self.catalog.view_linearizable().await {
                Ok(view) => break view,
                Err(error) => tracing::debug!(error = %chain(&error), "earlier sessions are looked for later"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let sessions = match view.sessions() {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "sessions of an earlier process stay open");
                return;
            }
        };
        let earlier: Vec<SessionId> = sessions
            .into_iter()
            .filter(|(_, record)| record.node == self.name)
            .map(|(session, _)| session)
            .collect();
        if earlier.is_empty() {
            return;
        }
        tokio::time::sleep(ORPHANED).await;
        for session in earlier {
            if !self.backups.is_attached(session) && !self.sessions.holds(session) {
                let reason = format!("node {} has restarted", self.name);
                self.expire(self.actor(), session, Some(self.name.clone()), &reason)
                    .await;
            }
        }
    }
}

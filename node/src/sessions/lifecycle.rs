//! How the session of a client begins, moves to another connection, and ends.

use super::clients::{ConnectionNumber, Serving, Terms};
use super::own::insist;
use crate::backups::Backups;
use pgmesh_protocol::{ExitCode, Failure, ResumeSession};
use pgmesh_raft::{CatalogError, Command, LogIndex, Refusal, Reply, SessionId, SessionKind};
use pgmesh_runtime::tasks;

impl Backups {
    /// A request of a client's connection is served for as long as the guard lives: its session makes progress.
    pub(crate) fn serving(&self, connection: ConnectionNumber) -> Serving<'_> {
        self.clients.serving(connection, &self.running)
    }

    /// Opens a session for a client, under a connection.
    pub(crate) async fn open_client_session(
        &self,
        actor: &str,
        open: Command,
        ack: usize,
        connection: ConnectionNumber,
    ) -> Result<SessionId, Failure> {
        self.clients.check_room(connection)?;
        let opening = self.sessions.opening();
        let session = match self.catalog.propose_as(actor, opening.request, open).await? {
            Reply::Session(session) => session,
            other => return Err(crate::replies::unexpected(&other)),
        };
        let terms = Terms {
            ack,
            turn: 0,
            lease: session.0,
            connection,
        };
        // Before `opening` is dropped: at every moment `opening` or `clients` knows the session.
        if let Err(failure) = self.clients.attach(session, terms, self.running.now()) {
            self.end_session(actor, session, "its client was gone before it was open")
                .await;
            return Err(failure);
        }
        Ok(session)
    }

    /// Goes on with a session that was begun on another connection, here or at another node.
    pub(crate) async fn resume_session(
        &self,
        actor: &str,
        resume: &ResumeSession,
        connection: ConnectionNumber,
    ) -> Result<(), Failure> {
        let session = SessionId(LogIndex(resume.session));
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view.session(session)?.ok_or_else(|| self.clients.over(session))?;
        let is_its = matches!(record.kind, SessionKind::Backup | SessionKind::Restore)
            && record.stanza.as_ref() == Some(&resume.stanza)
            && record.resume_key == Some(resume.resume_key);
        if !is_its {
            return Err(Failure::new(
                ExitCode::LockAcquire,
                format!("session {session} is another client's"),
            ));
        }
        let terms = Terms {
            ack: usize::from(resume.backup_ack),
            turn: resume.turn,
            lease: record.lease,
            connection,
        };
        // Before the catalog has it: the task that ends unheld sessions must see that this session is held.
        self.clients.attach(session, terms, self.running.now())?;
        // Also if this node has it already: a proposal to end it, made when its connection was gone, has no effect
        // then.
        let command = Command::AdoptSession {
            session,
            turn: resume.turn,
            node: self.name.clone(),
            key: resume.resume_key,
        };
        match self.catalog.propose(actor, command).await {
            Ok(Reply::Adopted { lease }) => {
                self.clients.renew(session, resume.turn, lease);
                Ok(())
            }
            Ok(other) => {
                self.clients.release(session, resume.turn);
                Err(crate::replies::unexpected(&other))
            }
            // The client asks again, by the connection that it uses now.
            Err(CatalogError::Refused(moved @ Refusal::SessionMoved(_))) => {
                self.clients.release(session, resume.turn);
                Err(Failure::from(moved).again())
            }
            Err(CatalogError::Refused(Refusal::SessionEnded(_))) => {
                self.clients.release(session, resume.turn);
                Err(self.clients.over(session))
            }
            Err(error) => {
                self.clients.release(session, resume.turn);
                Err(error.into())
            }
        }
    }

    /// Ends a session whose holder has given up or is done; its backup lock goes with it. When this returns it has
    /// ended, or will as soon as there is a majority.
    pub(crate) async fn end_session(&self, actor: &str, session: SessionId, reason: &str) {
        self.clients.ended(session, reason);
        let command = Command::ExpireSession {
            session,
            lease: None,
            reason: reason.to_owned(),
        };
        match self.catalog.propose(actor, command.clone()).await {
            Ok(_) | Err(CatalogError::Refused(_)) => {}
            Err(_) => {
                let (catalog, actor) = (self.catalog.clone(), actor.to_owned());
                tasks::spawn("ending a session", async move {
                    insist(&catalog, &actor, session, command).await
                });
            }
        }
    }
}

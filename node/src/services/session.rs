//! Sessions of restores, and ending sessions by hand.

use super::backup::random_key;
use crate::backups::Backups;
use crate::sessions::{ConnectionNumber, holder_words};
use pgmesh_protocol::{BeginRestore, ExitCode, Failure, RestoreBegun, SessionStatus};

use pgmesh_raft::{Command, LogIndex, SessionId, SessionKind, SessionRecord, View};
use pgmesh_storage::StanzaName;
use std::collections::BTreeMap;

/// How many open sessions a status names, the oldest ones.
const NAMED: usize = 100;

impl Backups {
    /// Opens a session for a restore. Whether the stanza exists is not looked at: the restore finds out.
    pub(crate) async fn begin_restore(
        &self,
        actor: &str,
        begin: BeginRestore,
        connection: ConnectionNumber,
    ) -> Result<RestoreBegun, Failure> {
        let resume_key = random_key()?;
        let open = Command::OpenSession {
            kind: SessionKind::Restore,
            stanza: Some(begin.stanza),
            holder: holder_words(&begin.holder),
            node: self.name.clone(),
            resume_key: Some(resume_key),
        };
        let session = self.open_client_session(actor, open, 0, connection).await?;
        Ok(RestoreBegun {
            session: session.0.0,
            resume_key,
        })
    }

    /// Ends any session. Returns its description in words.
    pub(crate) async fn terminate_session(&self, actor: &str, session: u64) -> Result<String, Failure> {
        let session = SessionId(LogIndex(session));
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let Some(record) = view.session(session)? else {
            return Err(
                Failure::new(ExitCode::OptionInvalid, format!("there is no open session {session}"))
                    .remedy("'pgmesh doctor' on a node names the sessions that are old"),
            );
        };
        self.terminate(actor, session, "'pgmesh session-end' was called")
            .await?;
        Ok(describe(&record))
    }

    /// Ends the backups and restores of a stanza, or of all. How many those were.
    pub(crate) async fn terminate_sessions_of(&self, actor: &str, stanza: Option<&StanzaName>) -> Result<u64, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let mut ended = 0;
        for (session, record) in view.sessions()? {
            let is_clients = matches!(record.kind, SessionKind::Backup | SessionKind::Restore);
            if is_clients && stanza.is_none_or(|stanza| record.stanza.as_ref() == Some(stanza)) {
                self.terminate(actor, session, "'pgmesh stop --force' was called")
                    .await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    async fn terminate(&self, actor: &str, session: SessionId, reason: &str) -> Result<(), Failure> {
        self.clients.ended(session, reason);
        let command = Command::ExpireSession {
            session,
            lease: None,
            reason: reason.to_owned(),
        };
        self.catalog.propose(actor, command).await?;
        Ok(())
    }
}

impl Backups {
    /// How long each session that this node keeps alive for a client has been without progress, in seconds.
    pub(crate) fn quiet_sessions(&self) -> Vec<(u64, u64)> {
        let quiet = self.clients.quiet(self.running.now()).into_iter();
        let mut quiet: Vec<(u64, u64)> = quiet
            .map(|(session, _, quiet)| (session.0.0, quiet.as_secs()))
            .collect();
        quiet.sort_unstable();
        quiet.truncate(NAMED);
        quiet
    }
}

/// The oldest open sessions, and the number of open ones. `quiet` has the nodes' reports on the sessions they keep
/// alive.
pub(super) fn session_states(view: &View, quiet: &BTreeMap<u64, u64>) -> Result<(Vec<SessionStatus>, u64), Failure> {
    let sessions = view.sessions()?;
    let open = sessions.len() as u64;
    let named = sessions.into_iter().take(NAMED).map(|(session, record)| SessionStatus {
        session: session.0.0,
        kind: kind(record.kind).to_owned(),
        quiet: quiet.get(&session.0.0).copied(),
        stanza: record.stanza.as_ref().map(ToString::to_string),
        holder: record.holder,
        node: record.node.to_string(),
        opened_at: record.opened_at,
    });
    Ok((named.collect(), open))
}

fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Backup => "backup",
        SessionKind::Restore => "restore",
        SessionKind::Verify => "verify",
        SessionKind::Repair => "repair",
    }
}

/// `backup of stanza main, held by process 7 on db1`.
fn describe(record: &SessionRecord) -> String {
    let kind = kind(record.kind);
    let of = record
        .stanza
        .as_ref()
        .map_or_else(String::new, |stanza| format!(" of stanza {stanza}"));
    format!("{kind}{of}, held by {}", record.holder)
}

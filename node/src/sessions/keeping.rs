//! Ends sessions under this node's name that have no holder, and sessions of clients that make no progress.
//!
//! A session has no holder if an earlier process of this node has left it, if its opening was answered "no majority"
//! and was committed all the same, if it could not be closed, or if its client has left without coming back. This
//! process knows a session before it proposes to open or to adopt it. A proposal to end a session names the lease under
//! which the session was found, so that it has no effect on a session that has been adopted since, here or elsewhere.

use super::sightings::{Sightings, Unheld};
use super::{ClientSessions, SessionTimes};
use crate::backups::Backups;
use pgmesh_protocol::Failure;
use pgmesh_protocol::failure::chain;
use pgmesh_raft::{Command, LogIndex, SessionId, SessionRecord, View};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often the task looks for work; the running time is ticked as often.
const TICK: Duration = Duration::from_millis(500);
/// While there is work, the leader is asked so often for a view that shows all sessions.
const LOOK: Duration = Duration::from_secs(2);

impl Backups {
    /// Ends such sessions until the node stops.
    pub async fn keep_sessions(self: Arc<Self>) {
        let mut sightings = Sightings::default();
        let mut looked: Option<Duration> = None;
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.running.now();
            self.end_quiet_sessions(now).await;
            self.notice_ended_sessions();
            self.audit_reads();
            let look = LOOK.min(self.settings.sessions.orphaned / 4);
            let is_due = looked.is_none_or(|looked| now.saturating_sub(looked) >= look);
            if !is_due || (looked.is_some() && sightings.is_empty() && !self.may_have_unheld()) {
                continue;
            }
            match self.end_unheld_sessions(&mut sightings, looked.is_none()).await {
                Ok(()) => looked = Some(self.running.now()),
                Err(failure) => tracing::debug!(error = %failure, "sessions that nobody holds are looked for later"),
            }
        }
    }

    /// A look that costs nothing, and may be old.
    fn may_have_unheld(&self) -> bool {
        let unheld = self.unheld(&self.catalog.view(), false);
        self.clients.has_detached() || unheld.map_or(true, |unheld| !unheld.is_empty())
    }

    /// Sessions under this node's name that have no holder.
    fn unheld(&self, view: &View, is_first: bool) -> Result<Vec<Unheld>, Failure> {
        let times = &self.settings.sessions;
        let named: Vec<_> = view.sessions()?;
        let named = named.into_iter().filter(|(_, record)| record.node == self.name);
        // Openings under way before clients: a session whose opening ends in between is found among the clients.
        let others = named.filter(|(session, record)| !self.sessions.holds(*session, record));
        Ok(unheld_of(others, &self.clients, times, is_first))
    }

    async fn end_unheld_sessions(&self, sightings: &mut Sightings, is_first: bool) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from);
        let look = view.and_then(|view| self.unheld(&view, is_first));
        let ours: HashSet<SessionId> = look.iter().flatten().map(|unheld| unheld.session).collect();
        let due = sightings.observe(self.running.now(), look.as_deref().map_err(Clone::clone))?;
        self.clients.forget_detached(|session| ours.contains(&session));
        for Unheld { session, lease, .. } in due {
            if self.clients.is_attached(session) {
                continue;
            }
            let reason = if self.clients.is_known(session) {
                "its holder's connection ended, and it did not come back".to_owned()
            } else {
                format!("node {} does not know who holds it", self.name)
            };
            self.clients.ended(session, &reason);
            self.expire(session, lease, &reason).await;
        }
        Ok(())
    }

    /// Ends the sessions of clients that are connected and do nothing.
    async fn end_quiet_sessions(&self, now: Duration) {
        let limit = self.settings.sessions.timeout;
        for (session, lease, quiet) in self.clients.quiet(now) {
            if quiet < limit || !self.clients.is_attached(session) {
                continue;
            }
            let seconds = limit.as_secs();
            let reason = format!("nothing was done under it for {seconds} s (session-timeout)");
            tracing::warn!(%session, "a session is ended: {reason}");
            self.clients.ended(session, &reason);
            // If this fails, the session is ended later, as a session without a holder.
            self.expire(session, lease, &reason).await;
        }
    }

    /// Sessions that this node keeps alive and that were ended elsewhere: their holders must learn it.
    fn notice_ended_sessions(&self) {
        let view = self.catalog.view();
        for (session, _, _) in self.clients.quiet(self.running.now()) {
            // This node had applied the opening before it knew of the session: if the catalog does not have it, it was
            // ended.
            if matches!(view.session(session), Ok(None)) {
                self.clients.ended(
                    session,
                    "it was ended by the leader, which had not heard of this node, or by hand",
                );
            }
        }
    }

    /// Ends a session, unless it has been adopted since it had this lease.
    pub(crate) async fn expire(&self, session: SessionId, lease: LogIndex, reason: &str) {
        let command = Command::ExpireSession {
            session,
            lease: Some(lease),
            reason: reason.to_owned(),
        };
        if let Err(error) = self.catalog.propose(self.actor(), command).await {
            tracing::warn!(%session, error = %chain(&error), "a session could not be ended yet");
        }
    }
}

/// The sessions of a node that no client's connection holds.
pub(super) fn unheld_of(
    sessions: impl Iterator<Item = (SessionId, SessionRecord)>,
    clients: &ClientSessions,
    times: &SessionTimes,
    is_first: bool,
) -> Vec<Unheld> {
    let unattached = sessions.filter(|(session, _)| !clients.is_attached(*session));
    let unheld = unattached.map(|(session, record)| Unheld {
        session,
        lease: record.lease,
        // A session that this process has known, or an earlier process has left, has a holder that knows where to go.
        grace: if is_first || clients.is_known(session) {
            times.orphaned
        } else {
            times.unheld
        },
    });
    unheld.collect()
}

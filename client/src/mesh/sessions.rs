//! The session of a backup or a restore: it is kept while its process works, and goes along when a node is left.
//!
//! A backup needs its session: each new link takes the session up before the first request. A restore reads with or
//! without a session: it only asks for a session that goes along, and tries again.

use super::Mesh;
use super::retry::Retry;
use crate::activity::Activity;
use pgmesh_protocol::{
    BackupBegun, BeginBackup, BeginRestore, EndSession, Failure, KeepSession, RestoreBegun, ResumeSession,
};
use pgmesh_storage::StanzaName;
use std::convert::Infallible;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio::time::{sleep, timeout};

/// How often it is looked which connection a session goes along with.
const WATCH: Duration = Duration::from_secs(1);
/// How often a node hears that its client works: several times within the shortest `session-timeout`.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a restore waits for a session before it goes on without.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long after that it asks for one again.
const OPEN_AGAIN: Duration = Duration::from_secs(30);
/// How long the mesh may take to answer that a session was given up.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A session of this process.
pub(super) struct HeldSession {
    resume: ResumeSession,
    /// Whether no request may be sent without it.
    is_needed: bool,
}

/// The last sign of work that the node has had.
struct Told {
    at: Instant,
    seen: u64,
}

impl Told {
    fn nothing() -> Self {
        let at = Instant::now();
        Self { at, seen: 0 }
    }

    /// Whether the node is to hear now that this process works.
    fn is_due(&mut self, activity: &Activity) -> bool {
        if self.at.elapsed() < KEEP_EVERY {
            return false;
        }
        self.at = Instant::now();
        activity.is_alive(&mut self.seen)
    }
}

impl Mesh {
    /// The work of this process under its session.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Opens a backup session. From now on each node that serves this host takes the session up, until
    /// [`Self::forget_session`].
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn begin_backup(&self, begin: BeginBackup) -> Result<BackupBegun, Failure> {
        let stanza = begin.stanza.clone();
        let mut retry = Retry::new(self.access.limit);
        loop {
            match self.attempt(&begin, None, &|_: &BackupBegun| None).await {
                Ok(((begun, _), link)) => {
                    link.holds(begun.session).await;
                    *self.lock_session() = Some(HeldSession {
                        resume: ResumeSession {
                            stanza,
                            session: begun.session,
                            resume_key: begun.resume_key,
                            turn: 0,
                            backup_ack: begun.backup_ack,
                        },
                        is_needed: true,
                    });
                    return Ok(begun);
                }
                Err(failed) => self.settle::<BeginBackup>(&mut retry, failed).await?,
            }
        }
    }

    /// Keeps the backup's session with a node while nothing else is said, as while PostgreSQL makes its checkpoint or a
    /// large file is read. Never returns: where the session cannot be kept, the next request tells, and a commit that
    /// has ended it succeeds.
    pub async fn keep_session(&self) -> Infallible {
        let mut retry = Retry::new(self.access.limit);
        let mut told = Told::nothing();
        loop {
            match self.ready::<KeepSession>().await {
                Ok(link) => {
                    retry.progress();
                    if told.is_due(&self.activity)
                        && let Some(keep) = self.keep_request()
                        && let Err(failure) = link.exchange(&keep, None, |()| None, None).await
                    {
                        tracing::debug!("{failure}");
                    }
                    // Other requests may have left this link for another, which is to be watched then.
                    let _ = timeout(WATCH, link.connection.closed()).await;
                }
                Err(failed) => {
                    if let Err(failure) = self.settle::<KeepSession>(&mut retry, failed).await {
                        tracing::debug!("the backup's session cannot be kept open: {failure}");
                        return std::future::pending().await;
                    }
                }
            }
        }
    }

    /// Opens a restore session, so that no object that the restore reads is deleted meanwhile. A restore never fails
    /// for want of a session: if none can be opened it says so and goes on.
    pub async fn begin_restore(&self, begin: &BeginRestore) {
        let failure = match timeout(OPEN_LIMIT, self.open_restore(begin)).await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("no answer within {} s", OPEN_LIMIT.as_secs()),
        };
        tracing::warn!(
            "the restore continues without a session and asks for one again; until it has one, the mesh may delete \
             objects that the restore needs ({failure})"
        );
    }

    async fn open_restore(&self, begin: &BeginRestore) -> Result<(), Failure> {
        let mut retry = Retry::new(OPEN_LIMIT);
        loop {
            match self.attempt(begin, None, &|_: &RestoreBegun| None).await {
                Ok(((begun, _), link)) => {
                    link.holds(begun.session).await;
                    *self.lock_session() = Some(HeldSession {
                        resume: ResumeSession {
                            stanza: begin.stanza.clone(),
                            session: begun.session,
                            resume_key: begun.resume_key,
                            turn: 0,
                            backup_ack: 0,
                        },
                        is_needed: false,
                    });
                    tracing::debug!("restore session {} is open at node {}", begun.session, link.node());
                    return Ok(());
                }
                Err(failed) => self.settle::<BeginRestore>(&mut retry, failed).await?,
            }
        }
    }

    /// Keeps the restore's session, and opens another where it has ended or there was none. Never returns, and holds up
    /// no request.
    pub async fn keep_restore(&self, begin: &BeginRestore) -> Infallible {
        let mut told = Told::nothing();
        let mut asked = Instant::now();
        loop {
            let Ok(link) = self.link().await else {
                sleep(WATCH).await;
                continue;
            };
            let held = self.lock_session().as_ref().map(|held| held.resume.session);
            match held {
                None if asked.elapsed() >= OPEN_AGAIN => {
                    asked = Instant::now();
                    match timeout(OPEN_LIMIT, self.open_restore(begin)).await {
                        Ok(Ok(())) => {
                            tracing::info!("the restore now has a session: the mesh keeps the objects that it needs")
                        }
                        Ok(Err(failure)) => tracing::debug!("still without a session: {failure}"),
                        Err(_) => tracing::debug!("still without a session: no answer"),
                    }
                }
                None => {}
                Some(session) => {
                    let taken = match link.take_up(session, || self.next_move(session)).await {
                        Ok(()) if told.is_due(&self.activity) => match self.keep_request() {
                            Some(keep) => link.exchange(&keep, None, |()| None, None).await.map(drop),
                            None => Ok(()),
                        },
                        taken => taken,
                    };
                    match taken {
                        Err(failure) if !failure.again => {
                            tracing::warn!("{failure}; the restore continues and asks for another session");
                            self.forget_session();
                            // At once.
                            asked = Instant::now().checked_sub(OPEN_AGAIN).unwrap_or(asked);
                            continue;
                        }
                        Err(failure) => tracing::debug!("{failure}"),
                        Ok(()) => {}
                    }
                }
            }
            let _ = timeout(WATCH, link.connection.closed()).await;
        }
    }

    /// Ends the session of this process, if it has one. The node does so itself some time after the connection has
    /// ended; this is sooner.
    pub async fn end_session(&self) {
        let Some(held) = self.lock_session().take() else { return };
        let ResumeSession { stanza, session, .. } = held.resume;
        let end = EndSession { stanza, session };
        match timeout(END_LIMIT, self.call(&end)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::debug!("the session could not be closed: {failure}"),
            Err(_) => tracing::debug!("the session could not be closed: no answer"),
        }
    }

    /// The session has ended.
    pub fn forget_session(&self) {
        self.lock_session().take();
    }

    /// The session without which no request may be sent.
    pub(super) fn needed_session(&self) -> Option<u64> {
        let held = self.lock_session();
        held.as_ref()
            .filter(|held| held.is_needed)
            .map(|held| held.resume.session)
    }

    /// One more move of the session to another connection, if it is still this one.
    pub(super) fn next_move(&self, session: u64) -> Option<ResumeSession> {
        let mut held = self.lock_session();
        let held = held.as_mut().filter(|held| held.resume.session == session)?;
        held.resume.turn += 1;
        Some(held.resume.clone())
    }

    fn keep_request(&self) -> Option<KeepSession> {
        let held = self.lock_session();
        held.as_ref().map(|held| KeepSession {
            stanza: held.resume.stanza.clone(),
            session: held.resume.session,
        })
    }

    fn lock_session(&self) -> MutexGuard<'_, Option<HeldSession>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request for a restore's session. It names this process, for users that wait for the restore's end.
pub fn restore_of(stanza: StanzaName) -> BeginRestore {
    BeginRestore {
        stanza,
        holder: crate::host::this_process().into(),
    }
}

//! The client sessions that this node keeps alive (backups and restores): their terms, the connection that works under
//! each, and its last activity.
//!
//! A session outlives its connection for a while: its holder may come back, here or through another node, and go on.

use super::running_time::RunningTime;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::{LogIndex, Refusal, SessionId};
use pgmesh_transport::Account;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One process has one session, or a few while it looks for its way.
const MOST_OF_A_CONNECTION: usize = 16;
/// An owner of many stanzas may run a backup of each at the same time.
const MOST_OF_AN_ACCOUNT: usize = 256;
/// So many characters are kept of a holder's description of itself.
const HOLDER: usize = 200;
/// So many reasons for the end of sessions, the latest, are remembered for their holders.
const REASONS: usize = 256;

/// Proves that a session is the bearer's.
pub(crate) type ResumeKey = [u8; 16];

/// A connection of this node, by number.
pub(crate) type ConnectionNumber = u64;

/// A session that this node keeps alive.
struct Open {
    ack: usize,
    /// The holder's count of its moves.
    turn: u64,
    /// As far as this node knows.
    lease: LogIndex,
    connection: Option<ConnectionNumber>,
    account: Account,
    /// When it was attached, or detached, in this process's running time.
    since: Duration,
}

/// A client's connection.
struct Connection {
    account: Account,
    /// Requests being served.
    serving: usize,
    /// When the last request was served, in this process's running time.
    served: Duration,
}

/// The open sessions.
#[derive(Default)]
pub(crate) struct ClientSessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    open: HashMap<SessionId, Open>,
    connections: HashMap<ConnectionNumber, Connection>,
    reasons: VecDeque<(SessionId, String)>,
}

/// A request of a connection, while it is served.
pub(crate) struct Serving<'a> {
    clients: &'a ClientSessions,
    running: &'a RunningTime,
    connection: ConnectionNumber,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let now = self.running.now();
        if let Some(connection) = self.clients.lock().connections.get_mut(&self.connection) {
            connection.serving = connection.serving.saturating_sub(1);
            connection.served = now;
        }
    }
}

impl ClientSessions {
    /// A request of a client's connection is served for as long as the guard lives: its session makes progress.
    pub(super) fn serving<'a>(&'a self, connection: ConnectionNumber, running: &'a RunningTime) -> Serving<'a> {
        if let Some(known) = self.lock().connections.get_mut(&connection) {
            known.serving += 1;
        }
        Serving {
            clients: self,
            running,
            connection,
        }
    }

    /// A client has connected.
    pub(crate) fn connected(&self, connection: ConnectionNumber, account: Account) {
        let new = Connection {
            account,
            serving: 0,
            served: Duration::ZERO,
        };
        self.lock().connections.insert(connection, new);
    }

    /// A connection has ended; its sessions are without a connection now.
    pub(crate) fn disconnected(&self, connection: ConnectionNumber, now: Duration) {
        let mut inner = self.lock();
        inner.connections.remove(&connection);
        for open in inner.open.values_mut() {
            if open.connection == Some(connection) {
                open.connection = None;
                open.since = now;
            }
        }
    }

    /// A connection or an account that opens ever more sessions is refused.
    pub(super) fn check_room(&self, connection: ConnectionNumber) -> Result<(), Failure> {
        let inner = self.lock();
        let own = inner.open.values().filter(|open| open.connection == Some(connection));
        let open = own.count();
        if open >= MOST_OF_A_CONNECTION {
            let what = format!("this connection has {open} sessions already");
            return Err(Failure::new(ExitCode::Protocol, what));
        }
        let Some(account) = inner.connections.get(&connection).map(|known| &known.account) else {
            return Ok(());
        };
        // Those whose connection is gone count, too: whoever connects again gets no more.
        let open = inner.open.values().filter(|open| open.account == *account).count();
        if open < MOST_OF_AN_ACCOUNT || *account == Account::Nodes {
            return Ok(());
        }
        let what = format!("{account} have {open} sessions at this node already");
        Err(Failure::new(ExitCode::LockAcquire, what)
            .remedy("wait until a backup or a restore has ended, or ask another node: give more than one mesh-node"))
    }

    /// A session began, or goes on, on this connection. Not if the connection has ended meanwhile, or if the holder has
    /// moved on: the session would never be detached.
    pub(crate) fn attach(&self, session: SessionId, terms: Terms, now: Duration) -> Result<(), Failure> {
        let mut inner = self.lock();
        let Some(account) = inner
            .connections
            .get(&terms.connection)
            .map(|known| known.account.clone())
        else {
            return Err(Failure::new(ExitCode::HostConnect, "the connection has ended meanwhile").again());
        };
        if inner.open.get(&session).is_some_and(|open| open.turn > terms.turn) {
            return Err(Failure::from(Refusal::SessionMoved(session)).again());
        }
        let open = Open {
            ack: terms.ack,
            turn: terms.turn,
            lease: terms.lease,
            connection: Some(terms.connection),
            account,
            since: now,
        };
        inner.open.insert(session, open);
        Ok(())
    }

    /// The catalog has given this node the lease, for the move that it was asked for.
    pub(super) fn renew(&self, session: SessionId, turn: u64, lease: LogIndex) {
        if let Some(open) = self.lock().open.get_mut(&session)
            && open.turn == turn
        {
            open.lease = lease;
        }
    }

    /// A move to this connection has failed.
    pub(super) fn release(&self, session: SessionId, turn: u64) {
        let mut inner = self.lock();
        if inner.open.get(&session).is_some_and(|open| open.turn == turn) {
            inner.open.remove(&session);
        }
    }

    /// A session is over for this node.
    pub(crate) fn ended(&self, session: SessionId, reason: &str) {
        let mut inner = self.lock();
        inner.open.remove(&session);
        inner.reasons.push_back((session, reason.to_owned()));
        if inner.reasons.len() > REASONS {
            inner.reasons.pop_front();
        }
    }

    /// Whether a connection works under it.
    pub(crate) fn is_attached(&self, session: SessionId) -> bool {
        self.lock()
            .open
            .get(&session)
            .is_some_and(|open| open.connection.is_some())
    }

    /// Whether this process has kept it alive.
    pub(crate) fn is_known(&self, session: SessionId) -> bool {
        self.lock().open.contains_key(&session)
    }

    /// Whether there are sessions whose connection has ended.
    pub(crate) fn has_detached(&self) -> bool {
        self.lock().open.values().any(|open| open.connection.is_none())
    }

    /// Forgets sessions without a connection that are not this node's any more.
    pub(crate) fn forget_detached(&self, is_ours: impl Fn(SessionId) -> bool) {
        let mut inner = self.lock();
        inner
            .open
            .retain(|session, open| open.connection.is_some() || is_ours(*session));
    }

    /// The sessions that a connection works under.
    pub(crate) fn of(&self, connection: ConnectionNumber) -> Vec<SessionId> {
        let inner = self.lock();
        let own = inner
            .open
            .iter()
            .filter(|(_, open)| open.connection == Some(connection));
        own.map(|(session, _)| *session).collect()
    }

    /// How long each session has been without progress.
    pub(crate) fn quiet(&self, now: Duration) -> Vec<(SessionId, LogIndex, Duration)> {
        let inner = self.lock();
        let quiet = |open: &Open| {
            let connection = open.connection.and_then(|number| inner.connections.get(&number));
            match connection {
                Some(connection) if connection.serving > 0 => Duration::ZERO,
                Some(connection) => now.saturating_sub(open.since.max(connection.served)),
                None => now.saturating_sub(open.since),
            }
        };
        let open = inner.open.iter();
        open.map(|(session, open)| (*session, open.lease, quiet(open)))
            .collect()
    }

    /// A session serves only the connection that opened it or took it up: a client has no access to another client's
    /// session.
    pub(crate) fn check_held(&self, session: u64, connection: ConnectionNumber) -> Result<(), Failure> {
        let session = SessionId(LogIndex(session));
        let inner = self.lock();
        match inner.open.get(&session) {
            Some(open) if open.connection == Some(connection) => Ok(()),
            // Its holder has moved it to another connection while this request was on its way.
            Some(open) if open.connection.is_some() => Err(inner.over(session).again()),
            _ => Err(inner.over(session)),
        }
    }

    /// How many repositories must have each object that the session stores.
    pub(crate) fn ack(&self, session: SessionId) -> Result<usize, Failure> {
        let inner = self.lock();
        inner
            .open
            .get(&session)
            .map(|open| open.ack)
            .ok_or_else(|| inner.over(session))
    }

    /// Why a session cannot be gone on with.
    pub(crate) fn over(&self, session: SessionId) -> Failure {
        self.lock().over(session)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn over(&self, session: SessionId) -> Failure {
        let reason = self.reasons.iter().rev().find(|(ended, _)| *ended == session);
        let cause = reason.map_or_else(
            || {
                "it was ended, or is another connection's: a session ends when its holder is away for some seconds, when it \
                 makes no progress within session-timeout, and by 'pgmesh session-end' or 'pgmesh stop --force'"
                    .to_owned()
            },
            |(_, reason)| reason.clone(),
        );
        Failure::new(ExitCode::LockAcquire, format!("session {session} has ended"))
            .because(cause)
            .remedy("run the command again: what is stored already is not sent twice")
    }
}

/// A client's description of itself, cut if it is too long for a record.
pub(crate) fn holder_words(given: &str) -> String {
    given.chars().take(HOLDER).collect()
}

/// Under which terms a session is kept alive.
pub(crate) struct Terms {
    /// How many repositories must have each object that it stores.
    pub(crate) ack: usize,
    /// The holder's count of its moves; 0 for the opening.
    pub(crate) turn: u64,
    /// The lease that the catalog has.
    pub(crate) lease: LogIndex,
    /// The connection that works under it.
    pub(crate) connection: ConnectionNumber,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(turn: u64, connection: ConnectionNumber) -> Terms {
        Terms {
            ack: 1,
            turn,
            lease: LogIndex(7),
            connection,
        }
    }

    fn account(stanza: &str) -> Account {
        Account::of_stanzas(&[stanza.parse().unwrap()])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_is_never_tied_to_a_connection_that_has_ended() {
        let (clients, session) = (ClientSessions::default(), SessionId(LogIndex(7)));
        clients.connected(1, account("aa"));
        clients.disconnected(1, at(0));
        let refused = clients.attach(session, terms(0, 1), at(1)).unwrap_err();
        assert!(refused.again, "{refused}");
        assert!(!clients.is_known(session));
    }

    #[test]
    fn what_a_client_sends_is_bounded() {
        let clients = ClientSessions::default();
        clients.connected(1, account("aa"));
        for number in 0..MOST_OF_A_CONNECTION as u64 {
            clients.check_room(1).unwrap();
            clients.attach(SessionId(LogIndex(number)), terms(0, 1), at(0)).unwrap();
        }
        assert_eq!(clients.check_room(1).unwrap_err().code, ExitCode::Protocol);
        assert!(clients.check_room(2).is_ok());
        for number in 16..MOST_OF_AN_ACCOUNT as u64 {
            let connection = 1 + number / 16;
            clients.connected(connection, account("aa"));
            clients
                .attach(SessionId(LogIndex(number)), terms(0, connection), at(0))
                .unwrap();
            clients.disconnected(connection, at(0));
        }
        clients.connected(100, account("aa"));
        let refused = clients.check_room(100).unwrap_err();
        assert_eq!(
            refused.what,
            "the clients of stanza aa have 256 sessions at this node already"
        );
        clients.connected(101, account("bb"));
        clients.check_room(101).unwrap();
        assert_eq!(holder_words(&"ä".repeat(1000)).chars().count(), HOLDER);
    }

    #[test]
    fn a_move_that_comes_late_takes_nothing_away() {
        let (clients, session) = (ClientSessions::default(), SessionId(LogIndex(7)));
        clients.connected(1, account("aa"));
        clients.connected(2, account("aa"));
        clients.attach(session, terms(1, 1), at(0)).unwrap();
        clients.attach(session, terms(2, 2), at(0)).unwrap();
        assert!(clients.attach(session, terms(1, 1), at(0)).is_err());
        // The earlier move fails when the later one has succeeded.
        clients.release(session, 1);
        clients.renew(session, 1, LogIndex(8));
        clients.renew(session, 2, LogIndex(9));
        assert!(clients.check_held(7, 2).is_ok() && clients.check_held(7, 1).is_err());
        assert_eq!(clients.quiet(at(5)), [(session, LogIndex(9), at(5))]);
    }

    #[test]
    fn a_session_is_quiet_since_its_connection_last_asked_for_something() {
        let (clients, session) = (ClientSessions::default(), SessionId(LogIndex(7)));
        clients.connected(1, account("aa"));
        clients.attach(session, terms(0, 1), at(10)).unwrap();
        let quiet = |now| clients.quiet(now)[0].2;
        assert_eq!(quiet(at(15)), at(5));
        if let Some(connection) = clients.lock().connections.get_mut(&1) {
            connection.serving = 1;
        }
        assert_eq!(quiet(at(500)), at(0), "a request is being served");
        if let Some(connection) = clients.lock().connections.get_mut(&1) {
            (connection.serving, connection.served) = (0, at(500));
        }
        assert_eq!(quiet(at(520)), at(20));
        clients.disconnected(1, at(530));
        assert_eq!(quiet(at(531)), at(1));
        clients.forget_detached(|_| true);
        assert!(clients.is_known(session) && !clients.is_attached(session));
        clients.forget_detached(|_| false);
        assert!(!clients.is_known(session));
    }

    #[test]
    fn a_holder_is_told_why_its_session_has_ended() {
        let (clients, session) = (ClientSessions::default(), SessionId(LogIndex(7)));
        assert!(clients.over(session).cause.unwrap().contains("session-timeout"));
        clients.ended(session, "no progress for 30 min (session-timeout)");
        for number in 100..100 + REASONS as u64 - 1 {
            clients.ended(SessionId(LogIndex(number)), "x");
        }
        let over = clients.check_held(7, 1).unwrap_err();
        assert_eq!(over.code, ExitCode::LockAcquire);
        assert!(over.cause.unwrap().starts_with("no progress for 30 min"));
        assert_eq!(clients.lock().reasons.len(), REASONS);
    }
}

//! The share of each client in a server's connections, streams and windows.
//!
//! A connection costs memory that no budget counts: its state, the unread bytes of its receive window, the
//! unacknowledged bytes of its send window, and a task for each open stream. So the clients of one account
//! ([`Account`]) share a fixed number of connections and streams and a fixed number of window bytes, and all clients
//! together leave room for nodes and administrators.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    account::Account,
    certificate::{Fingerprint, MemberCertificate},
    tuning::{MAX_SESSIONS, MAX_STREAMS, Tuning, UNAUTHENTICATED_WINDOW},
    window::Credit,
};

/// Connections of clients at once: the rest of [`MAX_SESSIONS`] is for nodes, administrators and handshakes.
pub const MAX_CLIENT_SESSIONS: usize = MAX_SESSIONS - 512;

/// Connections of one certificate at once, by its public key.
pub const MAX_KEY_SESSIONS: usize = 128;

/// Connections of one account at once.
pub const MAX_ACCOUNT_SESSIONS: usize = 256;

/// Open streams of one certificate, over all its connections. The next stream waits.
pub const MAX_KEY_STREAMS: usize = MAX_STREAMS as usize;

/// Open streams of one account, over all its connections.
pub const MAX_ACCOUNT_STREAMS: usize = 2 * MAX_KEY_STREAMS;

/// Bytes of receive windows, and as many of send windows, that the connections of one account share before they have
/// asked for anything. The first connection gets half of it, the next one half of the rest, and so on.
const ACCOUNT_WINDOWS: u64 = 16 << 20;

/// The window of a connection when the account has used up its bytes.
pub(crate) const LEAST_WINDOW: u64 = UNAUTHENTICATED_WINDOW as u64;

/// Why a client gets no connection now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Full {
    /// The reason, for the client.
    pub(crate) reason: String,
}

/// The clients of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    connections: usize,
    accounts: HashMap<Account, Used>,
    keys: HashMap<Fingerprint, Used>,
}

/// The resources in use by an account or a key.
#[derive(Debug)]
struct Used {
    connections: usize,
    /// Bytes of windows.
    windows: u64,
    credit: Arc<Credit>,
    streams: Arc<Semaphore>,
}

impl Used {
    fn nothing_of(streams: usize) -> Self {
        Self {
            connections: 0,
            windows: 0,
            credit: Arc::default(),
            streams: Arc::new(Semaphore::new(streams)),
        }
    }
}

/// A client's connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    account: Account,
    key: Fingerprint,
    window: u64,
    credit: Arc<Credit>,
    streams: [Arc<Semaphore>; 2],
}

/// An open stream, counted until it is dropped.
pub(crate) type StreamPlace = [OwnedSemaphorePermit; 2];

impl Guests {
    /// Counts a connection of a client in. None for members that are no clients: they are not counted.
    pub(crate) fn admit(&self, member: &MemberCertificate, tuning: &Tuning) -> Result<Option<Guest>, Full> {
        let account = Account::of_role(&member.role);
        if account == Account::Mesh {
            return Ok(None);
        }
        let key = member.key;
        let mut inner = self.lock();
        let of_key = inner.keys.get(&key).map_or(0, |used| used.connections);
        let of_account = inner.accounts.get(&account).map_or(0, |used| used.connections);
        let full = |reason: String| Err(Full { reason });
        if of_key >= MAX_KEY_SESSIONS {
            return full(format!("this certificate has {of_key} connections already"));
        }
        if of_account >= MAX_ACCOUNT_SESSIONS {
            return full(format!("{account} have {of_account} connections already"));
        }
        if inner.connections >= MAX_CLIENT_SESSIONS {
            return full(format!("clients have {MAX_CLIENT_SESSIONS} connections already"));
        }
        inner.connections += 1;
        let used = inner
            .keys
            .entry(key)
            .or_insert_with(|| Used::nothing_of(MAX_KEY_STREAMS));
        used.connections += 1;
        let key_streams = used.streams.clone();
        let used = inner.accounts.entry(account.clone());
        let used = used.or_insert_with(|| Used::nothing_of(MAX_ACCOUNT_STREAMS));
        used.connections += 1;
        let largest = u64::from(tuning.connection_window).max(LEAST_WINDOW);
        let rest = ACCOUNT_WINDOWS.saturating_sub(used.windows);
        let window = (rest / 2).clamp(LEAST_WINDOW, largest);
        used.windows += window;
        let (streams, credit) = ([key_streams, used.streams.clone()], used.credit.clone());
        drop(inner);
        Ok(Some(Guest {
            guests: self.clone(),
            account,
            key,
            window,
            credit,
            streams,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// The connection's share of the account's windows, in bytes, in each direction.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// The credit of the account's connections.
    pub(crate) fn credit(&self) -> Arc<Credit> {
        self.credit.clone()
    }

    /// Waits until the certificate and its account may have another stream. None never: the semaphores are not closed.
    pub(crate) async fn stream(&self) -> Option<StreamPlace> {
        let [of_key, of_account] = &self.streams;
        let of_key = of_key.clone().acquire_owned().await.ok()?;
        let of_account = of_account.clone().acquire_owned().await.ok()?;
        Some([of_key, of_account])
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inner = self.guests.lock();
        inner.connections = inner.connections.saturating_sub(1);
        // The last connection is dropped after its streams: they keep the connection open.
        if let Some(used) = inner.keys.get_mut(&self.key) {
            used.connections = used.connections.saturating_sub(1);
            if used.connections == 0 {
                inner.keys.remove(&self.key);
            }
        }
        if let Some(used) = inner.accounts.get_mut(&self.account) {
            used.connections = used.connections.saturating_sub(1);
            used.windows = used.windows.saturating_sub(self.window);
            if used.connections == 0 {
                inner.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{name::MeshId, role::Role};

    fn member(key: u8, role: Role) -> MemberCertificate {
        MemberCertificate {
            mesh_id: MeshId::random().unwrap(),
            name: "x".parse().unwrap(),
            role,
            fingerprint: Fingerprint([key; 32]),
            key: Fingerprint([key; 32]),
            not_before: 0,
            not_after: i64::MAX,
        }
    }

    fn client(key: u8, stanzas: &[&str]) -> MemberCertificate {
        let stanzas = stanzas.iter().map(|stanza| stanza.parse().unwrap()).collect();
        member(key, Role::Client { stanzas })
    }

    fn admitted(guests: &Guests, member: &MemberCertificate, count: usize) -> Vec<Guest> {
        let admit = |_| guests.admit(member, &Tuning::default()).unwrap().unwrap();
        (0..count).map(admit).collect()
    }

    #[test]
    fn one_certificate_or_one_account_does_not_take_all_connections() {
        let (guests, tuning) = (Guests::default(), Tuning::default());
        let mut first = admitted(&guests, &client(1, &["a", "b"]), MAX_KEY_SESSIONS);
        let refused = guests.admit(&client(1, &["a", "b"]), &tuning).unwrap_err();
        assert_eq!(refused.reason, "this certificate has 128 connections already");
        let _second = admitted(
            &guests,
            &client(2, &["b", "a"]),
            MAX_ACCOUNT_SESSIONS - MAX_KEY_SESSIONS,
        );
        let refused = guests.admit(&client(3, &["a", "b"]), &tuning).unwrap_err();
        assert_eq!(
            refused.reason,
            "the clients of stanza a, b have 256 connections already"
        );
        let _other = admitted(&guests, &client(4, &["c"]), 1);
        first.pop();
        admitted(&guests, &client(3, &["a", "b"]), 1);
    }

    #[test]
    fn all_clients_together_leave_room_for_nodes() {
        let guests = Guests::default();
        let accounts = MAX_CLIENT_SESSIONS / MAX_KEY_SESSIONS;
        let names: Vec<String> = (0..accounts).map(|number| format!("s{number}")).collect();
        let all = names.iter().enumerate();
        let all: Vec<_> = all
            .map(|(key, name)| admitted(&guests, &client(u8::try_from(key).unwrap(), &[name]), MAX_KEY_SESSIONS))
            .collect();
        let refused = guests.admit(&client(200, &["late"]), &Tuning::default()).unwrap_err();
        assert_eq!(refused.reason, "clients have 3584 connections already");
        for role in [Role::Node, Role::Admin] {
            let admitted = guests.admit(&member(201, role), &Tuning::default());
            assert!(admitted.unwrap().is_none(), "it is not counted");
        }
        drop(all);
        assert_eq!(guests.lock().connections, 0);
        assert!(guests.lock().accounts.is_empty() && guests.lock().keys.is_empty());
    }

    #[test]
    fn the_windows_of_an_account_are_bounded_and_a_single_connection_has_a_whole_one() {
        let guests = Guests::default();
        let all = admitted(&guests, &client(1, &["a"]), MAX_KEY_SESSIONS);
        let windows: Vec<u64> = all.iter().map(Guest::window).collect();
        assert_eq!(windows[..3], [8 << 20, 4 << 20, 2 << 20]);
        assert_eq!(windows.last(), Some(&LEAST_WINDOW));
        let sum: u64 = windows.iter().sum();
        assert!(sum <= ACCOUNT_WINDOWS + LEAST_WINDOW * MAX_KEY_SESSIONS as u64, "{sum}");
    }
}

//! The share of each client in a server's connections and streams.
//!
//! A connection costs memory that no budget counts: its state, its windows, and a task for each open stream. So the
//! clients of one account ([`Account`]) share a fixed number of connections and streams, and all clients together leave
//! room for nodes and administrators (decision 42).
//!
//! ```text
//! Session ──► Arc<Guest> ◄── Place of each open stream
//! ```
//!
//! A connection is counted until the last stream that came by it has ended: a client that connects again gets no more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    account::Account,
    certificate::{Fingerprint, MemberCertificate},
    tuning::{MAX_SESSIONS, MAX_STREAMS},
};

/// Connections of clients at once: the rest of [`MAX_SESSIONS`] is for nodes, administrators and handshakes.
pub(crate) const MAX_CLIENT_SESSIONS: usize = MAX_SESSIONS - 512;

/// Connections of one certificate at once, by its public key.
pub(crate) const MAX_KEY_SESSIONS: usize = 128;

/// Connections of one account at once.
pub(crate) const MAX_ACCOUNT_SESSIONS: usize = 256;

/// Open streams of one certificate, over all its connections.
pub(crate) const MAX_KEY_STREAMS: usize = MAX_STREAMS as usize;

/// Open streams of each certificate that the others of its account cannot take: one host does not starve another host
/// of the same stanza.
pub(crate) const OWN_STREAMS: usize = 16;

/// Open streams of one account, beside those of [`OWN_STREAMS`].
pub(crate) const MAX_ACCOUNT_STREAMS: usize = 2 * MAX_KEY_STREAMS;

/// Streams of one connection that wait for a place; the next one is refused at once.
pub(crate) const WAITING_STREAMS: usize = 16;

/// The wait of a stream for its place.
const PLACE_WAIT: Duration = Duration::from_secs(5);

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
    accounts: HashMap<Account, OfAccount>,
    keys: HashMap<Fingerprint, OfKey>,
}

/// The resources in use by an account.
#[derive(Debug)]
struct OfAccount {
    connections: usize,
    streams: Arc<Semaphore>,
}

/// The resources in use by a certificate, by its key.
#[derive(Debug)]
struct OfKey {
    connections: usize,
    streams: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A client's connection, counted until it and its streams are dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    account: Account,
    key: Fingerprint,
    of_key: Arc<Semaphore>,
    own: Arc<Semaphore>,
    of_account: Arc<Semaphore>,
}

/// A stream's place among those of its client, freed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    guest: Arc<Guest>,
    /// Those of its connection that wait.
    waiting: Arc<Semaphore>,
    taken: Option<[OwnedSemaphorePermit; 2]>,
}

impl Guests {
    /// Counts a connection of a client in. None for nodes and administrators: they are not counted.
    pub(crate) fn admit(&self, member: &MemberCertificate) -> Result<Option<Arc<Guest>>, Full> {
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
        let used = inner.keys.entry(key).or_insert_with(|| OfKey {
            connections: 0,
            streams: Arc::new(Semaphore::new(MAX_KEY_STREAMS)),
            own: Arc::new(Semaphore::new(OWN_STREAMS)),
        });
        used.connections += 1;
        let (of_key, own) = (used.streams.clone(), used.own.clone());
        let used = inner.accounts.entry(account.clone()).or_insert_with(|| OfAccount {
            connections: 0,
            streams: Arc::new(Semaphore::new(MAX_ACCOUNT_STREAMS)),
        });
        used.connections += 1;
        let of_account = used.streams.clone();
        drop(inner);
        Ok(Some(Arc::new(Guest {
            guests: self.clone(),
            account,
            key,
            of_key,
            own,
            of_account,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// A place of a new stream, taken at once if there is one.
    pub(crate) fn place(self: &Arc<Self>, waiting: &Arc<Semaphore>) -> Place {
        Place {
            guest: self.clone(),
            waiting: waiting.clone(),
            taken: self.try_take(),
        }
    }

    fn try_take(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let of_key = self.of_key.clone().try_acquire_owned().ok()?;
        let own = self.own.clone().try_acquire_owned();
        let other = own.or_else(|_| self.of_account.clone().try_acquire_owned()).ok()?;
        Some([of_key, other])
    }

    /// None never: the semaphores are not closed.
    async fn take(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let of_key = self.of_key.clone().acquire_owned().await.ok()?;
        let other = tokio::select! {
            biased;
            own = self.own.clone().acquire_owned() => own,
            other = self.of_account.clone().acquire_owned() => other,
        };
        Some([of_key, other.ok()?])
    }
}

impl Place {
    /// Waits until the certificate and its account may have another stream; false if that takes too long, or if too
    /// many streams of the connection wait.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.taken.is_some() {
            return true;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return false;
        };
        self.taken = timeout(PLACE_WAIT, self.guest.take()).await.ok().flatten();
        self.taken.is_some()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inner = self.guests.lock();
        inner.connections = inner.connections.saturating_sub(1);
        if let Some(used) = inner.keys.get_mut(&self.key) {
            used.connections = used.connections.saturating_sub(1);
            if used.connections == 0 {
                inner.keys.remove(&self.key);
            }
        }
        if let Some(used) = inner.accounts.get_mut(&self.account) {
            used.connections = used.connections.saturating_sub(1);
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
            authority: [0; 20],
        }
    }

    fn client(key: u8, stanzas: &[&str]) -> MemberCertificate {
        let stanzas = stanzas.iter().map(|stanza| stanza.parse().unwrap()).collect();
        member(key, Role::Client { stanzas })
    }

    fn admitted(guests: &Guests, member: &MemberCertificate, count: usize) -> Vec<Arc<Guest>> {
        let admit = |_| guests.admit(member).unwrap().unwrap();
        (0..count).map(admit).collect()
    }

    #[test]
    fn one_certificate_or_one_account_does_not_take_all_connections() {
        let guests = Guests::default();
        let mut first = admitted(&guests, &client(1, &["a", "b"]), MAX_KEY_SESSIONS);
        let refused = guests.admit(&client(1, &["a", "b"])).unwrap_err();
        assert_eq!(refused.reason, "this certificate has 128 connections already");
        let _second = admitted(
            &guests,
            &client(2, &["b", "a"]),
            MAX_ACCOUNT_SESSIONS - MAX_KEY_SESSIONS,
        );
        let refused = guests.admit(&client(3, &["a", "b"])).unwrap_err();
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
        let refused = guests.admit(&client(200, &["late"])).unwrap_err();
        assert_eq!(refused.reason, "clients have 3584 connections already");
        for role in [Role::Node, Role::Admin] {
            let admitted = guests.admit(&member(201, role));
            assert!(admitted.unwrap().is_none(), "it is not counted");
        }
        drop(all);
        assert_eq!(guests.lock().connections, 0);
        assert!(guests.lock().accounts.is_empty() && guests.lock().keys.is_empty());
    }

    /// A connection that has ended is counted as long as a stream of it is served.
    #[test]
    fn a_client_that_connects_again_has_no_more_streams() {
        let guests = Guests::default();
        let waiting = Arc::new(Semaphore::new(WAITING_STREAMS));
        let guest = admitted(&guests, &client(1, &["a"]), 1).remove(0);
        let places: Vec<Place> = (0..MAX_KEY_STREAMS).map(|_| guest.place(&waiting)).collect();
        assert!(places.iter().all(|place| place.taken.is_some()));
        drop(guest);
        let again = admitted(&guests, &client(1, &["a"]), 1).remove(0);
        assert!(again.place(&waiting).taken.is_none());
        assert_eq!(guests.lock().connections, 2);
        drop(places);
        assert!(again.place(&waiting).taken.is_some());
        assert_eq!(guests.lock().connections, 1);
    }

    #[test]
    fn each_certificate_of_an_account_has_streams_of_its_own() {
        let guests = Guests::default();
        let waiting = Arc::new(Semaphore::new(WAITING_STREAMS));
        let hosts: Vec<_> = (1..=4)
            .map(|key| admitted(&guests, &client(key, &["a"]), 1).remove(0))
            .collect();
        let taken = |guest: &Arc<Guest>| -> Vec<Place> {
            let places = (0..MAX_KEY_STREAMS).map(|_| guest.place(&waiting));
            places.filter(|place| place.taken.is_some()).collect()
        };
        let greedy: Vec<_> = hosts[..3].iter().map(taken).collect();
        let all: usize = greedy.iter().map(Vec::len).sum();
        assert_eq!(all, MAX_ACCOUNT_STREAMS + 3 * OWN_STREAMS);
        assert_eq!(taken(&hosts[3]).len(), OWN_STREAMS);
    }
}

//! A proxy before an HTTP server, with faults between.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::fault::{Effects, Fault, Rule};
use super::message::Head;
use super::record::HttpRecord;
use super::sockets::{Acceptor, HeldPort, Open, lock};
use connection::Connection;

/// A proxy that runs until it is dropped. Requests pass it byte for byte, the `Host` header included: so signatures
/// stay right.
#[derive(Debug)]
pub struct HttpProxy {
    port: HeldPort,
    /// `None` while connections are refused.
    acceptor: Mutex<Option<Acceptor>>,
    shared: Arc<Shared>,
}

/// What the proxy and its connections have in common.
#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    rules: Mutex<Vec<Rule>>,
    records: Mutex<Records>,
    open: Arc<Open>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

#[derive(Debug, Default)]
struct Records {
    /// How many were forgotten: the number of the first that is left.
    forgotten: usize,
    records: Vec<HttpRecord>,
}

impl HttpProxy {
    /// Listens on a free port of 127.0.0.1 and passes all requests on to `upstream`.
    ///
    /// # Errors
    /// The system has no port or no thread left.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let proxy = Self {
            port: HeldPort::new()?,
            acceptor: Mutex::new(None),
            shared: Arc::new(Shared {
                upstream: Mutex::new(upstream),
                rules: Mutex::default(),
                records: Mutex::default(),
                open: Arc::default(),
                in_flight: AtomicUsize::new(0),
                most_in_flight: AtomicUsize::new(0),
            }),
        };
        proxy.accept()?;
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The server behind it is elsewhere from now on.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
        self.shared.open.shut_down();
    }

    /// Refuses connections from now on, as a machine where nobody listens; those that are open break.
    pub fn refuse(&self) {
        *lock(&self.acceptor) = None;
        self.shared.open.shut_down();
    }

    /// Ends [`refuse`](Self::refuse).
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn accept(&self) -> io::Result<()> {
        let mut acceptor = lock(&self.acceptor);
        if acceptor.is_none() {
            let shared = Arc::clone(&self.shared);
            *acceptor = Some(Acceptor::start(self.port.listen()?, move |stream| {
                let Ok(connection) = Connection::new(stream, Arc::clone(&shared)) else {
                    return;
                };
                // Connections that break are what this is for.
                thread::spawn(move || connection.serve().ok());
            })?);
        }
        Ok(())
    }

    /// Does this to all requests from now on, and nothing else; connections that are open stay.
    pub fn set(&self, fault: Fault) {
        *lock(&self.shared.rules) = vec![Rule::new(fault)];
    }

    /// Does this as well from now on.
    pub fn add(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Does nothing to requests from now on, and accepts connections. What stalls goes on stalling.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn heal(&self) -> io::Result<()> {
        lock(&self.shared.rules).clear();
        self.accept()
    }

    /// What has passed so far, in the order in which it came.
    #[must_use]
    pub fn requests(&self) -> Vec<HttpRecord> {
        lock(&self.shared.records).records.clone()
    }

    /// Forgets what has passed so far, and how many were in flight.
    pub fn clear(&self) {
        let mut records = lock(&self.shared.records);
        records.forgotten += records.records.len();
        records.records.clear();
        let now = self.shared.in_flight.load(Ordering::Relaxed);
        self.shared.most_in_flight.store(now, Ordering::Relaxed);
    }

    /// How many requests of a kind have passed so far.
    #[must_use]
    pub fn count(&self, of: impl Fn(&HttpRecord) -> bool) -> usize {
        let records = lock(&self.shared.records);
        records.records.iter().filter(|record| of(record)).count()
    }

    /// How many requests were under way at the same time, at most.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// A request that is under way, by its number.
#[derive(Debug)]
struct UnderWay {
    number: usize,
    shared: Arc<Shared>,
}

impl Shared {
    /// Notes a request, and says what is to be done to it.
    fn begin(self: &Arc<Self>, head: &Head) -> (UnderWay, Effects) {
        let mut record = HttpRecord {
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            status: None,
            request_bytes: 0,
            response_bytes: 0,
            faulted: false,
            began: Instant::now(),
            took: None,
        };
        let effects = Effects::of(&mut lock(&self.rules), &record);
        record.faulted = effects.fault.is_some();
        let number = {
            let mut records = lock(&self.records);
            records.records.push(record);
            records.forgotten + records.records.len() - 1
        };
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        let under_way = UnderWay {
            number,
            shared: Arc::clone(self),
        };
        (under_way, effects)
    }
}

impl UnderWay {
    fn note(&self, change: impl FnOnce(&mut HttpRecord)) {
        let mut records = lock(&self.shared.records);
        let index = self.number.checked_sub(records.forgotten);
        if let Some(record) = index.and_then(|index| records.records.get_mut(index)) {
            change(record);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.note(|record| record.took = Some(record.began.elapsed()));
    }
}

#[cfg(test)]
mod tests;

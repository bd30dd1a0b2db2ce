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

/// A proxy that runs until it is dropped. Requests pass it byte for byte, the `Host` header included, so signatures
/// stay right.
#[derive(Debug)]
pub struct HttpProxy {
    port: HeldPort,
    /// `None` while connections are refused.
    acceptor: Mutex<Option<Acceptor>>,
    shared: Arc<Shared>,
}

/// The state that the proxy shares with its connections.
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
    /// The number of forgotten records, which is the number of the first remaining one.
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

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Passes requests to another address from now on. Open connections break.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
        self.shared.open.shut_down();
    }

    /// Refuses connections from now on, as a machine on which no server listens. Open connections break.
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
                // A broken connection is a purpose of the proxy, not an error.
                thread::spawn(move || connection.serve().ok());
            })?);
        }
        Ok(())
    }

    /// Does this fault, and no other, to all requests from now on. Open connections stay.
    pub fn set(&self, fault: Fault) {
        *lock(&self.shared.rules) = vec![Rule::new(fault)];
    }

    /// Adds a rule for all requests from now on.
    pub fn add(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Does no fault to requests from now on, and accepts connections. Requests that stall already go on stalling.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn heal(&self) -> io::Result<()> {
        lock(&self.shared.rules).clear();
        self.accept()
    }

    /// All requests so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<HttpRecord> {
        lock(&self.shared.records).records.clone()
    }

    /// Forgets all requests so far, and the largest number in flight.
    pub fn clear(&self) {
        let mut records = lock(&self.shared.records);
        records.forgotten += records.records.len();
        records.records.clear();
        let now = self.shared.in_flight.load(Ordering::Relaxed);
        self.shared.most_in_flight.store(now, Ordering::Relaxed);
    }

    /// The number of requests so far for which `of` is true.
    #[must_use]
    pub fn count(&self, of: impl Fn(&HttpRecord) -> bool) -> usize {
        let records = lock(&self.shared.records);
        records.records.iter().filter(|record| of(record)).count()
    }

    /// The largest number of requests that were under way at the same time.
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
    /// Records a request, and returns the effects that the rules have on it.
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

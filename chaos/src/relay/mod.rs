//! A userspace UDP relay: one listening address before another, with faults between.
//!
//! Each peer that sends to the relay gets a socket of its own towards the target, as with address translation: so the
//! target tells peers apart, and its answers find their way back. A relay never answers for itself: if its target is
//! gone, its peers hear nothing, as from a host that was switched off.

mod peers;
mod pump;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::faults::Faults;
use crate::pipe::{Counts, Pipe};
use peers::PeerId;
use pump::Pump;

/// One of the two directions of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peers that dial the relay to its target.
    Forward,
    /// From the target back.
    Backward,
}

/// The limits of a relay's memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of peers. If it is exceeded, the relay forgets the peer that was silent for longest.
    pub peers: usize,
    /// A peer is forgotten if no datagram came from it or to it for so long.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers: 512,
            idle: Duration::from_secs(60),
        }
    }
}

/// A running relay. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The state that the relay's thread shares with its owner.
#[derive(Debug)]
struct Shared {
    pipes: Mutex<Pipes>,
    peers: AtomicUsize,
    end: AtomicBool,
    /// Written to wake the thread.
    wake: OwnedFd,
}

/// Both directions.
#[derive(Debug)]
struct Pipes {
    forward: Pipe<PeerId>,
    backward: Pipe<PeerId>,
}

impl Relay {
    /// Listens on a free port of 127.0.0.1 and relays to `target`.
    ///
    /// # Errors
    /// The system has no socket or no thread left.
    pub fn start(target: SocketAddr, seed: u64) -> io::Result<Self> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), target, seed, Limits::default())
    }

    /// Listens on `address` and relays to `target`. All random draws follow from `seed`.
    ///
    /// # Errors
    /// The address is taken, or the system has no socket or no thread left.
    pub fn listen(address: SocketAddr, target: SocketAddr, seed: u64, limits: Limits) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            pipes: Mutex::new(Pipes {
                forward: Pipe::new(seed),
                // The other direction has another stream of numbers.
                backward: Pipe::new(!seed),
            }),
            peers: AtomicUsize::new(0),
            end: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        });
        let pump = Pump::new(socket, target, limits, Arc::clone(&shared))?;
        let thread = thread::Builder::new()
            .name(format!("relay-{}", target.port()))
            .spawn(move || pump.run())?;
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the faults of one direction.
    pub fn set(&self, direction: Direction, faults: Faults) {
        self.shared.lock().of(direction).set(faults);
        // The next datagram may now be due at another time than the one for which the thread sleeps.
        self.shared.wake();
    }

    /// As [`set`](Self::set), if the faults differ from the present ones; otherwise datagrams under way are left alone.
    pub(crate) fn set_if_changed(&self, direction: Direction, faults: Faults) {
        if self.faults(direction) != faults {
            self.set(direction, faults);
        }
    }

    /// Changes the faults of both directions.
    pub fn set_both(&self, faults: Faults) {
        self.set(Direction::Forward, faults);
        self.set(Direction::Backward, faults);
    }

    /// The faults of one direction.
    #[must_use]
    pub fn faults(&self, direction: Direction) -> Faults {
        self.shared.lock().of(direction).faults()
    }

    /// Counts of the datagrams of one direction so far.
    #[must_use]
    pub fn counts(&self, direction: Direction) -> Counts {
        self.shared.lock().of(direction).counts()
    }

    /// The number of peers that it remembers.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.shared.peers.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already, and a drop may not panic.
            thread.join().ok();
        }
    }
}

impl Shared {
    /// A panic elsewhere leaves the pipes whole: each call finishes its changes to them.
    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // The write fails only if so many wakes are pending that one more does not matter.
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).ok();
    }
}

impl Pipes {
    fn of(&mut self, direction: Direction) -> &mut Pipe<PeerId> {
        match direction {
            Direction::Forward => &mut self.forward,
            Direction::Backward => &mut self.backward,
        }
    }
}

#[cfg(test)]
mod tests;

//! One direction of a link: which datagrams arrive, when, and how often. No socket and no clock: the caller passes the
//! time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::faults::Faults;
use crate::random::Random;

/// The bytes that may be under way in one direction, [`OVERHEAD`] included: a link that is slower than its senders
/// holds no more.
const LIMIT: usize = 16 << 20;

/// The bytes that a datagram takes beside its content, so that empty datagrams are bounded too.
const OVERHEAD: usize = 128;

/// Counts of the datagrams of one direction so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that came in.
    pub received: u64,
    /// Datagrams that were handed on, copies included.
    pub delivered: u64,
    /// The bytes of these.
    pub delivered_bytes: u64,
    /// Datagrams that were lost by the draw of `loss`.
    pub lost: u64,
    /// Datagrams that were lost because the queue, or the memory for datagrams under way, was full.
    pub overflowed: u64,
    /// Datagrams that were lost in silence.
    pub silenced: u64,
    /// Copies that were made.
    pub duplicated: u64,
}

/// One direction of a link, with the datagrams under way on it. `T` is the owner of a datagram.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    faults: Faults,
    random: Random,
    /// The time at which the last accepted byte has left the bottleneck.
    busy_until: Option<Instant>,
    under_way: BinaryHeap<Datagram<T>>,
    /// The bytes of memory that `under_way` takes.
    held: usize,
    sequence: u64,
    counts: Counts,
}

/// A datagram under way.
#[derive(Debug)]
struct Datagram<T> {
    due: Instant,
    /// Of datagrams that are due at the same time, the first to come is the first to leave.
    sequence: u64,
    owner: T,
    bytes: Box<[u8]>,
}

impl<T: Copy> Pipe<T> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            faults: Faults::none(),
            random: Random::new(seed),
            busy_until: None,
            under_way: BinaryHeap::new(),
            held: 0,
            sequence: 0,
            counts: Counts::default(),
        }
    }

    /// Changes the faults for datagrams from now on; silence also drops the datagrams under way.
    pub(crate) fn set(&mut self, faults: Faults) {
        if faults.bandwidth != self.faults.bandwidth {
            self.busy_until = None;
        }
        if faults.silent {
            self.counts.silenced += self.under_way.len() as u64;
            self.under_way.clear();
            self.held = 0;
        }
        self.faults = faults;
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a datagram that arrived at the near end.
    pub(crate) fn offer(&mut self, now: Instant, owner: T, bytes: &[u8]) {
        self.counts.received += 1;
        // Draws all four numbers for each datagram, needed or not: then the fate of the n-th datagram follows from the
        // seed alone, and not from the faults before it.
        let loss = self.random.fraction();
        let duplication = self.random.fraction();
        let jitters = [self.jitter(), self.jitter()];
        if self.faults.silent {
            self.counts.silenced += 1;
            return;
        }
        if loss < self.faults.loss {
            self.counts.lost += 1;
            return;
        }
        let Some(leaves) = self.pass_bottleneck(now, bytes.len()) else {
            self.counts.overflowed += 1;
            return;
        };
        let copies = if duplication < self.faults.duplication {
            self.counts.duplicated += 1;
            2
        } else {
            1
        };
        for jitter in jitters.into_iter().take(copies) {
            self.send_on_its_way(leaves + self.faults.delay + jitter, owner, bytes);
        }
    }

    fn jitter(&mut self) -> Duration {
        self.faults.jitter.mul_f64(self.random.fraction())
    }

    /// The time at which the datagram has left the bottleneck; `None` if the queue has no room for it.
    fn pass_bottleneck(&mut self, now: Instant, length: usize) -> Option<Instant> {
        let Some(bandwidth) = self.faults.bandwidth else {
            return Some(now);
        };
        let rate = bandwidth.bytes_per_second.max(1) as f64;
        let begins = self.busy_until.map_or(now, |until| until.max(now));
        let waiting = begins.duration_since(now).as_secs_f64() * rate;
        // A datagram that finds the line idle passes, however small the queue is.
        if waiting > 0.0 && waiting + length as f64 > bandwidth.queue as f64 {
            return None;
        }
        let ends = begins + Duration::from_secs_f64(length as f64 / rate);
        self.busy_until = Some(ends);
        Some(ends)
    }

    fn send_on_its_way(&mut self, due: Instant, owner: T, bytes: &[u8]) {
        let size = bytes.len() + OVERHEAD;
        if self.held + size > LIMIT {
            self.counts.overflowed += 1;
            return;
        }
        self.held += size;
        self.sequence += 1;
        self.under_way.push(Datagram {
            due,
            sequence: self.sequence,
            owner,
            bytes: bytes.into(),
        });
    }

    /// When the next datagram arrives at the far end.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|datagram| datagram.due)
    }

    /// The next datagram that has arrived at the far end, if one has.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(T, Box<[u8]>)> {
        if self.next_due()? > now {
            return None;
        }
        let datagram = self.under_way.pop()?;
        self.held -= datagram.bytes.len() + OVERHEAD;
        self.counts.delivered += 1;
        self.counts.delivered_bytes += datagram.bytes.len() as u64;
        Some((datagram.owner, datagram.bytes))
    }
}

impl<T> Datagram<T> {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.sequence)
    }
}

/// The heap hands out its greatest element, so the first to arrive is the greatest.
impl<T> Ord for Datagram<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<T> PartialOrd for Datagram<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Datagram<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Datagram<T> {}

#[cfg(test)]
mod tests;

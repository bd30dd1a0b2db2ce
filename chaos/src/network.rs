//! All links between named processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::faults::Faults;
use crate::pipe::Counts;
use crate::random::Random;
use crate::relay::{Direction, Relay};

/// A relay for every ordered pair of named processes of which the second listens. A process reaches another by
/// [`route`](Network::route); both directions of this conversation then pass one relay.
///
/// The faults of a link (`shape`, `slow`) and its cuts (`partition`, `isolate`, `one_way`) are kept apart, so
/// [`heal`](Network::heal) leaves slow links slow.
#[derive(Debug)]
pub struct Network {
    random: Random,
    /// The processes that listen, with their addresses.
    listeners: BTreeMap<String, SocketAddr>,
    names: BTreeSet<String>,
    /// By dialler and dialled process.
    relays: BTreeMap<Link, Relay>,
    /// By sender and receiver of the datagrams.
    shapes: BTreeMap<Link, Faults>,
    cuts: BTreeSet<Link>,
}

/// From one process to another.
type Link = (String, String);

impl Network {
    /// A network without processes. Its random draws follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            listeners: BTreeMap::new(),
            names: BTreeSet::new(),
            relays: BTreeMap::new(),
            shapes: BTreeMap::new(),
            cuts: BTreeSet::new(),
        }
    }

    /// Adds a process that listens at `address`, and relays from all others to it.
    ///
    /// # Errors
    /// The system has no socket or no thread left.
    pub fn add(&mut self, name: &str, address: SocketAddr) -> io::Result<()> {
        self.add_client(name)?;
        self.listeners.insert(name.to_owned(), address);
        let others: Vec<String> = self.names.iter().filter(|other| *other != name).cloned().collect();
        for other in others {
            self.connect(&other, name, address)?;
        }
        Ok(())
    }

    /// Adds a process that only dials, and relays from it to all listening processes.
    ///
    /// # Errors
    /// The system has no socket or no thread left.
    pub fn add_client(&mut self, name: &str) -> io::Result<()> {
        self.names.insert(name.to_owned());
        for (listener, address) in self.listeners.clone() {
            if listener != name {
                self.connect(name, &listener, address)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, from: &str, to: &str, address: SocketAddr) -> io::Result<()> {
        let relay = Relay::start(address, self.random.bits())?;
        self.relays.insert((from.to_owned(), to.to_owned()), relay);
        self.apply();
        Ok(())
    }

    /// The address at which `from` reaches `to`.
    ///
    /// # Panics
    /// If `from` was not added, or `to` does not listen.
    #[must_use]
    pub fn route(&self, from: &str, to: &str) -> SocketAddr {
        self.relay(from, to).address()
    }

    /// The addresses at which `from` reaches the other listening processes, by name.
    #[must_use]
    pub fn routes(&self, from: &str) -> Vec<(String, SocketAddr)> {
        let of_this = self.relays.iter().filter(|((dialler, _), _)| dialler == from);
        of_this.map(|((_, to), relay)| (to.clone(), relay.address())).collect()
    }

    /// The relay by which `from` dials `to`.
    ///
    /// # Panics
    /// As [`route`](Self::route).
    #[must_use]
    pub fn relay(&self, from: &str, to: &str) -> &Relay {
        self.relays
            .get(&(from.to_owned(), to.to_owned()))
            .unwrap_or_else(|| panic!("no link from {from} to {to} in the network"))
    }

    /// The bytes that passed from one process to another so far, whichever of the two dialled.
    #[must_use]
    pub fn delivered_bytes(&self, from: &str, to: &str) -> u64 {
        let passed = |dialler: &str, dialled: &str, direction| {
            let relay = self.relays.get(&(dialler.to_owned(), dialled.to_owned()));
            relay
                .map_or(Counts::default(), |relay| relay.counts(direction))
                .delivered_bytes
        };
        passed(from, to, Direction::Forward) + passed(to, from, Direction::Backward)
    }

    /// Sets the faults of the link from one process to another, in that direction.
    pub fn shape(&mut self, from: &str, to: &str, faults: Faults) {
        self.known([from, to]);
        self.shapes.insert((from.to_owned(), to.to_owned()), faults);
        self.apply();
    }

    /// Sets the faults of the link between two processes, in both directions.
    pub fn shape_both(&mut self, one: &str, other: &str, faults: Faults) {
        self.shape(one, other, faults);
        self.shape(other, one, faults);
    }

    /// Lets a round trip between two processes take `rtt`.
    pub fn slow(&mut self, one: &str, other: &str, rtt: Duration) {
        self.shape_both(one, other, Faults::delayed(rtt / 2));
    }

    /// Sets the faults of all links.
    pub fn shape_all(&mut self, faults: Faults) {
        let names: Vec<String> = self.names.iter().cloned().collect();
        for from in &names {
            for to in names.iter().filter(|to| *to != from) {
                self.shapes.insert((from.clone(), to.clone()), faults);
            }
        }
        self.apply();
    }

    /// Cuts all links between one group and the other. A process in neither group reaches both.
    pub fn partition(&mut self, one: &[&str], other: &[&str]) {
        for a in one {
            for b in other {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
        self.apply();
    }

    /// Cuts all links between a process and the others.
    pub fn isolate(&mut self, name: &str) {
        let others: Vec<String> = self.names.iter().filter(|other| *other != name).cloned().collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        self.partition(&[name], &others);
    }

    /// Cuts the link from one process to another, while datagrams in the other direction still pass.
    pub fn one_way(&mut self, from: &str, to: &str) {
        self.cut(from, to);
        self.apply();
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.apply();
    }

    /// Ends all partitions, and makes all links perfect.
    pub fn clear(&mut self) {
        self.shapes.clear();
        self.heal();
    }

    fn cut(&mut self, from: &str, to: &str) {
        self.known([from, to]);
        self.cuts.insert((from.to_owned(), to.to_owned()));
    }

    /// A mistyped name would be a fault that never happens.
    fn known(&self, names: [&str; 2]) {
        for name in names {
            assert!(self.names.contains(name), "no {name} in the network");
        }
    }

    fn apply(&self) {
        for ((dialler, dialled), relay) in &self.relays {
            relay.set_if_changed(Direction::Forward, self.faults(dialler, dialled));
            relay.set_if_changed(Direction::Backward, self.faults(dialled, dialler));
        }
    }

    fn faults(&self, from: &str, to: &str) -> Faults {
        let link = (from.to_owned(), to.to_owned());
        let shape = self.shapes.get(&link).copied().unwrap_or_default();
        Faults {
            silent: shape.silent || self.cuts.contains(&link),
            ..shape
        }
    }
}

#[cfg(test)]
mod tests;

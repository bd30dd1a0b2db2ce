//! The peers that send through a relay.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use rustix::event::epoll;

use super::Limits;
use super::pump::enlarge_buffers;

/// A peer's number in one relay. It is never used again, so that a datagram still under way for a forgotten peer
/// reaches no other peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PeerId(pub(super) u64);

/// A peer, and the socket by which the target knows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) socket: UdpSocket,
    last_used: Instant,
}

/// The peers of a relay; their sockets are watched by its epoll.
#[derive(Debug)]
pub(super) struct Peers {
    target: SocketAddr,
    limits: Limits,
    next: u64,
    ids: HashMap<SocketAddr, PeerId>,
    peers: HashMap<PeerId, Peer>,
}

impl Peers {
    /// The first peer's number is `first`.
    pub(super) fn new(target: SocketAddr, limits: Limits, first: u64) -> Self {
        Self {
            target,
            limits,
            next: first,
            ids: HashMap::new(),
            peers: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// Notes that a datagram came from a peer or to it.
    pub(super) fn touch(&mut self, id: PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.last_used = now;
        }
    }

    /// The peer at an address; a new one if the relay does not know the address.
    pub(super) fn at(
        &mut self,
        address: SocketAddr,
        now: Instant,
        watch: impl FnOnce(&UdpSocket, PeerId) -> io::Result<()>,
    ) -> io::Result<PeerId> {
        if let Some(&id) = self.ids.get(&address) {
            self.touch(id, now);
            return Ok(id);
        }
        if self.peers.len() >= self.limits.peers {
            self.forget_longest_silent();
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.target)?;
        socket.set_nonblocking(true)?;
        enlarge_buffers(&socket);
        let id = PeerId(self.next);
        self.next += 1;
        watch(&socket, id)?;
        self.ids.insert(address, id);
        self.peers.insert(
            id,
            Peer {
                address,
                socket,
                last_used: now,
            },
        );
        Ok(id)
    }

    /// Forgets the peers that have been idle for too long.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        let idle = self.limits.idle;
        self.peers.retain(|_, peer| now.duration_since(peer.last_used) < idle);
        self.ids.retain(|_, id| self.peers.contains_key(id));
    }

    /// Closing the peer's socket takes it out of the epoll as well.
    fn forget_longest_silent(&mut self) {
        let longest = self.peers.iter().min_by_key(|(_, peer)| peer.last_used);
        if let Some((&id, _)) = longest
            && let Some(peer) = self.peers.remove(&id)
        {
            self.ids.remove(&peer.address);
        }
    }
}

/// The epoll data of a peer's socket.
impl From<PeerId> for epoll::EventData {
    fn from(id: PeerId) -> Self {
        Self::new_u64(id.0)
    }
}

//! The thread of a relay: sockets in, pipes, sockets out.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use rustix::net::sockopt;

use super::peers::{PeerId, Peers};
use super::{Limits, Shared};

/// The numbers of the watched descriptors beside the peers' sockets.
const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_PEER: u64 = 2;

/// The most datagrams that are taken from one socket before the others and the due datagrams have their turn.
const BATCH: usize = 128;

/// Larger than any datagram.
const LONGEST: usize = 1 << 16;

/// QUIC sends in bursts. If the kernel dropped datagrams for lack of room, that would be a fault that the test did not
/// order.
const SOCKET_BUFFER: usize = 4 << 20;

/// Moves datagrams until the relay ends.
pub(super) struct Pump {
    epoll: OwnedFd,
    listener: UdpSocket,
    peers: Peers,
    limits: Limits,
    shared: Arc<Shared>,
    buffer: Box<[u8]>,
}

/// Asks for large buffers: beyond the system's limit if the process may (as root), else up to it.
pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER).ok();
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER).ok();
    }
}

impl Pump {
    pub(super) fn new(
        listener: UdpSocket,
        target: SocketAddr,
        limits: Limits,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        enlarge_buffers(&listener);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), readable)?;
        epoll::add(&epoll, &shared.wake, epoll::EventData::new_u64(WAKE), readable)?;
        Ok(Self {
            epoll,
            listener,
            peers: Peers::new(target, limits, FIRST_PEER),
            limits,
            shared,
            buffer: vec![0; LONGEST].into_boxed_slice(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        let mut sweep = Instant::now() + self.limits.idle;
        while !self.shared.end.load(Ordering::Relaxed) {
            events.clear();
            let timeout = self.sleep(sweep);
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
            // Only an interruption can happen here: then no socket is ready.
            if waited.is_ok() {
                for event in &events {
                    match event.data.u64() {
                        LISTENER => self.take_from_peers(),
                        WAKE => {
                            rustix::io::read(&self.shared.wake, &mut [0; 8]).ok();
                        }
                        peer => self.take_from_target(PeerId(peer)),
                    }
                }
            }
            self.hand_on();
            let now = Instant::now();
            if now >= sweep {
                self.peers.forget_idle(now);
                sweep = now + self.limits.idle / 2;
            }
            self.shared.peers.store(self.peers.len(), Ordering::Relaxed);
        }
    }

    /// The time until a datagram is due, in the kernel's whole milliseconds: a link is not finer than that.
    fn sleep(&self, sweep: Instant) -> Timespec {
        let pipes = self.shared.lock();
        let due = [pipes.forward.next_due(), pipes.backward.next_due(), Some(sweep)];
        let until = due.into_iter().flatten().min().unwrap_or(sweep);
        let left = until.saturating_duration_since(Instant::now());
        // A duration of at most the idle time, which fits.
        Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
    }

    fn take_from_peers(&mut self) {
        for _ in 0..BATCH {
            let Ok((length, from)) = self.listener.recv_from(&mut self.buffer) else {
                return;
            };
            let now = Instant::now();
            let epoll = &self.epoll;
            let id = self.peers.at(from, now, |socket, id| {
                Ok(epoll::add(epoll, socket, id.into(), epoll::EventFlags::IN)?)
            });
            // Out of sockets: the datagram is lost, as it would be at a router that is out of ports.
            if let (Ok(id), Some(bytes)) = (id, self.buffer.get(..length)) {
                self.shared.lock().forward.offer(now, id, bytes);
            }
        }
    }

    fn take_from_target(&mut self, id: PeerId) {
        for _ in 0..BATCH {
            let Some(peer) = self.peers.get(id) else { return };
            match peer.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    let now = Instant::now();
                    self.peers.touch(id, now);
                    if let Some(bytes) = self.buffer.get(..length) {
                        self.shared.lock().backward.offer(now, id, bytes);
                    }
                }
                // No process listens at the target: the peer is not told.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    /// Sends the due datagrams. If a socket has no room for one, it is lost.
    fn hand_on(&self) {
        let now = Instant::now();
        let mut pipes = self.shared.lock();
        while let Some((id, bytes)) = pipes.forward.take_due(now) {
            if let Some(peer) = self.peers.get(id)
                && let Err(error) = peer.socket.send(&bytes)
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                // The error was about an earlier datagram, and kept this one from being sent.
                peer.socket.send(&bytes).ok();
            }
        }
        while let Some((id, bytes)) = pipes.backward.take_due(now) {
            if let Some(peer) = self.peers.get(id) {
                self.listener.send_to(&bytes, peer.address).ok();
            }
        }
    }
}

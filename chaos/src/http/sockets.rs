//! Listeners that can end, and connections that another thread can end.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// Takes a lock: a panic elsewhere leaves the values of this module's users whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP port that this process holds as long as this value lives, with or without a listener. Listeners need
/// `SO_REUSEADDR`, as servers have it.
#[derive(Debug)]
pub struct HeldPort {
    address: SocketAddr,
    /// Bound, and never listening: no other process gets the port, and the system refuses clients that connect.
    _socket: OwnedFd,
}

impl HeldPort {
    /// Holds a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn new() -> io::Result<Self> {
        let held = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        // The listener has this option too: with it, both can be bound while only one of them listens.
        sockopt::set_socket_reuseaddr(&held, true)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        bind(&held, &any)?;
        let address: SocketAddrV4 = getsockname(&held)?.try_into()?;
        Ok(Self {
            address: address.into(),
            _socket: held,
        })
    }

    /// The address of the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens there.
    ///
    /// # Errors
    /// Another listener of this process is open there.
    pub fn listen(&self) -> io::Result<TcpListener> {
        TcpListener::bind(self.address)
    }
}

/// A thread that accepts connections. When this value is dropped, the thread ends and its listener is closed.
#[derive(Debug)]
pub(super) struct Acceptor {
    end: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Has `serve` called for every connection, on the accepting thread.
    pub(super) fn start(listener: TcpListener, mut serve: impl FnMut(TcpStream) + Send + 'static) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let end = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (ended, woken) = (Arc::clone(&end), Arc::clone(&wake));
        let thread = thread::Builder::new()
            .name(format!("http-{}", listener.local_addr()?.port()))
            .spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    match listener.accept() {
                        Ok((stream, _)) => serve(stream),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            let ready = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
                            // Interrupted or not, the loop looks for connections again.
                            poll(&mut [ready(listener.as_fd()), ready(woken.as_fd())], None).ok();
                        }
                        // The client has gone already, or no descriptors are left: the next attempt will tell.
                        Err(_) => thread::yield_now(),
                    }
                }
            })?;
        Ok(Self {
            end,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The open sockets of a server, which another thread can close.
#[derive(Debug, Default)]
pub(super) struct Open {
    sockets: Mutex<HashMap<u64, TcpStream>>,
    next: Mutex<u64>,
}

/// An open socket, which [`Open`] forgets when this value is dropped.
#[derive(Debug)]
pub(super) struct Tracked {
    id: u64,
    open: Arc<Open>,
}

impl Open {
    pub(super) fn track(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Tracked> {
        let id = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        lock(&self.sockets).insert(id, stream.try_clone()?);
        Ok(Tracked {
            id,
            open: Arc::clone(self),
        })
    }

    /// Ends all connections: reading and writing them fails from now on.
    pub(super) fn shut_down(&self) {
        for stream in lock(&self.sockets).values() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        lock(&self.open.sockets).remove(&self.id);
    }
}

/// Waits until the other side closes the connection, or this side ends it.
pub(super) fn wait_for_end(stream: &TcpStream) {
    let mut polled = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)];
    loop {
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Has the connection reset instead of ended in order when it is closed.
pub(super) fn reset_on_close(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO)).ok();
}

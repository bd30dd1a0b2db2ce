//! Notices the death of a process sooner than the idle time-out would.
//!
//! The host of a killed process answers datagrams to its port with "port unreachable", which the kernel shows on
//! connected UDP sockets only; QUIC's socket is not connected. So when a peer has been silent for a moment, this module
//! sends a one-byte datagram from a socket of its own. "Connection refused" is proof that the process is gone. No
//! answer proves nothing, and the idle time-out decides.

use pgmesh_runtime::tasks;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quinn::ConnectionError;
use tokio::{
    net::UdpSocket,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::lost::{CloseCode, ConnectionLost};

/// The period at which a connection is checked.
const LOOK: Duration = Duration::from_millis(300);

/// Checks without a packet from the peer before the question is sent: more than one keep-alive interval.
const SILENT_LOOKS: u32 = 2;

/// The limit on the wait for "connection refused".
const ANSWER_LIMIT: Duration = Duration::from_millis(300);

/// Not a QUIC packet: the fixed bit is not set, so a listening endpoint drops it (RFC 9000, section 17).
const QUESTION: [u8; 1] = [0];

/// This side's knowledge of a connection's end, beyond QUIC's.
#[derive(Debug, Default)]
pub(crate) struct ConnectionEnd {
    gone: AtomicBool,
}

impl ConnectionEnd {
    /// The end of the connection, in our words.
    pub(crate) fn lost(&self, error: ConnectionError) -> ConnectionLost {
        match ConnectionLost::from(error) {
            ConnectionLost::ClosedHere if self.gone.load(Ordering::Acquire) => ConnectionLost::Gone,
            lost => lost,
        }
    }
}

/// Watches one connection until dropped.
#[derive(Debug)]
pub(crate) struct Watch(JoinHandle<()>);

impl Watch {
    pub(crate) fn start(connection: quinn::Connection, fate: Arc<ConnectionEnd>) -> Self {
        Self(tasks::spawn("watching a connection", watch(connection, fate)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(connection: quinn::Connection, fate: Arc<ConnectionEnd>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut silent_looks) = (0, 0);
    while connection.close_reason().is_none() {
        looks.tick().await;
        let now_heard = connection.stats().udp_rx.datagrams;
        silent_looks = if now_heard == heard { silent_looks + 1 } else { 0 };
        heard = now_heard;
        if silent_looks >= SILENT_LOOKS && is_refused(connection.remote_address()).await {
            fate.gone.store(true, Ordering::Release);
            connection.close(CloseCode::DONE.0.into(), b"port unreachable");
        }
    }
}

/// Whether the host at the address answers that no process listens on the port; false without an answer.
pub(crate) async fn is_refused(address: SocketAddr) -> bool {
    match timeout(ANSWER_LIMIT, ask(address)).await {
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(Ok(())) | Err(_) => false,
    }
}

async fn ask(address: SocketAddr) -> io::Result<()> {
    let any = if address.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(address).await?;
    socket.send(&QUESTION).await?;
    socket.recv(&mut [0; 1]).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_told_from_an_open_one() {
        let open = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = open.local_addr().unwrap();
        assert!(!is_refused(address).await);
        drop(open);
        assert!(is_refused(address).await);
    }
}

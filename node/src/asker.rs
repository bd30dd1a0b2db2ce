//! The asker of a connection's requests, and the memory that its bodies take: a part of the budget for its account, held
//! before the bytes are read.

use crate::Node;
use crate::budget::{Budget, Busy, GivenUp, Held};
use bytes::Bytes;
use pgmesh_protocol::{ExitCode, Failure, PayloadHead};
use pgmesh_transport::{Account, Peer, Stream, StreamCode, StreamError, Windows};

/// The asker of a connection's requests, as far as their memory is concerned.
pub(crate) struct Asker {
    account: Account,
    windows: Windows,
    is_node: bool,
}

impl Asker {
    /// The asker at the other end of a connection with these windows.
    pub(crate) fn new(peer: &Peer, windows: Windows) -> Self {
        Self {
            account: Account::of(peer),
            is_node: peer.is_node(),
            windows,
        }
    }

    /// The account of the asker.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Nodes have a budget of their own: were it shared, two nodes could wait for each other's memory for ever.
    fn budget<'n>(&self, node: &'n Node) -> &'n Budget {
        match self.is_node {
            true => &node.peer_budget,
            false => &node.budget,
        }
    }

    /// The windows of the connection.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Waits for so many bytes of the budget.
    ///
    /// # Errors
    /// 49, to be asked again elsewhere: others have held them for some seconds.
    pub(crate) async fn hold(&self, node: &Node, bytes: u64) -> Result<Held, Failure> {
        let held = self.budget(node).hold_for(&self.account, bytes).await;
        held.map_err(|busy| is_busy(node, busy))
    }

    /// Waits for the memory of the next part of a request that has come far: for longer, since the whole request would
    /// be repeated.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub(crate) async fn hold_more(&self, node: &Node, bytes: u64) -> Result<Held, Failure> {
        let held = self.budget(node).hold_patiently(&self.account, bytes).await;
        held.map_err(|busy| is_busy(node, busy))
    }

    /// Receives a body of at most `limit` bytes, for which memory is held.
    ///
    /// # Errors
    /// The stream has failed, or was given up because others wait for the memory.
    pub(crate) async fn receive(
        &self,
        stream: &mut Stream,
        head: PayloadHead,
        limit: u64,
        held: &Held,
    ) -> Result<Bytes, StreamError> {
        let expected = self.windows.expect(head.length);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let received = held.transfer(stream.recv_bytes(head.length, limit)).await;
        let body = received.unwrap_or_else(|given_up| give_up(stream, given_up))?;
        expected.arrived();
        Ok(body)
    }
}

/// Drops a transfer that others need the memory of.
pub(crate) fn give_up<T>(stream: &mut Stream, GivenUp: GivenUp) -> Result<T, StreamError> {
    stream.stop(StreamCode::BUSY);
    Err(StreamError::GivenUp)
}

fn is_busy(node: &Node, busy: Busy) -> Failure {
    let what = format!(
        "node {} is busy: {} KiB of memory were not free within {} s",
        node.name,
        busy.bytes.div_ceil(1024),
        busy.waited.as_secs()
    );
    Failure::new(ExitCode::HostConnect, what)
        .because("other clients hold it")
        .remedy("give more than one mesh-node, or a larger node-buffer")
        .again()
}

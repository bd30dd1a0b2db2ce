//! The asker of a connection's requests, and the memory that its bodies take: a part of the budget for its account,
//! held before the bytes are read.

use crate::Node;
use crate::budget::{Budget, Busy, GivenUp, Held};
use bytes::Bytes;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::NodeName;
use pgmesh_transport::{Account, Expected, Session, Stream, StreamCode, StreamError, Windows};

/// What an administrator can do about a busy node.
const REMEDY: &str = "give more than one mesh-node, or a larger node-buffer";

/// The asker of a connection's requests, as far as their memory is concerned.
pub(crate) struct Asker {
    account: Account,
    windows: Windows,
    /// Nodes have a budget of their own: were it shared, two nodes could wait for each other's memory for ever.
    budget: Budget,
    /// The node that is asked.
    node: NodeName,
}

/// A body that is expected, and the memory that is held for it.
pub(crate) struct Body {
    held: Held,
    expected: Expected,
}

impl Asker {
    /// The asker at the other end of a connection.
    pub(crate) fn new(node: &Node, session: &Session) -> Self {
        let peer = session.peer();
        let budget = match peer.is_node() {
            true => &node.peer_budget,
            false => &node.budget,
        };
        Self {
            account: Account::of(peer),
            windows: session.windows().clone(),
            budget: budget.clone(),
            node: node.name.clone(),
        }
    }

    /// The account of the asker.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// The windows of the connection.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Waits for so many bytes of the budget.
    ///
    /// # Errors
    /// 49, to be asked again elsewhere: others have held them for some seconds.
    pub(crate) async fn hold(&self, bytes: u64) -> Result<Held, Failure> {
        let held = self.budget.hold_for(&self.account, bytes).await;
        held.map_err(|busy| is_busy(&self.node, busy))
    }

    /// Waits for `memory` bytes of the budget, for a request with a body of `length` bytes.
    ///
    /// # Errors
    /// As [`Self::hold`]; or too many bodies of the asker's account wait already.
    pub(crate) async fn hold_for_body(&self, memory: u64, length: u64) -> Result<Body, Failure> {
        self.hold_body(memory, length, Budget::hold_for).await
    }

    /// The same for the next part of a request that has come far. The wait is longer, since the whole request would be
    /// repeated.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn hold_for_part(&self, memory: u64, length: u64) -> Result<Body, Failure> {
        self.hold_body(memory, length, Budget::hold_patiently).await
    }

    async fn hold_body<'b>(
        &'b self,
        memory: u64,
        length: u64,
        hold: impl AsyncFn(&'b Budget, &Account, u64) -> Result<Held, Busy>,
    ) -> Result<Body, Failure> {
        if let Some(held) = self.budget.try_hold(&self.account, memory) {
            let expected = self.windows.expect(length);
            return Ok(Body { held, expected });
        }
        let Some(waiting) = self.windows.wait(length) else {
            let what = format!("node {} is busy: too many bodies wait for memory", self.node);
            return Err(Failure::new(ExitCode::HostConnect, what).remedy(REMEDY).again());
        };
        let held = hold(&self.budget, &self.account, memory).await;
        let held = held.map_err(|busy| is_busy(&self.node, busy))?;
        let expected = waiting.granted(length);
        Ok(Body { held, expected })
    }
}

impl Body {
    /// Receives the body, of at most `limit` bytes; its memory is held on.
    ///
    /// # Errors
    /// The stream has failed, or was given up because others wait for the memory.
    pub(crate) async fn receive(
        self,
        stream: &mut Stream,
        length: u64,
        limit: u64,
    ) -> Result<(Bytes, Held), StreamError> {
        let Self { held, expected } = self;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let received = held.transfer(stream.recv_bytes(length, limit)).await;
        let body = received.unwrap_or_else(|given_up| give_up(stream, given_up))?;
        expected.arrived();
        Ok((body, held))
    }
}

/// Drops a transfer that others need the memory of.
pub(crate) fn give_up<T>(stream: &mut Stream, GivenUp: GivenUp) -> Result<T, StreamError> {
    stream.stop(StreamCode::BUSY);
    Err(StreamError::GivenUp)
}

fn is_busy(node: &NodeName, busy: Busy) -> Failure {
    let what = format!(
        "node {} is busy: {} KiB of memory were not free within {} s",
        node,
        busy.bytes.div_ceil(1024),
        busy.waited.as_secs()
    );
    Failure::new(ExitCode::HostConnect, what)
        .because("other clients hold it")
        .remedy(REMEDY)
        .again()
}

//! The asker of a connection's requests, and the memory that its bodies take: a part of the budget for its account,
//! held before the bytes are read.

use crate::Node;
use crate::budget::{Budget, Held};
use pgmesh_transport::{Account, Session, Stream, StreamError};

/// The asker of a connection's requests, as far as their memory is concerned.
pub(crate) struct Asker {
    account: Account,
    /// Nodes have a budget of their own: were it shared, two nodes could wait for each other's memory for ever.
    budget: Budget,
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
            budget: budget.clone(),
        }
    }

    /// The account of the asker.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Waits for so many bytes of the budget, as long as the asker waits for the answer on this stream.
    ///
    /// # Errors
    /// The asker has given the stream up, or its connection is gone.
    pub(crate) async fn hold(&self, stream: &Stream, bytes: u64) -> Result<Held, StreamError> {
        tokio::select! {
            biased;
            held = self.budget.hold_for(&self.account, bytes) => Ok(held),
            gone = stream.given_up() => Err(gone),
        }
    }
}

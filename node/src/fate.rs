//! When a node must not go on: its part in consensus has ended, or the mesh has shut it out. A process that lives on
//! then is worse than one that ends: others count on it, and nobody looks.

use crate::failure::chain;
use crate::{Failure, Node, code};
use pgmesh_raft::Standing;
use std::time::Duration;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);

impl Node {
    /// Returns when this node must end: `Err` says why, `Ok` that the process shall start anew, because the node begins
    /// with an empty catalog.
    pub(crate) async fn fate(&self) -> Result<(), Failure> {
        tokio::select! {
            failure = self.end() => Err(failure),
            prepared = self.new_beginning() => prepared,
        }
    }

    /// Returns when this node lacks what it has promised, and has prepared its new beginning.
    async fn new_beginning(&self) -> Result<(), Failure> {
        let mut standing = self.catalog.standing();
        let reason = standing
            .wait_for(|standing| matches!(standing, Standing::Behind(_)))
            .await
            .ok()
            .and_then(|standing| match &*standing {
                Standing::Behind(shortfall) => Some(shortfall.to_string()),
                Standing::Asking { .. } | Standing::Cleared => None,
            });
        let Some(reason) = reason else {
            // The catalog has ended: `end` says why.
            return std::future::pending().await;
        };
        self.begin_anew(&reason).await
    }

    async fn end(&self) -> Failure {
        loop {
            tokio::time::sleep(PERIOD).await;
            let is_behind = matches!(*self.catalog.standing().borrow(), Standing::Behind(_));
            // A node that is behind has ended its part itself, and is about to begin anew.
            if !is_behind && let Err(error) = self.catalog.check_alive().await {
                return Failure::new(code::RUNTIME, "this node's catalog has stopped, and the node with it")
                    .because(chain(&error))
                    .remedy("see that its disk is well and start it again");
            }
            if let Some(why) = self.links.shut_out() {
                return Failure::new(code::CRYPTO, "this node is not part of the mesh any more")
                    .because(why)
                    .remedy("to bring it back: empty node-path, 'pgmesh invite --role=node NAME' on another node, 'pgmesh node join' here");
            }
        }
    }
}

//! When a node must not go on: its part in consensus has ended, or the mesh has shut it out. A process that lives on then is
//! worse than one that ends: others count on it, and nobody looks.

use crate::failure::chain;
use crate::{Failure, Node, code};
use std::time::Duration;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);

impl Node {
    /// Returns when this node must end, and why.
    pub(crate) async fn fate(&self) -> Failure {
        loop {
            tokio::time::sleep(PERIOD).await;
            if let Err(error) = self.catalog.check_alive().await {
                return Failure::new(code::RUNTIME, "this node's catalog has stopped, and the node with it")
                    .because(chain(&error))
                    .remedy(
                        "see that its disk is well and start it again; if it stops again, or its data directory was put back \
                         from a copy: empty node-path and let it join anew ('pgmesh invite --role=node', 'pgmesh node join')",
                    );
            }
            if let Some(why) = self.links.shut_out() {
                return Failure::new(code::CRYPTO, "this node is not part of the mesh any more")
                    .because(why)
                    .remedy("to bring it back: empty node-path, 'pgmesh invite --role=node' on another node, 'pgmesh node join' here");
            }
        }
    }
}

//! When a node must not go on: its part in consensus has ended, or the mesh has shut it out. A process that lives on
//! then is worse than a process that ends: other nodes count on it, and no operator looks.

use crate::Node;
use crate::links::{Recipient, ShutOut};
use crate::past::Era;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::Standing;
use std::time::Duration;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the log says that a node of a later era shuts this one out.
const COMPLAIN_EVERY: Duration = Duration::from_secs(20);
/// How long a majority may take to note that another catalog has taken over.
const MAJORITY_LIMIT: Duration = Duration::from_secs(5);

impl Node {
    /// Returns when this node must end: `Err` says why, `Ok` that the process shall start anew, because the node begins
    /// with an empty catalog.
    pub(crate) async fn fate(&self) -> Result<(), Failure> {
        tokio::select! {
            failure = self.end() => Err(failure),
            failure = self.supervisor.must_end() => Err(failure),
            prepared = self.new_beginning() => prepared,
        }
    }

    /// Returns when this node lacks entries, its number or its voters, and has prepared its new beginning.
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
            if let Some(error) = self.catalog.too_old() {
                return error.into();
            }
            if !is_behind && let Err(error) = self.catalog.check_alive().await {
                return Failure::new(
                    ExitCode::Runtime,
                    "this node's catalog has stopped, and the node with it",
                )
                .because(chain(&error))
                .remedy("see that its disk is well and start it again");
            }
            if let Some(said) = self.links.shut_out()
                && self.is_shut_out(&said).await
            {
                return Failure::new(ExitCode::Crypto, "this node is not part of the mesh any more")
                    .because(said.why)
                    .remedy(
                        "to bring it back: empty node-path, 'pgmesh invite --role=node NAME' on another node, 'pgmesh node join' here",
                    );
            }
        }
    }

    /// Whether this node must end because another node says that it is no member any more.
    ///
    /// After a rescue, a node of a later era may say so: then there are two catalogs, and people decide which goes on.
    /// This node's mesh stops its work, and no process ends. The word of a node of an earlier era does not count.
    async fn is_shut_out(&self, said: &ShutOut) -> bool {
        let own = Era::of(&self.catalog.view());
        let (Some(told), Ok(own)) = (Era::at_end_of(&said.why), own) else {
            return true;
        };
        if told == own {
            return true;
        }
        if told.is_beyond(own) {
            let by = match &said.by {
                Recipient::Named(name) => name.clone(),
                Recipient::At(_) => self.name.clone(),
            };
            // Without a majority nothing is acknowledged here; it is told when there is one.
            let reported = tokio::time::timeout(MAJORITY_LIMIT, self.report_fork(&by, told)).await;
            if !matches!(reported, Ok(Ok(()))) {
                tracing::warn!(
                    node = %by, era = told.number, why = said.why,
                    "this node is not part of the mesh any more, as a node of a later era says; it has no majority to note it"
                );
                // The node that said so is asked again every second.
                tokio::time::sleep(COMPLAIN_EVERY).await;
                return false;
            }
        }
        self.links.forget_shut_out(said);
        false
    }
}

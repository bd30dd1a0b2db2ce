//! Dialling each node by itself, to see which can be reached from here.

use super::Mesh;
use super::candidates::Candidate;
use futures::future::join_all;
use pgmesh_protocol::failure::chain;
use std::time::Duration;

/// A node, or a configured address whose node is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The node's name: as it says itself, else as this host remembers it.
    pub name: Option<String>,
    /// The address that answered; all of its addresses, where none did.
    pub address: String,
    /// The round trip and the program, or why there is no connection.
    pub outcome: Result<(Duration, String), String>,
}

impl Mesh {
    /// Dials all candidates, at once.
    pub async fn probe(&self) -> Vec<Probed> {
        let candidates = self.nodes.candidates();
        join_all(candidates.iter().map(|candidate| self.probe_one(candidate))).await
    }

    async fn probe_one(&self, candidate: &Candidate) -> Probed {
        let mut reasons = Vec::new();
        for address in &candidate.addresses {
            match self.client.connect(address).await {
                Ok(connection) => {
                    return Probed {
                        name: Some(connection.node().name.to_string()),
                        address: address.clone(),
                        outcome: Ok((connection.rtt(), connection.node_program().to_owned())),
                    };
                }
                Err(error) => reasons.push(chain(&error)),
            }
        }
        Probed {
            name: candidate.name.clone(),
            address: candidate.addresses.join(", "),
            outcome: Err(reasons.join("; ")),
        }
    }
}

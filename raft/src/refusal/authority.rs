//! Refusals about certificates and the mesh's authority.

use serde::{Deserialize, Serialize};

/// Why a command about a certificate, or the mesh's authority, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AuthorityRefusal {
    /// No certificate of that name is known, and it is not revoked.
    #[error("no certificate of {0} is known")]
    UnknownName(String),
    /// The mesh's authority is being rotated already.
    #[error("the mesh's authority is being rotated already, since {} by {by}", pgmesh_protocol::utc(*at))]
    UnderWay {
        /// Since when, in seconds since the Unix epoch.
        at: i64,
        /// Who began it.
        by: String,
    },
    /// No rotation of the mesh's authority is under way.
    #[error("the mesh's authority is not being rotated")]
    NotRotating,
    /// The new authority signs already: clients may know it alone.
    #[error("the new authority signs already, and clients may know it alone: it cannot be given up")]
    Signs,
    /// The authority that has signed is not the one that signs now.
    #[error("the mesh's authority has changed meanwhile")]
    OtherAuthority,
    /// The key was first seen while the authority is rotated: a thief of the former authority's key may have made the
    /// certificate.
    #[error("the certificate of {0} was first seen while the mesh's authority is rotated")]
    FirstSeen(String),
    /// Certificates of the former authority are in use.
    #[error("the former authority is still needed by {}", dependents(.nodes, .clients, *.more))]
    StillNeeded {
        /// Nodes whose own certificates are of it.
        nodes: Vec<String>,
        /// Clients whose certificates are: the first of them.
        clients: Vec<String>,
        /// How many more there are.
        more: u64,
    },
}

fn dependents(nodes: &[String], clients: &[String], more: u64) -> String {
    let nodes = nodes.iter().map(|name| format!("node {name}"));
    let mut all: Vec<String> = nodes.chain(clients.iter().cloned()).collect();
    if more > 0 {
        all.push(format!("{more} more"));
    }
    all.join(", ")
}

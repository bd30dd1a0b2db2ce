//! The nodes of the mesh.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use pgmesh_storage::RepoKey;
use serde::{Deserialize, Serialize};

/// A node's name: `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// A text that is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no node name: use 1 to 64 letters, digits, '_', '.' and '-', with a letter or digit first")]
pub struct NodeNameError(pub String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut characters = text.chars();
        let first_is_good = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
        let rest_is_good = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if first_is_good && rest_is_good && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NodeNameError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InService => "in service",
            Self::Draining => "draining",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for VotePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One node of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identifier in the Raft group.
    pub node_id: u64,
    /// Its region (free text, empty when not set).
    pub region: String,
    /// The `host:port` addresses that clients and nodes reach it at.
    pub advertise: Vec<String>,
    /// SHA-256 of the public key of its certificates: renewed ones keep the key.
    pub key: [u8; 32],
    /// The same of the administrator's certificates that lie in its node-path.
    pub administrator: [u8; 32],
    /// The program's version that it last started with.
    pub program: String,
    /// Whether it takes clients, or has left.
    pub service: NodeService,
    /// Whether it may vote.
    pub vote: VotePolicy,
    /// Keys of nodes of this name that have left or were replaced, and of their administrators: their certificates are
    /// not accepted any more.
    pub revoked: Vec<[u8; 32]>,
    /// The shared repositories that the node's file declares as the mesh defines them: other nodes may reach these
    /// through it. Whether it can open them at present is not catalog state.
    pub reaches: BTreeSet<RepoKey>,
}

impl NodeRecord {
    /// Whether it is part of the mesh.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.service != NodeService::Removed
    }
}

/// Whether a node takes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeService {
    /// It takes them.
    InService,
    /// It takes no new ones: it is about to be maintained or removed.
    Draining,
    /// It has left the mesh. Its name and its revoked keys are remembered.
    Removed,
}

/// Whether a node may vote in the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VotePolicy {
    /// It does when the mesh is short of voters.
    Auto,
    /// It does.
    Always,
    /// It does not.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "node-1", "n.x_y", "0"] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }
}

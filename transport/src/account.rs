//! The account of a peer: the name under which a node counts its use of shared resources.
//!
//! Certificates cost nothing: a host may join twice. The stanzas of a certificate come from an invitation, so clients
//! are counted by their set of stanzas.

use std::{fmt, sync::Arc};

use pgmesh_storage::StanzaName;

use crate::{role::Role, session::Peer};

/// The users of a node among which its resources are shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// Nodes, administrators, and the node's own work.
    Mesh,
    /// All clients whose certificates name exactly these stanzas, in the order of their names.
    Stanzas(Arc<[StanzaName]>),
}

impl Account {
    /// The account of the clients of these stanzas.
    pub fn of_stanzas(stanzas: &[StanzaName]) -> Self {
        let mut stanzas = stanzas.to_vec();
        stanzas.sort();
        stanzas.dedup();
        Self::Stanzas(stanzas.into())
    }

    /// The account of a role.
    pub fn of_role(role: &Role) -> Self {
        match role {
            Role::Node | Role::Admin => Self::Mesh,
            Role::Client { stanzas } => Self::of_stanzas(stanzas),
        }
    }

    /// The account of a peer. A peer without a certificate uses nothing that is shared: its connection has one stream
    /// and one small message.
    pub fn of(peer: &Peer) -> Self {
        peer.member().map_or(Self::Mesh, |member| Self::of_role(&member.role))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stanzas = match self {
            Self::Mesh => return f.write_str("the mesh"),
            Self::Stanzas(stanzas) => stanzas,
        };
        f.write_str("the clients of stanza ")?;
        for (at, stanza) in stanzas.iter().enumerate() {
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}{stanza}")?;
        }
        Ok(())
    }
}

//! The account of a peer: the name under which a node counts the use of what its clients share.
//!
//! Certificates cost nothing: a host may join twice. The stanzas of a certificate come from an invitation, so clients
//! are counted by their set of stanzas.

use std::{fmt, sync::Arc};

use pgmesh_storage::StanzaName;

use crate::role::Role;

/// The users of a node among which its memory and its connections are shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// The node's own work, and other nodes.
    Nodes,
    /// All administrators.
    Administrators,
    /// All monitors.
    Monitors,
    /// All clients and restoring hosts whose certificates name exactly these stanzas, in the order of their names.
    Stanzas(Arc<[StanzaName]>),
}

impl Account {
    /// The account of the clients of these stanzas, in any order.
    pub fn of_stanzas(stanzas: &[StanzaName]) -> Self {
        let mut stanzas = stanzas.to_vec();
        stanzas.sort();
        stanzas.dedup();
        Self::Stanzas(stanzas.into())
    }

    /// The account of a role.
    pub fn of_role(role: &Role) -> Self {
        match role {
            Role::Node => Self::Nodes,
            Role::Admin => Self::Administrators,
            Role::Monitor => Self::Monitors,
            Role::Client { stanzas } | Role::Restore { stanzas } => Self::of_stanzas(stanzas),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stanzas = match self {
            Self::Nodes => return f.write_str("nodes"),
            Self::Administrators => return f.write_str("administrators"),
            Self::Monitors => return f.write_str("monitors"),
            Self::Stanzas(stanzas) => stanzas,
        };
        /// A certificate may name a thousand stanzas.
        const NAMED: usize = 3;
        f.write_str("the clients of stanza ")?;
        for (at, stanza) in stanzas.iter().take(NAMED).enumerate() {
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}{stanza}")?;
        }
        match stanzas.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restoring_host_shares_the_account_of_its_stanzas_and_others_have_their_own() {
        let stanzas = |names: &[&str]| -> Vec<StanzaName> { names.iter().map(|name| name.parse().unwrap()).collect() };
        let client = Account::of_role(&Role::Client {
            stanzas: stanzas(&["a", "b"]),
        });
        let restore = Account::of_role(&Role::Restore {
            stanzas: stanzas(&["b", "a"]),
        });
        assert_eq!(client, restore);
        assert_eq!(client.to_string(), "the clients of stanza a, b");
        let monitor = Account::of_role(&Role::Monitor);
        assert_eq!(monitor, Account::Monitors);
        assert_ne!(monitor, Account::of_stanzas(&[]), "a client without stanzas");
        assert_ne!(Account::of_role(&Role::Admin), Account::of_role(&Role::Node));
        let many = Account::of_stanzas(&stanzas(&["a", "b", "c", "d", "e"]));
        assert_eq!(many.to_string(), "the clients of stanza a, b, c and 2 more");
    }
}

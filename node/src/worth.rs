//! The worth of a certificate to the mesh, by a view of the catalog.
//!
//! A node is known by its name and its public key. A renewed certificate is for the same key, so no node needs to hear
//! of the renewal. A certificate of a member's name for another key is a stranger's: each node can sign certificates,
//! also a node that has left.

use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{now_unix, utc};
use pgmesh_raft::{NodeName, NodeRecord, NodeService, ReadError, Revocation, View};
use pgmesh_transport::{MemberCertificate, Role};

/// The worth of a certificate to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Worth {
    /// A member's.
    Member,
    /// The catalog of this node has no member of that name and key. It may lag behind. See `acquaintances.rs` for the
    /// rights of such a node.
    Unheard,
    /// The catalog of this node cannot be read, for this reason.
    Unknown(String),
    /// It counts no more.
    Nothing {
        /// Why.
        why: String,
        /// Whether the node was removed, and has not joined anew.
        is_removed: bool,
    },
}

/// The worth of a certificate, by this view. A certificate that was issued by a join depends on its row in the catalog,
/// and on no node.
pub(crate) fn worth(view: &View, member: &MemberCertificate) -> Worth {
    match member.role {
        Role::Node => worth_of_node(view, member.name.as_str(), &member.key.0),
        // The administrator's certificate in a node's node-path has the node's name, and goes with the node.
        Role::Admin => match record_of(view, member.name.as_str()) {
            Ok(Some(record)) if record.revoked.contains(&member.key.0) => nothing(&record, member.name.as_str()),
            Ok(Some(record)) if record.administrator == member.key.0 => Worth::Member,
            Ok(_) => worth_of_issued(view, member),
            Err(error) => Worth::Unknown(chain(&error)),
        },
        Role::Client { .. } | Role::Monitor | Role::Restore { .. } => worth_of_issued(view, member),
    }
}

fn worth_of_issued(view: &View, member: &MemberCertificate) -> Worth {
    worth_by(revocation(view, &member.key.0, member.name.as_str()), member)
}

/// A revocation that cannot be read may be there.
fn worth_by(found: Result<Option<Revocation>, ReadError>, member: &MemberCertificate) -> Worth {
    match found {
        Ok(Some(found)) => Worth::Nothing {
            why: revoked(&found, member),
            is_removed: false,
        },
        Ok(None) => Worth::Member,
        Err(error) => Worth::Unknown(chain(&error)),
    }
}

/// The worth of certificates of a node with this name and key, by this view.
pub(crate) fn worth_of_node(view: &View, name: &str, key: &[u8; 32]) -> Worth {
    match record_of(view, name) {
        Ok(Some(record)) if record.revoked.contains(key) => nothing(&record, name),
        Ok(Some(record)) if record.service != NodeService::Removed && record.key == *key => Worth::Member,
        Ok(_) => Worth::Unheard,
        Err(error) => Worth::Unknown(chain(&error)),
    }
}

fn record_of(view: &View, name: &str) -> Result<Option<NodeRecord>, ReadError> {
    name.parse::<NodeName>().map_or(Ok(None), |name| view.node(&name))
}

fn nothing(record: &NodeRecord, name: &str) -> Worth {
    let is_removed = !record.is_member();
    let why = if is_removed {
        format!("node {name} was removed from the mesh")
    } else {
        format!("this certificate of node {name} counts no more: the node has joined anew")
    };
    Worth::Nothing { why, is_removed }
}

/// The revocation of a key under a name: its own, or if the catalog has not seen the key, that of the name.
pub(crate) fn revocation(view: &View, key: &[u8; 32], name: &str) -> Result<Option<Revocation>, ReadError> {
    match view.certificate(key)? {
        Some(record) => Ok(record.revoked),
        None => view.revoked_name(name),
    }
}

/// Why a certificate counts no more that has this revocation.
pub(crate) fn revoked(revoked: &Revocation, member: &MemberCertificate) -> String {
    let why = match revoked.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    let (kind, name) = (member.role.kind(), &member.name);
    format!(
        "the certificate of {kind} {name} was revoked at {}{why}",
        utc(revoked.at)
    )
}

/// Why a certificate is over, if it is, by this machine's clock.
pub(crate) fn ended(member: &MemberCertificate) -> Option<String> {
    (member.not_after <= now_unix()).then(|| {
        let (kind, name) = (member.role.kind(), &member.name);
        format!(
            "the certificate of {kind} {name} has ended at {}",
            utc(member.not_after)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_that_cannot_be_read_is_not_taken_for_none() {
        let member = crate::testing::unsigned("db1", Role::Monitor);
        let error = ReadError::MalformedKey {
            table: pgmesh_raft::table::Table::Certificates,
            key: String::new(),
        };
        assert!(matches!(worth_by(Err(error), &member), Worth::Unknown(_)));
        assert_eq!(worth_by(Ok(None), &member), Worth::Member);
    }
}

//! The worth of a certificate to the mesh, by a view of the catalog.
//!
//! A node is known by its name and its public key. A renewed certificate is for the same key, so no node needs to hear
//! of the renewal. A certificate of a member's name for another key is a stranger's: each node can sign certificates,
//! also a node that has left.

use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{now_unix, utc};
use pgmesh_raft::{
    AuthorityId, CertificateRole, FIRST_SEEN, NodeName, NodeRecord, NodeService, ReadError, Revocation, View,
};
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
    // A node that has just joined knows of no row and no rotation.
    if member.role != Role::Node {
        match view.mesh() {
            Ok(Some(_)) => {}
            Ok(None) => return Worth::Unknown("it has not received the mesh's catalog yet".to_owned()),
            Err(error) => return Worth::Unknown(chain(&error)),
        }
    }
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
    worth_by(objection(view, member))
}

/// An objection that cannot be read may be there.
fn worth_by(found: Result<Option<String>, ReadError>) -> Worth {
    match found {
        Ok(Some(why)) => Worth::Nothing { why, is_removed: false },
        Ok(None) => Worth::Member,
        Err(error) => Worth::Unknown(chain(&error)),
    }
}

/// Why a certificate that was issued by a join counts for nothing.
fn objection(view: &View, member: &MemberCertificate) -> Result<Option<String>, ReadError> {
    if let Some(revocation) = revocation(view, member)? {
        return Ok(Some(revoked(&revocation, member)));
    }
    if let Some(holder) = other_holder(view, member)? {
        let (kind, name) = (member.role.kind(), &member.name);
        return Ok(Some(format!(
            "the certificate says {kind} {name}, and its key is that of {holder}"
        )));
    }
    let is_retired = is_of_retired(view, member)?;
    Ok(is_retired.then(|| "its certificate is of an authority that the mesh does not trust any more".to_owned()))
}

/// The holder of a certificate's key, if the certificate says another one: a thief of an authority's key has made it. A
/// key keeps its name and its role.
fn other_holder(view: &View, member: &MemberCertificate) -> Result<Option<String>, ReadError> {
    let key = &member.key.0;
    if let Some(record) = view.certificate(key)? {
        let has_role = noted_role(&member.role).is_some_and(|role| role.is_same(&record.role));
        let is_same = has_role && record.name == member.name.as_str();
        return Ok((!is_same).then(|| format!("{} {}", record.role.kind(), record.name)));
    }
    let nodes = view.nodes()?.into_iter();
    let mut holders = nodes.filter(|(_, node)| node.key == *key || node.administrator == *key);
    Ok(holders
        .next()
        .map(|(name, _)| format!("node {name} or its administrator")))
}

/// The catalog's word for a role; none for a node, whose certificate is in the node's record.
pub(crate) fn noted_role(role: &Role) -> Option<CertificateRole> {
    match role {
        Role::Node => None,
        Role::Admin => Some(CertificateRole::Admin),
        Role::Monitor => Some(CertificateRole::Monitor),
        Role::Client { stanzas } => Some(CertificateRole::Client {
            stanzas: stanzas.clone(),
        }),
        Role::Restore { stanzas } => Some(CertificateRole::Restore {
            stanzas: stanzas.clone(),
        }),
    }
}

/// Whether a certificate is of an authority that counts no more, or an administrator's that nobody had seen before the
/// authority began to be rotated. A connection that was made by it goes on where its key has shown a certificate of a
/// later authority by now.
fn is_of_retired(view: &View, member: &MemberCertificate) -> Result<bool, ReadError> {
    let Some(rotation) = view.rotation()? else {
        return Ok(false);
    };
    let key = &member.key.0;
    if rotation.is_under_way() {
        // A thief of the former authority's key would make administrators.
        let is_suspect = member.role == Role::Admin && member.authority == rotation.former;
        return Ok(is_suspect && (view.certificate(key)?.is_none() || view.issuer(key)? == Some(FIRST_SEEN)));
    }
    let is_retired = |authority: &AuthorityId| rotation.retired.contains(authority);
    Ok(is_retired(&member.authority) && view.issuer(key)?.is_none_or(|issuer| issuer != rotation.signing()))
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

/// The revocation of a certificate: its key's own, or if the catalog has not seen the key, that of its name, unless the
/// certificate was issued later.
pub(crate) fn revocation(view: &View, member: &MemberCertificate) -> Result<Option<Revocation>, ReadError> {
    match view.certificate(&member.key.0)? {
        Some(record) => Ok(record.revoked),
        None => {
            let barred = view.revoked_name(member.name.as_str())?;
            Ok(barred.filter(|barred| barred.bars(member.issued_at())))
        }
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
        let error = ReadError::MalformedKey {
            table: pgmesh_raft::table::Table::Certificates,
            key: String::new(),
        };
        assert!(matches!(worth_by(Err(error)), Worth::Unknown(_)));
        assert_eq!(worth_by(Ok(None)), Worth::Member);
    }
}

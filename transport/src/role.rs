//! The roles of a mesh's members, and their form in a certificate.
//!
//! A certificate carries its role as URIs among its subject alternative names: one of `pgmesh://<mesh>/node/<name>`,
//! `pgmesh://<mesh>/admin/<name>`, `pgmesh://<mesh>/client/<name>`, `pgmesh://<mesh>/monitor/<name>` and
//! `pgmesh://<mesh>/restore/<name>`; and for a client and a restoring host one `pgmesh://<mesh>/stanza/<stanza>` for
//! each of its stanzas.

use pgmesh_storage::StanzaName;
use serde::{Deserialize, Serialize};

use crate::name::{MemberName, MeshId};

/// The most stanzas of one client certificate: it has to fit into QUIC's 16 KiB of handshake buffer.
pub const MAX_STANZAS: usize = 64;

/// The role of a member: its rights in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A node: serves all stanzas, may be dialled, may take part in consensus.
    Node,
    /// An administrator: may ask for anything, cannot be dialled.
    Admin,
    /// A PG host: may push, back up and restore these stanzas, and nothing else.
    Client {
        /// The stanzas, at most [`MAX_STANZAS`].
        stanzas: Vec<StanzaName>,
    },
    /// A monitor: may read how the mesh does and what there is, no data.
    Monitor,
    /// A host that restores: may read these stanzas and write nothing.
    Restore {
        /// The stanzas, at most [`MAX_STANZAS`].
        stanzas: Vec<StanzaName>,
    },
}

impl Role {
    /// The role's word in URIs, messages and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Admin => "admin",
            Self::Client { .. } => "client",
            Self::Monitor => "monitor",
            Self::Restore { .. } => "restore",
        }
    }

    /// Whether the role may see what there is of this stanza. What else it may do, the node decides by request.
    pub fn may_see(&self, stanza: &StanzaName) -> bool {
        match self {
            Self::Node | Self::Admin | Self::Monitor => true,
            Self::Client { stanzas } | Self::Restore { stanzas } => stanzas.contains(stanza),
        }
    }

    /// The stanzas that it is for; none where it is not for some.
    pub fn stanzas(&self) -> &[StanzaName] {
        match self {
            Self::Client { stanzas } | Self::Restore { stanzas } => stanzas,
            Self::Node | Self::Admin | Self::Monitor => &[],
        }
    }

    pub(crate) fn to_uris(&self, mesh_id: &MeshId, name: &MemberName) -> Vec<String> {
        let mut uris = vec![format!("pgmesh://{mesh_id}/{}/{name}", self.kind())];
        let stanzas = self.stanzas().iter();
        uris.extend(stanzas.map(|stanza| format!("pgmesh://{mesh_id}/stanza/{stanza}")));
        uris
    }

    /// Reads a certificate's URIs; strict, because a misread role is an open door.
    pub(crate) fn from_uris<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<(MeshId, MemberName, Self), String> {
        let mut member: Option<(MeshId, MemberName, &str)> = None;
        let mut stanzas: Vec<(MeshId, StanzaName)> = Vec::new();
        for uri in uris {
            let parts = uri
                .strip_prefix("pgmesh://")
                .map(|rest| rest.split('/').collect::<Vec<_>>());
            let Some([mesh, kind, name]) = parts.as_deref() else {
                return Err(format!("{uri:?} is not a pgmesh URI"));
            };
            let mesh: MeshId = mesh.parse().map_err(|error| format!("{uri:?}: {error}"))?;
            if *kind == "stanza" {
                let stanza = name.parse().map_err(|error| format!("{uri:?}: {error}"))?;
                stanzas.push((mesh, stanza));
                continue;
            }
            let name = name.parse().map_err(|error| format!("{uri:?}: {error}"))?;
            if member.replace((mesh, name, *kind)).is_some() {
                return Err("it carries more than one role".to_owned());
            }
        }
        let (mesh_id, name, kind) = member.ok_or("it carries no role")?;
        if stanzas.len() > MAX_STANZAS {
            return Err(format!("it names more than {MAX_STANZAS} stanzas"));
        }
        if stanzas.iter().any(|(mesh, _)| *mesh != mesh_id) {
            return Err("it mixes two meshes".to_owned());
        }
        let stanzas: Vec<StanzaName> = stanzas.into_iter().map(|(_, stanza)| stanza).collect();
        let role = match kind {
            "client" => Self::Client { stanzas },
            "restore" => Self::Restore { stanzas },
            _ if !stanzas.is_empty() => return Err(format!("the role {kind} takes no stanzas")),
            "node" => Self::Node,
            "admin" => Self::Admin,
            "monitor" => Self::Monitor,
            _ => return Err(format!("{kind:?} is not a role")),
        };
        Ok((mesh_id, name, role))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stanza(name: &str) -> StanzaName {
        name.parse().unwrap()
    }

    fn parse(uris: &[&str]) -> Result<(MeshId, MemberName, Role), String> {
        Role::from_uris(uris.iter().copied())
    }

    proptest! {
        #[test]
        fn uris_round_trip(
            mesh in "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
            name in "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
            kind in 0..5,
            stanzas in proptest::collection::vec("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", 0..8),
        ) {
            let (mesh, name): (MeshId, MemberName) = (mesh.parse().unwrap(), name.parse().unwrap());
            let stanzas = stanzas.iter().map(|name| stanza(name)).collect();
            let role = match kind {
                0 => Role::Node,
                1 => Role::Admin,
                2 => Role::Monitor,
                3 => Role::Restore { stanzas },
                _ => Role::Client { stanzas },
            };
            let uris = role.to_uris(&mesh, &name);
            let read = Role::from_uris(uris.iter().map(String::as_str)).unwrap();
            prop_assert_eq!(read, (mesh, name, role));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &[][..],
            &["pgmesh://m/node/a", "pgmesh://m/admin/a"],
            &["pgmesh://m/node/a", "pgmesh://m/stanza/s"],
            &["pgmesh://m/monitor/a", "pgmesh://m/stanza/s"],
            &["pgmesh://m/restore/a", "pgmesh://m/client/a"],
            &["pgmesh://m/client/a", "pgmesh://n/stanza/s"],
            &["pgmesh://m/stanza/s"],
            &["pgmesh://m/root/a"],
            &["pgmesh://m/node/a/b"],
            &["pgmesh://m/node/"],
            &["pgmesh://m/node/a%20b"],
            &["https://m/node/a"],
            &["pgmesh://m/node/a", "https://example.org"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_client_sees_its_own_stanzas_only() {
        let client = Role::Client {
            stanzas: vec![stanza("main")],
        };
        assert!(client.may_see(&stanza("main")));
        assert!(!client.may_see(&stanza("other")));
        assert!(Role::Admin.may_see(&stanza("other")));
        assert!(!Role::Client { stanzas: vec![] }.may_see(&stanza("main")));
        let restores = Role::Restore {
            stanzas: vec![stanza("main")],
        };
        assert!(restores.may_see(&stanza("main")) && !restores.may_see(&stanza("other")));
        assert!(Role::Monitor.may_see(&stanza("other")));
    }
}

//! `mesh.json`: a node's knowledge of its mesh from before it has a catalog.

use crate::settings::Layout;
use pgmesh_protocol::{ExitCode, Failure, KnownMember};
use pgmesh_storage::DigestSuite;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;

/// `<node-path>/mesh.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshFile {
    /// The mesh's identity.
    pub mesh_id: String,
    /// How digests are made in it.
    pub suite: DigestSuite,
    /// This node's number in the Raft group. It changes when the node begins anew, with the catalog.
    pub node_id: u64,
    /// Addresses of other nodes, as they were last known.
    pub seeds: Vec<String>,
    /// The other members, as they were last known. An empty catalog has no members, and this node takes the log from
    /// these only.
    pub members: Vec<KnownMember>,
}

impl MeshFile {
    /// Reads it.
    ///
    /// # Errors
    /// It is missing or not understood.
    pub fn read(layout: &Layout) -> Result<Self, Failure> {
        let path = layout.mesh();
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::new(ExitCode::Config, format!("{} cannot be used", path.display())).because(error)
        };
        let text = fs::read(&path).map_err(|error| unusable(&error))?;
        serde_json::from_slice(&text).map_err(|error| unusable(&error))
    }

    /// Writes it durably: after a crash there is the old or the new file.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, layout: &Layout) -> Result<(), Failure> {
        let path = layout.mesh();
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::new(ExitCode::Config, format!("{} cannot be written", path.display())).because(error)
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| unusable(&error))?;
        let temporary = path.with_extension("json.tmp");
        fs::File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(&text)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| fs::File::open(layout.root())?.sync_all())
            .map_err(|error| unusable(&error))
    }
}

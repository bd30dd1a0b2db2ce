//! The mesh's authorities on this node's disk, below `ca/`: the one that the node began with in the folder itself, a
//! later one in a folder with the name of its identifier. In each, the key is written last.

use super::crypto;
use crate::membership::Membership;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{AuthorityKey, ExitCode, Failure};
use pgmesh_raft::{AuthorityId, Rotation};
use pgmesh_transport::MeshCa;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

impl Membership {
    /// Keeps an authority, which must be the expected one.
    pub(super) fn save_authority(&self, ca: &MeshCa, expected: &AuthorityId) -> Result<(), Failure> {
        if id_of(ca)? != *expected {
            let what = "the authority that a node handed over is another one";
            return Err(Failure::new(ExitCode::Crypto, what));
        }
        ca.save(&self.authority_folder(expected))
            .map_err(|error| crypto("the new authority cannot be saved", &error))
    }

    fn authority_folder(&self, id: &AuthorityId) -> PathBuf {
        let mut name = String::new();
        for byte in id {
            // Writing to a text does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        self.layout.ca().join(name)
    }

    /// The authority that signs now.
    pub(crate) fn authority(&self) -> Result<MeshCa, Failure> {
        self.authority_by(Rotation::signing)
    }

    /// The authority of nodes' own certificates: during a rotation they have the new one's first.
    pub(crate) fn authority_of_nodes(&self) -> Result<MeshCa, Failure> {
        self.authority_by(Rotation::of_nodes)
    }

    fn authority_by(&self, which: impl FnOnce(&Rotation) -> AuthorityId) -> Result<MeshCa, Failure> {
        match self.catalog.view().rotation()? {
            None => load(&self.layout.ca()),
            Some(rotation) => self.authority_of(&which(&rotation))?.ok_or_else(|| {
                let what = "this node does not have the key of the mesh's authority yet";
                Failure::new(ExitCode::Crypto, what).again()
            }),
        }
    }

    /// One of the mesh's authorities, if this node has its key.
    pub(crate) fn authority_of(&self, id: &AuthorityId) -> Result<Option<MeshCa>, Failure> {
        for folder in [self.authority_folder(id), self.layout.ca()] {
            if MeshCa::exists(&folder) {
                let ca = load(&folder)?;
                if id_of(&ca)? == *id {
                    return Ok(Some(ca));
                }
            }
        }
        Ok(None)
    }

    /// One of the mesh's authorities, for another node.
    pub(crate) fn hand_over_one(&self, authority: &AuthorityId) -> Result<AuthorityKey, Failure> {
        match self.authority_of(authority)? {
            Some(ca) => Ok(key_of(&ca)),
            None => Err(Failure::new(ExitCode::Crypto, "this node does not have that authority's key").again()),
        }
    }

    /// The authority of nodes, for a node that joins.
    pub(crate) fn hand_over_authority(&self) -> Result<AuthorityKey, Failure> {
        Ok(key_of(&self.authority_of_nodes()?))
    }

    /// Removes the keys of all authorities but one: they count no more, or were never begun with, and are of use to
    /// thieves only.
    pub(super) fn drop_authorities_but(&self, kept: &AuthorityId) {
        let folder = self.authority_folder(kept);
        let first = load(&self.layout.ca()).ok().and_then(|ca| id_of(&ca).ok());
        if first.is_some_and(|first| first != *kept) && MeshCa::exists(&folder) {
            removed(MeshCa::remove(&self.layout.ca()));
        }
        let entries = fs::read_dir(self.layout.ca()).into_iter().flatten().flatten();
        for other in entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && *path != folder)
        {
            removed(MeshCa::remove(&other));
            // It holds nothing else.
            let _ = fs::remove_dir(&other);
        }
    }

    /// Removes the key of an authority that was not begun with.
    pub(super) fn drop_authority(&self, id: &AuthorityId) {
        let folder = self.authority_folder(id);
        removed(MeshCa::remove(&folder));
        let _ = fs::remove_dir(&folder);
    }
}

fn key_of(ca: &MeshCa) -> AuthorityKey {
    AuthorityKey {
        certificate: ca.certificate_der().to_vec(),
        key: ca.key_pkcs8().to_vec(),
    }
}

fn load(folder: &Path) -> Result<MeshCa, Failure> {
    MeshCa::load(folder).map_err(|error| crypto("the mesh's certificate authority cannot be read on this node", &error))
}

pub(crate) fn id_of(ca: &MeshCa) -> Result<AuthorityId, Failure> {
    ca.id()
        .map_err(|error| crypto("the mesh's certificate authority cannot be used", &error))
}

fn removed(removed: Result<(), pgmesh_transport::CaError>) {
    if let Err(error) = removed {
        tracing::warn!(error = %chain(&error), "the key of an authority that counts no more could not be removed");
    }
}

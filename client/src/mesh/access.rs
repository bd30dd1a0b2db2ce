//! This host's identity in the mesh, and its way there.

use super::candidates::Ways;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::{Identity, IdentityError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The way to the mesh.
#[derive(Debug, Clone)]
pub struct AccessSettings {
    /// The folder of the identity, and of the cache beside it.
    pub directory: PathBuf,
    /// Which nodes are asked, and where they are.
    pub ways: Ways,
    /// How long the first node is looked for.
    pub greeting: Duration,
    /// How long a request may keep failing.
    pub limit: Duration,
    /// PostgreSQL waits: a request ends within `limit`, also if a node hangs.
    pub ends_in_time: bool,
}

impl AccessSettings {
    /// This host's identity.
    ///
    /// # Errors
    /// 95: there is none, or it cannot be used.
    pub fn identity(&self) -> Result<Identity, Failure> {
        Identity::load(&self.directory).map_err(|error| no_identity(&self.directory, &error))
    }
}

fn no_identity(directory: &Path, error: &IdentityError) -> Failure {
    Failure::new(
        ExitCode::Crypto,
        format!("this host's identity in {} cannot be used", directory.display()),
    )
    .because(chain(error))
    .remedy("join the mesh: 'pgmesh invite' on a node prints a token for 'pgmesh join TOKEN' here")
}

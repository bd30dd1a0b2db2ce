//! Who this host is in the mesh, and how it gets there: from the configuration.

use super::candidates::Ways;
use crate::config::{Command, Config, IndexKey, table};
use pgmesh_node::failure::chain;
use pgmesh_node::{Failure, Layout, code};
use pgmesh_transport::{Identity, IdentityError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a command that a person waits for looks for a first node; later, `io-timeout` counts.
const GREETING: Duration = Duration::from_secs(2);

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where the identity lies, and what is remembered beside it.
    pub directory: PathBuf,
    /// The way.
    pub ways: Ways,
    /// How long the first node is looked for.
    pub greeting: Duration,
    /// How long a request may keep failing.
    pub limit: Duration,
}

impl Access {
    /// A PG host's file names `mesh-node`; a node's file names the node itself, whose administrator's identity is used.
    ///
    /// # Errors
    /// 37: no node is named.
    pub fn of(config: &Config) -> Result<Self, Failure> {
        let is_node = config.is_given("node-name") || config.is_given("node-path");
        let mut seeds = config.list("mesh-node").to_vec();
        if seeds.is_empty() && !is_node {
            return Err(nobody_named());
        }
        let administers = is_node && !acts_as_host(config, &seeds);
        let directory = if administers {
            seeds.insert(0, crate::node_file::reachable(config));
            Layout::new(config.required_path("node-path")?).admin()
        } else {
            config.required_path("identity-path")?.to_owned()
        };
        let io_timeout = config.duration("io-timeout");
        // PostgreSQL waits there, and nobody else: better long than an error that it makes of it.
        let archives = matches!(config.command(), Command::ArchivePush | Command::ArchiveGet);
        let limit = if archives {
            config.duration("archive-timeout")
        } else {
            io_timeout
        };
        Ok(Self {
            directory,
            ways: Ways {
                seeds,
                routes: config.map("mesh-route").iter().cloned().collect(),
                region: config.text("node-region").map(str::to_owned),
                home: config.text("node-name").filter(|_| administers).map(str::to_owned),
            },
            greeting: if archives { limit } else { GREETING.min(limit) },
            limit,
        })
    }

    /// This host's identity.
    ///
    /// # Errors
    /// 95: there is none, or it cannot be used.
    pub fn identity(&self) -> Result<Identity, Failure> {
        Identity::load(&self.directory).map_err(|error| no_identity(&self.directory, &error))
    }
}

/// One file may describe a node and the PostgreSQL beside it: commands for the cluster then go by the host's own
/// identity, if it has joined.
fn acts_as_host(config: &Config, seeds: &[String]) -> bool {
    let beside_cluster = table::indexed(IndexKey::Pg, "path").is_some_and(|spec| spec.is_for(config.command()));
    let joined = config.path("identity-path").is_some_and(Identity::exists);
    !seeds.is_empty() && joined && (beside_cluster || config.is_given("identity-path"))
}

fn nobody_named() -> Failure {
    Failure::new(
        code::OPTION_REQUIRED,
        "option mesh-node is missing: no node of the mesh is known here",
    )
    .remedy("set mesh-node=HOST:8433 in [global] of the configuration file, or give --config=FILE")
}

fn no_identity(directory: &Path, error: &IdentityError) -> Failure {
    Failure::new(
        code::CRYPTO,
        format!("this host's identity in {} cannot be used", directory.display()),
    )
    .because(chain(error))
    .remedy("join the mesh: 'pgmesh invite' on a node prints a token for 'pgmesh join TOKEN' here")
}

//! One node: what its services share.

use crate::backups::Backups;
use crate::budget::Budget;
use crate::committer::Committer;
use crate::failure::chain;
use crate::protocol::NodeAddress;
use crate::repair::Repair;
use crate::repositories::Repositories;
use crate::sessions::SharedSession;
use crate::settings::{Layout, NodeSettings};
use crate::sweep::Sweep;
use crate::{Failure, code};
use pgmesh_raft::{Catalog, CatalogOptions, Command, MeshRecord, NodeName};
use pgmesh_storage::DigestSuite;
use std::sync::Arc;

/// The state of a running node. Its services are methods, one file a kind of request, in `services`.
pub struct Node {
    pub(crate) settings: NodeSettings,
    pub(crate) layout: Layout,
    pub(crate) name: NodeName,
    pub(crate) catalog: Catalog,
    pub(crate) repositories: Repositories,
    pub(crate) budget: Budget,
    pub(crate) committer: Committer,
    pub(crate) sessions: Arc<SharedSession>,
    pub(crate) backups: Backups,
    pub(crate) repair: Repair,
    pub(crate) sweep: Sweep,
    /// Held while garbage is collected: one at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    mesh: MeshRecord,
    actor: String,
}

impl Node {
    /// Opens the catalog of an initialised data directory.
    ///
    /// # Errors
    /// It was not initialised, another process uses it, or it cannot be read.
    pub async fn open(settings: NodeSettings) -> Result<Self, Failure> {
        let layout = Layout::new(&settings.path);
        if !layout.marker().exists() {
            return Err(
                Failure::new(code::CONFIG, format!("{} holds no node", settings.path.display()))
                    .remedy("run 'pgmesh --config=FILE node init' first"),
            );
        }
        let name: NodeName = settings
            .name
            .parse()
            .map_err(|error| Failure::new(code::OPTION_INVALID, "node-name cannot be used").because(error))?;
        let catalog = Catalog::open(&layout.catalog(), CatalogOptions::default())
            .await
            .map_err(|error| {
                Failure::new(
                    code::CONFIG,
                    format!("the catalog in {} cannot be opened", layout.catalog().display()),
                )
                .because(chain(&error))
            })?;
        let view = catalog.view_linearizable().await.map_err(Failure::from)?;
        let mesh = view.mesh()?.ok_or_else(|| {
            Failure::new(
                code::CONFIG,
                format!("the catalog in {} was never founded", layout.catalog().display()),
            )
            .remedy("remove the directory and run 'pgmesh --config=FILE node init' again")
        })?;
        if view.node(&name)?.is_none() {
            return Err(Failure::new(
                code::CONFIG,
                format!("node-name is '{name}', which is not this node's name"),
            )
            .remedy("set node-name to the name that 'node init' was run with"));
        }
        let actor = format!("node {name}");
        let node = Self {
            repositories: Repositories::declared(&settings),
            budget: Budget::new(settings.buffer),
            committer: Committer::start(catalog.clone(), actor.clone()),
            sessions: Arc::new(SharedSession::new(catalog.clone(), name.clone())),
            backups: Backups::default(),
            repair: Repair::default(),
            sweep: Sweep::default(),
            collecting: tokio::sync::Mutex::new(()),
            settings,
            layout,
            name,
            catalog,
            mesh,
            actor,
        };
        node.expire_own_sessions().await?;
        Ok(node)
    }

    /// Sessions that were open when this node stopped: their holders' connections are gone.
    async fn expire_own_sessions(&self) -> Result<(), Failure> {
        for (session, record) in self.catalog.view().sessions()? {
            if record.node == self.name {
                let reason = format!("node {} has restarted", self.name);
                self.catalog
                    .propose(self.actor(), Command::ExpireSession { session, reason })
                    .await?;
            }
        }
        Ok(())
    }

    /// How digests are made in this mesh.
    pub fn suite(&self) -> DigestSuite {
        self.mesh.suite
    }

    /// The mesh's identity.
    pub fn mesh_id(&self) -> &str {
        &self.mesh.mesh_id
    }

    /// All nodes, for clients to remember.
    pub(crate) fn addresses(&self) -> Vec<NodeAddress> {
        let nodes = self.catalog.view().nodes().unwrap_or_default();
        nodes
            .into_iter()
            .map(|(name, record)| NodeAddress {
                name: name.to_string(),
                region: record.region,
                addresses: record.advertise,
                serves: true,
            })
            .collect()
    }

    /// This node in the audit trail.
    pub(crate) fn actor(&self) -> &str {
        &self.actor
    }
}

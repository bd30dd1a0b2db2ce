//! One node: the state that its services share.

use crate::anew;
use crate::archive::Archive;
use crate::backups::Backups;
use crate::budget::Budget;
use crate::committer::Committer;
use crate::consensus::Consensus;
use crate::core::{Core, RepairBell};
use crate::init::node_names;
use crate::janitor::Janitor;
use crate::links::Links;
use crate::membership::Membership;
use crate::mesh_file::MeshFile;
use crate::reads::Reads;
use crate::repositories::Repositories;
use crate::sessions::{RunningTime, SharedSession};
use crate::settings::{Layout, NodeSettings};
use crate::supervisor::Supervisor;
use crate::verifications::Verifications;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::{Catalog, CatalogError, CatalogOptions};
use pgmesh_transport::Identity;
use std::ops::Deref;
use std::sync::Arc;
use tokio::time::Instant;

/// A running node: its parts, and the core that they share.
pub struct Node {
    pub(crate) core: Arc<Core>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) archive: Arc<Archive>,
    pub(crate) backups: Arc<Backups>,
    pub(crate) janitor: Arc<Janitor>,
    pub(crate) membership: Arc<Membership>,
    /// Nodes' writes and reads of this node's repositories have a budget of their own: were it shared, two nodes could
    /// wait for each other's memory for ever.
    pub(crate) peer_budget: Budget,
    /// The verifications for clients.
    pub(crate) verifications: Verifications,
}

impl Deref for Node {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Node {
    /// Opens the catalog of an initialised data directory. `None` when its disk has lost so much that the node begins
    /// anew with an empty catalog, at its next start.
    ///
    /// # Errors
    /// It was not initialised, another process uses it, or it cannot be read.
    pub async fn open(settings: NodeSettings, identity: Identity) -> Result<Option<Self>, Failure> {
        let layout = Layout::new(&settings.path);
        let (name, member) = node_names(&settings)?;
        if *identity.name() != member {
            return Err(Failure::new(
                ExitCode::Config,
                format!(
                    "node-name is '{name}', and this node's certificate is for '{}'",
                    identity.name()
                ),
            )
            .remedy("set node-name to the name that the node was made with"));
        }
        let mut mesh = MeshFile::read(&layout)?;
        let links = Arc::new(Links::new(&settings, name.clone(), &identity, &mesh.members)?);
        let mut options = CatalogOptions {
            skip_entries: settings.skip_entries.clone(),
            ..CatalogOptions::default()
        };
        if let Some(entries) = settings.snapshot_entries {
            options.entries_per_snapshot = entries.max(1);
            options.entries_kept = options.entries_kept.min(entries / 2);
        }
        let consensus = Arc::new(Consensus(links.clone()));
        let opened = Catalog::open_with_peers(&layout.catalog(), options, consensus).await;
        let catalog = match opened {
            Ok(catalog) => catalog,
            Err(error) => {
                let what = format!("the catalog in {} cannot be opened", layout.catalog().display());
                let failure = Failure::new(ExitCode::Config, what).because(chain(&error));
                return match error {
                    error @ (CatalogError::Level { .. } | CatalogError::Format { .. }) => Err(error.into()),
                    CatalogError::LostEnd { .. } | CatalogError::LostState { .. } => {
                        let addresses: Vec<String> = settings
                            .seeds
                            .iter()
                            .chain(settings.routes.values())
                            .chain(&mesh.seeds)
                            .filter(|address| **address != settings.advertise)
                            .cloned()
                            .collect();
                        anew::begin_anew_blind(&layout, &mesh, &identity, &addresses, &failure).await?;
                        Ok(None)
                    }
                    CatalogError::Behind(_) => Err(failure.remedy(anew::CHOICES)),
                    _ => Err(failure),
                };
            }
        };
        // The catalog knows: parts of the directory may have been put back from different copies.
        mesh.node_id = catalog.node_id();
        links.set_catalog(catalog.clone());
        let actor = format!("node {name}");
        let supervisor = Arc::new(Supervisor::default());
        let core = Arc::new(Core {
            repositories: Repositories::declared(&settings, name.clone(), catalog.clone(), links.clone()),
            budget: Budget::new(settings.buffer),
            committer: Committer::start(&supervisor, catalog.clone(), &actor),
            sessions: Arc::new(SharedSession::new(catalog.clone(), name.clone())),
            running: RunningTime::start(),
            repair: RepairBell::default(),
            announcing: tokio::sync::Notify::new(),
            started: Instant::now(),
            supervisor,
            links,
            settings,
            layout,
            name,
            catalog,
            mesh,
            actor,
        });
        let reads = Arc::new(Reads::new(core.clone()));
        let archive = Arc::new(Archive::new(core.clone(), reads.clone()));
        let backups = Arc::new(Backups::new(core.clone(), reads.clone()));
        Ok(Some(Self {
            membership: Arc::new(Membership::new(core.clone(), backups.clone(), identity)),
            backups,
            janitor: Arc::new(Janitor::new(core.clone(), reads.clone(), archive.clone())),
            archive,
            reads,
            peer_budget: Budget::of_one(core.settings.buffer / 2),
            verifications: Verifications::default(),
            core,
        }))
    }
}

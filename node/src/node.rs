//! One node: what its services share.

use crate::anew;
use crate::budget::Budget;
use crate::committer::Committer;
use crate::consensus::Consensus;
use crate::garbage::AskedKept;
use crate::init::node_names;
use crate::links::Links;
use crate::lost::LostSearch;
use crate::mesh_file::MeshFile;
use crate::pace::Pace;
use crate::read_log::ReadLog;
use crate::repair::Repair;
use crate::repositories::Repositories;
use crate::services::{Doubts, Mapping};
use crate::sessions::{ClientSessions, RunningTime, SharedSession};
use crate::settings::{Layout, NodeSettings};
use crate::stuck::Refused;
use crate::wal_holes::WalRuns;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::{Catalog, CatalogError, CatalogOptions, NodeName};
use pgmesh_storage::DigestSuite;
use pgmesh_transport::Identity;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

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
    pub(crate) clients: ClientSessions,
    /// What sessions are timed by.
    pub(crate) running: RunningTime,
    pub(crate) repair: Repair,
    pub(crate) mapping: Mapping,
    pub(crate) lost: LostSearch,
    pub(crate) wal_runs: Arc<WalRuns>,
    /// Wakes whoever tells the catalog where this node is and what it reaches.
    pub(crate) announcing: tokio::sync::Notify,
    /// When what a repository keeps was last asked for, and how far.
    pub(crate) asked_kept: AskedKept,
    /// Held while garbage is collected: one at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    /// Held while a repository is looked through for unknown objects: one at a time, as each holds a filter of the
    /// names of all known chunks.
    pub(crate) finding_orphans: tokio::sync::Mutex<()>,
    /// Nodes' writes and reads of this node's repositories have a budget of their own: were it shared, two nodes could
    /// wait for each other's memory for ever.
    pub(crate) peer_budget: Budget,
    pub(crate) pace: Pace,
    pub(crate) links: Arc<Links>,
    pub(crate) mesh: MeshFile,
    pub(crate) started: Instant,
    pub(crate) refused: Refused,
    pub(crate) read_log: ReadLog,
    pub(crate) doubts: Doubts,
    pub(crate) identity: RwLock<Identity>,
    actor: String,
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
        Ok(Some(Self {
            repositories: Repositories::declared(&settings, name.clone(), catalog.clone(), links.clone()),
            budget: Budget::new(settings.buffer),
            peer_budget: Budget::new(settings.buffer / 2),
            finding_orphans: tokio::sync::Mutex::default(),
            committer: Committer::start(catalog.clone(), actor.clone()),
            sessions: Arc::new(SharedSession::new(catalog.clone(), name.clone())),
            clients: ClientSessions::default(),
            running: RunningTime::start(),
            repair: Repair::default(),
            mapping: Mapping::default(),
            pace: Pace::new(settings.repair_rate),
            lost: LostSearch::default(),
            wal_runs: Arc::default(),
            announcing: tokio::sync::Notify::new(),
            asked_kept: AskedKept::default(),
            collecting: tokio::sync::Mutex::new(()),
            identity: RwLock::new(identity),
            started: Instant::now(),
            refused: Refused::default(),
            read_log: ReadLog::default(),
            doubts: Doubts::default(),
            links,
            settings,
            layout,
            name,
            catalog,
            mesh,
            actor,
        }))
    }

    /// Whether this node alone is the whole Raft group.
    pub(crate) fn is_alone(&self) -> bool {
        self.catalog.status().voters == [self.mesh.node_id]
    }

    /// SHA-256 of this node's public key.
    pub(crate) fn key(&self) -> [u8; 32] {
        self.identity().member().key.0
    }

    /// When this node's certificate ends, Unix seconds.
    pub(crate) fn certificate_expires(&self) -> i64 {
        self.identity().expires_at()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How digests are made in this mesh.
    pub fn suite(&self) -> DigestSuite {
        self.mesh.suite
    }

    /// The mesh's identity.
    pub fn mesh_id(&self) -> &str {
        &self.mesh.mesh_id
    }

    /// This node in the audit trail.
    pub(crate) fn actor(&self) -> &str {
        &self.actor
    }
}

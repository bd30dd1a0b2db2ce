//! `node init`: a new mesh of one node.

use crate::mesh_file::MeshFile;
use crate::pending_key::is_pending_key;
use crate::settings::{Layout, NodeSettings};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, now_unix};
use pgmesh_raft::{
    Catalog, CatalogOptions, Command, Levels, MeshRecord, NodeName, NodeRecord, NodeService, VotePolicy, own_level,
};
use pgmesh_storage::DigestSuite;
use pgmesh_transport::{Identity, MemberName, MeshCa, MeshId, Role};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long a certificate is valid; members renew theirs by themselves when a third of this is over.
pub(crate) const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The number of a mesh's first node.
const FOUNDER: u64 = 1;

/// The mesh that `node init` made.
#[derive(Debug, Clone)]
pub struct Initialized {
    /// The new mesh.
    pub mesh_id: String,
    /// SHA-256 of its CA's certificate.
    pub ca_fingerprint: String,
}

/// Makes the data directory: mesh CA, node and administrator identity, catalog. The marker is written last, so that an
/// attempt that was interrupted is started over.
///
/// # Errors
/// The directory holds a node or other files already; a file cannot be written.
pub async fn init(settings: &NodeSettings, suite: DigestSuite) -> Result<Initialized, Failure> {
    let layout = Layout::new(&settings.path);
    let mesh_id = MeshId::random().map_err(|error| Failure::new(ExitCode::Crypto, "no randomness").because(error))?;
    let _lock = claim(&layout)?;
    let founded = found(settings, &layout, mesh_id, suite).await?;
    founded.catalog.shutdown().await?;
    write_marker(&layout)?;
    Ok(founded.initialized)
}

/// A mesh whose first node is not whole yet: its marker is missing.
pub(crate) struct Founded {
    pub(crate) initialized: Initialized,
    pub(crate) catalog: Catalog,
}

/// Takes a data directory for a new node: it holds none, no other process works on it, and the leftovers of an
/// interrupted attempt are removed. The directory is ours for as long as the returned lock file is kept open.
pub(crate) fn claim(layout: &Layout) -> Result<fs::File, Failure> {
    refuse_initialized(layout)?;
    make_private_directory(layout.root())?;
    let lock = lock_directory(layout)?;
    check_directory(layout)?;
    Ok(lock)
}

/// Makes all of a mesh's first node but the marker. Its identities have not left the machine yet.
pub(crate) async fn found(
    settings: &NodeSettings,
    layout: &Layout,
    mesh_id: MeshId,
    suite: DigestSuite,
) -> Result<Founded, Failure> {
    let (name, member) = node_names(settings)?;
    let crypto = |what: &'static str| {
        move |error: pgmesh_transport::CaError| Failure::new(ExitCode::Crypto, what).because(chain(&error))
    };
    let authority = MeshCa::create(mesh_id.clone()).map_err(crypto("the mesh's authority cannot be made"))?;
    authority
        .save(&layout.ca())
        .map_err(crypto("the mesh's authority cannot be saved"))?;
    let issue = |role, directory: &Path| {
        let identity = authority
            .issue(&role, &member, CERTIFICATE_VALIDITY)
            .map_err(crypto("a certificate cannot be made"))?;
        identity_at(&identity, directory)?;
        Ok::<_, Failure>(identity.member().key.0)
    };
    let key = issue(Role::Node, &layout.identity())?;
    let administrator = issue(Role::Admin, &layout.admin())?;
    let mesh = MeshRecord {
        mesh_id: mesh_id.to_string(),
        suite,
        created: now_unix(),
        catalog_format: MeshRecord::CATALOG_FORMAT,
    };
    let node = NodeRecord {
        node_id: FOUNDER,
        region: settings.region.clone().unwrap_or_default(),
        advertise: vec![settings.advertise.clone()],
        key,
        administrator,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        service: NodeService::InService,
        vote: VotePolicy::Auto,
        revoked: Vec::new(),
        reaches: std::collections::BTreeSet::new(),
    };
    let catalog = Catalog::create(&layout.catalog(), mesh, name.clone(), node, CatalogOptions::default()).await?;
    raise_level(&catalog, &name).await?;
    let file = MeshFile {
        mesh_id: mesh_id.to_string(),
        suite,
        node_id: FOUNDER,
        seeds: Vec::new(),
        members: Vec::new(),
    };
    file.write(layout)?;
    let initialized = Initialized {
        mesh_id: mesh_id.to_string(),
        ca_fingerprint: authority.fingerprint().to_string(),
    };
    Ok(Founded { initialized, catalog })
}

/// A new mesh has all that this program knows from the start; later, the leader raises the level.
async fn raise_level(catalog: &Catalog, name: &NodeName) -> Result<(), Failure> {
    let (actor, level) = (format!("node {name}"), own_level());
    if level > Levels::default().current {
        let node_id = FOUNDER;
        catalog.propose(&actor, Command::NoteLevel { node_id, level }).await?;
        catalog.propose(&actor, Command::RaiseLevel { level }).await?;
    }
    Ok(())
}

/// The node's name, as the catalog and as its certificate have it.
pub(crate) fn node_names(settings: &NodeSettings) -> Result<(NodeName, MemberName), Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(ExitCode::OptionInvalid, "node-name cannot be used").because(error)
    };
    Ok((
        settings.name.parse().map_err(|error| unusable(&error))?,
        settings.name.parse().map_err(|error| unusable(&error))?,
    ))
}

/// Keeps an identity.
pub(crate) fn identity_at(identity: &Identity, directory: &Path) -> Result<(), Failure> {
    identity.save(directory).map_err(|error| {
        Failure::new(
            ExitCode::Crypto,
            format!("the identity in {} cannot be saved", directory.display()),
        )
        .because(chain(&error))
    })
}

/// A data directory that holds a whole node is left alone.
fn refuse_initialized(layout: &Layout) -> Result<(), Failure> {
    if layout.marker().exists() {
        return Err(Failure::new(
            ExitCode::Config,
            format!("{} holds a node already", layout.root().display()),
        )
        .remedy("start it with 'pgmesh --config=FILE node start', or give node-path an empty directory"));
    }
    Ok(())
}

/// One process per data directory.
pub(crate) fn lock_directory(layout: &Layout) -> Result<fs::File, Failure> {
    let path = layout.lock();
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(ExitCode::LockAcquire, format!("{} cannot be locked", path.display())).because(error.to_string())
    };
    let file = fs::File::create(&path).map_err(|error| unusable(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Failure::new(
            ExitCode::LockAcquire,
            format!("another process works on {} already", layout.root().display()),
        )),
        Err(fs::TryLockError::Error(error)) => Err(unusable(&error)),
    }
}

/// A data directory must be empty, or hold the leftovers of an interrupted attempt, which are removed.
pub(crate) fn check_directory(layout: &Layout) -> Result<(), Failure> {
    let root = layout.root();
    refuse_initialized(layout)?;
    let ours = [
        layout.ca(),
        layout.identity(),
        layout.admin(),
        layout.catalog(),
        layout.mesh(),
        layout.mesh().with_extension("json.tmp"),
    ];
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(root, &error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| unusable(root, &error))?.path();
        if !ours.contains(&path) && path != layout.lock() && !is_pending_key(&path) {
            return Err(Failure::new(
                ExitCode::PathNotEmpty,
                format!("{} is not empty: it holds {}", root.display(), path.display()),
            )
            .remedy("give node-path a directory of its own"));
        }
    }
    // The leftovers of an interrupted attempt: its identities never left the machine.
    for path in ours {
        if path.exists() {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| unusable(&path, &error))?;
        }
    }
    Ok(())
}

pub(crate) fn make_private_directory(root: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .map_err(|error| unusable(root, &error))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(|error| unusable(root, &error))
}

pub(crate) fn write_marker(layout: &Layout) -> Result<(), Failure> {
    let path = layout.marker();
    let written = fs::File::create(&path)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::File::open(layout.root())?.sync_all());
    written.map_err(|error| unusable(&path, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::Config, format!("{} cannot be used", path.display())).because(error)
}

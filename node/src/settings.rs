//! The settings of a node's configuration file, typed.

use crate::sessions::SessionTimes;
use pgmesh_raft::EntryId;
use pgmesh_storage::{Passphrase, RepoKey, SecretSource, StoreKind, StoreSettings};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One node.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// `node-name`: unique in the mesh.
    pub name: String,
    /// `node-path`: the data directory; see [`Layout`].
    pub path: PathBuf,
    /// `node-listen`.
    pub listen: SocketAddr,
    /// `node-advertise`: the address at which other nodes reach it.
    pub advertise: String,
    /// `node-region`.
    pub region: Option<String>,
    /// The repositories that this node hosts or can reach.
    pub repositories: BTreeMap<RepoKey, RepositorySettings>,
    /// `archive-ack`; 2, or 1 where there is only one repository, where it is not set.
    pub archive_ack: Option<u16>,
    /// `backup-ack`; likewise.
    pub backup_ack: Option<u16>,
    /// `io-timeout`: how long one request to a repository may take.
    pub io_timeout: Duration,
    /// `mesh-node`: where other nodes are looked for when this node starts, besides the addresses in the catalog.
    pub seeds: Vec<String>,
    /// `mesh-route`: the address at which this node reaches another, by name, if it differs from the address that the
    /// other advertises (address translation, tunnels).
    pub routes: BTreeMap<String, String>,
    /// `mesh-voters`: how many nodes vote at most; odd.
    pub voters: usize,
    /// `repair-rate`: bytes a second that repairs may write to one repository; unlimited where it is not set.
    pub repair_rate: Option<u64>,
    /// `node-snapshot-entries`: log entries between two snapshots of the catalog; the usual number where it is not set.
    pub snapshot_entries: Option<u64>,
    /// `skip-entry`: entries of the catalog's log that cannot be applied and are left out.
    pub skip_entries: Vec<EntryId>,
    /// `buffer-size` of the node: bytes of bodies held in memory at once (invariant 11).
    pub buffer: u64,
    /// `fence-timeout`: how long after its last look at the marks of its repositories a node acknowledges and deletes.
    pub fence_timeout: Duration,
    /// `orphan-scan-interval`: how often a repository is looked through for objects that the catalog does not know.
    pub orphan_scan_interval: Duration,
    /// `session-timeout`, and how long else sessions are waited for.
    pub sessions: SessionTimes,
}

/// One repository as a node's file defines it.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// The options that all nodes must agree on, without the `repoN-` and without secrets: they go into the catalog.
    pub definition: BTreeMap<String, String>,
    /// This node's own way there: time-outs, certificates, proxies.
    pub local: BTreeMap<String, String>,
    /// Credentials, read anew whenever they are needed.
    pub secrets: Arc<dyn SecretSource>,
    /// `repoN-cipher-pass`; none where `cipher-type` is `none`.
    pub passphrase: Option<Passphrase>,
}

impl RepositorySettings {
    /// `repoN-type`.
    pub fn kind(&self) -> &str {
        self.definition.get("type").map_or("posix", String::as_str)
    }

    /// `repoN-cipher-type`.
    pub fn cipher(&self) -> &str {
        self.definition.get("cipher-type").map_or("none", String::as_str)
    }

    /// Whether every node with the credentials reaches it. An unknown type does not count as shared.
    pub fn is_shared(&self) -> bool {
        self.kind().parse().is_ok_and(StoreKind::is_shared)
    }

    /// Where it lies; its `Display` is the place for messages: `/backup/repo1`, `s3://bucket/path`.
    pub fn store(&self) -> StoreSettings {
        StoreSettings {
            definition: self.definition.clone(),
            local: self.local.clone(),
            secrets: Arc::clone(&self.secrets),
        }
    }
}

/// How the folder of a node's next catalog begins.
pub(crate) const NEW_CATALOG: &str = "catalog.new-";

/// The folders of a node's data directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Of the data directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The data directory.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// The mesh CA: certificate and key.
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// The node's own certificate and key.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The administrator's certificate and key.
    pub fn admin(&self) -> PathBuf {
        self.root.join("admin")
    }

    /// The catalog: Raft log and state.
    pub fn catalog(&self) -> PathBuf {
        self.root.join("catalog")
    }

    /// Which mesh this is a node of; see [`MeshFile`](crate::MeshFile).
    pub fn mesh(&self) -> PathBuf {
        self.root.join("mesh.json")
    }

    /// The empty catalog of a node that begins anew under this number.
    pub(crate) fn new_catalog(&self, node_id: u64) -> PathBuf {
        self.root.join(format!("{NEW_CATALOG}{node_id}"))
    }

    /// The catalog that a node had before it began anew.
    pub(crate) fn old_catalog(&self) -> PathBuf {
        self.root.join("catalog.behind")
    }

    /// The catalog of a node that is being rescued, until its number is known.
    pub(crate) fn rescued_catalog(&self) -> PathBuf {
        self.root.join("catalog.rescued")
    }

    /// The catalog that a node had under this number before it was rescued.
    pub(crate) fn catalog_before_rescue(&self, node_id: u64) -> PathBuf {
        self.root.join(format!("catalog.before-rescue-{node_id}"))
    }

    /// Locked while a node runs on it.
    pub fn lock(&self) -> PathBuf {
        self.root.join("node.lock")
    }

    /// Written last by `node init`: the directory is whole.
    pub fn marker(&self) -> PathBuf {
        self.root.join("initialized")
    }
}

/// How many repositories must have an object before it is acknowledged: the number that was asked for, else 2, or 1 if
/// there is only one repository. An error if more are asked for than there are.
pub fn effective_ack(asked: Option<u16>, repositories: usize) -> Result<usize, String> {
    match asked {
        None => Ok(repositories.clamp(1, 2)),
        Some(0) => Err("an ack of 0 would acknowledge what is nowhere durable".to_owned()),
        Some(n) if usize::from(n) > repositories => Err(format!(
            "{n} repositories are asked to acknowledge, and the mesh has {repositories}"
        )),
        Some(n) => Ok(usize::from(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::effective_ack;

    #[test]
    fn ack_defaults_to_two_and_never_exceeds_what_is_there() {
        assert_eq!(effective_ack(None, 1), Ok(1));
        assert_eq!(effective_ack(None, 2), Ok(2));
        assert_eq!(effective_ack(None, 5), Ok(2));
        assert_eq!(effective_ack(Some(1), 2), Ok(1));
        assert_eq!(effective_ack(Some(3), 3), Ok(3));
        assert!(effective_ack(Some(0), 2).is_err());
        assert!(effective_ack(Some(3), 2).is_err());
    }
}

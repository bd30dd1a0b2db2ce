//! Stanzas, repositories, tokens.

use crate::bounded::{
    Address, Addresses, CertificateRequest, FileName, Instance, LastName, List, Machine, MemberNameText, NodeNameText,
    Path, Reason, RoleName, Text, TokenStanzas,
};
use crate::{ExitCode, Failure};
use crate::{TokenId, TokenSecret};
use pgmesh_postgres::{PgVersion, SegmentName, SegmentSize, SystemId};
use pgmesh_storage::{ArchiveId, BackupLabel, ObjectPath, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Creates or upgrades a stanza.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateStanza {
    /// The stanza.
    pub stanza: StanzaName,
    /// From pg_control.
    pub system_id: SystemId,
    /// From pg_control.
    pub version: PgVersion,
    /// From pg_control.
    pub catalog_version: u32,
    /// From pg_control.
    pub segment_size: SegmentSize,
    /// The fingerprint of the data directory (invariant 12).
    pub instance: Text<Instance>,
    /// The fingerprint of the machine. Empty where it has none.
    pub machine: Text<Machine>,
    /// The cluster's current timeline.
    pub timeline: pgmesh_postgres::TimelineId,
}

/// A stanza after stanza-create or stanza-upgrade.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewStanza {
    /// Its current archive.
    pub archive_id: ArchiveId,
    /// It was as asked before.
    pub already: bool,
    /// Repositories that have its description now.
    pub durable: Vec<u16>,
    /// Repositories that owe it.
    pub owed: Vec<u16>,
    /// The client that pushed first for the other data directory that writes the cluster's timeline, if another one
    /// does.
    pub other_writer: Option<String>,
}

/// The answer to [`AdoptStanza`](crate::AdoptStanza).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdoptedStanza {
    /// The timeline.
    pub timeline: pgmesh_postgres::TimelineId,
    /// The data directory that wrote the timeline before, and the client that pushed first for it; `None` where nothing
    /// has changed.
    pub before: Option<(String, String)>,
    /// The last archived segment of the timeline, and when it was archived, Unix seconds.
    pub last: Option<(SegmentName, i64)>,
}

/// Asks to forget WAL whose content differs in another history of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgetWal {
    /// The stanza.
    pub stanza: StanzaName,
    /// The first file of a timeline to forget; all later files of the timeline go with it. A segment, or the timeline's
    /// history file.
    pub from: Text<FileName>,
    /// To forget: the position in the answer to the same request with `None`, so that exactly the files in that answer
    /// go. `None` only asks which files would be forgotten.
    pub upto: Option<u64>,
    /// Also removes the backups that need these files.
    pub with_backups: bool,
    /// Also where an archiver pushed to the timeline a moment ago, where no archiver is refused because of it, and
    /// where a restore of the stanza runs.
    pub force: bool,
}

/// WAL that was forgotten, or would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgottenWal {
    /// The files of each timeline; the timelines that branch off come first.
    pub timelines: Vec<ForgottenTimeline>,
    /// Backups that need these files and are removed with them; the first few.
    pub backups: Vec<String>,
    /// How many backups these are.
    pub backup_count: u64,
    /// The catalog's position at which this was read.
    pub position: u64,
}

/// The end of a timeline that was forgotten, or would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgottenTimeline {
    /// The timeline.
    pub timeline: pgmesh_postgres::TimelineId,
    /// The first file.
    pub first: String,
    /// The last file.
    pub last: String,
    /// How many there are.
    pub files: u64,
    /// Bytes that they take in all repositories.
    pub bytes: u64,
}

/// Stops or starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetStopped {
    /// One stanza, or all of them.
    pub stanza: Option<StanzaName>,
    /// `Some(reason)` stops.
    pub stopped: Option<Text<Reason>>,
    /// Ends backups and restores that run, too.
    pub ends_sessions: bool,
}

/// Changes annotations: an empty value removes the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnnotateBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// Key to value.
    pub annotations: BTreeMap<String, String>,
}

/// Asks where WAL is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// First segment.
    pub first: SegmentName,
    /// Last segment, on the same timeline.
    pub last: SegmentName,
    /// The cluster's identity, to say early that it may not write here (invariant 12).
    pub instance: Option<Text<Instance>>,
}

/// Where WAL is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SegmentPresence {
    /// Segments of the range that are not archived; the first few.
    pub missing: Vec<String>,
    /// Repositories that lack a segment of the range that is archived: (repository, segment), the first few.
    pub owed: Vec<(u16, String)>,
    /// All repositories of the mesh.
    pub repositories: Vec<u16>,
}

/// Lists a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListRepository {
    /// The repository.
    pub repo: RepoKey,
    /// Below this path.
    pub path: Text<Path>,
    /// All depths.
    pub recurse: bool,
    /// Only names after this one: where the answer before this one ended.
    pub after: Option<Text<LastName>>,
}

/// A part of a listing, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryListing {
    /// As many as an answer has room for.
    pub objects: Vec<RepositoryObject>,
    /// There is more after the last of them.
    pub more: bool,
}

/// One object or folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryObject {
    /// Relative to the path asked for.
    pub name: String,
    /// Bytes at rest; none for a folder.
    pub size: Option<u64>,
}

/// Reads an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadRepository {
    /// The repository.
    pub repo: RepoKey,
    /// The object's path.
    pub path: Text<Path>,
}

impl ReadRepository {
    /// The object that a user's path names.
    ///
    /// # Errors
    /// No object can have such a name (55), or it is a key object, which is not shown (48).
    pub fn object(path: &str) -> Result<ObjectPath, Failure> {
        match ObjectPath::parse(path.trim_matches('/')) {
            None => Err(Failure::new(
                ExitCode::FileMissing,
                format!("no object of a repository has such a name: {path:?}"),
            )
            .remedy("'pgmesh repo-ls' lists the objects there are")),
            Some(key @ ObjectPath::Key { .. }) => Err(Failure::new(
                ExitCode::CommandInvalid,
                format!("{key} is a key object: a key of the repository, wrapped with its passphrase; it is not shown"),
            )
            .remedy("'pgmesh verify' reads and checks it")),
            Some(object) => Ok(object),
        }
    }
}

/// How a repository was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replaced {
    /// An empty repository is in its place, and owes every object.
    Empty,
    /// An older copy of the repository is in its place.
    OlderCopy {
        /// Objects that the copy lacks, and owes.
        missing: u64,
        /// Objects that the copy has.
        there: u64,
    },
}

/// How many of a stanza's objects were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedStanza {
    /// Objects that are deleted already.
    pub deleted: u64,
    /// Objects that stay, because their repository does not let them go (object lock, `delete=n`).
    pub kept: u64,
}

/// Asks for a join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateInvite {
    /// `client`, `admin`, `monitor`, `restore` or `node`.
    pub role: Text<RoleName>,
    /// The name that a node must have.
    pub name: Option<Text<NodeNameText>>,
    /// A node takes the place of the one of this name; another member's certificates of the name that it joins under
    /// are revoked.
    pub force: bool,
    /// The stanzas of a client or of a restoring host.
    pub stanzas: List<StanzaName, TokenStanzas>,
    /// Seconds until it expires.
    pub expires: u64,
    /// Addresses to put in the token; the node's own where none is given.
    pub addresses: List<Text<Address>, Addresses>,
}

/// A join token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Invite {
    /// The token's text. A secret: shown once.
    pub token: String,
    /// Unix seconds.
    pub expires_at: i64,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invite")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Redeems a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's public part.
    pub token_id: TokenId,
    /// The token's secret part, which proves possession.
    pub secret: TokenSecret,
    /// The new identity's certificate signing request, DER.
    pub csr: List<u8, CertificateRequest>,
    /// The name of the new identity: of the host, or of the node.
    pub name: Text<MemberNameText>,
    /// A new node's description. The request for a node's token has one, others have none.
    pub node: Option<crate::NewNode>,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token_id", &self.token_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A certificate, signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinAccepted {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The mesh CA's certificate, DER.
    pub ca: Vec<u8>,
    /// Addresses of the mesh's nodes.
    pub nodes: Vec<String>,
    /// A new node's number, and the members that it joins.
    pub node: Option<crate::JoinedNode>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_of_repo_get_names() {
        let chunk = format!("chunk/ab/{}", "ab".repeat(32));
        for path in ["pgmesh.repo", "/pgmesh.repo", chunk.as_str()] {
            let object = ReadRepository::object(path).unwrap();
            assert_eq!(object.to_string(), path.trim_matches('/'));
        }
        let key = ReadRepository::object("pgmesh.key/0001-0001").unwrap_err();
        assert_eq!(key.code, ExitCode::CommandInvalid);
        assert!(
            key.what.starts_with("pgmesh.key/0001-0001 is a key object"),
            "{}",
            key.what
        );
        for path in ["", "chunk", "chunk/ab/x", "pgmesh.key/1-1", "other"] {
            let failure = ReadRepository::object(path).unwrap_err();
            assert_eq!(failure.code, ExitCode::FileMissing, "{path:?}");
            assert!(!failure.to_string().contains("damaged"), "{failure}");
        }
    }
}

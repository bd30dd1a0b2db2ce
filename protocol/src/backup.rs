//! Taking and reading backups.

use crate::PayloadHead;
use crate::bounded::{Avoided, BackupHolder, Instance, List, Pieces, QueriedChunks, RestoreHolder, Text};
use pgmesh_postgres::{PgVersion, SystemId, TimelineId};
use pgmesh_storage::{ArchiveId, BackupLabel, Digest, DigestSuite, StanzaName};
use serde::{Deserialize, Serialize};

/// Opens a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster's system identifier, from pg_control.
    pub system_id: SystemId,
    /// Its major version.
    pub version: PgVersion,
    /// Tells this data directory from a copy of it (invariant 12). `None` where the primary is on another host and the
    /// files come from its standby: then the client proves that the primary's WAL is the archive's before it commits.
    pub instance: Option<Text<Instance>>,
    /// The timeline that the cluster is on.
    pub timeline: TimelineId,
    /// The label that the backup will have.
    pub label: BackupLabel,
    /// The client's host and process, for the message to another client that finds the stanza locked.
    pub holder: Text<BackupHolder>,
    /// `backup-ack` as the PG host has it set.
    pub backup_ack: Option<u16>,
}

/// An open backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupBegun {
    /// The session. It ends with the commit, when the client ends it or leaves, or after `session-timeout` without
    /// progress.
    pub session: u64,
    /// How digests are made.
    pub suite: DigestSuite,
    /// Which archive the backup belongs to.
    pub archive_id: ArchiveId,
    /// The repositories that the backup will go to.
    pub repositories: Vec<u16>,
    /// How many of them must have everything before the commit.
    pub backup_ack: u16,
    /// The newest backup before this one.
    pub prior: Option<BackupLabel>,
    /// The instance that writes the timeline, as the mesh knows it; `None` before the first segment.
    pub writer: Option<String>,
    /// The session's secret: a client that shows it may go on with the session at any node.
    pub resume_key: [u8; 16],
}

/// Opens a restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginRestore {
    /// The stanza.
    pub stanza: StanzaName,
    /// The client's host and process.
    pub holder: Text<RestoreHolder>,
}

/// An open restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreBegun {
    /// The session. It ends when the client ends it or leaves, or after `session-timeout` without progress.
    pub session: u64,
    /// The session's secret, as in [`BackupBegun`].
    pub resume_key: [u8; 16],
}

/// Goes on with an open backup or restore on a new connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResumeSession {
    /// The stanza.
    pub stanza: StanzaName,
    /// The session of [`BackupBegun`] or [`RestoreBegun`].
    pub session: u64,
    /// The session's secret, which proves that the client holds the session.
    pub resume_key: [u8; 16],
    /// The holder's count of its moves, from 1: if two requests arrive in the wrong order, the higher one counts.
    pub turn: u64,
    /// How many repositories must have everything before the commit, as [`BackupBegun`] said; 0 for a restore.
    pub backup_ack: u16,
}

/// Which chunks are known?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryChunks {
    /// The stanza that the backup is of.
    pub stanza: StanzaName,
    /// The backup session.
    pub session: u64,
    /// At most [`crate::QUERY_LIMIT`].
    pub digests: List<Digest, QueriedChunks>,
}

/// One chunk on its way in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutChunk {
    /// The stanza that the backup is of.
    pub stanza: StanzaName,
    /// The backup session.
    pub session: u64,
    /// The payload that follows.
    pub payload: PayloadHead,
}

/// Commits a backup; the payload that follows is its `ManifestRoot` as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup session.
    pub session: u64,
    /// The backup.
    pub label: BackupLabel,
    /// The manifest that follows.
    pub manifest: PayloadHead,
}

/// The answer to a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum CommittedBackup {
    /// The backup is whole and in the catalog.
    Committed {
        /// Repositories that have all of it.
        durable: Vec<u16>,
        /// Repositories that still owe a part of it.
        owed: Vec<u16>,
    },
    /// These chunks are not there (any more): send them again, then commit again.
    Missing(Vec<Digest>),
}

/// Asks for a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetManifest {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
}

/// Asks for a chunk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetChunk {
    /// The stanza that the reader works for.
    pub stanza: StanzaName,
    /// The chunk.
    pub digest: Digest,
    /// Repositories whose copy the client has found to be damaged.
    pub avoid: List<u16, Avoided>,
}

/// Reads some runs of bytes of one chunk's plaintext.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetPieces {
    /// The stanza that the reader works for.
    pub stanza: StanzaName,
    /// The chunk.
    pub digest: Digest,
    /// Offset and length of each, at most [`crate::PIECES_LIMIT`].
    pub ranges: List<(u32, u32), Pieces>,
    /// Repositories that the node must not read.
    pub avoid: List<u16, Avoided>,
}

/// The answer to [`GetChunk`], and to [`GetPieces`] with a payload of the pieces one after the other.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ChunkReply {
    /// The payload that follows.
    pub payload: PayloadHead,
    /// The repository it was read from.
    pub repo: u16,
}

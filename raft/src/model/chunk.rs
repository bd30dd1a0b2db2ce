//! The chunk index.

use pgmesh_storage::Generation;
use serde::{Deserialize, Serialize};

use super::{LogIndex, Replica};

/// One chunk that the mesh holds; its key is the digest of its plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Length of the plaintext in bytes.
    pub length: u32,
    /// Length as stored (compressed, without envelope) in bytes.
    pub stored_length: u32,
    /// The good replicas, ordered by repository, at most one a repository.
    pub replicas: Vec<Replica>,
    /// Set when the chunk is about to be deleted: it then counts as absent (invariant 5).
    pub condemned: Option<LogIndex>,
    /// Set when a sweep has found no manifest that names the chunk, and is about to look once more. The chunk counts as
    /// before; a backup that names it says so before its commit ([`Command::Reprieve`](crate::Command::Reprieve)).
    pub suspected: Option<LogIndex>,
    /// When a session last uploaded it. While a backup runs that began before, the chunk is not condemned: it may be
    /// the backup's, which no manifest shows yet.
    pub added: LogIndex,
}

/// The state of a chunk, as a writer needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkState {
    /// The chunk is there and may be referenced.
    Present(ChunkRecord),
    /// It is not, or it is condemned: upload it under this generation.
    Absent {
        /// The lowest generation whose object name is free in every repository.
        generation: Generation,
    },
}

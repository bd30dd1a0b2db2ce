//! Pushing and getting WAL.

use crate::PayloadHead;
use crate::Server;
use bytes::Bytes;
use pgmesh_postgres::{PgVersion, SegmentName, SystemId, TimelineId, WalHole};
use pgmesh_storage::{Digest, StanzaName};
use serde::{Deserialize, Serialize};

/// One WAL file on its way into the archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushSegment {
    /// The stanza.
    pub stanza: StanzaName,
    /// The file's name as PostgreSQL gives it: a segment, `.partial`, `.history` or `.backup`.
    pub file: String,
    /// The payload that follows. Of a file that lies in parts ([`parts_of`](pgmesh_storage::parts_of)) digest and
    /// length of the whole, with a `length` of 0: the node answers with [`PartsTurn`], and each part follows with a
    /// [`PayloadHead`] of its own.
    pub payload: PayloadHead,
    /// The cluster's system identifier: from the segment's header, or from pg_control for the other files.
    pub system_id: SystemId,
    /// The cluster's major version.
    pub version: PgVersion,
    /// The timeline in the segment's header; the name's timeline for the other files.
    pub header_timeline: TimelineId,
    /// The server that pushes (invariant 12).
    pub server: Server,
    /// `archive-ack` as the PG host has it set; the node's own setting where it has not.
    pub archive_ack: Option<u16>,
}

/// What the node says of a file that lies in parts, before any of them is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PartsTurn {
    /// They may come, in their order.
    Send,
    /// The same bytes are archived: none is wanted.
    Done(Pushed),
}

/// A push that was acknowledged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    /// The same bytes were archived before.
    pub already: bool,
    /// It was set aside: no recovery along the archive's history needs it.
    pub aside: bool,
    /// Repositories that had it when the answer was given.
    pub durable: Vec<u16>,
    /// Repositories that still owe it.
    pub owed: Vec<u16>,
}

/// Asks for one WAL file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetSegment {
    /// The stanza.
    pub stanza: StanzaName,
    /// The file's name.
    pub file: String,
    /// Which database of the stanza; the newest where it is not known.
    pub system_id: Option<SystemId>,
    /// Repositories whose copy the asker has found to be damaged.
    pub avoid: Vec<u16>,
    /// Repositories that have given parts of the file, which together were not the file. They are looked at first.
    pub doubted: Vec<u16>,
}

/// The answer to [`GetSegment`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum SegmentReply {
    /// It follows; read from this repository.
    Found {
        /// The payload that follows.
        payload: PayloadHead,
        /// The repository it was read from.
        repo: u16,
    },
    /// It follows in parts, each with a [`SegmentPart`] before it. What has come counts when the last part is there and
    /// all of them have this digest.
    InParts {
        /// The digest of the whole file.
        digest: Digest,
        /// The length of the whole file, in bytes.
        plain_length: u64,
    },
    /// A linearizable read of the catalog says that it was never archived, and that nothing later of its history is
    /// (invariant 7).
    NeverArchived,
    /// It is not archived, but WAL behind it is known of: an end of recovery here would lose that (invariant 7).
    Hole(WalHole),
}

/// One part of a file, whose payload follows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SegmentPart {
    /// The payload that follows; its digest is that of the part.
    pub payload: PayloadHead,
    /// The repository it was read from.
    pub repo: u16,
}

/// Asks which blocks some consecutive segments of the stanza's current database have changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeMaps {
    /// The stanza.
    pub stanza: StanzaName,
    /// First segment.
    pub first: SegmentName,
    /// Last segment, on the same timeline.
    pub last: SegmentName,
}

/// The answer to [`ChangeMaps`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeMapsReply {
    /// Of the first segments of those asked for, one each and in their order, what
    /// [`SegmentMap::encode`](pgmesh_postgres::wal::SegmentMap::encode) gives. At least one unless `ended` says why
    /// not. The asker goes on behind the last of them: an answer is no longer than a message may be.
    pub maps: Vec<Bytes>,
    /// Why there is no map of the next segment, and so none of a range with it.
    pub ended: Option<String>,
}

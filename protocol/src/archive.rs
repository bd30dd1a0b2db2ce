//! Pushing and getting WAL.

use crate::PayloadHead;
use crate::Server;
use crate::bounded::{Avoided, FileName, List, Suspects, Text};
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
    pub file: Text<FileName>,
    /// The payload that follows. If the file lies in parts ([`parts_of`](pgmesh_storage::parts_of)), this has the
    /// digest and length of the whole file and a `length` of 0: the node answers with [`PartsTurn`], and each part
    /// follows with a [`PayloadHead`] of its own.
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

/// The node's answer to a push in parts, before the client sends the first part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PartsTurn {
    /// The client sends the parts, in their order.
    Send,
    /// The same bytes are archived: the client sends no part.
    Done(Pushed),
}

/// A push that was acknowledged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    /// The same bytes were archived before.
    pub already: bool,
    /// The file was set aside: no recovery along the archive's history needs it.
    pub aside: bool,
    /// Repositories that had the file when the node answered.
    pub durable: Vec<u16>,
    /// Repositories that still owe the file.
    pub owed: Vec<u16>,
}

/// Asks for one WAL file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetSegment {
    /// The stanza.
    pub stanza: StanzaName,
    /// The file's name.
    pub file: Text<FileName>,
    /// The database of the stanza; the newest where the client does not know it.
    pub system_id: Option<SystemId>,
    /// Repositories whose copy the client has found to be damaged.
    pub avoid: List<u16, Avoided>,
    /// Repositories whose parts together were not the file. The node looks at them first.
    pub doubted: List<u16, Suspects>,
}

/// The answer to [`GetSegment`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum SegmentReply {
    /// The file follows.
    Found {
        /// The payload that follows.
        payload: PayloadHead,
        /// The repository it was read from.
        repo: u16,
    },
    /// The file follows in parts, each with a [`SegmentPart`] before it. The client may use the parts only when the
    /// last one is there and the whole file has this digest.
    InParts {
        /// The digest of the whole file.
        digest: Digest,
        /// The length of the whole file, in bytes.
        plain_length: u64,
    },
    /// A linearizable read of the catalog says that the file was never archived, and that no later file of its history
    /// is archived (invariant 7).
    NeverArchived,
    /// The file is not archived, but WAL behind it is known of: an end of recovery here would lose that WAL (invariant
    /// 7).
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
    /// The maps of the first segments asked for, one each and in their order, as
    /// [`SegmentMap::encode`](pgmesh_postgres::wal::SegmentMap::encode) writes them. At least one, unless `ended` says
    /// why not. An answer is no longer than a message may be, so the client asks again from the segment behind the last
    /// map.
    pub maps: Vec<Bytes>,
    /// Why the next segment has no map, and so no range with it.
    pub ended: Option<String>,
}

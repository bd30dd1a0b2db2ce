//! WAL from another server than the writer of its timeline.

use pgmesh_postgres::{SegmentName, TimelineId};
use pgmesh_storage::StanzaName;
use serde::{Deserialize, Serialize};

/// Invariant 12: the timeline has another writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "timeline {timeline} of stanza {stanza} is written by data directory {known} (first pushed by {host}), not by {given}: \
     one of the two is a copy, or the cluster was moved"
)]
pub struct OtherWriter {
    /// The stanza.
    pub stanza: StanzaName,
    /// The timeline.
    pub timeline: TimelineId,
    /// Its writer.
    pub known: String,
    /// The client that pushed for it first.
    pub host: String,
    /// The data directory that pushed.
    pub given: String,
}

/// Invariant 12: the timeline's writer pushes from another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "the data directory that writes timeline {timeline} of stanza {stanza} was seen on another machine {seconds} \
     seconds ago: {host} at {address} pushed {segment}; either its volume was moved here, or one of the two is a \
     clone; after {wait} seconds without a push from there, WAL from here is accepted"
)]
pub struct OtherMachine {
    /// The stanza.
    pub stanza: StanzaName,
    /// The timeline.
    pub timeline: TimelineId,
    /// The client that pushed there.
    pub host: String,
    /// The address that it came from.
    pub address: String,
    /// The segment that it pushed.
    pub segment: SegmentName,
    /// How long ago.
    pub seconds: i64,
    /// After how long a silence it goes on.
    pub wait: i64,
}

//! The memory of answers: a part of the budget for the asker's account.

use crate::Node;
use crate::authorize::Reader;
use pgmesh_protocol::{MESSAGE_LIMIT, Request};
use pgmesh_raft::ObjectRef;
use pgmesh_storage::{LARGEST_SINGLE_OBJECT, ObjectName};
use pgmesh_transport::{Peer, Role};

/// The memory of a segment until it is sent: as it was stored, and decrypted. A segment has 16 MiB, unless a cluster
/// was made with larger ones.
const SEGMENT_READ: u64 = 2 * LARGEST_SINGLE_OBJECT;
/// The memory of a chunk for another node.
const CHUNK_READ: u64 = 2 << 20;
/// A manifest that this node has not heard of is of the usual size.
const USUAL_MANIFEST: u64 = 1 << 20;
/// Messages that are longer take memory: seldom one does.
const LONG: u64 = 4 << 10;
/// An answer that is short but for stanzas with very many backups.
const USUAL_ANSWER: u64 = 256 << 10;

/// The bytes that a request takes until it is served: its encoding, and what is decoded of it. None for a short one,
/// and for a node, whose messages of the Raft group wait for nothing.
pub(super) fn of_message(peer: &Peer, length: usize) -> Option<u64> {
    let length = length as u64;
    (length > LONG && !peer.is_node()).then_some(2 * length)
}

/// The bytes that the answer to a request takes until it is delivered. None where the answer is short, and where the
/// request takes memory for its body.
pub(super) fn of_answer(node: &Node, peer: &Peer, request: &Request) -> Option<u64> {
    let is_client = |role: &Role| matches!(role, Role::Client { .. } | Role::Restore { .. });
    match request {
        Request::GetSegment(_) => Some(SEGMENT_READ),
        Request::GetChunk(get) => Some(node.reads.cost_of_chunk(Reader::of(peer), get.digest)),
        Request::GetPieces(get) => Some(node.reads.cost_of_chunk(Reader::of(peer), get.digest)),
        Request::ReadRepository(_) => Some(2 * LARGEST_SINGLE_OBJECT),
        Request::ListRepository(_) | Request::ChangeMaps(_) => Some(MESSAGE_LIMIT as u64),
        // A client sees its own stanzas.
        Request::Info(_) => {
            let is_short = peer.member().is_none_or(|member| is_client(&member.role));
            Some(if is_short { USUAL_ANSWER } else { MESSAGE_LIMIT as u64 })
        }
        Request::GetRetained(_) | Request::ArchiveStatus(_) | Request::ChoosePrior(_) | Request::ChooseBackup(_) => {
            Some(USUAL_ANSWER)
        }
        Request::GetManifest(get) => {
            let object = ObjectRef::Manifest {
                stanza: get.stanza.clone(),
                label: get.label.clone(),
            };
            let known = node.catalog.view().object(&object).ok().flatten();
            Some(known.map_or(USUAL_MANIFEST, |known| known.stored_length.saturating_mul(2)))
        }
        Request::ReadObject(read) => match read.object {
            ObjectName::Segment { .. } => Some(SEGMENT_READ),
            _ => Some(CHUNK_READ),
        },
        _ => None,
    }
}

//! The memory of answers: a part of the budget for the peer's account, held until the answer is delivered.

use super::reply_with_body;
use crate::Node;
use crate::budget::Held;
use bytes::Bytes;
use pgmesh_protocol::{Failure, MESSAGE_LIMIT, Request};
use pgmesh_raft::ObjectRef;
use pgmesh_storage::LARGEST_SINGLE_OBJECT;
use pgmesh_transport::{Stream, StreamError};
use serde::Serialize;
use std::time::Duration;

/// An answer of which nothing is sent for so long is dropped: a peer that acknowledges nothing would keep it for ever.
const DELIVERY: Duration = Duration::from_secs(60);
/// A manifest that this node has not heard of is of the usual size.
const USUAL_MANIFEST: u64 = 1 << 20;

/// Sends an answer whose memory is held, and waits until it is delivered.
///
/// # Errors
/// The stream has failed.
pub(super) async fn answer<T: Serialize>(
    stream: &mut Stream,
    held: &Held,
    result: Result<(T, Option<Bytes>), Failure>,
) -> Result<(), StreamError> {
    held.keep_only(length_of(&result).saturating_add(MESSAGE_LIMIT as u64));
    reply_with_body(stream, result).await?;
    delivered(stream).await
}

/// The length of an answer's body, in bytes.
pub(super) fn length_of<T>(result: &Result<(T, Option<Bytes>), Failure>) -> u64 {
    match result {
        Ok((_, Some(body))) => body.len() as u64,
        Ok((_, None)) | Err(_) => 0,
    }
}

/// Ends the stream in good order, unless it has ended, and waits until the peer has all bytes.
///
/// # Errors
/// The stream has failed, or the peer acknowledges nothing.
pub(super) async fn delivered(stream: &mut Stream) -> Result<(), StreamError> {
    if stream.is_finished() {
        return Ok(());
    }
    stream.finish()?;
    stream.delivered_moving(DELIVERY).await
}

/// Whether the request takes memory of the budget when it is served. The memory of its message is given back before:
/// a peer that holds a part could wait for ever for a part that does not fit beside it.
pub(super) fn is_held_for(node: &Node, request: &Request) -> bool {
    let has_body = matches!(
        request,
        Request::PushSegment(_)
            | Request::PutChunk(_)
            | Request::CommitBackup(_)
            | Request::GetSegment(_)
            | Request::GetChunk(_)
            | Request::GetPieces(_)
            | Request::ChangeMaps(_)
    );
    has_body || cost_of_answer(node, request).is_some()
}

/// The memory of the answer to a request without a body; none where the answer is short.
pub(super) fn cost_of_answer(node: &Node, request: &Request) -> Option<u64> {
    match request {
        Request::Info(_) | Request::ListRepository(_) => Some(MESSAGE_LIMIT as u64),
        // Decrypted, and as it is stored.
        Request::ReadRepository(_) => Some(2 * LARGEST_SINGLE_OBJECT),
        Request::GetManifest(get) => {
            let object = ObjectRef::Manifest {
                stanza: get.stanza.clone(),
                label: get.label.clone(),
            };
            let known = node.catalog.view().object(&object).ok().flatten();
            Some(known.map_or(USUAL_MANIFEST, |known| known.stored_length.saturating_mul(2)))
        }
        _ => None,
    }
}

//! The memory of answers: a part of the budget for the peer's account, held until the answer is delivered.

use super::reply_with_body;
use crate::Node;
use crate::asker::{Asker, give_up};
use crate::budget::Held;
use bytes::Bytes;
use pgmesh_protocol::{Failure, MESSAGE_LIMIT, Request};
use pgmesh_raft::ObjectRef;
use pgmesh_storage::LARGEST_SINGLE_OBJECT;
use pgmesh_transport::{Stream, StreamCode, StreamError};
use serde::Serialize;
use std::time::Duration;

/// An answer is delivered within so long, or dropped: a peer that acknowledges nothing would keep it for ever.
const DELIVERY: Duration = Duration::from_secs(300);
/// A manifest that this node has not heard of is of the usual size.
const USUAL_MANIFEST: u64 = 1 << 20;

/// Sends an answer whose memory is held, and waits until it is delivered.
///
/// # Errors
/// The stream has failed, or was given up because others wait for the memory.
pub(super) async fn answer<T: Serialize>(
    asker: &Asker,
    stream: &mut Stream,
    held: &Held,
    result: Result<(T, Option<Bytes>), Failure>,
) -> Result<(), StreamError> {
    let length = length_of(&result);
    held.keep_only(length.saturating_add(MESSAGE_LIMIT as u64));
    let _window = asker.windows().answer(length);
    let sending = async {
        reply_with_body(stream, result).await?;
        delivered(stream).await
    };
    let sent = held.transfer(sending).await;
    sent.unwrap_or_else(|given_up| give_up(stream, given_up))
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
    let delivery = tokio::time::timeout(DELIVERY, stream.delivered()).await;
    delivery.unwrap_or_else(|_| {
        stream.stop(StreamCode::ABANDONED);
        Err(StreamError::Stalled { after: DELIVERY })
    })
}

/// The memory of the answer to a request without a body; none where the answer is short.
pub(super) fn cost_of_answer(node: &Node, request: &Request) -> Option<u64> {
    match request {
        Request::Info(_) | Request::ListRepository(_) | Request::ChangeMaps(_) => Some(MESSAGE_LIMIT as u64),
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

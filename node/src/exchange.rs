//! One request on its stream, its answers, and the memory that they take: a part of the budget for the asker's account,
//! held before the bytes are read, until they are delivered.

use crate::budget::{Budget, Held};
use bytes::Bytes;
use pgmesh_protocol::{
    Call, ExitCode, Failure, GetSegment, MESSAGE_LIMIT, PartsTurn, PayloadHead, PushSegment, SegmentPart,
};
use pgmesh_transport::tuning::STALL_LIMIT;
use pgmesh_transport::{Account, Stream, StreamError};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes a second. An answer that is read more slowly is given up.
const SLOWEST: u64 = 4 << 10;

/// A request is asked for on this stream.
pub(crate) struct Exchange<'s> {
    stream: &'s mut Stream,
    account: &'s Account,
    budget: &'s Budget,
    held: Option<Arc<Held>>,
    /// The bytes of the bodies that were sent.
    sent: u64,
}

impl<'s> Exchange<'s> {
    /// The exchange of an account on a stream. Its bodies take memory of this budget.
    pub(crate) fn new(stream: &'s mut Stream, account: &'s Account, budget: &'s Budget) -> Self {
        Self {
            stream,
            account,
            budget,
            held: None,
            sent: 0,
        }
    }

    /// The stream, for a dialogue of another form.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        self.stream
    }

    /// Waits for so many bytes of the budget, as long as the asker waits for the answer. They are held until they are
    /// dropped, and not before the answer is delivered. What was held before is given back.
    ///
    /// # Errors
    /// The asker has given the stream up, or its connection is gone.
    pub(crate) async fn hold(&mut self, bytes: u64) -> Result<Arc<Held>, StreamError> {
        // Whoever holds a part could wait for ever for one that does not fit beside it.
        self.held = None;
        let held = Arc::new(self.hold_more(bytes).await?);
        self.held = Some(held.clone());
        Ok(held)
    }

    /// Waits for so many bytes of the budget for one part of a body, as long as the asker waits for the answer.
    ///
    /// # Errors
    /// The asker has given the stream up, or its connection is gone.
    pub(crate) async fn hold_more(&self, bytes: u64) -> Result<Held, StreamError> {
        tokio::select! {
            biased;
            held = self.budget.hold_for(self.account, bytes) => Ok(held),
            gone = self.stream.given_up() => Err(gone),
        }
    }

    /// Receives the body of a payload, of at most `limit` bytes.
    ///
    /// # Errors
    /// It is longer, or the stream has failed.
    pub(crate) async fn body(&mut self, head: PayloadHead, limit: u64) -> Result<Bytes, StreamError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.transfer(head.length, async |stream| stream.recv_bytes(head.length, limit).await)
            .await
    }

    /// Answers a request of the kind `C`.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) async fn reply<C: Call>(&mut self, result: Result<C::Reply, Failure>) -> Result<(), StreamError> {
        self.send(C::NAME, C::REPLY_MAX, &result).await
    }

    /// Says, inside the dialogue of a push in parts, whose turn it is.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) async fn turn(&mut self, turn: PartsTurn) -> Result<(), StreamError> {
        self.send::<PartsTurn>(PushSegment::NAME, MESSAGE_LIMIT, &Ok(turn))
            .await
    }

    /// Sends a part of a WAL file, inside the answer to its request.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) async fn send_part(
        &mut self,
        part: Result<(SegmentPart, Option<Bytes>), Failure>,
    ) -> Result<(), StreamError> {
        self.send_with_body(GetSegment::NAME, MESSAGE_LIMIT, part).await
    }

    /// Answers that the request is refused.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) async fn refuse(&mut self, failure: Failure) -> Result<(), StreamError> {
        self.stream.send(&Err::<(), _>(failure)).await
    }

    /// An answer whose failure belongs into the node's log as well.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) async fn logged<C: Call>(&mut self, result: Result<C::Reply, Failure>) -> Result<(), StreamError> {
        if let Err(failure) = &result {
            tracing::warn!(request = C::NAME, code = failure.code.number(), "{failure}");
        }
        self.reply::<C>(result).await
    }

    /// An answer, and the body that follows it.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) async fn reply_with_body<C: Call>(
        &mut self,
        result: Result<(C::Reply, Option<Bytes>), Failure>,
    ) -> Result<(), StreamError> {
        if let (Some(held), Ok((_, body))) = (&self.held, &result) {
            held.keep_only(body.as_ref().map_or(1, |body| body.len() as u64));
        }
        self.send_with_body(C::NAME, C::REPLY_MAX, result).await
    }

    async fn send_with_body<T: Serialize>(
        &mut self,
        name: &'static str,
        max: usize,
        result: Result<(T, Option<Bytes>), Failure>,
    ) -> Result<(), StreamError> {
        let (head, body) = match result {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::warn!(request = name, code = failure.code.number(), "{failure}");
                return self.refuse(failure).await;
            }
        };
        self.send::<T>(name, max, &Ok(head)).await?;
        match body {
            Some(body) => {
                let length = body.len() as u64;
                self.sent += length;
                self.transfer(length, async |stream| stream.send_bytes(&body).await)
                    .await
            }
            None => Ok(()),
        }
    }

    async fn send<T: Serialize>(
        &mut self,
        name: &'static str,
        max: usize,
        message: &Result<T, Failure>,
    ) -> Result<(), StreamError> {
        let sent = self
            .transfer(max as u64, async |stream| stream.send_within(message, max).await)
            .await;
        match sent {
            // The asker would take it for a violation of the protocol, and not know what to do.
            Err(StreamError::TooLong { length, max }) => {
                let what = format!("the answer to {name} has {length} bytes, a message at most {max}");
                tracing::error!("{what}");
                self.refuse(Failure::new(ExitCode::Assert, what)).await
            }
            sent => sent,
        }
    }

    /// Ends the stream in good order, and waits until the answer has arrived: a node that stops must not cut it off.
    ///
    /// # Errors
    /// The stream has failed, or the asker reads no more.
    pub(crate) async fn deliver(mut self) -> Result<(), StreamError> {
        self.stream.finish()?;
        let limit = STALL_LIMIT + Duration::from_secs(self.sent / SLOWEST);
        let delivered = timeout(limit, self.transfer(0, async |stream| stream.delivered().await)).await;
        delivered.unwrap_or(Err(StreamError::Stalled { after: limit }))
    }

    /// Moves bytes in the memory that is held, if any is.
    async fn transfer<T>(
        &mut self,
        length: u64,
        transfer: impl AsyncFnOnce(&mut Stream) -> Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        match &self.held {
            Some(held) => held.transfer(length, self.stream, transfer).await,
            None => transfer(self.stream).await,
        }
    }
}

//! One request on its stream, its answers, and the memory that they take: a part of the budget for the asker's account,
//! held before the bytes are read, until they are delivered.

use crate::budget::{Budget, Held, Moving, Urgency};
use bytes::Bytes;
use pgmesh_protocol::{
    Call, ExitCode, Failure, GetSegment, MESSAGE_LIMIT, PartsTurn, PayloadHead, PushSegment, SegmentPart,
};
use pgmesh_transport::tuning::STALL_LIMIT;
use pgmesh_transport::{Account, Stream, StreamCode, StreamError};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Bytes a second. A body that moves more slowly, in either direction, is given up.
const SLOWEST: u64 = 1 << 10;

/// A body that waits for memory looks this often whether it is in the way of another one.
const LOOK: Duration = Duration::from_secs(3);

/// The bodies that a connection receives into memory that they have: of each the bytes that have moved.
///
/// Bodies that wait for memory fill the connection's window. If they leave nothing of it to those that have memory,
/// both would wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Receiving(Mutex<Vec<Arc<AtomicU64>>>);

/// A body that is received, until dropped.
struct Arriving<'r> {
    receiving: &'r Receiving,
    moved: Arc<AtomicU64>,
}

impl Receiving {
    fn begin(&self, moved: Arc<AtomicU64>) -> Arriving<'_> {
        self.lock().push(moved.clone());
        Arriving { receiving: self, moved }
    }

    /// Returns when bodies are received and none of them has moved for [`LOOK`].
    async fn are_stuck(&self) {
        let mut before = None;
        loop {
            sleep(LOOK).await;
            let now = self.moved();
            if now.is_some() && now == before {
                return;
            }
            before = now;
        }
    }

    /// How many there are, and the bytes that they have moved in all; none where there are none.
    fn moved(&self) -> Option<(usize, u64)> {
        let bodies = self.lock();
        let moved = bodies.iter().map(|moved| moved.load(Ordering::Relaxed)).sum();
        (!bodies.is_empty()).then_some((bodies.len(), moved))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.receiving.lock().retain(|moved| !Arc::ptr_eq(moved, &self.moved));
    }
}

/// Where the bytes of a connection's requests go, and for whom they count.
#[derive(Clone, Copy)]
pub(crate) struct Purse<'s> {
    /// The asker's account.
    pub(crate) account: &'s Account,
    /// The memory of its bodies.
    pub(crate) budget: &'s Budget,
    /// The bodies that its connection receives.
    pub(crate) receiving: &'s Receiving,
}

/// One request on its stream.
pub(crate) struct Exchange<'s> {
    stream: &'s mut Stream,
    purse: Purse<'s>,
    held: Option<Arc<Held>>,
    moving: Option<Moving>,
    /// The bytes of the bodies that were sent.
    sent: u64,
}

impl<'s> Exchange<'s> {
    /// The exchange on a stream.
    pub(crate) fn new(stream: &'s mut Stream, purse: Purse<'s>) -> Self {
        Self {
            stream,
            purse,
            held: None,
            moving: None,
            sent: 0,
        }
    }

    /// The stream, for a dialogue of another form.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        self.stream
    }

    /// Keeps the memory of a long request until it is served, or until memory for its body is asked for.
    pub(crate) fn keep(&mut self, message: Held) {
        self.held = Some(Arc::new(message));
    }

    /// Waits for so many bytes of the budget, as long as the asker waits for the answer. They are held until they are
    /// dropped, and not before the answer is delivered. What was held before is given back.
    ///
    /// # Errors
    /// The asker has given the stream up, or its connection is gone.
    pub(crate) async fn hold(&mut self, bytes: u64) -> Result<Arc<Held>, StreamError> {
        self.hold_as(bytes, Urgency::Usual).await
    }

    async fn hold_as(&mut self, bytes: u64, urgency: Urgency) -> Result<Arc<Held>, StreamError> {
        // Whoever holds a part could wait for ever for one that does not fit beside it.
        (self.held, self.moving) = (None, None);
        let held = Arc::new(self.wait(bytes, urgency).await?);
        self.held = Some(held.clone());
        Ok(held)
    }

    /// As [`Self::hold`], for a request whose body follows.
    ///
    /// # Errors
    /// [`StreamError::Busy`] if the body keeps others of the connection from arriving. Else as [`Self::hold`].
    pub(crate) async fn hold_for_body(&mut self, bytes: u64, urgency: Urgency) -> Result<Arc<Held>, StreamError> {
        let receiving = self.purse.receiving;
        let held = tokio::select! {
            biased;
            held = self.hold_as(bytes, urgency) => Some(held),
            () = receiving.are_stuck() => None,
        };
        held.unwrap_or_else(|| {
            self.stream.stop(StreamCode::BUSY);
            Err(StreamError::Busy)
        })
    }

    /// Waits for so many bytes of the budget for one part of a body, as long as the asker waits for the answer.
    ///
    /// # Errors
    /// The asker has given the stream up, or its connection is gone.
    pub(crate) async fn hold_more(&self, bytes: u64) -> Result<Held, StreamError> {
        self.wait(bytes, Urgency::Usual).await
    }

    /// As [`Self::hold_more`], for a part of a push.
    ///
    /// # Errors
    /// The asker has given the stream up, or its connection is gone.
    pub(crate) async fn hold_part(&self, bytes: u64) -> Result<Held, StreamError> {
        self.wait(bytes, Urgency::Push).await
    }

    async fn wait(&self, bytes: u64, urgency: Urgency) -> Result<Held, StreamError> {
        tokio::select! {
            biased;
            held = self.purse.budget.hold_with(self.purse.account, bytes, urgency) => Ok(held),
            gone = self.stream.given_up() => Err(gone),
        }
    }

    /// Receives the body of a payload, of at most `limit` bytes.
    ///
    /// # Errors
    /// It is longer, or the stream has failed.
    pub(crate) async fn body(&mut self, head: PayloadHead, limit: u64) -> Result<Bytes, StreamError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let _arriving = self.purse.receiving.begin(self.stream.moved());
        self.transfer(head.length, async |stream| stream.recv_bytes(head.length, limit).await)
            .await
    }

    /// Receives a part of a body into memory of its own.
    ///
    /// # Errors
    /// It is longer than `limit`, or the stream has failed.
    pub(crate) async fn part(&mut self, held: &Held, head: PayloadHead, limit: u64) -> Result<Bytes, StreamError> {
        if self.moving.is_none() {
            self.moving = Some(held.moving(self.stream));
        }
        self.body(head, limit).await
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
        if self.sent == 0 {
            // The request is done: to end its answer would repeat it, and frees nothing worth it.
            self.moving = None;
            self.held = None;
        }
        self.transfer(self.sent, async |stream| stream.delivered().await).await
    }

    /// Moves so many bytes in the memory that is held, if any is.
    async fn transfer<T>(
        &mut self,
        length: u64,
        transfer: impl AsyncFnOnce(&mut Stream) -> Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        if let (None, Some(held)) = (&self.moving, &self.held) {
            self.moving = Some(held.moving(self.stream));
        }
        let limit = STALL_LIMIT + Duration::from_secs(length / SLOWEST);
        let moved = match &mut self.moving {
            Some(moving) => timeout(limit, moving.transfer(self.stream, transfer)).await,
            None => timeout(limit, transfer(self.stream)).await,
        };
        moved.unwrap_or(Err(StreamError::Stalled { after: limit }))
    }
}

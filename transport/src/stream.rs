//! Messages and bodies on one stream.
//!
//! A message is its length (u32, little endian) and its encoding by storage's `wire` codec; a body is raw bytes, and an
//! earlier message has told its length. Only [`SendHalf::finish`] ends a stream in good order: a half that is dropped
//! unfinished, for example by a task that failed, resets it, so that a message or body that was cut short never looks
//! complete.

use std::{
    io, slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgmesh_storage::wire;
use quinn::{ReadError, VarInt, WriteError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::AsyncReadExt, time::timeout};

use crate::{guests::Guest, liveness::ConnectionEnd, lost::ConnectionLost, tuning::STALL_LIMIT};

/// The bytes of a message's length.
pub(crate) const PREFIX_LENGTH: usize = 4;

/// The most bytes that are allocated ahead of the bytes that have arrived.
const MAX_AHEAD: usize = 1024 * 1024;

/// The same for a body: a WAL file that does not lie in parts. The caller of [`RecvHalf::recv_bytes`] has bounded it.
const BODY_AHEAD: usize = 16 * 1024 * 1024;

/// The reason why one side gave a stream up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCode(pub u32);

impl StreamCode {
    /// The task at the other end failed or was cancelled. QUIC's own default code.
    pub const ABANDONED: Self = Self(0);
    /// The rest is not needed.
    pub const CANCELLED: Self = Self(1);
    /// The other side broke the protocol.
    pub const VIOLATION: Self = Self(2);
    /// Others have waited too long for the memory that this transfer takes: try again, or another node.
    pub const BUSY: Self = Self(3);
}

impl From<VarInt> for StreamCode {
    fn from(code: VarInt) -> Self {
        Self(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
    }
}

/// A failure of a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone, and the request with it: try another node.
    #[error("connection lost: {0}")]
    Lost(#[from] ConnectionLost),
    /// The other side stopped reading.
    #[error("the other end stopped reading (code {})", code.0)]
    Stopped {
        /// The other side's reason.
        code: StreamCode,
    },
    /// The other side gave up sending.
    #[error("the other end gave up (code {})", code.0)]
    Reset {
        /// The other side's reason.
        code: StreamCode,
    },
    /// The stream ended before a message or a body, or inside it.
    #[error("the other end finished before the message or body was complete")]
    Ended,
    /// No byte moved for the stall limit.
    #[error("no progress for {} s", after.as_secs())]
    Stalled {
        /// The limit.
        after: Duration,
    },
    /// Others have waited too long for the memory that the transfer takes.
    #[error("others have waited too long for the memory that this takes")]
    Busy,
    /// The message or body is longer than was agreed.
    #[error("a message or body has {length} bytes; at most {max} are accepted")]
    TooLong {
        /// The announced length, in bytes.
        length: u64,
        /// The limit, in bytes.
        max: u64,
    },
    /// The request is too short for a number.
    #[error("a request of {length} bytes has no number")]
    NoNumber {
        /// The announced length, in bytes.
        length: usize,
    },
    /// The message is not understood.
    #[error("a message cannot be decoded: {0}")]
    Malformed(#[from] wire::DecodeError),
    /// This side used the stream after its end, or after a send that was cancelled half-way.
    #[error("the stream is used after {0}")]
    Misused(&'static str),
}

impl StreamError {
    /// Whether the peer or the way to it failed, so that the same request to another node may succeed.
    pub fn is_peer_failure(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Ended | Self::Stalled { .. } | Self::Busy => true,
            Self::Stopped { code } | Self::Reset { code } => matches!(*code, StreamCode::ABANDONED | StreamCode::BUSY),
            Self::TooLong { .. } | Self::NoNumber { .. } | Self::Malformed(_) | Self::Misused(_) => false,
        }
    }

    /// Whether the peer broke the protocol.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::TooLong { .. } | Self::NoNumber { .. } | Self::Malformed(_))
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct SendHalf {
    inner: quinn::SendStream,
    fate: Arc<ConnectionEnd>,
    state: SendState,
    stall_limit: Duration,
    moved: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendState {
    Open,
    /// A write is under way. The next write sees this state only if that one was cancelled.
    Writing,
    Ended,
}

impl SendHalf {
    pub(crate) fn new(inner: quinn::SendStream, fate: Arc<ConnectionEnd>, moved: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            fate,
            moved,
            state: SendState::Open,
            stall_limit: STALL_LIMIT,
        }
    }

    /// Sends a message. Not cancel-safe: a stream whose send was cancelled can only be dropped.
    ///
    /// # Errors
    /// The connection is lost, or the other side reads no more.
    pub async fn send<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), StreamError> {
        self.send_within(message, u32::MAX as usize).await
    }

    /// Sends a message of at most `max` encoded bytes, or nothing. Not cancel-safe, as [`SendHalf::send`].
    ///
    /// # Errors
    /// [`StreamError::TooLong`]; the stream can still be used then. Else as [`SendHalf::send`].
    pub async fn send_within<T: Serialize + ?Sized>(&mut self, message: &T, max: usize) -> Result<(), StreamError> {
        self.send_encoded(&[], &wire::encode(message), max).await
    }

    /// Sends an encoded message behind its head, of at most `max` bytes together, or nothing. Not cancel-safe, as
    /// [`SendHalf::send`].
    ///
    /// # Errors
    /// As [`SendHalf::send_within`].
    pub(crate) async fn send_encoded(&mut self, head: &[u8], encoded: &[u8], max: usize) -> Result<(), StreamError> {
        let length = head.len() + encoded.len();
        let too_long = || StreamError::TooLong {
            length: length as u64,
            max: max as u64,
        };
        if length > max {
            return Err(too_long());
        }
        let prefix = u32::try_from(length).map_err(|_| too_long())?;
        let mut frame = BytesMut::with_capacity(PREFIX_LENGTH + length);
        frame.put_u32_le(prefix);
        frame.put_slice(head);
        frame.put_slice(encoded);
        self.write(frame.freeze()).await
    }

    /// Sends a body whose length an earlier message has told; waits while the receiver's window is full. Not
    /// cancel-safe.
    ///
    /// # Errors
    /// The connection is lost, the other side stopped reading, or it takes no byte for [`STALL_LIMIT`].
    pub async fn send_bytes(&mut self, body: &Bytes) -> Result<(), StreamError> {
        self.write(body.clone()).await
    }

    /// Tells the other side that the stream ends here. The bytes sent before are still delivered.
    ///
    /// # Errors
    /// The stream has already ended.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.check()?;
        self.state = SendState::Ended;
        self.inner.finish().map_err(|_| StreamError::Misused("its end"))
    }

    /// Waits, after [`SendHalf::finish`], until the other side has acknowledged all bytes.
    ///
    /// # Errors
    /// The connection is lost, or the other side stopped reading before the end.
    pub async fn delivered(&mut self) -> Result<(), StreamError> {
        match self.inner.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(StreamError::Stopped { code: code.into() }),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(StreamError::Lost(self.fate.lost(error))),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::Misused("0-RTT")),
        }
    }

    /// See [`Stream::given_up`].
    async fn given_up(&self) -> StreamError {
        match self.inner.stopped().await {
            Ok(Some(code)) => StreamError::Stopped { code: code.into() },
            // All is acknowledged: there is nothing left to give up.
            Ok(None) => std::future::pending().await,
            Err(quinn::StoppedError::ConnectionLost(error)) => StreamError::Lost(self.fate.lost(error)),
            Err(quinn::StoppedError::ZeroRttRejected) => StreamError::Misused("0-RTT"),
        }
    }

    /// Gives up sending. The other side learns the code at once; bytes under way may be lost.
    pub fn reset(&mut self, code: StreamCode) {
        self.state = SendState::Ended;
        // An error means that the stream has ended already.
        let _ = self.inner.reset(code.0.into());
    }

    fn check(&self) -> Result<(), StreamError> {
        match self.state {
            SendState::Open => Ok(()),
            SendState::Writing => Err(StreamError::Misused("a cancelled send")),
            SendState::Ended => Err(StreamError::Misused("its end")),
        }
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        self.check()?;
        self.state = SendState::Writing;
        while !bytes.is_empty() {
            let before = bytes.len();
            let written = timeout(self.stall_limit, self.inner.write_chunks(slice::from_mut(&mut bytes))).await;
            written
                .map_err(|_| StreamError::Stalled {
                    after: self.stall_limit,
                })?
                .map_err(|error| self.write_error(error))?;
            self.moved.fetch_add((before - bytes.len()) as u64, Ordering::Relaxed);
        }
        self.state = SendState::Open;
        Ok(())
    }

    fn write_error(&self, error: WriteError) -> StreamError {
        match error {
            WriteError::Stopped(code) => StreamError::Stopped { code: code.into() },
            WriteError::ConnectionLost(error) => StreamError::Lost(self.fate.lost(error)),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Misused("its end"),
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // quinn would finish the stream: the other side could take half of a message for the whole.
        if self.state != SendState::Ended {
            self.reset(StreamCode::ABANDONED);
        }
    }
}

/// The limit on the wait for the next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// No limit for the first byte while the connection lives, the stall limit for later bytes.
    UntilBegun,
    /// The stall limit for each byte.
    StallLimit,
}

/// The receiving half of a stream. If it is dropped before its end, it tells the other side to stop.
#[derive(Debug)]
pub struct RecvHalf {
    inner: quinn::RecvStream,
    fate: Arc<ConnectionEnd>,
    /// The bytes of the prefix, message or body under way. They are kept here so that receiving may be cancelled.
    arrived: BytesMut,
    /// The length of the message under way, once its prefix has arrived.
    message_length: Option<usize>,
    stall_limit: Duration,
    moved: Arc<AtomicU64>,
}

impl RecvHalf {
    pub(crate) fn new(inner: quinn::RecvStream, fate: Arc<ConnectionEnd>, moved: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            fate,
            moved,
            arrived: BytesMut::new(),
            message_length: None,
            stall_limit: STALL_LIMIT,
        }
    }

    /// Receives a message of at most `max` encoded bytes; waits for its first byte as long as the connection lives.
    ///
    /// Cancel-safe: the next `recv` goes on where this one was.
    ///
    /// # Errors
    /// The stream or the connection ended, or the message is too long or not understood.
    pub async fn recv<T: DeserializeOwned>(&mut self, max: usize) -> Result<T, StreamError> {
        self.recv_optional(max).await?.ok_or(StreamError::Ended)
    }

    /// Like [`RecvHalf::recv`]; `None` if the other side has finished the stream in good order.
    ///
    /// # Errors
    /// Like [`RecvHalf::recv`].
    pub async fn recv_optional<T: DeserializeOwned>(&mut self, max: usize) -> Result<Option<T>, StreamError> {
        let length = match self.message_length {
            Some(length) => length,
            None => {
                if !self.fill(PREFIX_LENGTH, Patience::UntilBegun).await? {
                    return Ok(None);
                }
                let length = self.arrived.get_u32_le();
                // A length that does not fit in memory is longer than every limit.
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > max {
                    return Err(StreamError::TooLong {
                        length: length as u64,
                        max: max as u64,
                    });
                }
                self.message_length = Some(length);
                length
            }
        };
        if !self.fill(length, Patience::StallLimit).await? {
            return Err(StreamError::Ended);
        }
        let encoded = self.arrived.split();
        self.message_length = None;
        Ok(Some(wire::decode(&encoded, max)?))
    }

    /// Receives the length of the next message and its first `N` bytes. [`RecvHalf::recv_rest`] receives the rest. Not
    /// cancel-safe.
    ///
    /// # Errors
    /// The stream or the connection ended, or the message is shorter than its head.
    pub(crate) async fn recv_head<const N: usize>(&mut self) -> Result<(usize, [u8; N]), StreamError> {
        if !self.fill(PREFIX_LENGTH, Patience::UntilBegun).await? {
            return Err(StreamError::Ended);
        }
        let length = usize::try_from(self.arrived.get_u32_le()).unwrap_or(usize::MAX);
        if length < N {
            return Err(StreamError::NoNumber { length });
        }
        if !self.fill(N, Patience::StallLimit).await? {
            return Err(StreamError::Ended);
        }
        let mut head = [0; N];
        self.arrived.copy_to_slice(&mut head);
        Ok((length, head))
    }

    /// Receives the last `length` bytes of a message whose head was received and whose length is allowed. Not
    /// cancel-safe.
    ///
    /// # Errors
    /// The stream or the connection ended, or no byte came for [`STALL_LIMIT`].
    pub(crate) async fn recv_rest(&mut self, length: usize) -> Result<Bytes, StreamError> {
        if !self.fill(length, Patience::StallLimit).await? {
            return Err(StreamError::Ended);
        }
        Ok(self.arrived.split().freeze())
    }

    /// Receives a body of exactly `length` bytes, if that is at most `max`. Cancel-safe, like [`RecvHalf::recv`].
    ///
    /// # Errors
    /// The stream or the connection ended, no byte came for [`STALL_LIMIT`], or `length` is more than `max`.
    pub async fn recv_bytes(&mut self, length: u64, max: usize) -> Result<Bytes, StreamError> {
        let too_long = || StreamError::TooLong {
            length,
            max: max as u64,
        };
        let wanted = usize::try_from(length).map_err(|_| too_long())?;
        if wanted > max {
            return Err(too_long());
        }
        if self.message_length.is_some() {
            return Err(StreamError::Misused("half a message"));
        }
        // All at once, since a buffer that grows is copied, and takes up to twice its length.
        self.arrived
            .reserve(wanted.saturating_sub(self.arrived.len()).min(BODY_AHEAD));
        if !self.fill(wanted, Patience::StallLimit).await? {
            return Err(StreamError::Ended);
        }
        Ok(self.arrived.split().freeze())
    }

    /// Tells the other side to send no more.
    pub fn stop(&mut self, code: StreamCode) {
        // An error means that the stream has ended already.
        let _ = self.inner.stop(code.0.into());
    }

    /// Reads until `wanted` bytes have arrived; false if the stream ended before the first byte.
    async fn fill(&mut self, wanted: usize, patience: Patience) -> Result<bool, StreamError> {
        while self.arrived.len() < wanted {
            let missing = wanted - self.arrived.len();
            if self.arrived.capacity() == self.arrived.len() {
                self.arrived.reserve(missing.min(MAX_AHEAD));
            }
            let patient = patience == Patience::UntilBegun && self.arrived.is_empty();
            let mut space = (&mut self.arrived).limit(missing);
            let reading = self.inner.read_buf(&mut space);
            let read = match patient {
                true => reading.await,
                false => timeout(self.stall_limit, reading)
                    .await
                    .map_err(|_| StreamError::Stalled {
                        after: self.stall_limit,
                    })?,
            };
            match read.map_err(|error| self.read_error(error))? {
                0 if self.arrived.is_empty() => return Ok(false),
                0 => return Err(StreamError::Ended),
                read => {
                    self.moved.fetch_add(read as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(true)
    }

    fn read_error(&self, error: io::Error) -> StreamError {
        match error.downcast::<ReadError>() {
            Ok(ReadError::Reset(code)) => StreamError::Reset { code: code.into() },
            Ok(ReadError::ConnectionLost(error)) => StreamError::Lost(self.fate.lost(error)),
            Ok(ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                StreamError::Misused("its end")
            }
            Err(error) => StreamError::Lost(ConnectionLost::Protocol {
                reason: error.to_string(),
            }),
        }
    }
}

/// Both directions of one QUIC stream, for one request and its answer or another exchange of the two sides.
#[derive(Debug)]
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
    /// At a server: its connection counts as open while it lives.
    _guest: Option<Arc<Guest>>,
    moved: Arc<AtomicU64>,
}

impl Stream {
    /// Sets how long a message or body may make no progress in either direction; the default is [`STALL_LIMIT`].
    pub fn set_stall_limit(&mut self, limit: Duration) {
        (self.send.stall_limit, self.recv.stall_limit) = (limit, limit);
    }

    pub(crate) fn new((send, recv): (quinn::SendStream, quinn::RecvStream), fate: &Arc<ConnectionEnd>) -> Self {
        let moved = Arc::<AtomicU64>::default();
        Self {
            send: SendHalf::new(send, fate.clone(), moved.clone()),
            recv: RecvHalf::new(recv, fate.clone(), moved.clone()),
            moved,
            _guest: None,
        }
    }

    pub(crate) fn of_guest(self, guest: Option<Arc<Guest>>) -> Self {
        Self { _guest: guest, ..self }
    }

    /// The bytes that have moved in both directions so far, which goes on counting.
    pub fn moved(&self) -> Arc<AtomicU64> {
        self.moved.clone()
    }

    /// Waits until the other side does not want the answer any more: it has given the stream up, or the connection is
    /// gone.
    pub async fn given_up(&self) -> StreamError {
        self.send.given_up().await
    }

    /// See [`SendHalf::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), StreamError> {
        self.send.send(message).await
    }

    /// See [`SendHalf::send_within`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_within<T: Serialize + ?Sized>(&mut self, message: &T, max: usize) -> Result<(), StreamError> {
        self.send.send_within(message, max).await
    }

    /// See [`SendHalf::send_bytes`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_bytes(&mut self, body: &Bytes) -> Result<(), StreamError> {
        self.send.send_bytes(body).await
    }

    /// See [`RecvHalf::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv<T: DeserializeOwned>(&mut self, max: usize) -> Result<T, StreamError> {
        self.recv.recv(max).await
    }

    /// See [`RecvHalf::recv_optional`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_optional<T: DeserializeOwned>(&mut self, max: usize) -> Result<Option<T>, StreamError> {
        self.recv.recv_optional(max).await
    }

    /// See [`RecvHalf::recv_bytes`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_bytes(&mut self, length: u64, max: usize) -> Result<Bytes, StreamError> {
        self.recv.recv_bytes(length, max).await
    }

    /// See [`SendHalf::finish`].
    ///
    /// # Errors
    /// As there.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.send.finish()
    }

    /// See [`SendHalf::delivered`].
    ///
    /// # Errors
    /// As there.
    pub async fn delivered(&mut self) -> Result<(), StreamError> {
        self.send.delivered().await
    }

    /// Gives the stream up in both directions.
    pub fn stop(&mut self, code: StreamCode) {
        self.send.reset(code);
        self.recv.stop(code);
    }

    /// Both halves at once, for a caller that sends requests ahead of their answers.
    pub fn halves(&mut self) -> (&mut SendHalf, &mut RecvHalf) {
        (&mut self.send, &mut self.recv)
    }

    /// The halves, for two tasks.
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }
}

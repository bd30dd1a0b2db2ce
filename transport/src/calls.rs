//! Requests on a stream: a request is a message that begins with its number. By the number, the receiver knows the
//! longest length of the request before it reads more of it.

use bytes::Bytes;
use pgmesh_protocol::{Call, Failure, NUMBER_LENGTH, Request};
use pgmesh_storage::wire;

use crate::stream::{Stream, StreamError};

/// The beginning of a request, received before the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Its number.
    pub number: u16,
    /// The length of its message in bytes, number included.
    pub length: usize,
}

impl Stream {
    /// Sends a request; a body may follow. Not cancel-safe.
    ///
    /// # Errors
    /// [`StreamError::TooLong`] if the request is longer than its kind may be; nothing is sent then. Else the
    /// connection is lost, or the other side stopped reading.
    pub async fn call<C: Call>(&mut self, call: &C) -> Result<(), StreamError> {
        let (send, _) = self.halves();
        let number = C::NUMBER.to_le_bytes();
        send.send_encoded(&number, &wire::encode(call), C::MAX).await
    }

    /// The next reply to a request of this kind. Cancel-safe.
    ///
    /// # Errors
    /// The stream or the connection ended, or the message is too long or not understood.
    pub async fn reply<C: Call>(&mut self) -> Result<Result<C::Reply, Failure>, StreamError> {
        self.recv(C::REPLY_MAX).await
    }

    /// Receives the number and the length of a request; [`Stream::recv_announced`] receives the rest. Waits for its
    /// first byte as long as the connection lives. Not cancel-safe.
    ///
    /// # Errors
    /// The stream or the connection ended, or the message has no number.
    pub async fn recv_number(&mut self) -> Result<Announced, StreamError> {
        let (_, recv) = self.halves();
        let (length, number) = recv.recv_head::<NUMBER_LENGTH>().await?;
        let number = u16::from_le_bytes(number);
        Ok(Announced { number, length })
    }

    /// Receives the encoding of the announced request, whose length the caller has allowed. Not cancel-safe.
    ///
    /// # Errors
    /// The stream or the connection ended, or no byte came for too long.
    pub async fn recv_announced(&mut self, announced: Announced) -> Result<Bytes, StreamError> {
        let (_, recv) = self.halves();
        recv.recv_rest(announced.length.saturating_sub(NUMBER_LENGTH)).await
    }

    /// Receives a whole request of at most `max` bytes. For a caller that gives no reply to an unknown or oversized
    /// request.
    ///
    /// # Errors
    /// As [`Stream::recv_number`]; it is too long or not understood.
    pub async fn recv_request(&mut self, max: usize) -> Result<Request, StreamError> {
        let announced = self.recv_number().await?;
        let max = Request::max(announced.number).unwrap_or_default().min(max);
        if announced.length > max {
            return Err(StreamError::TooLong {
                length: announced.length as u64,
                max: max as u64,
            });
        }
        let encoded = self.recv_announced(announced).await?;
        let request = Request::decode(announced.number, &encoded)?;
        request.ok_or(StreamError::Misused("a number that no request has"))
    }
}

//! The server's side of a stream: its place among those of its client, and the ends of its waits.

use std::time::Duration;

use tokio::time::timeout;

use super::{Stream, StreamCode, StreamError};
use crate::guests::Place;

impl Stream {
    /// The stream is a client's, and counts among the streams of that client until it is dropped.
    pub(crate) fn served(self, connection: quinn::Connection, place: Option<Place>) -> Self {
        Self {
            connection: Some(connection),
            place,
            ..self
        }
    }

    /// Waits for the stream's place among those of its client; a stream without a bound has it at once.
    ///
    /// # Errors
    /// [`StreamError::TooMany`]: there is none, and the client has been told by [`StreamCode::BUSY`].
    pub async fn wait_for_place(&mut self) -> Result<(), StreamError> {
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        if place.wait().await {
            return Ok(());
        }
        self.stop(StreamCode::BUSY);
        Err(StreamError::TooMany)
    }

    /// Waits until the other side has given the stream up, or the connection is lost; why.
    pub fn given_up(&self) -> impl Future<Output = StreamError> + Send + 'static {
        let (stopped, fate) = (self.send.inner.stopped(), self.send.fate.clone());
        async move {
            match stopped.await {
                Ok(Some(code)) => StreamError::Stopped { code: code.into() },
                Ok(None) | Err(quinn::StoppedError::ZeroRttRejected) => StreamError::Misused("its end"),
                Err(quinn::StoppedError::ConnectionLost(error)) => StreamError::Lost(fate.lost(error)),
            }
        }
    }

    /// As [`Stream::delivered`], at the server. Gives the stream up if nothing of the connection's streams could be
    /// sent for `limit`: the peer acknowledges nothing, and would keep the answer in memory for ever. A slow link that
    /// moves is waited for.
    ///
    /// # Errors
    /// As there; or [`StreamError::Stalled`].
    pub async fn delivered_moving(&mut self, limit: Duration) -> Result<(), StreamError> {
        let connection = self.connection.clone();
        let sent = || connection.as_ref().map(|connection| connection.stats().frame_tx.stream);
        let mut before = sent();
        loop {
            if let Ok(delivered) = timeout(limit, self.send.delivered()).await {
                return delivered;
            }
            let now = sent();
            if now == before {
                self.stop(StreamCode::ABANDONED);
                return Err(StreamError::Stalled { after: limit });
            }
            before = now;
        }
    }
}

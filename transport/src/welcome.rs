//! The server's first message, on a stream of its own: it has accepted the client.
//!
//! A TLS 1.3 client believes itself connected before the server has checked its certificate. By waiting for this
//! message, `connect` succeeds only if the server accepts the client; else its error has the server's reason, where a
//! later request would only fail with "connection lost".

use serde::{Deserialize, Serialize};

use crate::{
    lost::ConnectionLost,
    stream::{RecvHalf, SendHalf, StreamError},
    wire_version::WIRE_VERSION,
};

/// The longest welcome, in bytes.
const MAX_WELCOME: usize = 256;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The wire protocol that will be spoken.
    pub(crate) wire_version: u16,
    /// The server's program version.
    pub(crate) program: String,
}

pub(crate) async fn send(connection: &quinn::Connection) -> Result<(), StreamError> {
    let stream = connection
        .open_uni()
        .await
        .map_err(|error| StreamError::Lost(error.into()))?;
    let mut stream = SendHalf::new(stream, Default::default(), Default::default());
    let program = env!("CARGO_PKG_VERSION").to_owned();
    stream
        .send(&Welcome {
            wire_version: WIRE_VERSION,
            program,
        })
        .await?;
    stream.finish()
}

pub(crate) async fn receive(connection: &quinn::Connection) -> Result<Welcome, StreamError> {
    let stream = connection
        .accept_uni()
        .await
        .map_err(|error| StreamError::Lost(ConnectionLost::from(error)))?;
    RecvHalf::new(stream, Default::default(), Default::default())
        .recv(MAX_WELCOME)
        .await
}

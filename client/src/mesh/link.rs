//! One connection to one node, and the requests on it.

use bytes::Bytes;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{Call, ExitCode, Failure, ResumeSession};
use pgmesh_transport::{Connection, Stream, StreamCode, StreamError};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::Mutex;

/// A connection to a node.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// The address that was dialled.
    pub address: String,
    /// The session that the node knows to be this connection's.
    held: Mutex<Option<u64>>,
}

impl Link {
    /// Over a new connection.
    pub fn new(connection: Connection, address: String) -> Self {
        Self {
            connection,
            address,
            held: Mutex::new(None),
        }
    }

    /// The node at the other end.
    pub fn node(&self) -> &str {
        self.connection.node().name.as_str()
    }

    /// A request, its reply, and the body that follows where `body_length` says that one does. The node may be silent
    /// for `silence`, which means: neither take bytes of the request nor send bytes of its answer.
    pub async fn exchange<C: Call>(
        &self,
        call: &C,
        body: Option<&Bytes>,
        body_length: impl Fn(&C::Reply) -> Option<u64>,
        silence: Option<Duration>,
    ) -> Result<(C::Reply, Option<Bytes>), Failure> {
        let mut stream = self.ask_patiently(call, body, silence).await?;
        let answer = reply_within::<C>(self, &mut stream, silence).await?;
        let Some(length) = body_length(&answer) else {
            return Ok((answer, None));
        };
        let limit = usize::try_from(C::BODY_MAX).unwrap_or(usize::MAX);
        let received = stream.recv_bytes(length, limit).await;
        received
            .map(|body| (answer, Some(body)))
            .map_err(|error| lost::<C>(&error))
    }

    /// Opens a stream and sends the request.
    pub async fn ask<C: Call>(&self, call: &C, body: Option<&Bytes>) -> Result<Stream, Failure> {
        self.ask_patiently(call, body, None).await
    }

    pub(super) async fn ask_patiently<C: Call>(
        &self,
        call: &C,
        body: Option<&Bytes>,
        silence: Option<Duration>,
    ) -> Result<Stream, Failure> {
        let mut stream = self.begin(call, silence).await?;
        let sent = async {
            if let Some(body) = body {
                stream.send_bytes(body).await?;
            }
            stream.finish()
        };
        match sent.await {
            // A node that refuses takes nothing more of the body: its answer says why, and is there already.
            Ok(()) | Err(StreamError::Stopped { .. }) => Ok(stream),
            Err(error) => Err(lost::<C>(&error)),
        }
    }

    /// Opens a stream and sends the request; more follows.
    pub(super) async fn begin<C: Call>(&self, call: &C, silence: Option<Duration>) -> Result<Stream, Failure> {
        let opening = self.connection.open();
        let opened = match silence {
            None => opening.await,
            Some(silence) => tokio::time::timeout(silence, opening)
                .await
                .map_err(|_| self.silent::<C>(silence))?,
        };
        let mut stream = opened.map_err(|error| lost::<C>(&error.into()))?;
        if let Some(silence) = silence {
            stream.set_stall_limit(silence);
        }
        let sent = stream.call(call).await;
        sent.map_err(|error| match error {
            StreamError::TooLong { length, max } => too_long::<C>(length, max),
            error => lost::<C>(&error),
        })?;
        Ok(stream)
    }

    /// Makes the session this connection's, unless it is; concurrent callers wait. `next_move` counts the move.
    pub async fn take_up(
        &self,
        session: u64,
        next_move: impl FnOnce() -> Option<ResumeSession>,
    ) -> Result<(), Failure> {
        let mut held = self.held.lock().await;
        if *held == Some(session) {
            return Ok(());
        }
        let Some(resume) = next_move() else { return Ok(()) };
        let session = resume.session;
        self.exchange(&resume, None, |()| None, None).await?;
        *held = Some(session);
        tracing::info!("session {session} is now kept open by node {}", self.node());
        Ok(())
    }

    fn silent<C: Call>(&self, silence: Duration) -> Failure {
        let what = format!(
            "{} was not answered by {} within {} s",
            C::NAME,
            self.node(),
            silence.as_secs()
        );
        Failure::new(ExitCode::HostConnect, what)
            .remedy("'pgmesh status' and 'pgmesh doctor' show the state of the nodes")
            .again()
    }

    /// The session was begun on this connection.
    pub async fn holds(&self, session: u64) {
        *self.held.lock().await = Some(session);
    }
}

/// The next reply, from a node that may be silent for so long.
pub async fn reply_within<C: Call>(
    link: &Link,
    stream: &mut Stream,
    silence: Option<Duration>,
) -> Result<C::Reply, Failure> {
    message_within::<C, C::Reply>(link, stream, silence).await
}

/// The same for an answer in which other messages come before or behind the reply.
pub(super) async fn message_within<C: Call, T: DeserializeOwned>(
    link: &Link,
    stream: &mut Stream,
    silence: Option<Duration>,
) -> Result<T, Failure> {
    let answering = message::<C, T>(stream);
    match silence {
        None => answering.await,
        Some(silence) => tokio::time::timeout(silence, answering)
            .await
            .map_err(|_| link.silent::<C>(silence))?,
    }
}

/// The next reply.
pub async fn reply<C: Call>(stream: &mut Stream) -> Result<C::Reply, Failure> {
    message::<C, C::Reply>(stream).await
}

async fn message<C: Call, T: DeserializeOwned>(stream: &mut Stream) -> Result<T, Failure> {
    stream
        .recv::<Result<T, Failure>>(C::REPLY_MAX)
        .await
        .map_err(|error| lost::<C>(&error))?
}

/// A node would say the same.
fn too_long<C: Call>(length: u64, max: u64) -> Failure {
    let what = format!("{}: the request has {length} bytes, at most {max} are taken", C::NAME);
    Failure::new(ExitCode::OptionInvalid, what)
}

/// The event of a request for which the node has no memory now.
const BUSY: &str = "the node serves others first, who have waited for memory";

/// Whether a node is alive and asks for patience: the same node may be asked again.
pub(super) fn is_busy(failure: &Failure) -> bool {
    failure.again && failure.what == BUSY
}

/// The node may or may not have carried out a request without an answer: its repetition has one effect all the same.
pub(super) fn lost<C: Call>(error: &StreamError) -> Failure {
    if let StreamError::Stopped { code } | StreamError::Reset { code } = error
        && *code == StreamCode::BUSY
    {
        return Failure::new(ExitCode::LockAcquire, BUSY).because(C::NAME).again();
    }
    let what = format!("{} was interrupted", C::NAME);
    if error.is_violation() {
        return Failure::new(ExitCode::Protocol, what).because(chain(error));
    }
    Failure::new(ExitCode::HostConnect, what).because(chain(error)).again()
}

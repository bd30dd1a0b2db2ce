//! This host's connection to the mesh: requests and replies over whichever node answers.

use crate::config::Config;
use bytes::Bytes;
use pgmesh_node::failure::chain;
use pgmesh_node::protocol::{CHUNK_BODY_LIMIT, MESSAGE_LIMIT, MeshFacts, Request};
use pgmesh_node::{Failure, code};
use pgmesh_storage::DigestSuite;
use pgmesh_transport::{Client, ConnectError, Connection, Identity, Stream, StreamError};
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tokio::sync::{Mutex, OnceCell};

/// Bodies are at most a WAL segment of the largest size, uncompressed.
const BODY_LIMIT: usize = (1 << 30) + 4096;

/// A connection to the first node that answers, made anew, to the next one, when it is lost.
pub struct Mesh {
    client: Client,
    addresses: Vec<String>,
    connection: Mutex<Option<Connection>>,
    facts: OnceCell<MeshFacts>,
}

impl Mesh {
    /// Connects with this host's identity: a PG host's from `identity-path`, or the administrator's of a node.
    ///
    /// # Errors
    /// No identity (37, 95), or no node answers (49).
    pub async fn connect(config: &Config) -> Result<Self, Failure> {
        let (directory, addresses) = who_and_where(config)?;
        let identity = Identity::load(&directory).map_err(|error| no_identity(&directory, &error))?;
        let client = Client::new(&identity).map_err(|error| connect_failure("this host", &error))?;
        let mesh = Self {
            client,
            addresses,
            connection: Mutex::new(None),
            facts: OnceCell::new(),
        };
        mesh.connection().await?;
        Ok(mesh)
    }

    /// How digests are made in this mesh; asked once.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn suite(&self) -> Result<DigestSuite, Failure> {
        let facts = self.facts.get_or_try_init(|| self.call(&Request::Hello)).await?;
        Ok(facts.suite)
    }

    /// A request without a body, and its reply.
    ///
    /// # Errors
    /// What the node answers, or that it could not be asked.
    pub async fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let mut stream = self.ask(request, None).await?;
        reply(&mut stream, request).await
    }

    /// A request with a body, and its reply.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn send<T: DeserializeOwned>(&self, request: &Request, body: &Bytes) -> Result<T, Failure> {
        let mut stream = self.ask(request, Some(body)).await?;
        reply(&mut stream, request).await
    }

    /// A request, its reply, and the body that follows where `body_length` says that one does.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn fetch<T: DeserializeOwned>(
        &self,
        request: &Request,
        body_length: impl FnOnce(&T) -> Option<u64>,
    ) -> Result<(T, Option<Bytes>), Failure> {
        let mut stream = self.ask(request, None).await?;
        let answer: T = reply(&mut stream, request).await?;
        let body = match body_length(&answer) {
            None => None,
            Some(length) => {
                let limit = if matches!(request, Request::GetChunk(_)) {
                    usize::try_from(CHUNK_BODY_LIMIT).unwrap_or(BODY_LIMIT)
                } else {
                    BODY_LIMIT
                };
                Some(
                    stream
                        .recv_bytes(length, limit)
                        .await
                        .map_err(|error| lost(request, &error))?,
                )
            }
        };
        Ok((answer, body))
    }

    /// A request that is answered by events until the stream ends or `on_event` breaks.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn events<E: DeserializeOwned>(
        &self,
        request: &Request,
        mut on_event: impl FnMut(E) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let mut stream = self.ask(request, None).await?;
        loop {
            let event: E = reply(&mut stream, request).await?;
            if on_event(event).is_break() {
                return Ok(());
            }
        }
    }

    /// Opens a stream and sends the request. A connection that turns out to be lost is replaced once: a request that
    /// was not even sent can be sent to another node.
    async fn ask(&self, request: &Request, body: Option<&Bytes>) -> Result<Stream, Failure> {
        let mut last = None;
        for _ in 0..2 {
            let connection = self.connection().await?;
            match connection.open().await {
                Ok(mut stream) => {
                    send(&mut stream, request, body)
                        .await
                        .map_err(|error| lost(request, &error))?;
                    return Ok(stream);
                }
                Err(error) => {
                    self.connection.lock().await.take();
                    last = Some(error);
                }
            }
        }
        let cause = last.map(|error| chain(&error)).unwrap_or_default();
        Err(
            Failure::new(code::HOST_CONNECT, format!("{} could not be sent", request.name()))
                .because(cause)
                .again(),
        )
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref()
            && connection.lost().is_none()
        {
            return Ok(connection.clone());
        }
        let mut reasons = Vec::new();
        let mut transient = false;
        for address in &self.addresses {
            match self.client.connect(address).await {
                Ok(connection) => {
                    *kept = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => {
                    transient |= error.is_transient();
                    reasons.push(chain(&error));
                }
            }
        }
        let failure = Failure::new(code::HOST_CONNECT, "no node of the mesh can be reached")
            .because(reasons.join("; "))
            .remedy("check mesh-node, and that 'pgmesh node start' runs there");
        Err(if transient { failure.again() } else { failure })
    }
}

async fn send(stream: &mut Stream, request: &Request, body: Option<&Bytes>) -> Result<(), StreamError> {
    stream.send(request).await?;
    if let Some(body) = body {
        stream.send_bytes(body).await?;
    }
    stream.finish()
}

async fn reply<T: DeserializeOwned>(stream: &mut Stream, request: &Request) -> Result<T, Failure> {
    stream
        .recv::<Result<T, Failure>>(MESSAGE_LIMIT)
        .await
        .map_err(|error| lost(request, &error))?
}

fn lost(request: &Request, error: &StreamError) -> Failure {
    let what = format!("{} was interrupted", request.name());
    if error.is_violation() {
        return Failure::new(code::PROTOCOL, what).because(chain(error));
    }
    Failure::new(code::HOST_CONNECT, what).because(chain(error)).again()
}

/// Whose identity, and which nodes: a PG host's file names `mesh-node`, a node's file the node itself.
fn who_and_where(config: &Config) -> Result<(PathBuf, Vec<String>), Failure> {
    let nodes = config.list("mesh-node");
    if !nodes.is_empty() {
        return Ok((config.required_path("identity-path")?.to_owned(), nodes.to_vec()));
    }
    if config.is_given("node-name") || config.is_given("node-path") {
        let layout = pgmesh_node::Layout::new(config.required_path("node-path")?);
        return Ok((layout.admin(), vec![crate::node_file::reachable(config)]));
    }
    Err(Failure::new(
        code::OPTION_REQUIRED,
        "option mesh-node is missing: no node of the mesh is known here",
    )
    .remedy("set mesh-node=HOST:8433 in [global] of the configuration file, or give --config=FILE"))
}

fn no_identity(directory: &Path, error: &pgmesh_transport::IdentityError) -> Failure {
    Failure::new(
        code::CRYPTO,
        format!("this host's identity in {} cannot be used", directory.display()),
    )
    .because(chain(error))
    .remedy("join the mesh: 'pgmesh invite' on a node prints a token for 'pgmesh join TOKEN' here")
}

fn connect_failure(who: &str, error: &ConnectError) -> Failure {
    Failure::new(code::CRYPTO, format!("{who} cannot connect")).because(chain(error))
}

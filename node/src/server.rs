//! The daemon: starts, accepts connections, stops cleanly. What is served on them is in `dispatch`.

use crate::certificates::actor_of;
use crate::dispatch::Served;
use crate::init::lock_directory;
use crate::past::Era;
use crate::settings::NodeSettings;
use crate::workers::Workers;
use crate::worth::{Worth, worth};
use crate::{Node, anew};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::tasks;
use pgmesh_transport::{CloseCode, Identity, Peer, Server};
use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long requests under way may take to end when the node is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How a node's run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// It begins anew with an empty catalog: the process starts itself again.
    StartAgain,
}

/// Runs a node until `stop` is done. `ready` is called when it listens.
///
/// # Errors
/// It cannot start: not initialised, in use, port taken.
pub async fn run(
    settings: NodeSettings,
    ready: impl FnOnce(std::net::SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<Ended, Failure> {
    let layout = crate::Layout::new(&settings.path);
    let _lock = lock(&layout)?;
    anew::finish(&layout)?;
    let identity = Identity::load(&layout.identity()).map_err(|error| {
        Failure::new(
            ExitCode::Crypto,
            format!("the node's identity in {} cannot be used", layout.identity().display()),
        )
        .because(chain(&error))
    })?;
    let listen = settings.listen;
    // Before the catalog: a port that is taken is said at once.
    let server = Arc::new(Server::bind(listen, &identity).map_err(|error| {
        Failure::new(ExitCode::HostConnect, format!("node-listen {listen} cannot be used"))
            .because(chain(&error))
            .remedy("another program has this UDP port, perhaps another node: give another node-listen")
    })?);
    tokio::pin!(stop);
    let opened = tokio::select! {
        opened = Node::open(settings, identity) => opened?,
        () = &mut stop => return Ok(Ended::Stopped),
    };
    let Some(node) = opened.map(Arc::new) else {
        return Ok(Ended::StartAgain);
    };
    serve(node, server, ready, stop).await
}

/// Serves with an opened node until `stop` is done.
pub(crate) async fn serve(
    node: Arc<Node>,
    server: Arc<Server>,
    ready: impl FnOnce(std::net::SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<Ended, Failure> {
    let address = server.local_address().unwrap_or(node.settings.listen);
    tokio::pin!(stop);
    // Whoever finds the node ready finds its repositories, too, but for those that it must ask the other nodes about:
    // they need its answers first.
    node.open_known_repositories().await;
    let workers = Workers::start(&node, &server);
    tracing::info!(node = %node.name, mesh = node.mesh_id(), %address, "node ready");
    ready(address);
    let watched = node.clone();
    let fate = watched.fate();
    tokio::pin!(fate);
    let mut ended = Ok(Ended::Stopped);
    loop {
        tokio::select! {
            incoming = server.accept() => match incoming {
                Some(incoming) => drop(tasks::spawn("serving a connection", serve_connection(node.clone(), incoming))),
                None => break,
            },
            () = &mut stop => break,
            fate = &mut fate => {
                if let Err(failure) = &fate {
                    tracing::error!("{failure}");
                }
                ended = fate.map(|()| Ended::StartAgain);
                break;
            }
        }
    }
    tracing::info!("stopping");
    server.close(GRACE).await;
    drop(workers);
    if matches!(ended, Ok(Ended::Stopped)) {
        node.mark_before_stop().await;
    }
    let stopped = node.catalog.shutdown().await;
    tracing::info!("stopped");
    let ended = ended?;
    stopped?;
    Ok(ended)
}

/// One process a data directory, and only where it holds a whole node.
fn lock(layout: &crate::Layout) -> Result<File, Failure> {
    if !layout.marker().exists() {
        return Err(
            Failure::new(ExitCode::Config, format!("{} holds no node", layout.root().display())).remedy(
                "'pgmesh node join TOKEN' makes it a node of a mesh that exists, 'pgmesh node init' founds a new one, \
                 'pgmesh catalog-rebuild' founds one anew from a repository",
            ),
        );
    }
    lock_directory(layout)
}

/// Numbers the connections of this process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

async fn serve_connection(node: Arc<Node>, incoming: pgmesh_transport::Incoming) {
    let remote = incoming.remote_address();
    let session = match incoming.establish().await {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(%remote, error = %chain(&error), "a connection was refused");
            return;
        }
    };
    let peer = session.peer().clone();
    if let Peer::Member(member) = &peer
        && let Worth::Nothing { why, .. } = worth(&node.catalog.view(), member)
    {
        tracing::warn!(%remote, name = %member.name, why, "a connection was refused");
        session.close(CloseCode::FORBIDDEN, &with_era(&node, &why));
        return;
    }
    let actor = match peer.member() {
        Some(member) => {
            node.membership.note_shown(member);
            actor_of(member)
        }
        None => "joining".to_owned(),
    };
    tracing::debug!(%remote, actor, "connected");
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    node.backups.clients.connected(number, peer.account());
    let served = Arc::new(Served::new(node.clone(), &session, actor.clone(), number));
    tokio::select! {
        () = served.accept_streams(&session) => {}
        why = node.membership.until_shut_out(&peer) => {
            tracing::warn!(%remote, why, "a connection is closed");
            session.close(CloseCode::FORBIDDEN, &with_era(&node, &why));
            node.backups.end_sessions_of(&actor, &peer, number).await;
        }
    }
    node.backups.clients.disconnected(number, node.running.now());
}

/// Whoever is shut out learns which catalog says so: it may have another of its own.
fn with_era(node: &Node, why: &str) -> String {
    let era = Era::of(&node.catalog.view());
    era.map_or_else(|_| why.to_owned(), |era| era.append_to(why))
}

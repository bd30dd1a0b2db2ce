//! openraft's network over [`Peers`].
//!
//! openraft gives an append as long as one heartbeat interval, then drops it and sends it again. On a slow way a large
//! append would so never arrive in time, and heartbeats, which share its stream, would wait behind it until followers
//! stand for election. Therefore a call goes on here when openraft has lost patience: the next attempt to send from the
//! same place joins it. And while something large is on its way, empty appends tell the follower that its leader lives.

use pgmesh_runtime::tasks;
use std::sync::Arc;
use std::time::Duration;

use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{LogId, Vote};
use pgmesh_storage::wire;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::consensus::TypeConfig;
use crate::peers::{PeerError, PeerMessage, PeerReply, PeerRequest, Peers};
use crate::store::{LogStore, Mark};

/// How long a message with content may take, and how many bytes may take a second more.
const LIMIT: Duration = Duration::from_secs(2);
const BYTES_A_SECOND: usize = 512 << 10;
/// The longest that any of them may take.
const LONGEST: Duration = Duration::from_secs(30);
/// How long an empty append may take.
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(1);
/// A message of at most so many bytes is not overtaken by a later empty one, unless it was lost.
const SMALL: usize = 64 << 10;
/// For how long a part of a snapshot is sent again and again over a connection that breaks, before openraft begins the
/// transfer anew.
const PART_PATIENCE: Duration = Duration::from_secs(60);
/// The pause before a peer that could not be reached is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Makes ways to peers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) peers: Arc<dyn Peers>,
    /// Remembers the followers' acknowledgements.
    pub(crate) log: LogStore,
    /// How often a follower must hear of its leader while something large is on its way.
    pub(crate) heartbeat: Duration,
}

/// The way to one peer.
pub(crate) struct PeerClient {
    line: Line,
    running: Option<RunningAppend>,
}

/// All that is needed to call the peer.
#[derive(Clone)]
struct Line {
    peers: Arc<dyn Peers>,
    log: LogStore,
    heartbeat: Duration,
    node_id: u64,
    address: String,
}

/// An append that openraft may have lost patience with.
struct RunningAppend {
    vote: Vote<u64>,
    after: Option<LogId<u64>>,
    last: Option<LogId<u64>>,
    /// With how long it took.
    reply: JoinHandle<(Result<PeerReply, PeerError>, Duration)>,
}

impl Drop for RunningAppend {
    fn drop(&mut self) {
        self.reply.abort();
    }
}

type CallError<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> PeerClient {
        PeerClient {
            line: Line {
                peers: Arc::clone(&self.peers),
                log: self.log.clone(),
                heartbeat: self.heartbeat,
                node_id: target,
                address: node.addr.clone(),
            },
            running: None,
        }
    }
}

impl Line {
    async fn call(&self, message: PeerMessage, limit: Duration) -> Result<PeerReply, PeerError> {
        let known = self.log.known_of(self.node_id);
        call(&*self.peers, self.node_id, &self.address, known, message, limit).await
    }

    /// Calls with a message that may be large, for as long as `limit`, or as its size explains. Keeps the follower from
    /// standing for election meanwhile, and sees by that when the message was lost with a connection that was replaced.
    async fn long_call(
        &self,
        message: PeerMessage,
        vote: Vote<u64>,
        limit: Option<Duration>,
    ) -> Result<PeerReply, PeerError> {
        let began = Instant::now();
        let longest = limit.unwrap_or(LONGEST);
        let mut call = Box::pin(self.call(message.clone(), longest));
        let mut size = None;
        loop {
            tokio::select! {
                reply = &mut call => return reply,
                () = sleep(self.heartbeat) => {}
            }
            // Only now: a message that is answered at once need not be measured.
            let size = *size.get_or_insert_with(|| wire::encode(&message).len());
            let explained = LIMIT + Duration::from_secs((size / BYTES_A_SECOND) as u64);
            if limit.is_none() && began.elapsed() > explained {
                return Err(PeerError::Unreachable {
                    node_id: self.node_id,
                    address: self.address.clone(),
                    reason: format!("no answer to {size} bytes within {explained:?}"),
                });
            }
            tokio::select! {
                reply = &mut call => return reply,
                // A follower answers in order: a message that was sent earlier and is small enough has not arrived.
                is_alive = self.keep_alive(vote) => if is_alive && size <= SMALL {
                    call = Box::pin(self.call(message.clone(), longest));
                },
            }
        }
    }

    /// Says that the leader lives, and nothing else.
    async fn keep_alive(&self, vote: Vote<u64>) -> bool {
        let reply = self
            .call(PeerMessage::Append(empty_append(vote)), KEEP_ALIVE_LIMIT)
            .await;
        matches!(reply, Ok(PeerReply::Append(Ok(AppendEntriesResponse::Success))))
    }

    /// The reply to an append whose last entry is `sent`. Its acknowledgement is remembered before openraft counts it.
    #[expect(clippy::result_large_err, reason = "openraft's error")]
    fn take(
        &self,
        reply: Result<PeerReply, PeerError>,
        sent: Option<LogId<u64>>,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        let reply = match reply {
            Ok(PeerReply::Append(reply)) => reply.map_err(|source| self.remote(source))?,
            Ok(_) => return Err(self.wrong_reply()),
            Err(error) => return Err(unreachable(&error)),
        };
        let acknowledged = match &reply {
            AppendEntriesResponse::Success => sent,
            AppendEntriesResponse::PartialSuccess(upto) => *upto,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => None,
        };
        if let Some(upto) = acknowledged {
            self.log.acknowledged(self.node_id, upto);
        }
        Ok(reply)
    }

    fn wrong_reply<E: std::error::Error>(&self) -> CallError<E> {
        unreachable(&PeerError::WrongReply {
            node_id: self.node_id,
            address: self.address.clone(),
        })
    }

    fn remote<E: std::error::Error>(&self, source: RaftError<u64, E>) -> CallError<E> {
        let node = BasicNode::new(self.address.clone());
        RPCError::RemoteError(RemoteError::new_with_node(self.node_id, node, source))
    }
}

/// An append without entries, which any follower of the leader with this vote accepts.
pub(crate) fn empty_append(vote: Vote<u64>) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote,
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    }
}

/// Sends a message to a node and waits for its answer, which must be that node's.
pub(crate) async fn call(
    peers: &dyn Peers,
    node_id: u64,
    address: &str,
    known: Option<LogId<u64>>,
    message: PeerMessage,
    limit: Duration,
) -> Result<PeerReply, PeerError> {
    let request = PeerRequest {
        to: node_id,
        known,
        // The way to the peers knows these.
        from: 0,
        address: String::new(),
        mark: Mark::default(),
        message,
    };
    match peers.call(node_id, address.to_owned(), request, limit).await? {
        PeerReply::NotMe { node_id: is } => Err(PeerError::NotItself {
            node_id,
            address: address.to_owned(),
            is,
        }),
        PeerReply::NotYet { why } => Err(PeerError::NotYet {
            node_id,
            address: address.to_owned(),
            why,
        }),
        PeerReply::Differs { entry, skipped } => {
            tracing::error!(
                %entry,
                node_id,
                "this node and another one do not work together: one has skipped a log entry that the other has applied"
            );
            Err(PeerError::Differs {
                node_id,
                entry,
                skipped,
            })
        }
        PeerReply::Parted { index } => {
            tracing::error!(
                index,
                node_id,
                "this node and another one do not work together: their catalogs differ after a log entry"
            );
            Err(PeerError::Parted { node_id, index })
        }
        reply => Ok(reply),
    }
}

fn unreachable<E: std::error::Error>(error: &PeerError) -> CallError<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl PeerClient {
    /// The running append, if it begins where the given one does and is not beyond it; else a new one.
    fn start_append(&mut self, rpc: AppendEntriesRequest<TypeConfig>) -> &mut RunningAppend {
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let joined = self
            .running
            .take()
            .filter(|running| running.vote == rpc.vote && running.after == rpc.prev_log_id && running.last <= last);
        self.running.insert(joined.unwrap_or_else(|| {
            let line = self.line.clone();
            let (vote, after) = (rpc.vote, rpc.prev_log_id);
            let call = async move {
                let began = Instant::now();
                let reply = line.long_call(PeerMessage::Append(rpc), vote, None).await;
                (reply, began.elapsed())
            };
            RunningAppend {
                vote,
                after,
                last,
                reply: tasks::spawn("appending", call),
            }
        }))
    }
}

impl RaftNetwork<TypeConfig> for PeerClient {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        let after = rpc.prev_log_id;
        let asked = rpc.entries.last().map(|entry| entry.log_id);
        if asked.is_none() {
            let reply = self.line.call(PeerMessage::Append(rpc), option.hard_ttl()).await;
            return self.line.take(reply, after);
        }
        // Dropped in this wait, the append goes on and waits for the next attempt.
        let reply = (&mut self.start_append(rpc).reply).await;
        let sent = self.running.take().and_then(|running| running.last);
        let (reply, took) = reply.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let reply = self.line.take(reply, sent)?;
        if matches!(reply, AppendEntriesResponse::Success) {
            self.line.log.pace().acknowledged(self.line.node_id, took);
        }
        match reply {
            // Entries have been added since the append was begun: they are next.
            AppendEntriesResponse::Success if sent < asked => Ok(AppendEntriesResponse::PartialSuccess(sent)),
            reply => Ok(reply),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<InstallSnapshotError>> {
        let began = Instant::now();
        let vote = rpc.vote;
        let last = rpc.meta.last_log_id.filter(|_| rpc.done);
        // The last part is answered when the snapshot is in place.
        let limit = rpc.done.then(|| option.hard_ttl());
        // openraft sends no heartbeats to a follower that is being sent a snapshot.
        let line = self.line.clone();
        tasks::spawn("keeping a snapshot alive", async move { line.keep_alive(vote).await });
        loop {
            let message = PeerMessage::Snapshot(rpc.clone());
            match self.line.long_call(message, vote, limit).await {
                Ok(PeerReply::Snapshot(reply)) => {
                    let reply = reply.map_err(|source| self.line.remote(source))?;
                    // A higher vote means that it was refused.
                    if let Some(last) = last
                        && reply.vote == vote
                    {
                        self.line.log.acknowledged(self.line.node_id, last);
                    }
                    return Ok(reply);
                }
                Ok(_) => return Err(self.line.wrong_reply()),
                Err(error) if began.elapsed() > PART_PATIENCE || rpc.done => return Err(unreachable(&error)),
                Err(error) => {
                    tracing::debug!(%error, offset = rpc.offset, "a part of a snapshot is sent again");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, CallError> {
        match self.line.call(PeerMessage::Vote(rpc), option.hard_ttl()).await {
            Ok(PeerReply::Vote(reply)) => reply.map_err(|source| self.line.remote(source)),
            Ok(_) => Err(self.line.wrong_reply()),
            Err(error) => Err(unreachable(&error)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}

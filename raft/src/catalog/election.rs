//! When a leader shows that it is alive, and when a follower stands for election.
//!
//! openraft does both with one clock that is coarse, draws its timeout once for the life of a process, and lets a node
//! that is cut off stand for election again and again, with ever higher terms that depose the leader when the node
//! comes back. Here a voter first asks the others whether they miss the leader too and whether its log is as new as
//! theirs, and stands only if a majority says so. These answers decide nothing, the election itself does; they only
//! keep useless elections away.

use pgmesh_runtime::random;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::{LogId, ServerState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::clearance::Clearance;
use super::leader::Way;
use crate::network::call;
use crate::options::CatalogOptions;
use crate::peers::{PeerMessage, PeerReply};

/// How often it is looked whether a heartbeat or an election is due.
const TICK: Duration = Duration::from_millis(25);

/// When this node last heard of a leader, or promised its vote to a candidate.
#[derive(Debug, Clone)]
pub(super) struct Signs {
    last: Arc<Mutex<Instant>>,
    /// While this node is openraft's leader: when it sent the last message that a majority has answered.
    majority: Arc<Mutex<Option<Instant>>>,
    lease: Duration,
}

impl Signs {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            last: Arc::new(Mutex::new(Instant::now())),
            majority: Arc::default(),
            lease,
        }
    }

    /// There is a leader, or will be one soon.
    pub(super) fn seen(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether this node, which is openraft's leader, still leads: two leases after the last word of a majority it does
    /// not, since others may have elected another node by then. It leads again when a majority answers.
    pub(super) fn has_majority(&self) -> bool {
        let heard = *self.majority.lock().unwrap_or_else(PoisonError::into_inner);
        // None: it was elected a moment ago.
        heard.is_none_or(|heard| heard.elapsed() < self.lease * 2)
    }

    fn heard_majority(&self, at: Option<Instant>) {
        *self.majority.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// For how long there has been no sign.
    fn quiet(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether there has been no sign for so long that other voters, if they are a majority, have a leader by now, or
    /// no node has.
    pub(super) fn is_cut_off(&self) -> bool {
        self.quiet() >= self.lost_after()
    }

    /// An election takes two leases at most; if it has not come to its end by then, it has no majority.
    pub(super) fn lost_after(&self) -> Duration {
        self.lease * 3
    }

    /// Whether another node may become the leader as far as this one is concerned.
    pub(super) fn is_leader_missed(&self) -> bool {
        self.quiet() >= self.lease
    }
}

/// The node's part at the moment.
struct Part {
    state: ServerState,
    /// The other voters, with their addresses; `None` where this node has no vote.
    others: Option<Vec<(u64, String)>>,
    configs: Vec<BTreeSet<u64>>,
}

impl Part {
    fn of(way: &Way) -> Self {
        let metrics = way.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config().clone();
        let has_vote = configs.iter().any(|config| config.contains(&way.node_id));
        let others = membership.voter_ids().filter(|voter| *voter != way.node_id);
        let others = others.filter_map(|voter| membership.get_node(&voter).map(|node| (voter, node.addr.clone())));
        Self {
            state: metrics.state,
            others: has_vote.then(|| others.collect()),
            configs,
        }
    }

    fn is_majority(&self, nodes: &BTreeSet<u64>) -> bool {
        self.configs
            .iter()
            .all(|config| config.intersection(nodes).count() * 2 > config.len())
    }
}

/// Runs until the catalog stops, or its last clone is dropped.
pub(super) async fn run(way: Way, signs: Signs, clearance: Arc<Clearance>, options: CatalogOptions, catalog: Weak<()>) {
    let mut last_beat = Instant::now();
    // When this node looks the next time whether it should stand for election.
    let mut not_before = Instant::now();
    let mut patience = drawn(options.election);
    let mut acknowledgements = Acknowledgements::new(&way);
    loop {
        sleep(TICK).await;
        if catalog.strong_count() == 0 {
            return;
        }
        let part = Part::of(&way);
        let led = signs.has_majority();
        signs.heard_majority(match (part.state, &part.others) {
            // It is the majority.
            (ServerState::Leader, Some(others)) if others.is_empty() => Some(Instant::now()),
            (ServerState::Leader, _) => Some(acknowledgements.last()),
            _ => None,
        });
        match (part.state, &part.others) {
            (ServerState::Shutdown, _) => return,
            (ServerState::Leader, _) => {
                match (led, signs.has_majority()) {
                    (true, false) => {
                        tracing::warn!("this node is no longer the leader: no majority of the voters answers")
                    }
                    (false, true) => tracing::info!("this node leads again: a majority of the voters answers"),
                    _ => {}
                }
                if signs.has_majority() {
                    signs.seen();
                }
                if last_beat.elapsed() >= options.heartbeat && !way.aside.load(Ordering::Relaxed) {
                    last_beat = Instant::now();
                    if way.raft.trigger().heartbeat().await.is_err() {
                        return;
                    }
                }
            }
            // Not before it is known that this log has not lost its end, and has the entries that a leader must have.
            (_, Some(_)) if !clearance.is_cleared() || last_log(&way) < clearance.needed() => {}
            (_, Some(others)) if not_before <= Instant::now() => {
                let is_alone = others.is_empty();
                if !is_alone && signs.quiet() < patience {
                    continue;
                }
                if is_alone || may_stand(&way, &part, others, options.election).await && signs.is_leader_missed() {
                    tracing::info!(quiet = ?signs.quiet(), "this node stands for election");
                    if way.raft.trigger().elect().await.is_err() {
                        return;
                    }
                    not_before = Instant::now() + drawn(options.election / 2);
                } else {
                    not_before = Instant::now() + drawn(options.election / 8);
                }
                patience = drawn(options.election);
            }
            _ => {}
        }
    }
}

/// When a majority last answered this node as the leader, by its own clock. openraft counts the time only when it
/// reports; a core that hangs, on its disk for example, must not look as if a majority had just answered.
struct Acknowledgements {
    reports: watch::Receiver<openraft::RaftMetrics<u64, openraft::BasicNode>>,
    last: Instant,
    term: u64,
}

impl Acknowledgements {
    fn new(way: &Way) -> Self {
        Self {
            reports: way.raft.metrics(),
            last: Instant::now(),
            term: 0,
        }
    }

    fn last(&mut self) -> Instant {
        if self.reports.has_changed().unwrap_or_default() {
            let (now, report) = (Instant::now(), self.reports.borrow_and_update());
            if report.current_term != self.term {
                // A majority has just voted for this node.
                (self.term, self.last) = (report.current_term, now);
            }
            let quiet = report.millis_since_quorum_ack.map(Duration::from_millis);
            if let Some(at) = quiet.and_then(|quiet| now.checked_sub(quiet)) {
                self.last = self.last.max(at);
            }
        }
        self.last
    }
}

/// Asks the other voters whether it makes sense to stand for election.
async fn may_stand(way: &Way, part: &Part, others: &[(u64, String)], limit: Duration) -> bool {
    let last_log = last_log(way);
    let mut agreed = BTreeSet::from([way.node_id]);
    let mut asked: FuturesUnordered<_> = others
        .iter()
        .map(|(voter, address)| async move {
            let message = PeerMessage::MayStand { last_log };
            let known = way.log.known_of(*voter);
            (*voter, call(&*way.peers, *voter, address, known, message, limit).await)
        })
        .collect();
    while !part.is_majority(&agreed) {
        match asked.next().await {
            Some((voter, Ok(PeerReply::MayStand(true)))) => {
                agreed.insert(voter);
            }
            Some(_) => {}
            None => return false,
        }
    }
    true
}

/// The last entry of this node's log.
pub(super) fn last_log(way: &Way) -> Option<LogId<u64>> {
    way.raft.data_metrics().borrow().last_log
}

/// Between `base` and half as much again, so that not all stand at the same moment.
fn drawn(base: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness elections may take longer.
    let _ = random::fill(&mut bytes);
    base + base.mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX) / 2.0)
}

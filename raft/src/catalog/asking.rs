//! After its start, and before it takes part, a node asks the others what they know of it.
//!
//! The answers need no leader, and nodes that have started themselves answer, so that a mesh that was shut down as a
//! whole comes back. A majority suffices in the end, or a mesh with a dead node could not be started again. But which
//! majority matters: an entry that only B and C acknowledged is known to C alone when B has lost its end, and A knows
//! nothing of it. So the node waits for all other voters for [`GRACE`] before it is content with a majority. It does
//! not wait where a leader is established, which a majority without the asking node has just confirmed: that leader has
//! every committed entry in its log, and remembers what the node has acknowledged to it. The node may not know this
//! leader: the voters may have changed while the node was down. So it asks a leader that reaches it, too.

use pgmesh_runtime::tasks;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::raft::VoteRequest;
use openraft::{BasicNode, LogId, Raft, Vote};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::clearance::{Clearance, Pledge};
use super::leader::Way;
use crate::consensus::TypeConfig;
use crate::network::{call, empty_append};
use crate::peers::{Knowledge, PeerError, PeerMessage, PeerReply, Started};
use crate::status::{Shortfall, Standing};

/// How long a node waits for voters that do not answer, when there is no leader.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long the only voter waits for learners.
const LEARNER_GRACE: Duration = Duration::from_millis(700);
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The pause before a peer that could not be asked is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// The pause before a peer that has answered is asked again: there may be a leader by then.
const AGAIN: Duration = Duration::from_millis(400);
/// A node that is behind tells the others now and then that it still is.
const REMIND: Duration = Duration::from_secs(2);
/// So many nodes and addresses are asked at most.
const ASKED_AT_MOST: usize = 256;
/// How often it is looked whether the wait is over.
const TICK: Duration = Duration::from_millis(50);

/// The group as the starting node's disk has it.
#[derive(Debug, Clone, Default)]
struct Group {
    node_id: u64,
    configs: Vec<BTreeSet<u64>>,
    /// The addresses of all other nodes.
    others: BTreeMap<u64, String>,
}

impl Group {
    /// `admitted` are nodes that the catalog knows, with their addresses: some may not be in the group yet.
    fn of<I: openraft::Instant>(
        state: &openraft::RaftState<u64, BasicNode, I>,
        node_id: u64,
        admitted: BTreeMap<u64, String>,
    ) -> Self {
        let membership = state.membership_state.effective().membership();
        let members = membership.nodes().map(|(id, node)| (*id, node.addr.clone()));
        let mut others = admitted;
        others.extend(members);
        others.remove(&node_id);
        Self {
            node_id,
            configs: membership.get_joint_config().clone(),
            others,
        }
    }

    /// Whether these, and the node itself, are a majority.
    fn is_majority(&self, heard: impl Fn(u64) -> bool) -> bool {
        self.configs.iter().all(|config| {
            let count = config.iter().filter(|id| **id == self.node_id || heard(**id)).count();
            count * 2 > config.len()
        })
    }

    /// The other voters.
    fn voters(&self) -> BTreeSet<u64> {
        let voters = self.configs.iter().flatten().copied();
        voters.filter(|id| *id != self.node_id).collect()
    }
}

/// The result of the questions so far.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// These voters are waited for.
    Wait(BTreeSet<u64>),
    Clear,
    Behind(Shortfall),
}

/// Decides, `since` after the start. `vote` is the own one; `unreachable` are members whose last question failed.
fn judge(
    group: &Group,
    reached: Option<LogId<u64>>,
    vote: Vote<u64>,
    answers: &BTreeMap<u64, Knowledge>,
    unreachable: &BTreeSet<u64>,
    since: Duration,
) -> Verdict {
    for (witness, answer) in answers {
        if let Some(lack) = answer.lack(reached) {
            return Verdict::Behind(Shortfall {
                witness: *witness,
                lack,
                reached,
            });
        }
    }
    // The voters that the disk names may be out of date, and another majority may have confirmed this leader. A leader
    // that is the only voter may be an old copy itself.
    let is_confirmed = |answer: &Knowledge| answer.voters > 1 || since >= GRACE;
    if answers
        .values()
        .any(|answer| answer.leads && answer.vote >= vote && is_confirmed(answer))
    {
        return Verdict::Clear;
    }
    let silent: BTreeSet<u64> = group
        .voters()
        .into_iter()
        .filter(|id| !answers.contains_key(id))
        .collect();
    let awaits_learners = since < LEARNER_GRACE
        && group
            .others
            .keys()
            .any(|id| !answers.contains_key(id) && !unreachable.contains(id));
    let is_complete = silent.is_empty() && !awaits_learners;
    let has_leader = answers.values().any(|answer| answer.leads);
    if group.is_majority(|id| answers.contains_key(&id)) && (is_complete || has_leader || since >= GRACE) {
        return Verdict::Clear;
    }
    Verdict::Wait(silent)
}

/// Asks until this node is cleared. If it turns out to be behind, it goes on to tell the others so.
pub(super) async fn run(way: Way, clearance: Arc<Clearance>, admitted: BTreeMap<u64, String>, catalog: Weak<()>) {
    let node_id = way.node_id;
    let group = way
        .raft
        .with_raft_state(move |state| Group::of(state, node_id, admitted));
    let Ok(group) = group.await else {
        return;
    };
    let began = Instant::now();
    let (sender, mut replies) = mpsc::channel(64);
    // They end with this task.
    let mut asking = JoinSet::new();
    let question = |peer, address| ask(way.clone(), peer, address, Arc::clone(&clearance), sender.clone());
    for (peer, address) in &group.others {
        asking.spawn(tasks::named("asking a node", question(*peer, address.clone())));
    }
    let mut asked = group.others.clone();
    let mut answers = BTreeMap::new();
    let mut unreachable = BTreeSet::new();
    loop {
        if catalog.strong_count() == 0 || clearance.is_cleared() {
            return;
        }
        for (peer, address) in clearance.take_leaders() {
            let is_new = !address.is_empty() && asked.get(&peer) != Some(&address);
            if is_new && asking.len() < ASKED_AT_MOST {
                tracing::info!(
                    node = peer,
                    %address,
                    "this node also asks the leader that has contacted it which entries it had acknowledged"
                );
                asked.insert(peer, address.clone());
                asking.spawn(tasks::named("asking a node", question(peer, address)));
            }
        }
        if clearance.is_asking() {
            let Ok(vote) = way.raft.with_raft_state(|state| *state.vote_ref()).await else {
                return;
            };
            match judge(&group, way.log.reached(), vote, &answers, &unreachable, began.elapsed()) {
                Verdict::Wait(silent) => clearance.wait_for(silent),
                Verdict::Behind(shortfall) => clearance.fall_behind(shortfall),
                Verdict::Clear => {
                    if !take_part(&way, &clearance, &answers).await {
                        return;
                    }
                    let (after, asked) = (began.elapsed(), answers.len());
                    tracing::info!(?after, asked, "this node takes part in consensus");
                }
            }
        }
        match timeout(TICK, replies.recv()).await {
            Ok(Some((peer, Some(answer)))) => {
                unreachable.remove(&peer);
                clearance.note_started(peer, answer.shortfall.clone());
                answers.insert(peer, answer);
            }
            Ok(Some((peer, None))) => {
                unreachable.insert(peer);
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Asks one peer again and again, until this node takes part.
async fn ask(
    way: Way,
    peer: u64,
    address: String,
    clearance: Arc<Clearance>,
    replies: mpsc::Sender<(u64, Option<Knowledge>)>,
) {
    while !clearance.is_cleared() {
        let message = PeerMessage::WhatOfMe(Started {
            node_id: way.node_id,
            reached: way.log.reached(),
        });
        let known = way.log.known_of(peer);
        let reply = call(&*way.peers, peer, &address, known, message, LIMIT).await;
        let answer = match reply {
            Ok(PeerReply::Knowledge(knowledge)) => Some(knowledge),
            Ok(_) => None,
            Err(error) => {
                if let PeerError::Parted { index, .. } = error {
                    // It has found out before this node was restarted.
                    clearance.note_parted(peer, index);
                }
                tracing::debug!(%error, "a node could not be asked what it knows of this one");
                None
            }
        };
        let pause = match &answer {
            _ if clearance.is_behind() => REMIND,
            Some(_) => AGAIN,
            None => RETRY,
        };
        if replies.send((peer, answer)).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

/// Takes over the highest vote that the others know, and takes part from then on. Whether the catalog still runs.
async fn take_part(way: &Way, clearance: &Clearance, answers: &BTreeMap<u64, Knowledge>) -> bool {
    let Ok(own) = way.raft.with_raft_state(|state| *state.vote_ref()).await else {
        return false;
    };
    let votes = answers.values().map(|answer| answer.vote);
    let highest = votes.fold(own, |highest, vote| if vote > highest { vote } else { highest });
    if highest.leader_id > own.leader_id && !take_over(way, highest).await {
        return false;
    }
    let highest = highest.leader_id;
    clearance.clear(Pledge {
        term: (!answers.is_empty()).then_some(highest.term),
        committed: answers.values().filter_map(|answer| answer.committed).max(),
    });
    true
}

/// Votes as if the candidate to which the vote belongs had asked for it. The vote is on disk when this returns; whether
/// the catalog runs.
async fn take_over(way: &Way, vote: Vote<u64>) -> bool {
    if vote.is_committed() && vote.leader_id.node_id != way.node_id {
        // It was elected. It would send this append.
        return way.raft.append_entries(empty_append(vote)).await.is_ok();
    }
    let request = VoteRequest {
        vote: Vote {
            committed: false,
            ..vote
        },
        last_log_id: way.log.reached(),
    };
    // openraft refuses for a moment after the start: a leader may live that it has followed.
    while let Ok(reply) = way.raft.vote(request.clone()).await {
        if reply.vote.leader_id >= vote.leader_id {
            return true;
        }
        sleep(RETRY).await;
    }
    false
}

/// A node that takes part and then hears that it is behind, as when its copy is so old that it knows of no other node,
/// ends its part at once: it may even lead.
pub(super) async fn stop_when_behind(raft: Raft<TypeConfig>, mut standing: watch::Receiver<Standing>) {
    if standing
        .wait_for(|standing| *standing == Standing::Cleared)
        .await
        .is_err()
    {
        return;
    }
    let is_behind = standing
        .wait_for(|standing| matches!(standing, Standing::Behind(_)))
        .await
        .is_ok();
    if is_behind && let Err(error) = raft.shutdown().await {
        tracing::error!(%error, "consensus on this node could not be stopped");
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::status::Lack;

    fn id(term: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    fn group(node_id: u64, voters: &[u64], learners: &[u64]) -> Group {
        let members = voters.iter().chain(learners).filter(|id| **id != node_id);
        Group {
            node_id,
            configs: vec![voters.iter().copied().collect()],
            others: members.map(|id| (*id, String::new())).collect(),
        }
    }

    fn answer(known: Option<LogId<u64>>) -> Knowledge {
        Knowledge {
            known,
            is_replaced: false,
            vote: Vote::new(1, 1),
            committed: None,
            leads: false,
            voters: 3,
            shortfall: None,
        }
    }

    fn after(group: &Group, answers: &[(u64, Knowledge)], unreachable: &[u64], since: Duration) -> Verdict {
        let answers = answers.iter().cloned().collect();
        let unreachable = unreachable.iter().copied().collect();
        judge(group, Some(id(3, 10)), Vote::new(1, 1), &answers, &unreachable, since)
    }

    #[test]
    fn all_voters_are_waited_for_but_not_for_ever() {
        let group = group(1, &[1, 2, 3], &[]);
        let two = [(2, answer(None))];
        let wait = Verdict::Wait(BTreeSet::from([3]));
        assert_eq!(after(&group, &two, &[3], Duration::from_secs(1)), wait);
        assert_eq!(after(&group, &two, &[3], GRACE), Verdict::Clear);
        let none = Verdict::Wait(BTreeSet::from([2, 3]));
        assert_eq!(
            after(&group, &[], &[2, 3], GRACE * 100),
            none,
            "never without a majority"
        );
        let both = [(2, answer(None)), (3, answer(Some(id(3, 10))))];
        assert_eq!(after(&group, &both, &[], Duration::ZERO), Verdict::Clear);
    }

    #[test]
    fn a_leader_that_a_majority_has_confirmed_is_enough() {
        let group = group(1, &[1, 2, 3], &[]);
        let leader = Knowledge {
            leads: true,
            ..answer(None)
        };
        let leads = [(3, leader.clone())];
        assert_eq!(after(&group, &leads, &[], Duration::ZERO), Verdict::Clear);
        // No other node that a learner's disk knows answers: all voters have been replaced.
        let group = self::group(4, &[1, 2, 3], &[4]);
        let leads = [(6, leader.clone())];
        assert_eq!(after(&group, &leads, &[1, 2, 3], Duration::ZERO), Verdict::Clear);
        let alone = Knowledge {
            voters: 1,
            ..leader.clone()
        };
        let wait = Verdict::Wait(BTreeSet::from([1, 2, 3]));
        let leads = [(6, alone)];
        assert_eq!(after(&group, &leads, &[1, 2, 3], Duration::ZERO), wait);
        assert_eq!(after(&group, &leads, &[1, 2, 3], GRACE), Verdict::Clear);
        let old = Knowledge {
            vote: Vote::new(0, 6),
            ..leader.clone()
        };
        let wait = Verdict::Wait(BTreeSet::from([1, 2, 3]));
        assert_eq!(
            after(&group, &[(6, old)], &[1, 2, 3], Duration::ZERO),
            wait,
            "of an earlier term"
        );
        let knows = Knowledge {
            known: Some(id(3, 11)),
            ..leader
        };
        assert!(matches!(
            after(&group, &[(6, knows)], &[], Duration::ZERO),
            Verdict::Behind(_)
        ));
    }

    #[test]
    fn one_that_knows_more_suffices() {
        let group = group(1, &[1, 2, 3], &[]);
        let knows = [(2, answer(Some(id(3, 11))))];
        let behind = Verdict::Behind(Shortfall {
            witness: 2,
            lack: Lack::Entries(id(3, 11)),
            reached: Some(id(3, 10)),
        });
        assert_eq!(after(&group, &knows, &[], Duration::ZERO), behind);
        // A longer log of an earlier term was overwritten by a later leader.
        let overwritten = [(2, answer(Some(id(2, 50)))), (3, answer(None))];
        assert_eq!(after(&group, &overwritten, &[], Duration::ZERO), Verdict::Clear);
        let replaced = Knowledge {
            is_replaced: true,
            ..answer(None)
        };
        assert!(matches!(
            after(&group, &[(2, replaced)], &[], Duration::ZERO),
            Verdict::Behind(Shortfall { lack: Lack::Number, .. })
        ));
    }

    #[test]
    fn the_only_voter_asks_learners_that_can_be_reached_and_waits_for_nobody_else() {
        let alone = group(1, &[1], &[]);
        assert_eq!(after(&alone, &[], &[], Duration::ZERO), Verdict::Clear);
        let with_learner = group(1, &[1], &[2]);
        let wait = Verdict::Wait(BTreeSet::new());
        assert_eq!(after(&with_learner, &[], &[], Duration::ZERO), wait);
        assert_eq!(after(&with_learner, &[], &[2], Duration::ZERO), Verdict::Clear);
        assert_eq!(after(&with_learner, &[], &[], LEARNER_GRACE), Verdict::Clear);
    }

    #[test]
    fn a_learner_needs_a_majority_of_the_voters() {
        let group = group(4, &[1, 2, 3], &[4]);
        let one = [(1, answer(None))];
        assert!(matches!(after(&group, &one, &[], GRACE), Verdict::Wait(_)));
        let two = [(1, answer(None)), (2, answer(None))];
        assert_eq!(after(&group, &two, &[], GRACE), Verdict::Clear);
        assert_eq!(after(&Group::default(), &[], &[], Duration::ZERO), Verdict::Clear);
    }
}

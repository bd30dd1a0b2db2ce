//! The voters: the leader's steps, one at a time, by which the Raft group becomes the group that the catalog asks for.
//! Pure.
//!
//! An admitted node becomes a learner; once it has caught up it may vote. Voters are an odd number, at most
//! `mesh-voters`: an even number tolerates no more failures than the odd number below it, and waits for more answers.
//! If the removal of a node has left an even number, it is not made smaller still: two voters that both have every
//! acknowledged entry are better than one.
//!
//! A change of the voters takes two entries of the log, and a leader may die between them. The group then needs two
//! majorities for each decision, so the loss of one node can stop it. The next leader completes the change before it
//! does anything else.

use pgmesh_raft::{NodeService, VotePolicy};
use std::collections::BTreeSet;

/// A node that the catalog knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node_id: u64,
    /// Whether it is still there.
    pub service: NodeService,
    /// Whether it should vote.
    pub vote: VotePolicy,
}

/// The Raft group as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The nodes that vote.
    pub voters: BTreeSet<u64>,
    /// The nodes that only receive the log.
    pub learners: BTreeSet<u64>,
    /// While the voters change: the voters after the change. `voters` has the former voters, too.
    pub next_voters: Option<BTreeSet<u64>>,
    /// The voters and learners that have all but the newest entries.
    pub caught_up: BTreeSet<u64>,
}

/// One change of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Takes nodes out that are not in the catalog any more.
    Remove(BTreeSet<u64>),
    /// Adds a node that has been admitted.
    AddLearner(u64),
    /// Makes these nodes the voters.
    SetVoters(BTreeSet<u64>),
}

/// The leader's next action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The group changes.
    Change {
        /// How.
        step: Step,
        /// If the leader loses its vote by the step: the nodes of which one may lead before, and makes the change then.
        successors: BTreeSet<u64>,
    },
    /// Another node shall lead.
    HandOver {
        /// Which.
        successors: BTreeSet<u64>,
        /// Why.
        why: &'static str,
    },
}

/// The next action of the leader, node `me`, if there is one. `faster` are the nodes whose disks have been much faster
/// than the leader's for a while.
pub fn next_act(members: &[Member], group: &Group, most_voters: usize, me: u64, faster: &BTreeSet<u64>) -> Option<Act> {
    let able: BTreeSet<u64> = members
        .iter()
        .filter(|member| member.service == NodeService::InService && member.node_id != me)
        .map(|member| member.node_id)
        .filter(|id| group.voters.contains(id) && group.caught_up.contains(id))
        .collect();
    if let Some(step) = next_step(members, group, most_voters) {
        let successors = match &step {
            Step::Remove(gone) if gone.contains(&me) => &able - gone,
            Step::SetVoters(voters) if !voters.contains(&me) => &able & voters,
            _ => BTreeSet::new(),
        };
        return Some(Act::Change { step, successors });
    }
    let is_draining = |member: &Member| member.node_id == me && member.service == NodeService::Draining;
    let (successors, why) = if members.iter().any(is_draining) {
        (able, "this node is being drained")
    } else {
        (&able & faster, "appends on its disk are much slower than on theirs")
    };
    (!successors.is_empty()).then_some(Act::HandOver { successors, why })
}

/// The next change of the group, if it needs one.
pub fn next_step(members: &[Member], group: &Group, most_voters: usize) -> Option<Step> {
    if let Some(next) = &group.next_voters {
        return Some(Step::SetVoters(next.clone()));
    }
    let present: Vec<&Member> = members
        .iter()
        .filter(|member| member.service != NodeService::Removed)
        .collect();
    let is_present = |id: &u64| present.iter().any(|member| member.node_id == *id);
    let gone: BTreeSet<u64> = group
        .voters
        .union(&group.learners)
        .copied()
        .filter(|id| !is_present(id))
        .collect();
    // Never the last voter: a group without one can decide nothing any more.
    if !gone.is_empty() && group.voters.iter().any(|id| !gone.contains(id)) {
        return Some(Step::Remove(gone));
    }
    let in_group = |id: u64| group.voters.contains(&id) || group.learners.contains(&id);
    if let Some(new) = present.iter().find(|member| !in_group(member.node_id)) {
        return Some(Step::AddLearner(new.node_id));
    }
    let voters = wanted_voters(&present, group, most_voters);
    (!voters.is_empty() && voters != group.voters).then_some(Step::SetVoters(voters))
}

fn wanted_voters(present: &[&Member], group: &Group, most_voters: usize) -> BTreeSet<u64> {
    let votes = |member: &Member| group.voters.contains(&member.node_id);
    let mut able: Vec<&&Member> = present
        .iter()
        .filter(|member| member.vote != VotePolicy::Never)
        .filter(|member| votes(member) || group.caught_up.contains(&member.node_id))
        .collect();
    // Nodes whose policy is `Always` first, then present voters, then older nodes.
    able.sort_by_key(|member| (member.vote != VotePolicy::Always, !votes(member), member.node_id));
    let asked_for = able.iter().filter(|member| member.vote == VotePolicy::Always).count();
    let voting = able.iter().filter(|member| votes(member)).count();
    let odd = match able.len().min(most_voters) {
        count if count % 2 == 0 => count.saturating_sub(1),
        count => count,
    };
    let count = odd.max(asked_for).max(voting.min(most_voters));
    able.into_iter().take(count).map(|member| member.node_id).collect()
}

/// Voters that could decide nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// The voters that would be left.
    pub voters: BTreeSet<u64>,
    /// The voters in `voters` that do not answer: half of them, or more.
    pub silent: BTreeSet<u64>,
}

/// Whether the group could decide nothing any more when this node has no vote, since of the others that vote only
/// `answering` are there. Of {1, 2, 3}, number 3 is dead: without number 2, number 1 needs the answer of number 3, and
/// not even another change of the voters helps.
pub fn stranded_without(group: &Group, leaver: u64, answering: &BTreeSet<u64>) -> Option<Stranded> {
    // A change that is under way comes to its end first.
    let mut voters = group.next_voters.as_ref().unwrap_or(&group.voters).clone();
    if !voters.remove(&leaver) {
        return None;
    }
    let silent: BTreeSet<u64> = voters.difference(answering).copied().collect();
    (!silent.is_empty() && silent.len() * 2 >= voters.len()).then_some(Stranded { voters, silent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node_id: u64) -> Member {
        Member {
            node_id,
            service: NodeService::InService,
            vote: VotePolicy::Auto,
        }
    }

    fn members(ids: &[u64]) -> Vec<Member> {
        ids.iter().map(|id| member(*id)).collect()
    }

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn group(voters: &[u64], learners: &[u64]) -> Group {
        Group {
            voters: set(voters),
            learners: set(learners),
            next_voters: None,
            caught_up: set(voters).union(&set(learners)).copied().collect(),
        }
    }

    #[test]
    fn a_mesh_grows_by_learners_to_an_odd_number_of_voters() {
        let nodes = members(&[1, 2, 3]);
        assert_eq!(next_step(&nodes, &group(&[1], &[]), 5), Some(Step::AddLearner(2)));
        assert_eq!(next_step(&nodes, &group(&[1], &[2]), 5), Some(Step::AddLearner(3)));
        let step = next_step(&nodes, &group(&[1], &[2, 3]), 5);
        assert_eq!(step, Some(Step::SetVoters(set(&[1, 2, 3]))));
        assert_eq!(next_step(&nodes, &group(&[1, 2, 3], &[]), 5), None);
    }

    /// The leader died when the first of the two entries was committed: all three are voters, and all three are wanted.
    #[test]
    fn a_change_that_was_interrupted_is_brought_to_its_end() {
        let mut changing = group(&[1, 2, 3], &[]);
        changing.next_voters = Some(set(&[1, 2, 3]));
        let end = Some(Step::SetVoters(set(&[1, 2, 3])));
        assert_eq!(next_step(&members(&[1, 2, 3]), &changing, 5), end);
        // Before anything else: the group may not bear the loss of a node meanwhile.
        let mut nodes = members(&[1, 2, 3, 4]);
        nodes[2].service = NodeService::Removed;
        assert_eq!(next_step(&nodes, &changing, 5), end);
    }

    #[test]
    fn two_nodes_have_one_voter_until_a_second_is_asked_for() {
        let mut nodes = members(&[1, 2]);
        assert_eq!(next_step(&nodes, &group(&[1], &[2]), 5), None);
        for node in &mut nodes {
            node.vote = VotePolicy::Always;
        }
        let step = next_step(&nodes, &group(&[1], &[2]), 5);
        assert_eq!(step, Some(Step::SetVoters(set(&[1, 2]))));
    }

    #[test]
    fn nobody_votes_before_it_has_caught_up() {
        let mut behind = group(&[1], &[2, 3]);
        behind.caught_up = set(&[1, 2]);
        assert_eq!(next_step(&members(&[1, 2, 3]), &behind, 5), None);
    }

    #[test]
    fn no_more_than_the_limit_vote_and_those_who_do_stay() {
        let nodes = members(&[1, 2, 3, 4, 5, 6, 7]);
        let step = next_step(&nodes, &group(&[3, 4, 7], &[1, 2, 5, 6]), 5);
        assert_eq!(step, Some(Step::SetVoters(set(&[1, 2, 3, 4, 7]))));
    }

    #[test]
    fn a_removed_node_goes_and_the_others_keep_voting() {
        let mut nodes = members(&[1, 2, 3]);
        nodes[1].service = NodeService::Removed;
        let step = next_step(&nodes, &group(&[1, 2, 3], &[]), 5);
        assert_eq!(step, Some(Step::Remove(set(&[2]))));
        assert_eq!(next_step(&nodes, &group(&[1, 3], &[]), 5), None);
    }

    #[test]
    fn a_node_that_lost_its_disk_is_replaced_by_its_new_number() {
        let nodes = members(&[1, 2, 4]);
        let step = next_step(&nodes, &group(&[1, 2, 3], &[]), 5);
        assert_eq!(step, Some(Step::Remove(set(&[3]))));
        assert_eq!(next_step(&nodes, &group(&[1, 2], &[]), 5), Some(Step::AddLearner(4)));
        let step = next_step(&nodes, &group(&[1, 2], &[4]), 5);
        assert_eq!(step, Some(Step::SetVoters(set(&[1, 2, 4]))));
    }

    #[test]
    fn a_demoted_node_loses_its_vote_and_a_spare_one_gets_it() {
        let mut nodes = members(&[1, 2, 3, 4]);
        nodes[2].vote = VotePolicy::Never;
        let step = next_step(&nodes, &group(&[1, 2, 3], &[4]), 5);
        assert_eq!(step, Some(Step::SetVoters(set(&[1, 2, 4]))));
    }

    #[test]
    fn a_leader_that_shall_not_lead_hands_over_to_those_that_can() {
        let act = |nodes: &[Member], group: &Group, faster: &[u64]| next_act(nodes, group, 5, 1, &set(faster));
        let mut nodes = members(&[1, 2, 3]);
        let mut three = group(&[1, 2, 3], &[]);
        assert_eq!(act(&nodes, &three, &[]), None);
        let successors_of = |act: Option<Act>| match act {
            Some(Act::HandOver { successors, .. }) => successors,
            other => panic!("{other:?}"),
        };
        assert_eq!(successors_of(act(&nodes, &three, &[3])), set(&[3]));
        nodes[0].service = NodeService::Draining;
        assert_eq!(successors_of(act(&nodes, &three, &[])), set(&[2, 3]));
        // Only a node that has the log, and is not drained itself.
        three.caught_up = set(&[1, 3]);
        assert_eq!(successors_of(act(&nodes, &three, &[])), set(&[3]));
        nodes[2].service = NodeService::Draining;
        assert_eq!(act(&nodes, &three, &[2, 3]), None);
    }

    #[test]
    fn a_leader_that_loses_its_vote_lets_one_of_those_lead_that_keep_theirs() {
        let mut nodes = members(&[1, 2, 3, 4]);
        nodes[0].vote = VotePolicy::Never;
        let act = next_act(&nodes, &group(&[1, 2, 3], &[4]), 5, 1, &set(&[]));
        let (step, successors) = (Step::SetVoters(set(&[2, 3, 4])), set(&[2, 3]));
        assert_eq!(act, Some(Act::Change { step, successors }));
        let act = next_act(&nodes, &group(&[1, 2, 3], &[4]), 5, 2, &set(&[]));
        assert!(matches!(act, Some(Act::Change { successors, .. }) if successors.is_empty()));
    }

    #[test]
    fn a_voter_stays_while_the_others_could_decide_nothing_without_it() {
        let without = |group: &Group, leaver, answering: &[u64]| {
            let stranded = stranded_without(group, leaver, &set(answering));
            stranded.map(|stranded| (stranded.voters, stranded.silent))
        };
        let three = group(&[1, 2, 3], &[4]);
        // Number 3 is dead.
        assert_eq!(without(&three, 2, &[1, 2, 4]), Some((set(&[1, 3]), set(&[3]))));
        assert_eq!(without(&three, 1, &[1, 2, 4]), Some((set(&[2, 3]), set(&[3]))));
        assert_eq!(without(&three, 3, &[1, 2, 4]), None, "it is what helps");
        assert_eq!(without(&three, 4, &[1, 2, 4]), None, "it does not vote");
        assert_eq!(without(&three, 2, &[1, 2, 3]), None);
        let five = group(&[1, 2, 3, 4, 5], &[]);
        assert_eq!(without(&five, 3, &[1, 2, 3, 4]), None, "three of four answer");
        assert_eq!(without(&five, 3, &[1, 2, 3]), Some((set(&[1, 2, 4, 5]), set(&[4, 5]))));
        assert_eq!(without(&group(&[1, 2], &[]), 2, &[1, 2]), None);
        assert_eq!(without(&group(&[1], &[]), 1, &[1]), None);
        let mut changing = group(&[1, 2, 3, 4], &[]);
        changing.next_voters = Some(set(&[1, 2, 4]));
        assert_eq!(without(&changing, 2, &[1, 2, 3]), Some((set(&[1, 4]), set(&[4]))));
        assert_eq!(without(&changing, 3, &[1, 2, 3]), None, "it is on its way out");
    }

    #[test]
    fn the_last_voter_is_never_taken_away() {
        let mut nodes = members(&[1, 2]);
        nodes[0].service = NodeService::Removed;
        assert_ne!(next_step(&nodes, &group(&[1], &[2]), 5), Some(Step::Remove(set(&[1]))));
        nodes[0] = member(1);
        nodes[0].vote = VotePolicy::Never;
        nodes[1].vote = VotePolicy::Never;
        assert_eq!(next_step(&nodes, &group(&[1], &[2]), 5), None);
    }
}

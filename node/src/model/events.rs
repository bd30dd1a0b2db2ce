//! Events that hit a mesh from outside: elections, ended sessions, lost disks, moved and removed repositories, bad
//! reads.

use super::random::Random;
use super::world::{NODES, State, World, register, repo, stanza};
use pgmesh_raft::{Command, ObjectRef, Replica};

pub(super) fn happen(world: &World, random: &mut Random) {
    let state = &mut *world.lock();
    match random.below(17) {
        0 | 1 => {
            let node = random.below(NODES);
            if node != state.leader {
                state.elect(node);
            }
        }
        // A deposed leader notices.
        2 => {
            let leader = state.leader;
            for (node, member) in state.members.iter_mut().enumerate() {
                member.leads &= node == leader;
            }
        }
        3..7 => state.catch_up(random.below(NODES)),
        7..10 => end_a_session(state, random),
        10 => replace_disk(state, random),
        11 => remove_or_register(state),
        12 => {
            let store = state.stores.get_mut(&repo(2)).unwrap();
            store.keeps = !store.keeps;
        }
        13 => remove_a_backup(state, random),
        14 => move_repository(state, random),
        _ => withdraw_a_replica(state, random),
    }
}

/// A session's holder, or the node that kept the session alive, is thought dead; often it is.
fn end_a_session(state: &mut State, random: &mut Random) {
    let sessions = state.view().sessions().unwrap();
    if !sessions.is_empty() {
        let (session, _) = sessions[random.below(sessions.len())];
        let reason = "thought dead".to_owned();
        let lease = None;
        state.apply(Command::ExpireSession { session, lease, reason }).unwrap();
    }
}

/// An empty repository takes the place of a repository whose disk was lost. Requests under way reach the empty one.
fn replace_disk(state: &mut State, random: &mut Random) {
    let lost = repo(2);
    let record = state.view().repository(lost).unwrap().unwrap();
    let mut uuid = record.uuid;
    if record.change.is_none() {
        if !random.one_in(2) {
            return;
        }
        let store = state.stores.get_mut(&lost).unwrap();
        store.rows.clear();
        store.disk += 1;
        uuid = store.identity(lost);
    }
    let replace = Command::ReplaceRepository {
        repo: lost,
        uuid,
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    state.apply(replace).unwrap();
}

/// A repository is removed from the mesh, comes back with all that it holds, and is owed the rest.
fn remove_or_register(state: &mut State) {
    let third = repo(3);
    let command = match state.view().repository(third).unwrap() {
        None => register(3),
        Some(record) if record.backfill.is_some() => Command::Backfill { repo: third },
        Some(_) => Command::RetireRepository {
            repo: third,
            force: true,
        },
    };
    state.apply(command).unwrap();
}

/// A repository goes to another node with all that it holds. Nodes that have not heard of it yet go on writing to the
/// old place.
fn move_repository(state: &mut State, random: &mut Random) {
    let host = format!("n{}", 1 + random.below(NODES)).parse().unwrap();
    let update = Command::UpdateRepository {
        repo: repo(1),
        definition: None,
        host: Some(Some(host)),
        wrapped_keys: None,
    };
    state.apply(update).unwrap();
}

fn remove_a_backup(state: &mut State, random: &mut Random) {
    let backups: Vec<_> = state.view().backups(&stanza(), None).map(Result::unwrap).collect();
    if !backups.is_empty() {
        let label = backups[random.below(backups.len())].0.clone();
        let stanza = stanza();
        state.apply(Command::RemoveBackup { stanza, label }).unwrap();
    }
}

/// A replica is read badly, for a bad cable perhaps.
fn withdraw_a_replica(state: &mut State, random: &mut Random) {
    let objects: Vec<(ObjectRef, Vec<Replica>)> = state.objects();
    if objects.is_empty() {
        return;
    }
    let (object, replicas) = &objects[random.below(objects.len())];
    if replicas.len() > 1 {
        let replica = replicas[random.below(replicas.len())];
        let report = Command::ReportBad {
            object: object.clone(),
            bad: state.claim(replica),
            reason: pgmesh_raft::DebtReason::Damaged,
            what: "model".to_owned(),
        };
        state.apply(report).unwrap();
    }
}

//! A log that holds an entry which cannot be applied, and the way out of it.

use std::time::Duration;
use tokio::time::Instant;

use pgmesh_storage::Digest;

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::command::NewChunk;
use crate::model::{LogIndex, RequestId, SessionId, TokenId, TokenRole};
use crate::peers::{PeerMessage, PeerReply, PeerRequest};
use crate::store::Mark;
use crate::table::Table;
use crate::{Catalog, CatalogError, CatalogOptions, Command, Proposal, key};
use pgmesh_protocol::EntryId;

const TOKEN: TokenId = TokenId([7; 16]);

fn impatient() -> CatalogOptions {
    CatalogOptions {
        patience: Duration::from_secs(3),
        ..options()
    }
}

/// A row that no command can have written: `apply` fails when it reads it. Nothing in the product makes such a row.
fn poison(node: &Catalog) {
    node.state
        .current()
        .poison(Table::Tokens, &key::token(TOKEN), b"\x01no token");
}

fn meets_the_poison() -> Command {
    Command::CreateToken {
        id: TOKEN,
        secret_hash: [1; 32],
        role: TokenRole::Admin,
        expires: 5,
    }
}

/// The entry that a node says it cannot apply.
fn named(failure: &str) -> EntryId {
    assert!(failure.contains("\"create token\" of test"), "{failure}");
    let (_, rest) = failure
        .split_once("--skip-entry=")
        .unwrap_or_else(|| panic!("{failure}"));
    let text = rest
        .split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .next();
    text.unwrap().parse().unwrap()
}

/// Has nodes meet the poison and waits until two have stopped: when two of three are gone, the last one never hears
/// that the entry is committed. Returns the entry that the stopped nodes name, and their numbers.
async fn stop_by_poison(mesh: &Mesh, poisoned: &[u64]) -> (EntryId, Vec<u64>) {
    note(&mesh.nodes[0], "before".to_owned()).await;
    let nodes = || mesh.nodes.iter().filter(|node| poisoned.contains(&node.node_id()));
    let last = mesh.leader().await.status().last_applied;
    for node in &mesh.nodes {
        wait_until("applied", || node.status().last_applied >= last).await;
    }
    nodes().for_each(poison);
    let leader = mesh.leader().await;
    let answer = leader.propose("test", meets_the_poison()).await;
    if poisoned.contains(&leader.node_id()) {
        answer.unwrap_err();
    }
    let stopped = || nodes().filter(|node| node.status().failure.is_some());
    wait_until("two have stopped", || stopped().count() >= 2).await;
    let entries: Vec<_> = stopped().map(|node| named(&node.status().failure.unwrap())).collect();
    assert!(entries.windows(2).all(|pair| pair[0] == pair[1]), "{entries:?}");
    (entries[0], stopped().map(Catalog::node_id).collect())
}

async fn stop_all(mesh: &mut Mesh) {
    for node in std::mem::take(&mut mesh.nodes) {
        mesh.lan.disconnect(node.node_id());
        // A node whose catalog has failed says so again.
        drop(node.shutdown().await);
    }
}

/// The first seconds after a start may go by with an error of a node that cannot go on.
async fn start_until_failed(mesh: &Mesh, node_id: u64) -> String {
    let dir = mesh.root.path().join(node_id.to_string());
    match Catalog::open_with_peers(&dir, mesh.options.clone(), mesh.lan.from(node_id)).await {
        Err(error) => error.to_string(),
        Ok(catalog) => {
            mesh.lan.connect(&catalog);
            wait_until("failed again", || catalog.status().failure.is_some()).await;
            let failure = catalog.status().failure.unwrap();
            mesh.lan.disconnect(node_id);
            drop(catalog.shutdown().await);
            failure
        }
    }
}

async fn start_all(mesh: &mut Mesh, nodes: std::ops::RangeInclusive<u64>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for node_id in nodes {
        // The process that is gone lets its databases go a moment later.
        loop {
            let dir = mesh.root.path().join(node_id.to_string());
            let peers = mesh.lan.from(node_id);
            match Catalog::open_with_peers(&dir, mesh.options.clone(), peers).await {
                Ok(catalog) => {
                    mesh.lan.connect(&catalog);
                    mesh.nodes.push(catalog);
                    break;
                }
                Err(CatalogError::InUse(_)) if Instant::now() < deadline => {}
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn skip_lines(node: &Catalog, entry: EntryId) -> usize {
    let start = format!("entry {entry} of the log was skipped; it held 1 commands");
    notes(node).iter().filter(|what| what.starts_with(&start)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_no_node_can_apply_is_left_out_by_all() {
    let mut mesh = Mesh::new(3, impatient()).await;
    let (entry, stopped) = stop_by_poison(&mesh, &[1, 2, 3]).await;
    for node in &mesh.nodes {
        // The entries before it are kept, and the position is written with them.
        assert!(notes(node).contains("before"));
        assert!(node.state.mark().applied < entry.index);
    }
    stop_all(&mut mesh).await;
    // A restart does not help; the message is the same.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = start_until_failed(&mesh, stopped[0]).await;
    assert_eq!(named(&again), entry);

    mesh.options.skip_entries = vec![entry];
    start_all(&mut mesh, 1..=3).await;
    note(&mesh.leader().await, "after".to_owned()).await;
    mesh.compare().await;
    for node in &mesh.nodes {
        assert_eq!(skip_lines(node, entry), 1, "node {}", node.node_id());
        assert_eq!(node.status().skipped, [entry]);
    }
    // Given once, it is remembered; given again, it changes nothing.
    for options in [vec![], vec![entry]] {
        stop_all(&mut mesh).await;
        mesh.options.skip_entries = options;
        start_all(&mut mesh, 1..=3).await;
        note(&mesh.leader().await, "again".to_owned()).await;
        mesh.compare().await;
    }
    assert_eq!(skip_lines(&mesh.nodes[0], entry), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_which_one_has_skipped_do_not_work_together() {
    let options = CatalogOptions {
        // The log is kept whole until a snapshot is asked for.
        entries_per_snapshot: 10_000,
        ..impatient()
    };
    let mut mesh = Mesh::new(3, options).await;
    // The third leads: it applies the entry, which is good there.
    while mesh.leader().await.node_id() != 3 {
        mesh.leader().await.step_aside().await;
    }
    let (entry, _) = stop_by_poison(&mesh, &[1, 2]).await;
    let third = mesh.node(3);
    wait_until("the third has applied it", || third.state.mark().applied >= entry.index).await;
    drop(third);
    stop_all(&mut mesh).await;
    mesh.options.skip_entries = vec![entry];
    start_all(&mut mesh, 1..=2).await;
    note(&mesh.leader().await, "without the third".to_owned()).await;
    let has_skipped = |node: &Catalog| node.status().skipped == [entry];
    assert!(mesh.nodes.iter().all(has_skipped));

    // The third node's state differs from the others'.
    mesh.options.skip_entries = vec![];
    start_all(&mut mesh, 3..=3).await;
    let third = mesh.nodes[2].clone();
    note(&mesh.leader().await, "the two go on".to_owned()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let index = third.state.mark().applied;
    note(&mesh.leader().await, "and on".to_owned()).await;
    assert!(
        third
            .propose(
                "test",
                Command::Audit {
                    what: "from the third".to_owned()
                }
            )
            .await
            .is_err()
    );
    assert_eq!(third.state.mark().applied, index, "nothing of the others reaches it");
    assert!(third.view_linearizable().await.is_err());
    assert!(!notes(&mesh.nodes[0]).contains("from the third"));

    // It cannot leave out an entry that it has applied; a node that joins with an empty disk has the others' state.
    drop(third);
    let third = mesh.nodes.pop().unwrap();
    mesh.lan.disconnect(3);
    drop(third.shutdown().await);
    drop(third);
    tokio::time::sleep(Duration::from_millis(200)).await;
    mesh.options.skip_entries = vec![entry];
    let dir = mesh.root.path().join("3");
    let refused = Catalog::open_with_peers(&dir, mesh.options.clone(), mesh.lan.from(3)).await;
    assert!(matches!(refused, Err(CatalogError::CannotSkip(_))));
    mesh.options.skip_entries = vec![];
    // The node is not told to skip the entry: the first gets it by replay, the second by replay or with the snapshot.
    for (name, number) in [("n4", 4), ("n5", 5)] {
        let node_id = mesh.admit(name, number).await;
        mesh.join(node_id).await;
        let new = mesh.node(node_id);
        let applied = mesh.leader().await.status().last_applied;
        wait_until("caught up", || new.status().last_applied >= applied).await;
        assert_eq!(new.status().skipped, [entry]);
        assert_eq!(skip_lines(&new, entry), 1);
        // It remembers it before it comes to it.
        drop(new);
        mesh.kill(node_id).await;
        mesh.wait_until_closed(node_id).await;
        mesh.start(node_id).await;
        let new = mesh.node(node_id);
        let leader = mesh.leader().await;
        note(&leader, format!("after {name}")).await;
        let applied = leader.status().last_applied;
        wait_until("caught up again", || new.status().last_applied >= applied).await;
        assert_eq!(new.status().skipped, [entry]);
        for number in 0..30 {
            note(&leader, format!("note {number}")).await;
        }
        leader.begin_snapshot().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_could_not_give_back_is_not_written() {
    let mesh = Mesh::new(1, impatient()).await;
    let node = &mesh.nodes[0];
    let chunk = NewChunk {
        digest: Digest([1; 32]),
        length: 1,
        stored_length: 1,
        claims: Vec::new(),
    };
    let proposal = Proposal {
        id: RequestId([1; 16]),
        at: 1,
        actor: "test".to_owned(),
        command: Command::AddChunks {
            session: SessionId(LogIndex(1)),
            ack: 1,
            chunks: vec![chunk; 400_000],
        },
    };
    let before = node.status().last_log;
    let refused = node.propose_stamped(proposal.clone()).await;
    assert!(matches!(refused, Err(CatalogError::Refused(_))), "{refused:?}");
    // Nor when another node forwards it that has not looked.
    let forwarded = PeerRequest {
        to: node.node_id(),
        from: 0,
        address: String::new(),
        known: None,
        mark: Mark::default(),
        message: PeerMessage::Propose(vec![proposal]),
    };
    assert!(matches!(node.answer(forwarded).await, PeerReply::Proposed(Err(_))));
    assert_eq!(node.status().last_log, before);
}

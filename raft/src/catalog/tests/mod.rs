//! The catalog on real disks: restarts, kills, snapshots, replication.

mod harness;
mod lan;
mod large;
mod lead;
mod levels;
mod members;
mod mesh;
mod old_copies;
mod parted;
mod rescue;
mod skip;
mod torn_disks;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command as Process, Stdio};

use futures::future::join_all;
use openraft::LogIdOptionExt;
use pgmesh_storage::DigestSuite;

use self::lan::Lan;
use super::ask::PROPOSAL_BYTES;
use super::*;
use crate::apply::Base;
use crate::model::{LogIndex, NodeService, RequestId, VotePolicy};
use crate::table::Table;

const LIMIT: Option<Duration> = Some(Duration::from_secs(30));

fn mesh() -> MeshRecord {
    MeshRecord {
        mesh_id: "m".to_owned(),
        suite: DigestSuite::Blake3,
        created: 1,
        catalog_format: MeshRecord::CATALOG_FORMAT,
    }
}

fn node(node_id: u64) -> NodeRecord {
    NodeRecord {
        node_id,
        region: String::new(),
        advertise: vec![format!("localhost:{node_id}")],
        key: [0; 32],
        administrator: [0; 32],
        program: String::new(),
        service: NodeService::InService,
        vote: VotePolicy::Auto,
        revoked: Vec::new(),
        reaches: BTreeSet::new(),
    }
}

fn options() -> CatalogOptions {
    CatalogOptions {
        entries_per_snapshot: 20,
        entries_kept: 0,
        ..CatalogOptions::default()
    }
}

async fn create(dir: &Path) -> Catalog {
    let name = "n1".parse().unwrap();
    Catalog::create(dir, mesh(), name, node(1), options()).await.unwrap()
}

async fn note(catalog: &Catalog, what: String) {
    let (id, command) = (RequestId::random(), Command::Audit { what });
    // As a client does: if the node hears of no majority at the moment, it is asked again, with the same request id and
    // one effect.
    for _ in 0..10 {
        match catalog.propose_as("test", id, command.clone()).await {
            Err(CatalogError::NoQuorum(_)) => {}
            answer => {
                answer.unwrap();
                return;
            }
        }
    }
    panic!("no majority in ten tries");
}

fn notes(catalog: &Catalog) -> BTreeSet<String> {
    let view = catalog.view();
    view.audit(LogIndex(0)).map(|row| row.unwrap().1.what).collect()
}

type Dump = Vec<(Table, Vec<u8>, Vec<u8>)>;

fn dump(catalog: &Catalog) -> Dump {
    let state = catalog.state.current();
    let mut rows = Vec::new();
    for table in Table::ALL {
        for row in state.scan(table, &[], &[]) {
            let (key, value) = row.unwrap();
            rows.push((table, key, value));
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let missing = Catalog::open(&path, options()).await;
    assert!(matches!(missing, Err(CatalogError::Missing(_))));
    let catalog = create(&path).await;
    note(&catalog, "before".to_owned()).await;
    // Dropped, not shut down.
    drop(catalog);
    let catalog = Catalog::open(&path, options()).await.unwrap();
    let view = catalog.view_linearizable().await.unwrap();
    assert_eq!(view.mesh().unwrap(), Some(mesh()));
    assert_eq!(view.nodes().unwrap(), [("n1".parse().unwrap(), node(1))]);
    drop(view);
    assert!(notes(&catalog).contains("before"));
    note(&catalog, "after".to_owned()).await;
    catalog.shutdown().await.unwrap();
    let late = catalog.propose("test", Command::Audit { what: String::new() });
    assert!(matches!(late.await, Err(CatalogError::Stopped(_))));
    drop(catalog);
    let again = Catalog::create(&path, mesh(), "n1".parse().unwrap(), node(1), options());
    assert!(matches!(again.await, Err(CatalogError::Exists(_))));
    let catalog = Catalog::open(&path, options()).await.unwrap();
    assert!(notes(&catalog).contains("after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_founding_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let catalog = create(&path).await;
    drop(catalog);
    std::fs::remove_file(path.join("catalog.json")).unwrap();
    let missing = Catalog::open(&path, options()).await;
    assert!(matches!(missing, Err(CatalogError::Missing(_))));
    create(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_back_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = create(&dir.path().join("catalog")).await;
    let stanza: pgmesh_storage::StanzaName = "main".parse().unwrap();
    let start = Command::StartStanza { stanza: stanza.clone() };
    let refused = catalog.propose("test", start).await;
    let unknown = crate::Refusal::UnknownStanza(stanza);
    assert!(matches!(refused, Err(CatalogError::Refused(refusal)) if refusal == unknown));
    let what = "x".repeat(PROPOSAL_BYTES);
    let large = catalog.propose("test", Command::Audit { what }).await;
    let beyond = |refusal: &crate::Refusal| matches!(refusal, crate::Refusal::BeyondLimit { .. });
    assert!(matches!(large, Err(CatalogError::Refused(refusal)) if beyond(&refusal)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_proposals_share_few_log_entries() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = create(&dir.path().join("catalog")).await;
    let before = catalog.status().last_log.unwrap();
    join_all((0..500).map(|number| note(&catalog, format!("note {number}")))).await;
    let entries = catalog.status().last_log.unwrap() - before;
    assert!(entries <= 100, "{entries} entries for 500 proposals");
    assert_eq!(
        notes(&catalog).iter().filter(|what| what.starts_with("note")).count(),
        500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_replace_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let catalog = create(&path).await;
    for number in 0..60 {
        note(&catalog, format!("note {number}")).await;
    }
    let is_purged = |metrics: &openraft::RaftMetrics<u64, BasicNode>| metrics.purged.index() >= Some(20);
    let wait = catalog.way.raft.wait(LIMIT);
    wait.metrics(is_purged, "purged").await.unwrap();
    let before = notes(&catalog);
    drop(catalog);
    let catalog = Catalog::open(&path, options()).await.unwrap();
    catalog.view_linearizable().await.unwrap();
    assert_eq!(notes(&catalog), before);
    note(&catalog, "after".to_owned()).await;
    // Another snapshot may be under way; it leaves nothing either.
    let left = || {
        let entries = std::fs::read_dir(path.join("state")).unwrap();
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))
    };
    let deadline = tokio::time::Instant::now() + LIMIT.unwrap();
    while left() {
        assert!(tokio::time::Instant::now() < deadline, "temporary files stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_the_snapshot_and_then_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let lan = Arc::new(Lan::default());
    let name = "n1".parse().unwrap();
    let path = dir.path().join("one");
    let peers = lan.from(1);
    let one = Catalog::create_with_peers(&path, mesh(), name, node(1), options(), peers)
        .await
        .unwrap();
    for number in 0..60 {
        note(&one, format!("note {number}")).await;
    }
    let is_purged = |metrics: &openraft::RaftMetrics<u64, BasicNode>| metrics.purged.index() >= Some(20);
    one.way.raft.wait(LIMIT).metrics(is_purged, "purged").await.unwrap();
    let folder = Folder::create(&dir.path().join("two")).await.unwrap();
    let peers = lan.from(2);
    let two = Catalog::start(&folder, Some(2), peers, &options()).await.unwrap();
    lan.connect(&one);
    lan.connect(&two);
    let old_view = two.view();
    one.way.raft.add_learner(2, BasicNode::new("two"), true).await.unwrap();
    for number in 60..100 {
        note(&one, format!("note {number}")).await;
    }
    one.way.raft.change_membership([1, 2], false).await.unwrap();
    note(&one, "with two voters".to_owned()).await;
    let last = one.status().last_applied;
    two.way
        .raft
        .wait(LIMIT)
        .applied_index_at_least(last, "caught up")
        .await
        .unwrap();
    assert!(two.status().snapshot.is_some());
    // A view from before the snapshot was installed still reads the old state.
    assert_eq!(old_view.applied().unwrap(), LogIndex(0));
    assert!(two.view().applied().unwrap() > LogIndex(100));
    // Invariant 10: the same state, byte for byte.
    assert_eq!(dump(&one), dump(&two));
    note(&two, "by way of the other".to_owned()).await;
    assert!(notes(&two).contains("by way of the other"));
    folder.complete().unwrap();
    let before = dump(&two);
    lan.disconnect(1);
    lan.disconnect(2);
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
    drop((one, two, old_view, folder));
    let two = Catalog::open(&dir.path().join("two"), options()).await.unwrap();
    assert_eq!(dump(&two), before);
}

/// The killed process: it proposes without end, and prints the acknowledged notes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_killed_process_loses_nothing_that_was_acknowledged"]
async fn victim() {
    let Ok(dir) = std::env::var("PGMESH_VICTIM_DIR") else {
        return;
    };
    let round = std::env::var("PGMESH_VICTIM_ROUND").unwrap();
    let path = Path::new(&dir);
    let catalog = if path.join("catalog.json").exists() {
        Catalog::open(path, options()).await.unwrap()
    } else {
        create(path).await
    };
    let endless = (0..16).map(|worker| {
        let (catalog, round) = (catalog.clone(), round.clone());
        async move {
            for number in 0_u64.. {
                let what = format!("{round}/{worker}/{number}");
                note(&catalog, what.clone()).await;
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {what}").unwrap();
                out.flush().unwrap();
            }
        }
    });
    join_all(endless).await;
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog");
    let mut acknowledged = BTreeSet::new();
    for round in 0..6_usize {
        let mut victim = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "catalog::tests::victim", "--ignored", "--nocapture"])
            .env("PGMESH_VICTIM_DIR", &path)
            .env("PGMESH_VICTIM_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut read = |line: Option<std::io::Result<String>>| {
            let Some(Ok(line)) = line else { return false };
            if let Some((_, what)) = line.split_once("acknowledged ") {
                acknowledged.insert(what.to_owned());
            }
            true
        };
        for _ in 0..(50 + round * 157) {
            assert!(read(lines.next()), "the victim ended by itself");
        }
        victim.kill().unwrap();
        while read(lines.next()) {}
        victim.wait().unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let known = runtime.block_on(async {
        let catalog = Catalog::open(&path, options()).await.unwrap();
        catalog.view_linearizable().await.unwrap();
        notes(&catalog)
    });
    let lost: Vec<_> = acknowledged.difference(&known).collect();
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
    assert!(lost.is_empty(), "lost {lost:?}");
}

//! A disk that has lost confirmed writes: the end of the log, or of a database's list of its files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::{Catalog, CatalogError, CatalogOptions, Standing};

/// The newest file in a folder whose name begins or ends so.
fn newest(folder: &Path, matches: impl Fn(&str) -> bool) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| matches(path.file_name().unwrap().to_str().unwrap()))
        .collect();
    files.sort();
    files.pop().unwrap()
}

fn cut(file: &Path, percent: u64) {
    let length = fs::metadata(file).unwrap().len();
    File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(length * percent / 100)
        .unwrap();
}

fn manifest(database: &Path) -> PathBuf {
    newest(database, |name| name.starts_with("MANIFEST-"))
}

/// The state database in use.
fn state_database(catalog: &Path) -> PathBuf {
    let name = fs::read_to_string(catalog.join("state/CURRENT")).unwrap();
    catalog.join("state").join(name.trim())
}

/// The folder of the newest snapshot.
fn snapshot(catalog: &Path) -> PathBuf {
    let pointer = fs::read(catalog.join("state/SNAPSHOT")).unwrap();
    let pointer: serde_json::Value = serde_json::from_slice(&pointer).unwrap();
    catalog.join("state").join(pointer["folder"].as_str().unwrap())
}

async fn write(catalog: &Catalog, round: u64, count: u64) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for number in 0..count {
        let what = format!("{round} {number}");
        note(catalog, what.clone()).await;
        // Not the audit table alone.
        let stanza: pgmesh_storage::StanzaName = format!("s{round}-{number}").parse().unwrap();
        let start = crate::Command::StartStanza { stanza };
        let _ = catalog.propose("test", start).await;
        written.insert(what);
    }
    written
}

/// The state's list of files is cut, after databases of several sizes were flushed at several moments.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_has_lost_the_end_of_its_list_of_files_is_made_anew() {
    for (restarts, entries_per_snapshot, percents) in [
        (1, 10_000, [60, 77, 85]),
        (2, 10_000, [75, 80, 95]),
        (2, 30, [75, 80, 85]),
    ] {
        for percent in percents {
            let options = CatalogOptions {
                entries_per_snapshot,
                write_buffer: 1 << 20,
                ..options()
            };
            let mut mesh = Mesh::new(1, options).await;
            let mut acknowledged = BTreeSet::new();
            for round in 0..restarts {
                acknowledged.extend(write(&mesh.nodes[0], round, 20).await);
                mesh.kill(1).await;
                mesh.start(1).await;
            }
            acknowledged.extend(write(&mesh.nodes[0], 99, 5).await);
            mesh.kill(1).await;
            mesh.wait_until_closed(1).await;
            cut(&manifest(&state_database(&mesh.dir(1))), percent);
            mesh.start(1).await;
            mesh.nodes[0].view_linearizable().await.unwrap();
            let lost: Vec<_> = acknowledged.difference(&notes(&mesh.nodes[0])).cloned().collect();
            assert!(
                lost.is_empty(),
                "{percent} %, {restarts} restarts, a snapshot every {entries_per_snapshot}: {} lost",
                lost.len()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_made_anew_is_not_served() {
    let mut mesh = Mesh::new(1, options()).await;
    for round in 0..4 {
        write(&mesh.nodes[0], round, 20).await;
    }
    let node = mesh.nodes[0].clone();
    wait_until("purged", || node.status().purged.is_some()).await;
    drop(node);
    mesh.kill(1).await;
    mesh.wait_until_closed(1).await;
    let dir = mesh.dir(1);
    let database = state_database(&dir);
    cut(&manifest(&database), 30);
    cut(&manifest(&snapshot(&dir)), 30);
    let before: BTreeSet<_> = fs::read_dir(&database)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let opened = Catalog::open(&dir, mesh.options.clone()).await;
    assert!(matches!(opened, Err(CatalogError::LostState { .. })), "{opened:?}");
    // Nothing that may still be of use is removed.
    let after: BTreeSet<_> = fs::read_dir(&database)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(before.iter().any(|name| after.contains(name)));
}

/// A disk that has put an older list of files in the place of the snapshot's: the database opens without an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_not_made_anew_from_an_older_snapshot_under_the_name_of_the_newest() {
    let mut mesh = Mesh::new(1, options()).await;
    let (dir, node) = (mesh.dir(1), mesh.nodes[0].clone());
    write(&node, 0, 20).await;
    node.begin_snapshot().await.unwrap();
    wait_until("a snapshot", || dir.join("state/SNAPSHOT").exists()).await;
    let older = dir.join("older");
    fs::create_dir(&older).unwrap();
    for entry in fs::read_dir(snapshot(&dir)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), older.join(entry.file_name())).unwrap();
    }
    let first = node.status().snapshot;
    for round in 1..4 {
        write(&node, round, 20).await;
    }
    wait_until("purged", || {
        node.status().snapshot > first && node.status().purged.is_some()
    })
    .await;
    drop(node);
    mesh.kill(1).await;
    mesh.wait_until_closed(1).await;
    cut(&manifest(&state_database(&dir)), 30);
    let newest = snapshot(&dir);
    fs::remove_dir_all(&newest).unwrap();
    fs::rename(&older, &newest).unwrap();
    let opened = Catalog::open(&dir, mesh.options.clone()).await;
    assert!(matches!(opened, Err(CatalogError::LostState { .. })), "{opened:?}");
}

/// Tables and snapshot share their files: if a file is damaged in both, the snapshot is not taken for whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_not_made_anew_from_a_snapshot_with_a_damaged_table() {
    let mut mesh = Mesh::new(1, options()).await;
    for round in 0..4 {
        write(&mesh.nodes[0], round, 20).await;
    }
    let node = mesh.nodes[0].clone();
    wait_until("purged", || node.status().purged.is_some()).await;
    drop(node);
    mesh.kill(1).await;
    mesh.wait_until_closed(1).await;
    let dir = mesh.dir(1);
    cut(&manifest(&state_database(&dir)), 30);
    for entry in fs::read_dir(snapshot(&dir)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = fs::read(&path).unwrap();
            // In the first block: the index and the footer, which opening reads, are whole.
            bytes[8] ^= 0x40;
            fs::write(&path, bytes).unwrap();
        }
    }
    let opened = Catalog::open(&dir, mesh.options.clone()).await;
    assert!(matches!(opened, Err(CatalogError::LostState { .. })), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_lost_its_end_is_found_by_the_others() {
    for percent in [40, 70, 90] {
        let options = CatalogOptions {
            entries_per_snapshot: 10_000,
            ..options()
        };
        let mut mesh = Mesh::new(3, options).await;
        let mut acknowledged = write(&mesh.leader().await, 0, 10).await;
        let torn = mesh.follower().await.node_id();
        let node = mesh.node(torn);
        wait_until("it has it", || notes(&node).is_superset(&acknowledged)).await;
        drop(node);
        mesh.kill(torn).await;
        mesh.wait_until_closed(torn).await;
        // The state is cut, too: otherwise it still has the entries that the log has lost.
        for database in [mesh.dir(torn).join("log"), state_database(&mesh.dir(torn))] {
            cut(&newest(&database, |name| name.ends_with(".log")), percent);
        }
        mesh.start(torn).await;
        let node = mesh.node(torn);
        wait_until("it finds out", || {
            matches!(*node.standing().borrow(), Standing::Behind(_))
        })
        .await;
        drop(node);
        acknowledged.extend(write(&mesh.leader().await, 1, 5).await);
        mesh.begin_anew(torn).await;
        let leader = mesh.leader().await;
        acknowledged.extend(write(&leader, 2, 1).await);
        leader.view_linearizable().await.unwrap();
        assert!(acknowledged.is_subset(&notes(&leader)));
        mesh.compare().await;
    }
}

/// The log's own list of files is cut: then the entries and the record of the log's end lie in different files.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_lost_the_end_of_its_list_of_files_is_not_taken_for_whole() {
    let mut found = 0;
    for percent in [60, 75, 80, 85, 90, 95] {
        let mut mesh = Mesh::new(1, options()).await;
        let acknowledged = write(&mesh.nodes[0], 0, 10).await;
        mesh.kill(1).await;
        mesh.start(1).await;
        mesh.kill(1).await;
        mesh.wait_until_closed(1).await;
        let dir = mesh.dir(1);
        cut(&manifest(&dir.join("log")), percent);
        match Catalog::open(&dir, mesh.options.clone()).await {
            Ok(catalog) => {
                catalog.view_linearizable().await.unwrap();
                assert!(acknowledged.is_subset(&notes(&catalog)), "{percent} %");
            }
            Err(error) => {
                println!("{percent} %: {error}");
                found += 1;
            }
        }
    }
    assert!(found > 0);
}

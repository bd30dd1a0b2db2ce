//! A measurement: a catalog of a million WAL segments and five million chunks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use pgmesh_storage::{DbId, Digest, Generation, RepoKey};

use super::lan::Lan;
use super::{mesh, node};
use crate::apply::Writes;
use crate::apply::scenario::{create_stanza, push_segment, register, stanza};
use crate::model::{ChunkRecord, LogIndex, Replica, SegmentRecord};
use crate::table::Table;
use crate::{Catalog, CatalogOptions, Command, key, value};

const SEGMENTS: u32 = 1_000_000;
const CHUNKS: u32 = 5_000_000;
const ROWS: u32 = 10_000;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Scattered over all digests, as real ones are.
fn digest(number: u32) -> Digest {
    let mut bytes = [0; 32];
    let mut seed = u64::from(number) + 1;
    for part in bytes.chunks_mut(8) {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        part.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    Digest(bytes)
}

fn replicas() -> Vec<Replica> {
    [1, 2]
        .map(|repo| Replica {
            repo: RepoKey::try_from(repo).unwrap(),
            generation: Generation(0),
        })
        .to_vec()
}

fn fill(catalog: &Catalog) {
    let state = catalog.state.current();
    let raft = state.raft_state().unwrap();
    let mut writes = Writes::new();
    let mut record = SegmentRecord {
        object: push_segment(1, 1, 1).object.stored(replicas()),
        pushed_at: 1,
        pushed: LogIndex(1),
        expired: crate::ExpiredIn::new(),
    };
    for number in 0..SEGMENTS {
        let name = format!("{:08X}{:08X}{:08X}", 9, number / 256, number % 256);
        record.object.digest = digest(number);
        let row = (Table::Segments, key::segment(&stanza(), DbId(1), &name));
        writes.insert(row, Some(value::encode(&record)));
        if writes.len() >= ROWS as usize {
            state.write(&std::mem::take(&mut writes), &raft).unwrap();
        }
    }
    let chunk = ChunkRecord {
        length: 1 << 20,
        stored_length: 400_000,
        replicas: replicas(),
        condemned: None,
        suspected: None,
        added: LogIndex(1),
    };
    for number in 0..CHUNKS {
        let row = (Table::Chunks, key::chunk(&digest(number)));
        writes.insert(row, Some(value::encode(&chunk)));
        if writes.len() >= ROWS as usize {
            state.write(&std::mem::take(&mut writes), &raft).unwrap();
        }
    }
    state.write(&writes, &raft).unwrap();
}

/// The median of single pushes to each of two catalogs, alternately, and of linearizable looks of the second at a
/// hundred digests.
async fn latencies(empty: &Catalog, large: &Catalog, first: u32) -> String {
    let (mut pushes, mut looks) = ([Vec::new(), Vec::new()], Vec::new());
    for number in 0..800 {
        let catalog = [empty, large][number as usize % 2];
        let mut push = push_segment(1, 0, 1);
        push.file = format!("{:08X}{:08X}{:08X}", 1, (first + number) / 256, (first + number) % 256)
            .parse()
            .unwrap();
        push.object.digest = digest(u32::MAX - first - number);
        push.checked_at = catalog.view().applied().unwrap();
        let began = Instant::now();
        let command = Command::PushSegment(Box::new(push));
        catalog.propose("test", command).await.unwrap();
        pushes[number as usize % 2].push(began.elapsed());
        let asked: Vec<_> = (0..100)
            .map(|offset| digest((number * 7919 + offset * 104_729) % CHUNKS))
            .collect();
        let began = Instant::now();
        large.view_linearizable().await.unwrap().chunk_states(&asked).unwrap();
        looks.push(began.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let [empty, large] = pushes.map(median);
    let looks = median(looks);
    format!("push {empty:?} (empty), {large:?} (large); 100 digests {looks:?}")
}

async fn founded(dir: &Path, options: &CatalogOptions) -> Catalog {
    let name = "n1".parse().unwrap();
    let catalog = Catalog::create(dir, mesh(), name, node(1), options.clone())
        .await
        .unwrap();
    for command in [register(1), register(2), create_stanza(7)] {
        catalog.propose("test", command).await.unwrap();
    }
    catalog
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of several minutes"]
async fn a_large_catalog() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("1");
    let lan = Arc::new(Lan::default());
    let options = CatalogOptions {
        entries_kept: 0,
        ..CatalogOptions::default()
    };
    let empty = founded(&root.path().join("empty"), &options).await;
    let catalog = founded(&dir, &options).await;
    println!("{}", latencies(&empty, &catalog, 0).await);
    let began = Instant::now();
    fill(&catalog);
    println!("filled in {:?}, resident {} MiB", began.elapsed(), resident_mib());
    drop(catalog);

    let began = Instant::now();
    let catalog = Catalog::open_with_peers(&dir, options.clone(), lan.from(1))
        .await
        .unwrap();
    catalog.view_linearizable().await.unwrap();
    println!("opened in {:?}, resident {} MiB", began.elapsed(), resident_mib());
    for round in 1..=4 {
        println!(
            "{}, resident {} MiB",
            latencies(&empty, &catalog, round * 1_000).await,
            resident_mib()
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    let began = Instant::now();
    catalog.begin_snapshot().await.unwrap();
    while catalog.status().snapshot.is_none_or(|index| index < 400) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("snapshot in {:?}, resident {} MiB", began.elapsed(), resident_mib());

    let other = root.path().join("2");
    Catalog::create_joining(&other, 2, &options).await.unwrap();
    let two = Catalog::open_with_peers(&other, options, lan.from(2)).await.unwrap();
    lan.connect(&catalog);
    lan.connect(&two);
    // The entries of the snapshot must be gone from the log, or the learner is given the log.
    for number in 0..6_000 {
        let what = format!("{number}");
        catalog.propose("test", Command::Audit { what }).await.unwrap();
    }
    catalog.begin_snapshot().await.unwrap();
    while catalog.status().purged.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    catalog.add_learner(2, "lan:2").await.unwrap();
    let applied = catalog.view().applied().unwrap();
    while two.view().applied().unwrap() < applied {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "a learner has it after {:?}, resident {} MiB (both nodes)",
        began.elapsed(),
        resident_mib()
    );
    assert!(two.view().applied().unwrap() > LogIndex(0));
    println!("with the learner: {}", latencies(&empty, &catalog, 10_000).await);
}

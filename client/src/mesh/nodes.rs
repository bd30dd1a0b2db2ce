//! The nodes that this host knows: in memory, and in the cache file for the next command.

use super::cache::{MeshCache, Stranger};
use super::candidates::{Candidate, Ways, candidates};
use pgmesh_protocol::NodeAddress;
use pgmesh_runtime::clock;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A round trip that differs less, in microseconds, is the same.
const ROUND_TRIP_NOISE: u64 = 2000;

/// The nodes to ask, and how earlier connections to them went.
#[derive(Debug)]
pub struct Nodes {
    folder: PathBuf,
    mesh: String,
    ways: Ways,
    cache: Mutex<MeshCache>,
}

/// A node that was reached.
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// Its name, by its certificate.
    pub name: &'a str,
    /// The address that led to it.
    pub address: &'a str,
    /// The measured round trip.
    pub round_trip: Duration,
}

impl Nodes {
    /// The memory of `mesh` in `folder`.
    pub fn open(folder: PathBuf, mesh: String, ways: Ways) -> Self {
        let cache = Mutex::new(MeshCache::read(&folder, &mesh));
        Self {
            folder,
            mesh,
            ways,
            cache,
        }
    }

    /// All candidates, the best first.
    pub fn candidates(&self) -> Vec<Candidate> {
        candidates(&self.ways, &self.lock(), now_milliseconds())
    }

    /// Notes the outcome of a race: the node that was reached, and the candidates that come last for a while.
    pub fn raced(&self, failed: &[&Candidate], reached: Option<Reached<'_>>) {
        let now = now_milliseconds();
        self.update(|cache| {
            for candidate in failed {
                penalize(cache, candidate, now);
            }
            if let Some(reached) = reached {
                note(cache, reached);
            }
        });
    }

    /// Notes the mesh's nodes, as the reached node told them.
    pub fn learn(&self, nodes: &[NodeAddress], from: Reached<'_>) {
        self.update(|cache| {
            cache.learn(nodes);
            note(cache, from);
        });
    }

    /// The node is to come last for a while.
    pub fn failed(&self, name: &str) {
        let now = now_milliseconds();
        self.update(|cache| {
            if let Some(node) = cache.node_mut(name) {
                node.failed = Some(now);
            }
        });
    }

    /// Notes whether the reached node's authority is another one than this host's.
    pub fn saw_authority(&self, is_other: bool) {
        self.update(|cache| cache.is_other_authority = is_other);
    }

    /// Whether the node that was reached last had another authority.
    pub fn is_other_authority(&self) -> bool {
        self.lock().is_other_authority
    }

    /// When a new certificate was asked for last, Unix seconds.
    pub fn renewal_asked(&self) -> Option<i64> {
        self.lock().renewal_asked
    }

    /// Notes that a new certificate is asked for now; whether the file has the note.
    pub fn asks_for_renewal(&self, now: i64) -> bool {
        self.update(|cache| cache.renewal_asked = Some(now))
    }

    /// Changes the memory, here and in the file as other processes have left it; the file is written only when the
    /// change is new to it. Whether the file has the change.
    fn update(&self, change: impl Fn(&mut MeshCache)) -> bool {
        let mut cache = self.lock();
        let before = cache.clone();
        change(&mut cache);
        if *cache == before {
            return true;
        }
        let mut stored = MeshCache::read(&self.folder, &self.mesh);
        let before = stored.clone();
        if stored.nodes.is_empty() {
            stored.nodes.clone_from(&cache.nodes);
        }
        change(&mut stored);
        stored == before || stored.write(&self.folder)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MeshCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn penalize(cache: &mut MeshCache, candidate: &Candidate, now: i64) {
    match &candidate.name {
        Some(name) => {
            if let Some(node) = cache.node_mut(name) {
                node.failed = Some(now);
            }
        }
        None => {
            for address in &candidate.addresses {
                cache.strangers.retain(|stranger| stranger.address != *address);
                cache.strangers.push(Stranger {
                    address: address.clone(),
                    failed: now,
                });
            }
        }
    }
}

/// Notes a node that was reached: it has not failed, and its address is no stranger's.
fn note(cache: &mut MeshCache, reached: Reached<'_>) {
    cache.strangers.retain(|stranger| stranger.address != reached.address);
    let Some(node) = cache.node_mut(reached.name) else {
        return;
    };
    node.failed = None;
    if !node.addresses.iter().any(|address| address == reached.address) {
        node.reached_at = Some(reached.address.to_owned());
    }
    let measured = u64::try_from(reached.round_trip.as_micros()).unwrap_or(u64::MAX);
    if node.round_trip.is_none_or(|known| differs(known, measured)) {
        node.round_trip = Some(measured);
    }
}

/// Whether a new measurement is news.
fn differs(known: u64, measured: u64) -> bool {
    known.abs_diff(measured) > (known / 2).max(ROUND_TRIP_NOISE)
}

fn now_milliseconds() -> i64 {
    i64::try_from(clock::since_epoch().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::cache;
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn said(name: &str) -> NodeAddress {
        NodeAddress {
            name: name.to_owned(),
            region: String::new(),
            addresses: vec![format!("{name}:8433")],
            serves: true,
        }
    }

    fn reached(name: &'static str, address: &'static str, milliseconds: u32) -> Reached<'static> {
        Reached {
            name,
            address,
            round_trip: MILLISECOND * milliseconds,
        }
    }

    fn open(folder: &tempfile::TempDir) -> Nodes {
        let ways = Ways {
            seeds: vec!["seed:1".to_owned()],
            ..Ways::default()
        };
        Nodes::open(folder.path().to_owned(), "m".to_owned(), ways)
    }

    fn order(nodes: &Nodes) -> Vec<String> {
        nodes
            .candidates()
            .iter()
            .map(|candidate| candidate.addresses[0].clone())
            .collect()
    }

    #[test]
    fn a_host_learns_the_mesh_and_the_next_command_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = open(&folder);
        nodes.raced(&[], Some(reached("n1", "seed:1", 9)));
        nodes.learn(&[said("n1"), said("n2")], reached("n1", "seed:1", 9));
        nodes.raced(&[], Some(reached("n2", "n2:8433", 1)));
        assert_eq!(order(&open(&folder)), ["n2:8433", "seed:1"]);
        nodes.failed("n2");
        assert_eq!(order(&open(&folder)), ["seed:1", "n2:8433"]);
        let all = nodes.candidates();
        nodes.raced(&[&all[0]], Some(reached("n2", "n2:8433", 1)));
        assert_eq!(order(&open(&folder)), ["n2:8433", "seed:1"]);
    }

    #[test]
    fn a_silent_seed_is_remembered_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = open(&folder);
        nodes.raced(&[&nodes.candidates()[0]], None);
        let stored = MeshCache::read(folder.path(), "m");
        assert_eq!(stored.strangers[0].address, "seed:1");
        nodes.raced(&[], Some(reached("n1", "seed:1", 1)));
        assert!(MeshCache::read(folder.path(), "m").strangers.is_empty());
    }

    #[test]
    fn the_file_is_written_only_when_there_is_news() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = open(&folder);
        nodes.learn(&[said("n1")], reached("n1", "n1:8433", 10));
        let inode = || std::fs::metadata(folder.path().join(cache::FILE)).unwrap().ino();
        let before = inode();
        nodes.learn(&[said("n1")], reached("n1", "n1:8433", 12));
        nodes.raced(&[], Some(reached("n1", "n1:8433", 8)));
        assert_eq!(inode(), before, "noise is no news");
        nodes.learn(&[said("n1")], reached("n1", "n1:8433", 40));
        assert_ne!(inode(), before);
    }

    #[test]
    fn what_another_process_learnt_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (open(&folder), open(&folder));
        one.learn(&[said("n1"), said("n2")], reached("n1", "n1:8433", 1));
        other.learn(&[said("n1"), said("n2")], reached("n2", "n2:8433", 5));
        assert!(other.asks_for_renewal(77));
        one.failed("n1");
        let stored = MeshCache::read(folder.path(), "m");
        assert_eq!(stored.renewal_asked, Some(77));
        assert_eq!(stored.nodes[1].round_trip, Some(5000));
        assert!(stored.nodes[0].failed.is_some());
    }
}

//! This host's memory of the mesh between commands: `mesh.json` beside the identity.
//!
//! It only ever saves time. If the file or its folder cannot be read or written, the program goes on as if it
//! remembered less. If processes write at once, each writes a whole file, and the last one stays.

use pgmesh_protocol::NodeAddress;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// The file's name.
pub const FILE: &str = "mesh.json";

/// Of a larger file nothing is read.
const MAX_FILE: u64 = 256 << 10;
/// More nodes than any mesh has.
const MAX_NODES: usize = 128;
/// As many addresses of one node are kept.
const MAX_ADDRESSES: usize = 8;
/// A longer name or address is none.
const MAX_TEXT: usize = 260;

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshCache {
    /// Which mesh it is about.
    pub mesh: String,
    /// Its nodes.
    pub nodes: Vec<KnownNode>,
    /// Configured addresses that have failed and whose nodes are not known yet.
    pub strangers: Vec<Stranger>,
    /// When a new certificate was asked for last, Unix seconds.
    pub renewal_asked: Option<i64>,
    /// Whether the node that was reached last had a certificate of another authority than this host: the mesh's
    /// authority is being rotated.
    pub is_other_authority: bool,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownNode {
    /// Its name.
    pub name: String,
    /// Its region; empty where none is set.
    pub region: String,
    /// Where it says that it is reached, the best first.
    pub addresses: Vec<String>,
    /// Where it was reached last, where that is none of these.
    pub reached_at: Option<String>,
    /// Whether it takes clients.
    pub serves: bool,
    /// The round trip to it, in microseconds, when it was measured last.
    pub round_trip: Option<u64>,
    /// When it failed last, Unix milliseconds, if it has not been reached since.
    pub failed: Option<i64>,
}

/// A configured address whose node is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stranger {
    /// The address.
    pub address: String,
    /// When it failed last, Unix milliseconds.
    pub failed: i64,
}

impl MeshCache {
    /// The content of a file about a mesh: empty where it is damaged, or about another mesh.
    pub fn parse(content: &[u8], mesh: &str) -> Self {
        let mut cache: Self = serde_json::from_slice(content).unwrap_or_default();
        if cache.mesh != mesh {
            cache = Self::default();
        }
        mesh.clone_into(&mut cache.mesh);
        cache.bounded()
    }

    /// Reads the file of a folder.
    pub fn read(folder: &Path, mesh: &str) -> Self {
        let mut content = Vec::new();
        let path = folder.join(FILE);
        match File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut content)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!("{} cannot be read: {error}", path.display()),
        }
        Self::parse(&content, mesh)
    }

    /// Replaces the file of a folder; whether it could.
    pub fn write(&self, folder: &Path) -> bool {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{FILE}.{}.{count}.tmp", std::process::id()));
        let path = folder.join(FILE);
        let written = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|content| fs::write(&temporary, content))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = &written {
            tracing::debug!("{} cannot be written: {error}", path.display());
            // Best effort: a leftover takes a few kilobytes.
            let _ = fs::remove_file(&temporary);
        }
        written.is_ok()
    }

    /// The node of that name.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut KnownNode> {
        self.nodes.iter_mut().find(|node| node.name == name)
    }

    /// The mesh has these nodes, and no others. Measurements of known nodes are kept.
    pub fn learn(&mut self, nodes: &[NodeAddress]) {
        if nodes.is_empty() {
            return;
        }
        let known = std::mem::take(&mut self.nodes);
        let node = |said: &NodeAddress| KnownNode {
            name: said.name.clone(),
            region: said.region.clone(),
            addresses: said.addresses.clone(),
            serves: said.serves,
            ..known
                .iter()
                .find(|node| node.name == said.name)
                .cloned()
                .unwrap_or_default()
        };
        self.nodes = nodes.iter().map(node).collect();
        *self = std::mem::take(self).bounded();
    }

    /// The memory within the limits, without empty names and addresses: a file is not trusted to be ours.
    fn bounded(mut self) -> Self {
        let is_text = |text: &String| !text.is_empty() && text.len() <= MAX_TEXT;
        self.nodes
            .retain(|node| is_text(&node.name) && node.region.len() <= MAX_TEXT);
        self.nodes.truncate(MAX_NODES);
        for node in &mut self.nodes {
            node.addresses.retain(is_text);
            node.addresses.truncate(MAX_ADDRESSES);
            node.reached_at = node.reached_at.take().filter(is_text);
        }
        self.strangers.retain(|stranger| is_text(&stranger.address));
        self.strangers.truncate(MAX_NODES);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn said(name: &str, address: &str) -> NodeAddress {
        NodeAddress {
            name: name.to_owned(),
            region: "eu".to_owned(),
            addresses: vec![address.to_owned()],
            serves: true,
        }
    }

    fn cache() -> MeshCache {
        let mut cache = MeshCache::parse(b"", "m");
        cache.learn(&[said("n1", "n1:8433"), said("n2", "n2:8433")]);
        cache
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = cache();
        cache.node_mut("n2").unwrap().round_trip = Some(1500);
        cache.renewal_asked = Some(7);
        assert!(cache.write(folder.path()));
        assert_eq!(MeshCache::read(folder.path(), "m"), cache);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
        let other = MeshCache::read(folder.path(), "another mesh");
        assert_eq!((other.mesh.as_str(), other.nodes.len()), ("another mesh", 0));
    }

    #[test]
    fn what_cannot_be_read_or_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(MeshCache::read(&folder.path().join("absent"), "m").nodes.is_empty());
        assert!(!cache().write(&folder.path().join("absent")));
        fs::write(folder.path().join(FILE), b"{\"mesh\":\"m\",\"nodes\":[{\"na").unwrap();
        assert!(MeshCache::read(folder.path(), "m").nodes.is_empty());
        fs::create_dir(folder.path().join("taken")).unwrap();
        fs::create_dir(folder.path().join("taken").join(FILE)).unwrap();
        assert!(!cache().write(&folder.path().join("taken")));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        // Root writes anyway; the test only shows that nothing panics.
        let _ = cache().write(folder.path());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_new_list_replaces_the_old_one_and_keeps_what_was_measured() {
        let mut cache = cache();
        cache.node_mut("n1").unwrap().round_trip = Some(900);
        cache.learn(&[said("n3", "n3:8433"), said("n1", "elsewhere:8433")]);
        let names: Vec<&str> = cache.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["n3", "n1"]);
        assert_eq!(cache.nodes[1].round_trip, Some(900));
        assert_eq!(cache.nodes[1].addresses, ["elsewhere:8433"]);
        cache.learn(&[]);
        assert_eq!(cache.nodes.len(), 2, "an empty list is no list");
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut cache = cache();
        let many: Vec<NodeAddress> = (0..1000)
            .map(|number| NodeAddress {
                addresses: vec!["a:1".to_owned(); 100],
                ..said(&format!("n{number}"), "")
            })
            .collect();
        cache.learn(&many);
        assert_eq!(cache.nodes.len(), MAX_NODES);
        assert!(cache.nodes.iter().all(|node| node.addresses.len() == MAX_ADDRESSES));
        let long = format!("{{\"mesh\":\"m\",\"nodes\":[{{\"name\":\"{}\"}}]}}", "x".repeat(1000));
        assert!(MeshCache::parse(long.as_bytes(), "m").nodes.is_empty());
    }

    #[test]
    fn processes_that_write_at_once_leave_a_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (mut cache, folder) = (cache.clone(), folder.path());
                scope.spawn(move || {
                    for round in 0..50 {
                        cache.renewal_asked = Some(number * 1000 + round);
                        assert!(cache.write(folder));
                        assert_eq!(MeshCache::read(folder, "m").nodes.len(), 2);
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn garbage_is_an_empty_memory(bytes: Vec<u8>) {
            prop_assert_eq!(MeshCache::parse(&bytes, "m").nodes.len(), 0);
        }

        #[test]
        fn a_file_cut_or_changed_anywhere_is_read_or_ignored(at in 0_usize..300, byte: u8) {
            let mut content = serde_json::to_vec(&cache()).unwrap();
            let at = at % content.len();
            content[at] = byte;
            let _ = MeshCache::parse(&content, "m");
            let _ = MeshCache::parse(&content[..at], "m");
        }
    }
}

//! Meshes to be set up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use pgmesh_chaos::{Network, Random};

use crate::mesh::Mesh;
use crate::node::Node;
use crate::port::Port;
use crate::scratch::Scratch;
use crate::stored;
use crate::stores::Bucket;

/// The nodes of a mesh and their regions, in order.
const NODES: [(&str, &str); 7] = [
    ("alpha", "eu"),
    ("beta", "us"),
    ("gamma", "ap"),
    ("delta", "eu"),
    ("epsilon", "us"),
    ("zeta", "ap"),
    ("eta", "eu"),
];

/// A mesh to be set up.
#[derive(Debug)]
pub struct MeshBuilder<'a> {
    scratch: &'a Scratch,
    nodes: usize,
    repositories: usize,
    paths: BTreeMap<usize, PathBuf>,
    without: Vec<usize>,
    shared: Vec<Shared>,
    relays: bool,
    options: Vec<(String, String)>,
}

/// A repository in a bucket that several nodes declare.
#[derive(Debug)]
struct Shared {
    number: usize,
    bucket: Bucket,
    /// The names of the nodes that declare it; all nodes if empty.
    nodes: Vec<String>,
}

impl<'a> MeshBuilder<'a> {
    pub(super) fn new(scratch: &'a Scratch) -> Self {
        Self {
            scratch,
            nodes: 3,
            repositories: usize::MAX,
            paths: BTreeMap::new(),
            without: Vec::new(),
            shared: Vec::new(),
            relays: false,
            options: Vec::new(),
        }
    }

    /// The number of nodes, 3 by default.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// The number of nodes with a repository, counted from the first; by default each node has one.
    #[must_use]
    pub fn repositories(mut self, repositories: usize) -> Self {
        self.repositories = repositories;
        self
    }

    /// Leaves the node of this number without a repository, so that the number is free for a shared one.
    #[must_use]
    pub fn without_repository(mut self, number: usize) -> Self {
        self.without.push(number);
        self
    }

    /// Sets the path of the repository with this number, which the node of the same number hosts.
    #[must_use]
    pub fn repository_at(mut self, number: usize, path: PathBuf) -> Self {
        self.paths.insert(number, path);
        self
    }

    /// A repository in a bucket that all nodes declare.
    #[must_use]
    pub fn shared_repository(self, number: usize, bucket: &Bucket) -> Self {
        self.repository_shared_by(number, bucket, &[])
    }

    /// A repository in a bucket that the nodes of these names declare.
    #[must_use]
    pub fn repository_shared_by(mut self, number: usize, bucket: &Bucket, nodes: &[&str]) -> Self {
        self.shared.push(Shared {
            number,
            bucket: bucket.clone(),
            nodes: nodes.iter().map(|&name| name.to_owned()).collect(),
        });
        self
    }

    /// With a relay between any two nodes, and between hosts and nodes.
    #[must_use]
    pub fn with_relays(mut self) -> Self {
        self.relays = true;
        self
    }

    /// Adds a line to the `[global]` section of each node's file.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the first node begin the mesh and the others join it, and waits until it is whole.
    #[must_use]
    pub fn start(self) -> Mesh {
        let (mut mesh, waiting) = self.start_first();
        for node in waiting {
            mesh.add(node);
        }
        mesh.wait_until_whole();
        mesh
    }

    /// Has the first node begin the mesh; the others, in order, belong to no mesh yet.
    #[must_use]
    pub fn start_first(self) -> (Mesh, Vec<Node>) {
        let (mut nodes, network) = self.write(true);
        let first = nodes.remove(0);
        let mut mesh = Mesh {
            nodes: vec![first],
            network,
        };
        mesh.start_node("alpha");
        (mesh, nodes)
    }

    /// Takes up a mesh that was stored with [`pack`](crate::stored::pack), at other addresses and in other folders than
    /// before. No node runs.
    #[must_use]
    pub fn take_up(self, stored: &Path) -> Mesh {
        let scratch = self.scratch;
        let (nodes, network) = self.write(false);
        stored::unpack(stored, scratch, &nodes);
        Mesh { nodes, network }
    }

    /// Writes the files of all nodes. If `begins` is true, the first node begins a mesh.
    fn write(self, begins: bool) -> (Vec<Node>, Option<Network>) {
        assert!((1..=NODES.len()).contains(&self.nodes), "one to {} nodes", NODES.len());
        let ports: Vec<Port> = (1..)
            .take(self.nodes)
            .map(|last| Port::reserve_at(Ipv4Addr::new(127, 0, 0, last)))
            .collect();
        let network = self.relays.then(|| {
            let mut network = Network::new(Random::seed_from_environment());
            for ((name, _), port) in NODES.iter().zip(&ports) {
                network
                    .add(name, port.socket_address())
                    .expect("adding a node to the network");
            }
            network
        });
        let mut nodes = Vec::new();
        for (number, ((name, region), port)) in (1..).zip(NODES.into_iter().zip(ports)) {
            let mut node = Node::builder(self.scratch, name).port(port).region(region);
            if number <= self.repositories && !self.without.contains(&number) {
                node = match self.paths.get(&number) {
                    None => node.repository_numbered(number),
                    Some(path) => node.add(number, path.clone(), Some(format!("passphrase of {number}"))),
                };
            }
            for shared in &self.shared {
                if shared.nodes.is_empty() || shared.nodes.iter().any(|other| other == name) {
                    node = node.repository_numbered_on(shared.number, &shared.bucket);
                }
            }
            for (to, address) in network.iter().flat_map(|network| network.routes(name)) {
                node = node.option("mesh-route", &format!("{to}={address}"));
            }
            for (name, value) in &self.options {
                node = node.option(name, value);
            }
            nodes.push(if begins && number == 1 {
                node.create()
            } else {
                node.write()
            });
        }
        (nodes, network)
    }
}

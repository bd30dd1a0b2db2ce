//! Meshes of several nodes.

mod builder;
mod status;

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use pgmesh_chaos::Network;

pub use builder::MeshBuilder;
pub use status::{MeshStatus, NodeStatus, RepositoryStatus};

use crate::host::Host;
use crate::node::Node;
use crate::outcome::Outcome;
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::wait::wait_for_some;

/// The time that a mesh may take to be whole again after any fault.
const LIMIT: Duration = Duration::from_secs(90);

/// Several nodes with one catalog, and the relays between them.
#[derive(Debug)]
pub struct Mesh {
    pub(super) nodes: Vec<Node>,
    /// Dropped after the nodes, so that no node complains about its end.
    pub(super) network: Option<Network>,
}

impl Mesh {
    /// Describes a new mesh.
    #[must_use]
    pub fn builder(scratch: &Scratch) -> MeshBuilder<'_> {
        MeshBuilder::new(scratch)
    }

    /// The names of its nodes, in the order in which they joined.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    ///
    /// # Panics
    /// If the mesh has no node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// A node, to be changed.
    ///
    /// # Panics
    /// If the mesh has no node of this name.
    #[must_use]
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The node that hosts repository `number`: its file declares it.
    #[must_use]
    pub fn hosting(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The stored objects of repository `number`.
    #[must_use]
    pub fn objects(&self, number: usize) -> crate::Repository {
        self.hosting(number).objects(number)
    }

    /// The relays between its processes.
    ///
    /// # Panics
    /// If the mesh was set up without relays.
    #[must_use]
    pub fn network(&mut self) -> &mut Network {
        self.network.as_mut().expect("a mesh with relays")
    }

    /// A node that runs, other than the one named.
    ///
    /// # Panics
    /// If no other node runs.
    #[must_use]
    pub fn running_beside(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.is_running() && node.name() != name);
        found.unwrap_or_else(|| panic!("no node runs beside {name}"))
    }

    /// Runs a `pgmesh` command as the administrator, with the file of a running node.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.running_beside("").run(arguments)
    }

    /// The status of the mesh, asked with the file of a node; `None` if no node answers.
    #[must_use]
    pub fn status_from(&self, name: &str) -> Option<MeshStatus> {
        let outcome = self.node(name).run(&["status", "--output=json"]);
        (outcome.code() == Some(0)).then(|| MeshStatus::read(&outcome.json()))
    }

    /// Waits until the status is as wanted, in the answer of one of the running nodes, and returns it.
    ///
    /// # Panics
    /// If the limit is over before: the message names `what` was waited for, and the last status.
    pub fn wait_for_status(&self, what: &str, wanted: impl Fn(&MeshStatus) -> bool) -> MeshStatus {
        wait_for_some(what, LIMIT, || {
            let mut last = None;
            let running = self.nodes.iter().filter(|node| node.is_running());
            for status in running.filter_map(|node| self.status_from(node.name())) {
                if wanted(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
            Err(format!("({last:#?})"))
        })
    }

    /// Waits until all nodes answer and are in the group, the mesh has as many voters as it should, and a leader.
    pub fn wait_until_whole(&self) {
        let names = self.names();
        self.wait_for_status("all nodes to be in the group", |status| status.is_whole(&names));
    }

    /// Waits until all nodes answer, and all repositories are up and owe nothing, so that `verify` has nothing to
    /// complain of.
    pub fn wait_until_settled(&self) {
        self.wait_for_status("all repositories to be up and to owe nothing", MeshStatus::is_settled);
    }

    /// The leader. Waits until a running node leads.
    #[must_use]
    pub fn leader(&self) -> String {
        let leads = |status: &MeshStatus| {
            let leader = status.leader.as_deref();
            leader.is_some_and(|name| self.nodes.iter().any(|node| node.name() == name && node.is_running()))
        };
        let status = self.wait_for_status("a leader", |status| status.quorum && leads(status));
        status.leader.expect("it was waited for")
    }

    /// A node that does not lead.
    #[must_use]
    pub fn follower(&self) -> String {
        let leader = self.leader();
        self.running_beside(&leader).name().to_owned()
    }

    /// Has a node join that belongs to no mesh yet, and starts it, without waiting for its vote.
    pub fn add(&mut self, node: Node) {
        let name = node.name().to_owned();
        self.nodes.push(node);
        self.join(&name);
        self.start_node(&name);
    }

    /// Has a node join that has no data directory, by a new invitation.
    pub fn join(&self, name: &str) {
        let token = self
            .running_beside(name)
            .invite_with(&["--role=node", name, "--expires=1h"]);
        self.node(name).join(&token);
    }

    /// Starts all nodes and waits until the mesh is whole.
    pub fn start_all(&mut self) {
        for node in &mut self.nodes {
            node.launch();
        }
        self.wait_until_whole();
    }

    /// Stops all nodes.
    pub fn stop_all(&mut self) {
        for node in &mut self.nodes {
            node.stop();
        }
    }

    /// Starts a node and waits until it answers for itself.
    ///
    /// # Panics
    /// If the node ends instead.
    pub fn start_node(&mut self, name: &str) {
        self.node_mut(name).launch();
        self.await_node(name);
    }

    /// Waits until a node that was launched answers for itself.
    ///
    /// # Panics
    /// If the node ends instead.
    pub fn await_node(&mut self, name: &str) {
        let node = self.node_mut(name);
        let answers = |node: &Node| {
            let outcome = node.run(&["status", "--output=json"]);
            outcome.code() == Some(0)
                && MeshStatus::read(&outcome.json())
                    .node(node.name())
                    .is_some_and(|status| status.answers)
        };
        if let Err((code, log)) = node.await_start(answers) {
            panic!("{name} ended with exit code {code:?} instead of serving:\n{log}");
        }
    }

    /// Kills a node, takes its data directory away, and has it join again under its name: a new disk in an old machine.
    pub fn replace_disk(&mut self, name: &str) {
        self.node_mut(name).kill();
        fs::remove_dir_all(self.node(name).data()).expect("removing a node's data directory");
        let other = self.running_beside(name);
        let token = other.invite_with(&["--role=node", name, "--force", "--expires=1h"]);
        self.node(name).join(&token);
        self.start_node(name);
    }

    /// Has a removed node, which has ended, join anew with an empty data directory.
    pub fn join_again(&mut self, name: &str) {
        fs::remove_dir_all(self.node(name).data()).expect("removing a node's data directory");
        self.join(name);
        self.start_node(name);
    }

    /// Leaves the nodes running when this value is dropped. Relays, if there are any, end nevertheless.
    pub fn keep(&mut self) {
        self.nodes.iter_mut().for_each(Node::keep);
    }

    /// The lines of a host's file with its way to the mesh: it knows the nodes in `known`, and reaches all nodes
    /// through the relays, if there are any. Adds the host to the network of relays.
    fn way(&mut self, host: &str, region: &str, known: &[&str]) -> String {
        let names = self.names();
        let mut way = format!("node-region={region}\n");
        if let Some(network) = &mut self.network {
            network.add_client(host).expect("adding a host to the network");
            for name in &names {
                writeln!(way, "mesh-route={name}={}", network.route(host, name)).expect("writing to a string");
            }
        }
        for name in known {
            let address = match &self.network {
                Some(network) => network.route(host, name).to_string(),
                None => self.node(name).address(),
            };
            writeln!(way, "mesh-node={address}").expect("writing to a string");
        }
        way
    }

    /// A PG host in a region that has joined by an invitation of the first node in `known`.
    pub fn host(
        &mut self,
        scratch: &Scratch,
        name: &str,
        (region, known): (&str, &[&str]),
        postgres: &Postgres,
        stanza: &str,
    ) -> Host {
        let way = self.way(name, region, known);
        let host = Host::with_way(scratch, name, &way, postgres, stanza);
        host.redeem(&self.node(known[0]).invite(stanza)).succeeds();
        host
    }
}

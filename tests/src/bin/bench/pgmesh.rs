//! pgmesh: a client and a node, both counted.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;

use pgmesh_tests::{Host, Node, Postgres, Repository, Scratch};

use crate::contestant::Contestant;
use crate::measure::{Figures, measure};

/// A node with one encrypted repository, and the host of the cluster.
pub struct PgMesh {
    node: Node,
    host: Host,
    workers: String,
    last_summary: RefCell<String>,
}

impl PgMesh {
    /// Starts the node and joins it.
    #[must_use]
    pub fn set_up(scratch: &Scratch, postgres: &Postgres, round: &str, workers: u32) -> Self {
        let node = Node::builder(scratch, &format!("node-{round}")).repository().start();
        let host = Host::join(scratch, &format!("host-{round}"), &node, postgres, "main");
        host.run(&["stanza-create"]).succeeds();
        Self {
            node,
            host,
            workers: format!("--process-max={workers}"),
            last_summary: RefCell::default(),
        }
    }

    /// Runs a command of the client, and adds the node's use meanwhile.
    fn measure(&self, command: Command) -> Figures {
        let (figures, output) = measure(command, Some(self.node.process()));
        self.last_summary.replace(output);
        figures
    }

    /// The summary that the last backup or restore has printed.
    pub fn last_summary(&self) -> serde_json::Value {
        serde_json::from_str(&self.last_summary.borrow()).expect("a summary in JSON")
    }
}

impl Contestant for PgMesh {
    fn archive_command(&self) -> String {
        self.host.archive_command()
    }

    fn push(&self, segment: &Path) -> Figures {
        self.measure(self.host.command(&["archive-push", &segment.display().to_string()]))
    }

    fn backup(&self, kind: &str) -> Figures {
        let kind = format!("--type={kind}");
        let mut command = self.host.command(&["backup", "--start-fast", "--output=json"]);
        command.args([&kind, &self.workers]);
        self.measure(command)
    }

    fn restore(&self, target: &Postgres) -> Figures {
        self.measure(self.host.restore_command(target, &[&self.workers, "--output=json"]))
    }

    fn repository(&self) -> Repository {
        self.node.objects(1)
    }
}

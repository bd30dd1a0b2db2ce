//! The beginning of most stories.

use crate::host::Host;
use crate::mesh::{Mesh, MeshBuilder, MeshStatus};
use crate::node::{Node, NodeBuilder};
use crate::postgres::{Postgres, PostgresBuilder};
use crate::scratch::Scratch;
use crate::wait::wait_for_some;
use std::time::Duration;

/// A mesh of one node, a running PostgreSQL, and its host with the stanza `main` created.
///
/// The fields are dropped in their order: the servers end before their folder is removed.
#[derive(Debug)]
pub struct Site {
    /// The PG host.
    pub host: Host,
    /// The cluster of the host.
    pub postgres: Postgres,
    /// The node.
    pub node: Node,
    /// The folder of it all.
    pub scratch: Scratch,
}

impl Site {
    /// A site with so many encrypted repositories, and PostgreSQL archiving through pgmesh.
    #[must_use]
    pub fn new(name: &str, repositories: usize) -> Self {
        Self::with_postgres(name, repositories, |postgres| postgres)
    }

    /// A site with a node as described.
    #[must_use]
    pub fn with_node(name: &str, describe: impl FnOnce(NodeBuilder<'_>) -> NodeBuilder<'_>) -> Self {
        Self::with(name, describe, |postgres| postgres)
    }

    /// A site with so many encrypted repositories, and a PostgreSQL as described that archives through pgmesh.
    #[must_use]
    pub fn with_postgres(
        name: &str,
        repositories: usize,
        describe: impl FnOnce(PostgresBuilder<'_>) -> PostgresBuilder<'_>,
    ) -> Self {
        Self::with(
            name,
            |node| (0..repositories).fold(node, |node, _| node.repository()),
            describe,
        )
    }

    fn with(
        name: &str,
        node: impl FnOnce(NodeBuilder<'_>) -> NodeBuilder<'_>,
        postgres: impl FnOnce(PostgresBuilder<'_>) -> PostgresBuilder<'_>,
    ) -> Self {
        let scratch = Scratch::new(name);
        let node = node(Node::builder(&scratch, "alpha")).start();
        let postgres = postgres(Postgres::builder(&scratch, "pg")).start();
        let host = Host::set_up(&scratch, &node, &postgres, "main");
        Self {
            host,
            postgres,
            node,
            scratch,
        }
    }

    /// A site with so many encrypted repositories, and a PostgreSQL with segments of this size that archives nothing:
    /// the test pushes forged segments.
    #[must_use]
    pub fn without_archiving(name: &str, repositories: usize, segment_mebibytes: u32) -> Self {
        Self::with_node_and_segments(name, segment_mebibytes, |mut node| {
            for _ in 0..repositories {
                node = node.repository();
            }
            node
        })
    }

    /// A site with a node as described, and a PostgreSQL with segments of this size that archives nothing: the test
    /// pushes forged segments.
    #[must_use]
    pub fn with_node_and_segments(
        name: &str,
        mebibytes: u32,
        describe: impl FnOnce(NodeBuilder<'_>) -> NodeBuilder<'_>,
    ) -> Self {
        let scratch = Scratch::new(name);
        let node = describe(Node::builder(&scratch, "alpha")).start();
        let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(mebibytes).start();
        let host = Host::join(&scratch, "host-main", &node, &postgres, "main");
        host.run(&["stanza-create"]).succeeds();
        Self {
            host,
            postgres,
            node,
            scratch,
        }
    }

    /// Waits until all repositories are up and owe nothing.
    pub fn wait_until_settled(&self, limit: Duration) {
        wait_for_some("all repositories to be up and to owe nothing", limit, || {
            let status = MeshStatus::read(&self.node.run(&["status", "--output=json"]).ok().json());
            if status.is_settled() {
                Ok(())
            } else {
                Err(format!("{status:#?}"))
            }
        });
    }

    /// Restores the stanza into a new cluster of this name, without starting its server.
    #[must_use]
    pub fn restore(&self, name: &str, arguments: &[&str]) -> Postgres {
        self.host.restore(&self.scratch, name, arguments)
    }

    /// Starts a standby of a server. It has a host of its own, through which it archives as `archive_mode` says.
    #[must_use]
    pub fn standby_of(&self, primary: &Postgres, name: &str, archive_mode: &str) -> (Postgres, Host) {
        let mut standby = primary.standby(&self.scratch, name);
        let host = Host::join(&self.scratch, &format!("host-{name}"), &self.node, &standby, "main");
        standby.start();
        standby.set("archive_mode", archive_mode);
        standby.set("archive_command", &host.archive_command());
        standby.restart();
        (standby, host)
    }

    /// Asserts that the archive restores all data of a server, read through its host, and that `verify` finds no error.
    pub fn assert_restores(&self, host: &Host, server: &Postgres, arguments: &[&str]) {
        host.assert_restores(&self.scratch, server, arguments);
        self.node.run(&["verify"]).succeeds();
    }
}

/// A mesh of several nodes, a running PostgreSQL, and its host `host` in region `eu` with the stanza `main` created.
///
/// The fields are dropped in their order: the servers end before their folder is removed.
#[derive(Debug)]
pub struct MeshSite {
    /// The PG host.
    pub host: Host,
    /// The cluster of the host.
    pub postgres: Postgres,
    /// The nodes.
    pub mesh: Mesh,
    /// The folder of it all.
    pub scratch: Scratch,
}

impl MeshSite {
    /// A site with a mesh as described, and PostgreSQL archiving through pgmesh.
    #[must_use]
    pub fn new(name: &str, describe: impl FnOnce(MeshBuilder<'_>) -> MeshBuilder<'_>) -> Self {
        let site = Self::with_segments(name, 16, describe);
        site.postgres.set("archive_command", &site.host.archive_command());
        site
    }

    /// A site with a mesh as described, and a PostgreSQL with segments of 1 MiB that archives nothing: the test pushes
    /// forged segments.
    #[must_use]
    pub fn without_archiving(name: &str, describe: impl FnOnce(MeshBuilder<'_>) -> MeshBuilder<'_>) -> Self {
        Self::with_segments(name, 1, describe)
    }

    /// A site with a mesh as described, and a PostgreSQL with segments of this size that archives nothing.
    #[must_use]
    pub fn with_segments(
        name: &str,
        mebibytes: u32,
        describe: impl FnOnce(MeshBuilder<'_>) -> MeshBuilder<'_>,
    ) -> Self {
        let scratch = Scratch::new(name);
        let mut mesh = describe(Mesh::builder(&scratch)).start();
        let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(mebibytes).start();
        let names = mesh.names();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let host = mesh.host(&scratch, "host", ("eu", &known), &postgres, "main");
        host.run(&["stanza-create"]).succeeds();
        Self {
            host,
            postgres,
            mesh,
            scratch,
        }
    }

    /// Adds a host of the same cluster, in a region, that knows one node.
    #[must_use]
    pub fn another_host(&mut self, name: &str, region: &str, known: &str) -> Host {
        self.mesh
            .host(&self.scratch, name, (region, &[known]), &self.postgres, "main")
    }

    /// Restores the stanza into a new cluster of this name, without starting its server.
    #[must_use]
    pub fn restore(&self, name: &str, arguments: &[&str]) -> Postgres {
        self.host.restore(&self.scratch, name, arguments)
    }
}

//! The commands about the nodes of the mesh.

use super::{Argument, Command, CommandSpec};

/// `node demote`.
pub(super) const DEMOTE: CommandSpec = CommandSpec {
    command: Command::NodeDemote,
    name: "node demote",
    summary: "Take a node's vote away",
    about: "The node keeps its catalog and its clients, and votes no more. The mesh gives the vote to another node if one is there: see mesh-voters.",
    arguments: &[Argument::required("NAME", "the node, as `pgmesh node list` names it")],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf node demote n3",
        "before n3 is moved to a far place",
    )],
    hidden: false,
};

/// `node drain`.
pub(super) const DRAIN: CommandSpec = CommandSpec {
    command: Command::NodeDrain,
    name: "node drain",
    summary: "Send a node's clients elsewhere",
    about: "The node takes no new clients and hands leadership on; its repositories stay in use. For maintenance: drain, work, `node resume`.",
    arguments: &[Argument::required("NAME", "the node, as `pgmesh node list` names it")],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf node drain n2",
        "before n2 is restarted for an upgrade",
    )],
    hidden: false,
};

/// `node init`.
pub(super) const INIT: CommandSpec = CommandSpec {
    command: Command::NodeInit,
    name: "node init",
    summary: "Create a mesh with this host as its first node",
    about: "Creates the data directory, the mesh's certificate authority, the node's own identity and an \
            administrator's. Refuses a directory that holds a node already.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf node init",
        "once, before the first `node start`",
    )],
    hidden: false,
};

/// `node join`.
pub(super) const JOIN: CommandSpec = CommandSpec {
    command: Command::NodeJoin,
    name: "node join",
    summary: "Join a mesh as another node",
    about: "Exchanges a token of `pgmesh invite --role=node NAME` for this node's own certificate and creates the data directory; refuses a directory that holds a node already. The node then starts with `node start`, fetches the catalog, and becomes a voter when it has caught up. The token is for the `node-name` of this host. A host that lost its disk joins again under its old name, with a token that was made with --force. The private key never leaves the host.",
    arguments: &[Argument::required(
        "TOKEN",
        "what `pgmesh invite --role=node NAME` printed; - reads it from stdin",
    )],
    examples: &[
        (
            "pgmesh --config=/etc/pgmesh/node.conf node join pgmesh1.eyJhZGRy…",
            "on the new host, before the first `node start`",
        ),
        (
            "ssh node1 pgmesh --config=/etc/pgmesh/node.conf invite --role=node node2 | pgmesh --config=/etc/pgmesh/node.conf node join -",
            "without the token in any process list",
        ),
    ],
    hidden: false,
};

/// `node list`.
pub(super) const LIST: CommandSpec = CommandSpec {
    command: Command::NodeList,
    name: "node list",
    summary: "List the nodes of the mesh",
    about: "Name, region, part in consensus, state, addresses, program and repositories of each node, as the catalog has them; `pgmesh status` asks the nodes themselves. `--output=json`: an array of objects with the keys `name`, `id`, `region`, `addresses`, `role`, `state`, `program`, `repositories`.",
    arguments: &[],
    examples: &[
        ("pgmesh --config=/etc/pgmesh/node.conf node list", "for people"),
        (
            "pgmesh --config=/etc/pgmesh/node.conf --output=json node list",
            "for programs",
        ),
    ],
    hidden: false,
};

/// `node promote`.
pub(super) const PROMOTE: CommandSpec = CommandSpec {
    command: Command::NodePromote,
    name: "node promote",
    summary: "Give a node a vote",
    about: "The node becomes a voter when it has caught up. An odd number of voters is best: of 3, one may be lost; of 5, two.",
    arguments: &[Argument::required("NAME", "the node, as `pgmesh node list` names it")],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf node promote n4",
        "instead of waiting for the mesh to choose",
    )],
    hidden: false,
};

/// `node remove`.
pub(super) const REMOVE: CommandSpec = CommandSpec {
    command: Command::NodeRemove,
    name: "node remove",
    summary: "Take a node out of the mesh for good",
    about: "Also when the node is dead. Refused while it hosts repositories, unless --force is given: they are \
            away then until another node takes them over. Also refused while the remaining voters that answer are \
            no majority: remove the dead nodes first. Its certificates, and the administrator's in its node-path, \
            count no more. The name may come back with `node join`.",
    arguments: &[Argument::required("NAME", "the node, as `pgmesh node list` names it")],
    examples: &[
        (
            "pgmesh --config=/etc/pgmesh/node.conf node remove n3",
            "after it was drained",
        ),
        (
            "pgmesh --config=/etc/pgmesh/node.conf --force node remove n3",
            "after its host burnt down with its repository",
        ),
    ],
    hidden: false,
};

/// `node rescue`.
pub(super) const RESCUE: CommandSpec = CommandSpec {
    command: Command::NodeRescue,
    name: "node rescue",
    summary: "Go on alone when most nodes are gone for good",
    about: "For a mesh that has lost the majority of its voters for good: this host's node, which must be \
            stopped, goes on alone with its own copy of the catalog. Later entries that the other nodes had \
            acknowledged may be lost; the marks in the repositories show how far the catalog had come. Nodes of \
            the old mesh are kept out: they are removed, and a mark in each repository that can be read keeps \
            them from acknowledging or deleting anything there. For some minutes after the start no backup is \
            taken, until the repositories have been compared with the catalog. Refused while another node \
            answers, or while a repository of this node's file cannot be read; `--force` goes on all the same. \
            `--dry-run` changes nothing, and says what would be done.",
    arguments: &[],
    examples: &[
        (
            "pgmesh --config=/etc/pgmesh/node.conf --dry-run node rescue",
            "what would be done, and what may be lost",
        ),
        (
            "pgmesh --config=/etc/pgmesh/node.conf node rescue",
            "on the node that is left, before 'node start'",
        ),
    ],
    hidden: false,
};

/// `node resume`.
pub(super) const RESUME: CommandSpec = CommandSpec {
    command: Command::NodeResume,
    name: "node resume",
    summary: "Let a drained node take clients again",
    about: "Ends `node drain`.",
    arguments: &[Argument::required("NAME", "the node, as `pgmesh node list` names it")],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf node resume n2",
        "after maintenance",
    )],
    hidden: false,
};

/// `node start`.
pub(super) const START: CommandSpec = CommandSpec {
    command: Command::NodeStart,
    name: "node start",
    summary: "Run this host's node in the foreground",
    about: "Serves the mesh until SIGTERM or SIGINT, then finishes what is under way and exits 0. Logs go to \
            stderr, for systemd or a container to keep.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf node start",
        "from a service unit",
    )],
    hidden: false,
};

//! Options of nodes, and of the way to them.

use std::time::Duration;

use super::checks::{HOST_PORT, NAME, ROUTE, SOCKET, VOTERS, is_host_port, is_name, is_odd, is_route, is_socket};
use super::sets::{MESH, NODE};

use crate::config::command::Command::*;
use crate::config::command::CommandSet;
use crate::config::kind::Kind;
use crate::config::option::{OptionSpec, Scope};

const TEN_SECONDS: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

const NODE_AND_MESH: CommandSet = NODE.and(MESH).and(CommandSet::of(&[Join]));

const fn new(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help).commands(NODE_AND_MESH)
}

/// Options of the mesh.
pub const OPTIONS: &[OptionSpec] = &[
    // A port follows a colon, so the values stand between commas in the environment.
    new("mesh-node", Kind::List { separator: ',' }, "a node of the mesh")
        .check(HOST_PORT, is_host_port)
        .about(
            "HOST:PORT, may be given several times. A few are enough: the host learns the others and keeps them in \
            mesh.json beside its identity. A node looks for the others there, too, when it starts.",
            "mesh-node=node1.example.com:8433",
        ),
    new(
        "mesh-route",
        Kind::Map { separator: ',' },
        "how this host reaches a node",
    )
    .check(ROUTE, is_route)
    .about(
        "NAME=HOST:PORT, may be given several times: the address by which this host reaches the node of that \
            name, where that is not what the node advertises. For address translation and tunnels.",
        "mesh-route=node2=10.8.0.2:8433",
    ),
    new(
        "mesh-voters",
        Kind::Integer { min: 1, max: 7 },
        "how many nodes vote at most",
    )
    .commands(NODE)
    .default("5")
    .check(VOTERS, is_odd)
    .about(
        "The nodes beyond that receive the catalog and take over when a voter goes for good. Of 3 voters one may be \
            lost, of 5 two. The leader's value counts: give all nodes the same.",
        "mesh-voters=3",
    ),
    new(
        "node-snapshot-entries",
        Kind::Integer {
            min: 10,
            max: 1_000_000,
        },
        "log entries between two snapshots of the catalog",
    )
    .commands(NODE)
    .about(
        "When so many entries have come since the last snapshot, another is made and older entries are dropped from \
            the log. A node that was away for longer gets a snapshot instead of the entries. Without it: 20000.",
        "node-snapshot-entries=20000",
    ),
    new(
        "skip-entry",
        Kind::List { separator: ',' },
        "an entry of the catalog's log that is left out",
    )
    .commands(CommandSet::of(&[NodeStart]))
    .scope(Scope::CommandLine)
    .about(
        "TERM.INDEX, as the message says with which a node has stopped because it cannot apply the entry. Whatever the \
            entry was to change is lost, and so is what was acknowledged with it. Give it once on every node of the mesh: \
            nodes of which one has left an entry out and the other has not do not work together. The audit trail has a line \
            for each entry, and 'pgmesh doctor' names those nodes that have one left out and those that have not.",
        "",
    ),
    new(
        "repair-rate",
        Kind::Size {
            min: 64 << 10,
            max: 1 << 40,
        },
        "bytes a second that repairs may write",
    )
    .commands(NODE)
    .about(
        "Limits how fast this node makes up what each repository owes, so that archiving and restores keep their \
            share. Without it: as fast as it goes.",
        "repair-rate=50MiB",
    ),
    new(
        "identity-path",
        Kind::Path,
        "directory of this host's certificate and key",
    )
    .default("/etc/pgmesh/identity")
    .about(
        "`pgmesh join` writes ca.crt, identity.crt and identity.key there. Only the user that runs pgmesh may \
            read the key.",
        "identity-path=/etc/pgmesh/identity",
    ),
    new("node-name", Kind::Text, "name of this node in the mesh")
        .required(NODE)
        .check(NAME, is_name)
        .about("It stays the same for the life of the node.", "node-name=node1"),
    new("node-path", Kind::Path, "data directory of this node")
        .default("/var/lib/pgmesh")
        .about(
            "Catalog, identities and what the node has to remember. Repositories lie elsewhere, see repoN-path.",
            "node-path=/var/lib/pgmesh",
        ),
    new("node-listen", Kind::Text, "address to listen on (UDP)")
        .default("0.0.0.0:8433")
        .check(SOCKET, is_socket)
        .about(
            "ADDRESS:PORT; the protocol is QUIC. [::]:8433 listens on all addresses of both families.",
            "node-listen=[::]:8433",
        ),
    new(
        "node-advertise",
        Kind::List { separator: ',' },
        "address by which others reach this node",
    )
    .check(HOST_PORT, is_host_port)
    .about(
        "HOST:PORT, may be given several times. Needed when node-listen is not an address that others can dial, \
            and for `invite`, which puts it in the token.",
        "node-advertise=node1.example.com:8433",
    ),
    new(
        "node-buffer",
        Kind::Size {
            min: 16 << 20,
            max: 1 << 40,
        },
        "memory of this node for segments and chunks under way",
    )
    .commands(NODE)
    .default("256MiB")
    .about(
        "What does not fit waits. The node's memory is this, half as much again for what other nodes ask of its \
                repositories, and about 150MiB. WAL segments above 16MiB take it for some parts of 8MiB at a time. Stanzas share it; with less than 128MiB a push over a slow link may keep those of other stanzas waiting.",
        "node-buffer=256MiB",
    ),
    new(
        "session-timeout",
        Kind::Duration { min: TEN_SECONDS, max: WEEK },
        "longest time that a backup or restore may do nothing",
    )
    .commands(NODE)
    .default("30m")
    .about(
        "The session of a backup or restore whose process is connected to this node and neither asks for anything nor tells \
            that it works is ended after so long: until then it keeps the stanza's lock, and nothing that was condemned \
            since it began is deleted. Reading a large file counts as work. A process whose connection is lost has a few seconds to come back, whatever is \
            set here.",
        "session-timeout=30m",
    ),
    new(
        "fence-timeout",
        Kind::Duration {
            min: Duration::from_secs(1),
            max: HOUR,
        },
        "longest time without a look for a mesh that has taken over",
    )
    .commands(NODE)
    .default("90s")
    .about(
        "When a node was rescued without the others, or the catalog was rebuilt, the nodes of the old mesh must neither acknowledge \
            nor delete anything beside it. So a node lists the marks in each of its repositories every third of this time, \
            and does neither if it could not for so long. The same on all nodes of a mesh: a rescued one waits for twice this \
            time before it deletes.",
        "fence-timeout=90s",
    ),
    new(
        "orphan-scan-interval",
        Kind::Duration {
            min: Duration::from_secs(1),
            max: Duration::from_secs(365 * 24 * 3600),
        },
        "time between two looks for objects that nobody knows",
    )
    .commands(NODE)
    .default("1d")
    .about(
        "Uploads that were refused and processes that were killed leave objects in repositories that the catalog does not \
            know. Each repository is listed after so long, one request for 1,000 objects; what two scans have seen and the \
            catalog does not know is deleted. 'pgmesh status' counts it. The time is measured from the end of a scan. The same \
            on all nodes that reach a repository.",
        "orphan-scan-interval=7d",
    ),
    new("node-region", Kind::Text, "where this host stands")
        .check(NAME, is_name)
        .about(
            "A free name. Hosts prefer nodes and repositories of their own region.",
            "node-region=fra",
        ),
    new(
        "digest-suite",
        Kind::Choice(&["blake3", "sha256"]),
        "digests of the whole mesh",
    )
    .commands(CommandSet::of(&[NodeInit]))
    .default("blake3")
    .scope(Scope::Anywhere)
    .about(
        "Chosen once, when the mesh is created. sha256 is for sites that must use approved algorithms; it is \
            much slower where the CPU has no SHA instructions.",
        "digest-suite=blake3",
    ),
];

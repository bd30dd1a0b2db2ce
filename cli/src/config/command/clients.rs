//! The commands about who is a member of the mesh, nodes aside.

use super::{Argument, Command, CommandSpec};

/// `client list`.
pub const LIST: CommandSpec = CommandSpec {
    command: Command::ClientList,
    name: "client list",
    summary: "List who holds a certificate of the mesh",
    about: "Clients, administrators, monitors and restoring hosts that have joined: name, role, stanzas, key, when the \
            certificate was issued and last renewed, when it ends, and whether it was revoked. `pgmesh node list` has the \
            nodes, whose administrators (in their node-path) go with them. `--output=json`: an array of objects with \
            the keys `name`, `role`, `stanzas`, `key` (SHA-256 of the public key; the audit trail names its first 16 \
            digits), `issued`, `renewed`, `expires`, `state` (`valid`, `expired`, `revoked`), `authority`: while the \
            mesh's authority is rotated, `former` of one that has not moved yet, and `suspect` of one that has to join \
            again, otherwise `present`, `revoked` (`at`, `by`, `reason`).",
    arguments: &[],
    examples: &[
        ("pgmesh --config=/etc/pgmesh/node.conf client list", "for people"),
        (
            "pgmesh --config=/etc/pgmesh/node.conf --output=json client list",
            "for programs",
        ),
    ],
    hidden: false,
};

/// `client revoke`.
pub const REVOKE: CommandSpec = CommandSpec {
    command: Command::ClientRevoke,
    name: "client revoke",
    summary: "Make the certificates of a name count no more",
    about: "For a client, an administrator, a monitor or a restoring host, such as a PG host that was broken into: each \
            node that hears of it closes its connections and ends its backups and restores within two seconds, and neither \
            serves it nor renews its certificate any more. A node that is cut off from the majority serves it until it \
            hears of it. Certificates of the name that no node has seen yet are refused, too; unused tokens that a \
            revoked administrator has made are taken back. Someone who had an administrator's key may have invited a \
            node, which has the mesh's private key: look at `pgmesh node list`. The host joins again with a new token. A \
            node goes with `pgmesh node remove`. Refused where the last administrator who was invited would shut itself out, or no certificate of \
            the name is known, unless --force is given.",
    arguments: &[Argument::required("NAME", "as `pgmesh client list` names it")],
    examples: &[
        (
            "pgmesh --config=/etc/pgmesh/node.conf client revoke db1 --reason='disk stolen'",
            "its host sees the reason, and so does the audit trail",
        ),
        (
            "pgmesh client revoke alice --force",
            "by alice, the last administrator with a certificate of her own",
        ),
    ],
    hidden: false,
};

/// `mesh rotate-ca`.
pub const ROTATE: CommandSpec = CommandSpec {
    command: Command::MeshRotateCa,
    name: "mesh rotate-ca",
    summary: "Give the mesh another certificate authority",
    about: "Needed where someone may have the private key of the mesh's authority: every node has it, so after a node, \
            its disk or its backup was stolen. Remove that node first (`pgmesh node remove`). The first call makes a new \
            authority beside the present one; both count, and nothing stops. As soon as all nodes have its key, each \
            node renews its certificate, and then each client with its next command that reaches a node. Later calls \
            show which nodes and clients are left, as `status`, `doctor` and `client list` do. If a node or this command \
            was killed meanwhile, the same command goes on. --finish retires the former authority: its certificates \
            count no more, and its key is removed from the nodes. It is refused while a node or a client has not shown a \
            certificate of the new one; --force cuts such clients off, and names them: they join again. --abort gives \
            the new authority up, until it signs. Tokens that were made before it signs are worthless after --finish. \
            Keep no copies of `ca/` in a node-path. JSON: `former`, `next`, `begun`, `by`, `state` (spreading, showing, \
            renewing, giving-up, finished, given-up), `nodes`, `clients`, `more`, `suspects`, `ended`.",
    arguments: &[],
    examples: &[
        (
            "pgmesh --config=/etc/pgmesh/node.conf mesh rotate-ca",
            "begin, and see how far it is",
        ),
        (
            "pgmesh --config=/etc/pgmesh/node.conf mesh rotate-ca --finish",
            "when no node and no client is left",
        ),
        (
            "pgmesh --config=/etc/pgmesh/node.conf mesh rotate-ca --finish --force",
            "cut off the clients that are left",
        ),
        (
            "pgmesh --config=/etc/pgmesh/node.conf mesh rotate-ca --abort",
            "the former authority stays: the node that has made the new key is gone",
        ),
    ],
    hidden: false,
};

/// `invite`.
pub const INVITE: CommandSpec = CommandSpec {
    command: Command::Invite,
    name: "invite",
    summary: "Make a one-time token that lets a host join",
    about: "Prints a token, alone on stdout, that `pgmesh join` exchanges once for a certificate. It carries the \
            fingerprint of the mesh's certificate authority, so the new host trusts nobody unseen. Anyone who has \
            the token can join: hand it over safely and let it expire soon. A node's token is for one \
            `node-name` and no other. If the mesh has a node of that name, it is refused without --force; with it, \
            the new node takes the place of the one that has lost its disk, which must not run. Other roles choose \
            their name when they join; with --force, the token is for NAME and no other, and the certificates that \
            NAME has in the same role are revoked when it is used.",
    arguments: &[Argument::optional(
        "NAME",
        "with --role=node: the `node-name` of the new node; with --force: the name that it takes over",
    )],
    examples: &[
        (
            "pgmesh invite --role=client --stanza=main --expires=1h",
            "for the PG host of stanza main",
        ),
        (
            "pgmesh invite --role=client --stanza=main --stanza=reports",
            "one client for two stanzas",
        ),
        (
            "pgmesh invite --role=restore --stanza=main",
            "for a host that restores, and writes nothing",
        ),
        ("pgmesh invite --role=monitor", "for a monitoring system"),
        (
            "pgmesh --config=/etc/pgmesh/node.conf invite --role=node fra2",
            "for `pgmesh node join` on another host, whose node-name is fra2",
        ),
        (
            "pgmesh --config=/etc/pgmesh/node.conf invite --role=node fra2 --force",
            "the same for a node fra2 that has lost its disk",
        ),
    ],
    hidden: false,
};

/// `join`.
pub const JOIN: CommandSpec = CommandSpec {
    command: Command::Join,
    name: "join",
    summary: "Join a mesh with a token",
    about: "Exchanges the token of `pgmesh invite` for this host's own certificate, stored at identity-path. The \
            private key never leaves the host. The certificate renews itself while the host uses the mesh. No two \
            members have one name.",
    arguments: &[
        Argument::required("TOKEN", "what `pgmesh invite` printed; - reads it from stdin"),
        Argument::optional(
            "NAME",
            "what the mesh calls this member; this host's name where it is left out",
        ),
    ],
    examples: &[
        (
            "pgmesh join pgmesh1.eyJhZGRy…",
            "on the PG host, as the user that runs PostgreSQL",
        ),
        (
            "pgmesh --identity-path=/home/grafana/pgmesh join pgmesh1.eyJhZGRy… db1-monitor",
            "another member on the same host",
        ),
    ],
    hidden: false,
};

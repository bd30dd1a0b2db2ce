//! The commands about the repositories.

use super::{Argument, Command, CommandSpec};

/// `repo-check`.
pub(super) const CHECK: CommandSpec = CommandSpec {
    command: Command::RepoCheck,
    name: "repo-check",
    summary: "Try whether a place can hold a repository",
    about: "Writes, reads, lists and deletes a few objects beside the repository, from this host and with this host's \
            options and credentials, and says what works and how long it took: connection, credentials, \
            conditional writes, parts of objects, long objects, object lock. No node is needed, and nothing of \
            the repository is touched.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf --repo=2 repo-check",
        "before repo2 is used for the first time",
    )],
    hidden: false,
};

/// `repo-get`.
pub(super) const GET: CommandSpec = CommandSpec {
    command: Command::RepoGet,
    name: "repo-get",
    summary: "Print a stored object, decrypted and checked",
    about: "Writes the content of one object of a repository to stdout after checking it. With --repo-direct no node \
            is asked.",
    arguments: &[Argument::required(
        "FILE",
        "the object's path in the repository, as repo-ls prints it",
    )],
    examples: &[(
        "pgmesh --repo=1 repo-get stanza/main/archive/15-1/00000001.history",
        "one object of repo1",
    )],
    hidden: false,
};

/// `repo-ls`.
pub(super) const LS: CommandSpec = CommandSpec {
    command: Command::RepoLs,
    name: "repo-ls",
    summary: "List the objects of a repository",
    about: "Lists what lies under a path of a repository. With --repo-direct no node is asked.",
    arguments: &[Argument::optional("PATH", "where to look; everything when left out")],
    examples: &[(
        "pgmesh --repo=1 repo-ls stanza/main/backup",
        "the stored manifests of a stanza",
    )],
    hidden: false,
};

/// `repo-remove`.
pub(super) const REMOVE: CommandSpec = CommandSpec {
    command: Command::RepoRemove,
    name: "repo-remove",
    summary: "Forget a repository",
    about: "Takes a repository out of the mesh: nothing is written to it any more, and nothing is owed to it. Its \
            objects are not deleted, and can be restored from with --repo-direct. Refused if it has the only \
            replica of an object, unless --force is given. Remove it from the node's file, too, or it is declared \
            anew.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf --repo=2 repo-remove",
        "after repo2 was given up",
    )],
    hidden: false,
};

/// `repo-replace`.
pub(super) const REPLACE: CommandSpec = CommandSpec {
    command: Command::RepoReplace,
    name: "repo-replace",
    summary: "Put an empty repository where one was lost with its disk",
    about: "Run it on the node that declares the repository. Makes an empty one at repoN-path, withdraws all \
            replicas that the catalog has in the lost repository, and makes them debts of the new one: \
            `repo-sync` shows how it is filled. If an older copy of the repository lies there, it is taken up \
            instead, and the objects that it lacks become debts. Refused while the repository itself can still be \
            read.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf --repo=2 repo-replace && pgmesh --config=/etc/pgmesh/node.conf --repo=2 repo-sync",
        "after the disk of repo2 was replaced",
    )],
    hidden: false,
};

/// `repo-sync`.
pub(super) const SYNC: CommandSpec = CommandSpec {
    command: Command::RepoSync,
    name: "repo-sync",
    summary: "Fill a repository from the others",
    about: "Makes a debt of each object that the other repositories have and this one lacks, and waits until the \
            debts are paid. The nodes copy among themselves; no PG host is involved, nothing is compressed anew. \
            The work goes on when this command is stopped, and `info` shows what is left. See repair-rate.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf --repo=3 repo-sync",
        "after repo3 was added or lost its disk",
    )],
    hidden: false,
};

/// `repo-update`.
pub(super) const UPDATE: CommandSpec = CommandSpec {
    command: Command::RepoUpdate,
    name: "repo-update",
    summary: "Change a repository's definition in the catalog",
    about: "The first node that declares a repository registers it; a node that declares it differently does \
            not serve it. This command makes this node's declaration the valid one.",
    arguments: &[],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf --repo=2 repo-update",
        "after repo2 was moved",
    )],
    hidden: false,
};

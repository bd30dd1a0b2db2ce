//! The commands about how long backups are kept.

use super::{Argument, Command, CommandSpec};

/// `expire`.
pub const EXPIRE: CommandSpec = CommandSpec {
    command: Command::Expire,
    name: "expire",
    summary: "Expire backups and WAL that need not be kept",
    about: "Each repository of the mesh is expired by itself, by its own options of retention \
            (repoN-retention-full and so on), so that a backup may be in one repository and no longer in another. A \
            backup goes with all that depend on it. `backup` does the same when it has succeeded, unless expire-auto is \
            n. A repository without such options keeps all. A backup that a repository still owes some of does not \
            count there; a held one (`hold`) neither goes nor counts; the last full backup always stays. A failure in \
            one repository is logged, and the next one goes on; the command exits with 104 then.\n\n\
            --set expires one backup whatever the options say, and leaves the other backups alone. --dry-run changes \
            nothing, and shows each backup with the reason for which it goes or stays, its bytes, and the WAL that \
            would go. `--output=json`: `dry-run`; `repositories`, each with `repo`, `backups` (`label`, `expired`, \
            `reason`, `bytes`), `archives` (`id`, `ranges` with `start`, `stop`, `files` and `bytes`, `files`, `bytes`) \
            and `errors` (`code`, `message`).",
    arguments: &[],
    examples: &[
        ("pgmesh --stanza=main expire --dry-run", "see what would go, and why"),
        ("pgmesh --stanza=main expire", "by the options of the file"),
        (
            "pgmesh --stanza=main --repo=1 --set=20261123-020001F expire",
            "one backup, in one repository",
        ),
        (
            "pgmesh --stanza=main --repo=2 expire --oldest",
            "make room in a repository that is nearly full",
        ),
    ],
    hidden: false,
};

/// `hold`.
pub const HOLD: CommandSpec = CommandSpec {
    command: Command::Hold,
    name: "hold",
    summary: "Keep a backup whatever retention says",
    about: "A held backup does not expire in any repository, and does not count for retention. So the backups that it \
            depends on stay too: of an incremental backup its full backup. `info` shows holds. A second hold takes the \
            place of the first. `release` ends it, and --until lets it end by itself.",
    arguments: &[Argument::required("LABEL", "the backup, as `pgmesh info` names it")],
    examples: &[
        (
            "pgmesh --stanza=main hold 20261123-020001F --why='audit of 2026'",
            "until it is released",
        ),
        (
            "pgmesh --stanza=main hold 20261123-020001F --until=2027-06-30",
            "until a day, in this host's time zone",
        ),
        (
            "pgmesh --stanza=main hold 20261123-020001F --until=90d",
            "for ninety days from now",
        ),
    ],
    hidden: false,
};

/// `release`.
pub const RELEASE: CommandSpec = CommandSpec {
    command: Command::Release,
    name: "release",
    summary: "End the hold on a backup",
    about: "The next `expire` treats the backup as any other. Needs an administrator's certificate, as a node has it: a \
            host that was broken into cannot release what was held to protect it.",
    arguments: &[Argument::required("LABEL", "the backup, as `pgmesh info` names it")],
    examples: &[(
        "pgmesh --config=/etc/pgmesh/node.conf --stanza=main release 20261123-020001F",
        "on a node",
    )],
    hidden: false,
};

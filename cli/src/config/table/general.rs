//! Options of every command, and of the logs.

use std::time::Duration;

use super::checks::{NAME, is_name};
use super::sets::{MESH, NODE, ONE_STANZA, STANZA, WORK};
use crate::config::command::Command::*;
use crate::config::command::CommandSet;
use crate::config::kind::Kind;
use crate::config::option::{OptionSpec, Override, Scope};

const LEVELS: Kind = Kind::Choice(&["off", "error", "warn", "info", "detail", "debug", "trace"]);
const ONE_HUNDRED_MILLISECONDS: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

const fn new(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
}

/// General options.
pub const OPTIONS: &[OptionSpec] = &[
    new("config", Kind::File, "configuration file")
        .commands(CommandSet::ALL)
        .default("/etc/pgmesh/pgmesh.conf")
        .scope(Scope::OutsideFile)
        .about(
            "The default file may be missing; one that is named here must exist. --no-config reads no file.",
            "--config=/etc/pgmesh/node.conf",
        ),
    new(
        "config-include-path",
        Kind::Path,
        "directory of more configuration files",
    )
    .commands(CommandSet::ALL)
    .default("/etc/pgmesh/conf.d")
    .scope(Scope::OutsideFile)
    .about(
        "Every *.conf in it is read after the configuration file, in the order of their names. The default \
            directory is not read when --config is given.",
        "--config-include-path=/etc/pgmesh/conf.d",
    ),
    new("stanza", Kind::Text, "name of the PostgreSQL cluster")
        .commands(STANZA)
        .required(ONE_STANZA)
        .scope(Scope::OutsideFile)
        .overrides(&[Override {
            commands: CommandSet::of(&[Invite]),
            kind: Some(Kind::List { separator: ':' }),
            default: None,
        }])
        .check(NAME, is_name)
        .about(
            "A stanza is one PostgreSQL cluster with its archive and its backups. Its options stand in the file's \
            section of that name. For `invite` it may be given several times.",
            "--stanza=main",
        ),
    new("output", Kind::Choice(&["text", "json"]), "how results are written")
        .commands(CommandSet::of(&[
            ArchiveForget,
            Backup,
            CatalogRebuild,
            Check,
            ClientList,
            MeshRotateCa,
            Doctor,
            Expire,
            Hold,
            Info,
            NodeList,
            RepoCheck,
            RepoLs,
            Restore,
            Status,
            Verify,
            Version,
        ]))
        .default("text")
        .about(
            "text is for people and may change; json is for programs.",
            "--output=json",
        ),
    new("process-max", Kind::Integer { min: 1, max: 999 }, "workers at once")
        .commands(CommandSet::of(&[Backup, CatalogRebuild, Restore, Verify]))
        .default("1")
        .about(
            "How many workers read, compress, check and send at the same time.",
            "process-max=4",
        ),
    new(
        "buffer-size",
        Kind::Size {
            min: 16 << 10,
            max: 16 << 20,
        },
        "buffer for reading and writing files",
    )
    .commands(MESH.and(NODE))
    .default("1MiB")
    .about(
        "Memory for one file operation. More memory is seldom faster.",
        "buffer-size=1MiB",
    ),
    new(
        "compress-type",
        Kind::Choice(&["none", "lz4", "zst", "gz", "bz2"]),
        "compression of new data",
    )
    .commands(CommandSet::of(&[ArchivePush, Backup]))
    .default("zst")
    .about(
        "Data is compressed once, on the PostgreSQL host. What is stored already stays readable whatever is \
            chosen here.",
        "compress-type=lz4",
    ),
    new(
        "compress-level",
        Kind::Integer { min: -7, max: 22 },
        "compression level",
    )
    .commands(CommandSet::of(&[ArchivePush, Backup]))
    .about(
        "Defaults: gz 6, lz4 1, zst 3, bz2 9. Which levels exist depends on compress-type.",
        "compress-level=1",
    ),
    new("force", Kind::Flag, "go on where the command would refuse")
        .commands(CommandSet::of(&[
            ArchiveForget,
            Backup,
            CatalogRebuild,
            ClientRevoke,
            MeshRotateCa,
            Invite,
            Join,
            NodeRemove,
            NodeRescue,
            RepoRemove,
            Restore,
            StanzaAdopt,
            StanzaDelete,
            Stop,
        ]))
        .default("n")
        .about(
            "restore: write into a directory that is not empty. backup: with --no-online, although postmaster.pid \
            exists. archive-forget: although it is pushed to, nobody is refused because of it, or it is being restored. stanza-adopt: although the data directory before it has pushed a moment ago. stanza-delete: although \
            PostgreSQL runs or the stanza is being restored. stop: end backups and restores that run. node remove: \
            although it hosts repositories, or the voters that are left could decide nothing. repo-remove: although nothing else has what it holds. join: although there is \
            an identity already. invite: the new node takes the place of the one of its name, which has lost its disk; for other \
            roles: the token is for NAME, whose certificates in that role are revoked. client revoke: although the last \
            administrator who was invited shuts itself out, or no certificate of the name is known.",
            "--force",
        ),
    new("with-backups", Kind::Flag, "with the backups that need it")
        .commands(CommandSet::of(&[ArchiveForget]))
        .default("n")
        .about("They are removed in the same step: without their WAL they could not be restored.", "--with-backups"),
    new("verbose", Kind::Flag, "say more")
        .commands(CommandSet::of(&[Verify, Version]))
        .default("n")
        .about(
            "version: also the formats that this program reads and writes. verify: nothing more, since it always says all it knows.",
            "--verbose",
        ),
    new("dry-run", Kind::Flag, "only say what would be done")
        .commands(CommandSet::of(&[ArchiveForget, Expire, NodeRescue]))
        .default("n")
        .about("Nothing is changed.", "--dry-run"),
    new("repo", Kind::Integer { min: 1, max: 256 }, "number of one repository")
        .commands(CommandSet::of(&[
            ArchiveGet,
            CatalogRebuild,
            Expire,
            Info,
            RepoCheck,
            RepoGet,
            RepoLs,
            RepoRemove,
            RepoReplace,
            RepoSync,
            RepoUpdate,
            Restore,
            Verify,
        ]))
        .required(CommandSet::of(&[RepoCheck, RepoRemove, RepoReplace, RepoSync]))
        .scope(Scope::OutsideFile)
        .about(
            "Use only this repository. Without it, the best of all is used; expire looks at each.",
            "--repo=1",
        ),
    new("set", Kind::Text, "label of a backup")
        .commands(CommandSet::of(&[Annotate, Expire, Info, Restore, Verify]))
        .required(CommandSet::of(&[Annotate]))
        .scope(Scope::OutsideFile)
        .overrides(&[Override {
            commands: CommandSet::of(&[Restore]),
            kind: None,
            default: Some("latest"),
        }])
        .about(
            "expire: this backup goes with its dependents, whatever the options of retention say. restore: with `latest` and a time or LSN as the target, the newest backup that ended before the target.",
            "--set=20261123-020001F",
        ),
    new(
        "io-timeout",
        Kind::Duration {
            min: ONE_HUNDRED_MILLISECONDS,
            max: HOUR,
        },
        "longest wait for one read or write",
    )
    .commands(WORK)
    .default("1m")
    .about(
        "How long one network or repository operation may make no progress before it counts as failed.",
        "io-timeout=30s",
    ),
    new(
        "db-timeout",
        Kind::Duration {
            min: ONE_HUNDRED_MILLISECONDS,
            max: WEEK,
        },
        "longest wait for a PostgreSQL query",
    )
    .commands(super::sets::POSTGRES_SESSION)
    .default("30m")
    .about(
        "The start of a backup waits for a checkpoint, which may take as long as checkpoint_timeout; see start-fast.",
        "db-timeout=10m",
    ),
    new("lock-path", Kind::Path, "directory of lock files")
        .commands(MESH)
        .default("/tmp/pgmesh")
        .about(
            "Locks keep two commands for one stanza on this host from meeting.",
            "lock-path=/run/pgmesh",
        ),
    new("spool-path", Kind::Path, "directory for small files of this host")
        .commands(MESH)
        .default("/var/spool/pgmesh")
        .about(
            "What this host remembers between commands. It may be deleted at any time.",
            "spool-path=/var/spool/pgmesh",
        ),
    new("man", Kind::Flag, "print the manual page")
        .commands(CommandSet::of(&[Help]))
        .default("n")
        .scope(Scope::CommandLine)
        .about("The page is roff text for man(1).", "pgmesh help --man | man -l -"),
];

/// Options of the logs.
pub const LOG_OPTIONS: &[OptionSpec] = &[
    new("log-level-console", LEVELS, "what is logged to the terminal")
        .commands(CommandSet::ALL)
        .default("warn")
        .overrides(&[Override {
            commands: CommandSet::of(&[NodeStart]),
            kind: None,
            default: Some("info"),
        }])
        .about(
            "Results of a command go to stdout, log lines always to stderr. The more talkative of \
            log-level-console and log-level-stderr counts.",
            "log-level-console=info",
        ),
    new("log-level-stderr", LEVELS, "what is logged to stderr")
        .commands(CommandSet::ALL)
        .default("off")
        .about(
            "Kept for pgBackRest's configuration files, see log-level-console.",
            "log-level-stderr=error",
        ),
    new("log-level-file", LEVELS, "what is logged to a file")
        .commands(CommandSet::ALL)
        .default("info")
        .overrides(&[Override {
            // Short and frequent commands would fill the directory; a node's log belongs to its supervisor.
            commands: CommandSet::of(&[
                ArchiveGet,
                ArchivePush,
                Completions,
                Doctor,
                Help,
                Info,
                NodeList,
                NodeStart,
                RepoCheck,
                RepoGet,
                RepoLs,
                Status,
                Version,
            ]),
            kind: None,
            default: Some("off"),
        }])
        .about("The file is STANZA-COMMAND.log in log-path.", "log-level-file=detail"),
    new("log-path", Kind::Path, "directory of log files")
        .commands(CommandSet::ALL)
        .default("/var/log/pgmesh")
        .about(
            "When the default directory does not exist, no file is written; a directory that is named here must be \
            writable, or every command warns.",
            "log-path=/var/log/pgmesh",
        ),
    new("log-timestamp", Kind::Flag, "begin log lines with the time")
        .commands(CommandSet::ALL)
        .default("y")
        .about(
            "Turn it off where the reader adds its own, as journald does.",
            "log-timestamp=n",
        ),
    new(
        "log-format",
        Kind::Choice(&["text", "json"]),
        "form of log lines on stderr",
    )
    .commands(CommandSet::ALL)
    .default("text")
    .about("json writes one object a line.", "log-format=json"),
];

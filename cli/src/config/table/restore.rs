//! Options of a restore.

use crate::config::command::Command::*;
use crate::config::command::CommandSet;
use crate::config::kind::Kind;
use crate::config::option::{OptionSpec, Scope};

const RESTORE: CommandSet = CommandSet::of(&[Restore]);

const fn new(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help).commands(RESTORE)
}

/// Options of a restore.
pub const OPTIONS: &[OptionSpec] = &[
    new("target", Kind::Text, "where recovery ends").about(
        "A time, LSN, transaction id or restore point, as --type says. A time without an offset is taken only where \
            this host and the restored PostgreSQL have the same time zone.",
        "--target='2026-11-23 04:29:57+00'",
    ),
    new(
        "target-action",
        Kind::Choice(&["pause", "promote", "shutdown"]),
        "what PostgreSQL does at the target",
    )
    .default("pause")
    .about("pause lets you look before you promote.", "--target-action=promote"),
    new("target-exclusive", Kind::Flag, "stop just before the target")
        .default("n")
        .about("For --type=time, lsn and xid.", "--target-exclusive"),
    new("target-timeline", Kind::Text, "timeline to recover along").about(
        "A number, current or latest (the highest number that PostgreSQL finds). Default: the one on which the cluster's history \
            ends; where it has several ends, because a copy was promoted and archived, the restore asks for this option.",
        "--target-timeline=3",
    ),
    new(
        "db-include",
        Kind::List { separator: ':' },
        "restore only this database",
    )
    .about(
        "May be given several times. The other databases come back as empty files and can only be dropped; \
            system databases are always restored.",
        "--db-include=shop",
    ),
    new(
        "db-exclude",
        Kind::List { separator: ':' },
        "do not restore this database",
    )
    .about(
        "May be given several times. An excluded database comes back as empty files and can only be dropped.",
        "--db-exclude=scratch",
    ),
    new(
        "tablespace-map",
        Kind::Map { separator: ':' },
        "where a tablespace goes",
    )
    .about(
        "NAME=PATH or OID=PATH, may be given several times.",
        "--tablespace-map=fast=/mnt/fast",
    ),
    new("tablespace-map-all", Kind::Path, "where all tablespaces go").about(
        "Each tablespace that tablespace-map does not name goes to a directory of its own name below it, or of its OID \
            where no directory can have that name.",
        "--tablespace-map-all=/mnt/tablespaces",
    ),
    new("keep-owners", Kind::Flag, "give files to the owners that they had")
        .default("n")
        .about(
            "Of a restore that runs as root. Otherwise all files go to the owner of pg1-path, and none to root. Only for a backup whose \
            repository nobody else can write to.",
            "--keep-owners",
        ),
    new("link-all", Kind::Flag, "restore symbolic links as links")
        .default("n")
        .about(
            "Otherwise files behind links become plain files and directories. Tablespaces are always links.",
            "--link-all",
        ),
    new("link-map", Kind::Map { separator: ':' }, "where a link points").about(
        "LINK=PATH relative to pg1-path, may be given several times.",
        "--link-map=pg_wal=/mnt/wal",
    ),
    new(
        "recovery-option",
        Kind::Map { separator: ':' },
        "another recovery setting of PostgreSQL",
    )
    .redacted()
    .about(
        "KEY=VALUE, may be given several times; written to postgresql.auto.conf.",
        "--recovery-option=primary_conninfo='host=db1 user=replicator'",
    ),
    new(
        "archive-hole",
        Kind::Choice(&["stop", "end"]),
        "what a hole in the archived WAL means",
    )
    .commands(CommandSet::of(&[Restore, ArchiveGet]))
    .default("stop")
    .about(
        "A WAL file is missing, but later WAL of its history is archived. stop: archive-get fails, and recovery stops before the \
            server opens. end: recovery ends at the hole, and the server opens without what was committed behind it.",
        "--archive-hole=end",
    ),
    new(
        "archive-mode",
        Kind::Choice(&["preserve", "off"]),
        "archiving of the restored cluster",
    )
    .about(
        "off writes archive_mode=off, for a copy that must not archive; preserve leaves it as the cluster had it. Default: preserve \
            into the data directory that was backed up, off into another one.",
        "--archive-mode=preserve",
    ),
    new(
        "delta",
        Kind::Flag,
        "keep, or pass over, what is the same by its content",
    )
    .commands(CommandSet::of(&[Backup, Restore]))
    .default("n")
    .about(
        "restore: files that are not in the backup are removed; of those that are there, only the pages that differ \
            are fetched and written. backup: a diff or incr reads every file and compares it page by page, whatever \
            sizes, times and the WAL say.",
        "--delta",
    ),
    new("repo-direct", Kind::Flag, "read a repository without any node")
        .commands(CommandSet::of(&[Restore, ArchiveGet, RepoGet, RepoLs]))
        .default("n")
        .about(
            "For the day when the mesh is gone: one repository, described by its repoN-… options, and its \
            passphrase are enough.",
            "--repo-direct",
        ),
    new("write-manifest", Kind::Flag, "write PostgreSQL's backup_manifest")
        .default("n")
        .scope(Scope::CommandLine)
        .about(
            "With it pg_verifybackup can judge the restored directory before PostgreSQL starts.",
            "--write-manifest",
        ),
];

//! Options of archiving, backups and single commands.

use std::time::Duration;

use super::sets::NODE;
use crate::config::command::Command::*;
use crate::config::command::CommandSet;
use crate::config::kind::Kind;
use crate::config::option::{OptionSpec, Override, Scope};

const BACKUP: CommandSet = CommandSet::of(&[Backup]);
const ACKNOWLEDGED: CommandSet = CommandSet::of(&[ArchivePush, Backup, Check]).and(NODE);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
const THIRTY_DAYS: Duration = Duration::from_secs(30 * 24 * 3600);
const RESTORE_TYPES: Kind = Kind::Choice(&[
    "default",
    "immediate",
    "lsn",
    "name",
    "none",
    "preserve",
    "standby",
    "time",
    "xid",
]);

const fn new(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
}

/// Options of archiving and backups.
pub const OPTIONS: &[OptionSpec] = &[
    new(
        "type",
        Kind::Choice(&["full", "diff", "incr"]),
        "kind of backup, or target of recovery",
    )
    .commands(CommandSet::of(&[Backup, Restore]))
    .default("incr")
    .overrides(&[Override {
        commands: CommandSet::of(&[Restore]),
        kind: Some(RESTORE_TYPES),
        default: Some("default"),
    }])
    .about(
        "backup: full stores every page anew, diff what changed since the last full, incr what changed since \
            the last backup. restore: default recovers to the end of the archive, immediate only until the backup is \
            consistent; lsn, name, time and xid need --target; standby writes standby.signal; preserve keeps the \
            recovery settings that are there; none writes none.",
        "--type=full",
    ),
    new(
        "archive-ack",
        Kind::Integer { min: 1, max: 256 },
        "repositories that must hold a WAL segment",
    )
    .commands(ACKNOWLEDGED.and(CommandSet::of(&[Doctor])))
    .about(
        "archive-push succeeds as soon as so many repositories hold the segment durably; the rest follows in \
            the background. Default: 2, or 1 where there is only one repository.",
        "archive-ack=1",
    ),
    new(
        "backup-ack",
        Kind::Integer { min: 1, max: 256 },
        "repositories that must hold a backup",
    )
    .commands(ACKNOWLEDGED)
    .about(
        "A backup is committed when every chunk of it is durable in so many repositories. Default: 2, or 1 \
            where there is only one repository.",
        "backup-ack=2",
    ),
    new(
        "archive-timeout",
        Kind::Duration { min: SECOND, max: DAY },
        "longest wait for WAL to be archived",
    )
    .commands(CommandSet::of(&[ArchiveGet, ArchivePush, Backup, Check]))
    .default("1m")
    .about(
        "backup and check wait so long for the segments that they need; archive-push and archive-get so long \
            for a node and enough repositories.",
        "archive-timeout=2m",
    ),
    new("archive-check", Kind::Flag, "wait for the backup's WAL")
        .commands(CommandSet::of(&[Backup, Check, Doctor]))
        .default("y")
        .about(
            "Without its WAL a backup of a running cluster cannot be restored. n: check switches no segment, doctor does not \
                look at the server's archive_command, and backup neither looks at the server's archiving nor waits for it, but pushes the WAL that it needs from pg_wal itself.",
            "archive-check=y",
        ),
    new(
        "archive-header-check",
        Kind::Flag,
        "compare a segment's header with the cluster",
    )
    .commands(CommandSet::of(&[ArchivePush]))
    .default("y")
    .about(
        "Refuses a segment of another cluster, version or name.",
        "archive-header-check=y",
    ),
    new("archive-mode-check", Kind::Flag, "refuse archive_mode=always")
        .commands(CommandSet::of(&[Backup, Check, Doctor]))
        .default("y")
        .about(
            "With archive_mode=always a standby archives too, and its segments may differ in their unused ends.",
            "archive-mode-check=y",
        ),
    new(
        "backup-standby",
        Kind::Choice(&["n", "y", "prefer"]),
        "read the files of a standby",
    )
    .commands(BACKUP)
    .default("n")
    .about(
        "The standby is one of pgN-path on this host, the primary another one, on this host or at pgN-host. y: without a \
            standby that fits the backup fails; prefer: it is taken from the primary then, if that is on this host.",
        "backup-standby=y",
    ),
    new("start-fast", Kind::Flag, "ask PostgreSQL for an immediate checkpoint")
        .commands(BACKUP)
        .default("n")
        .about(
            "Otherwise the backup begins with the next regular checkpoint.",
            "start-fast=y",
        ),
    new("stop-auto", Kind::Flag, "stop an earlier backup that failed")
        .commands(BACKUP)
        .default("n")
        .about(
            "Accepted for pgBackRest's configuration files. The PostgreSQL versions that pgmesh supports end a failed \
            backup by themselves when its connection closes.",
            "stop-auto=y",
        ),
    new("resume", Kind::Flag, "take up a backup that was killed")
        .commands(BACKUP)
        .default("y")
        .about("What a killed backup has stored is not sent again.", "resume=n"),
    new(
        "delta-verify",
        Kind::Duration {
            min: Duration::ZERO,
            max: YEAR,
        },
        "how often diff and incr backups read everything",
    )
    .commands(BACKUP)
    .default("7d")
    .about(
        "A diff or incr reads only what may have changed. When all was last read so long ago, it reads everything again, \
            and warns of pages that changed though nothing said so. 0 reads everything each time, as --delta does.",
        "delta-verify=30d",
    ),
    new("checksum-page", Kind::Flag, "check page checksums while reading")
        .commands(BACKUP)
        .about(
            "Default: y when the cluster has checksums. Bad pages are recorded in the manifest and warned \
            about; the backup goes on.",
            "checksum-page=y",
        ),
    new(
        "exclude",
        Kind::List { separator: ':' },
        "path to leave out of the backup",
    )
    .commands(BACKUP)
    .about(
        "Relative to pg1-path; with a final / the directory stays and only its content is left out. Leaving out \
            data files makes a backup that cannot be restored.",
        "exclude=junk/",
    ),
    new("annotation", Kind::Map { separator: ':' }, "note of a backup")
        .commands(CommandSet::of(&[Annotate, Backup]))
        .required(CommandSet::of(&[Annotate]))
        .about(
            "KEY=VALUE, may be given several times. With `annotate`, an empty value removes the key.",
            "--annotation=source='nightly job'",
        ),
    new("online", Kind::Flag, "the cluster runs")
        .commands(CommandSet::of(&[Backup, StanzaAdopt, StanzaCreate, StanzaUpgrade]))
        .default("y")
        .about(
            "With --no-online PostgreSQL must be stopped and is not asked anything.",
            "--no-online",
        ),
    new(
        "role",
        Kind::Choice(&["client", "restore", "monitor", "node", "admin"]),
        "what the invited host may do",
    )
    .commands(CommandSet::of(&[Invite]))
    .default("client")
    .scope(Scope::CommandLine)
    .about(
        "client: archive, back up and restore the stanzas named; restore: read and restore them, and write nothing; \
        monitor: status, info and doctor of the whole mesh, no data; node: be a node; admin: everything.",
        "--role=client",
    ),
    new("finish", Kind::Flag, "retire the former authority")
        .commands(CommandSet::of(&[MeshRotateCa]))
        .default("n")
        .scope(Scope::CommandLine)
        .about(
            "Certificates of the former authority count no more, and its key is removed from the nodes.",
            "--finish",
        ),
    new("abort", Kind::Flag, "give the new authority up")
        .commands(CommandSet::of(&[MeshRotateCa]))
        .default("n")
        .scope(Scope::CommandLine)
        .about(
            "The former authority stays. Nodes that show certificates of the new one go back. Refused once the new one \
             signs, since clients may know it alone by then.",
            "--abort",
        ),
    new("reason", Kind::Text, "why a certificate is revoked")
        .commands(CommandSet::of(&[ClientRevoke]))
        .scope(Scope::CommandLine)
        .about(
            "The host sees it when it is refused, and the audit trail keeps it.",
            "--reason='disk stolen'",
        ),
    new(
        "expires",
        Kind::Duration {
            min: SECOND,
            max: THIRTY_DAYS,
        },
        "how long the token can be used",
    )
    .commands(CommandSet::of(&[Invite]))
    .default("1h")
    .scope(Scope::CommandLine)
    .about("A token is used up by the first join in any case.", "--expires=15m"),
];

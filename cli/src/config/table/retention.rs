//! Options of retention: how much each repository keeps.

use super::checks::{SEGMENT, is_segment};
use crate::config::command::Command::*;
use crate::config::command::CommandSet;
use crate::config::kind::Kind;
use crate::config::option::{IndexKey, OptionSpec, Scope};

const EXPIRING: CommandSet = CommandSet::of(&[Backup, Expire]);
const COUNT: Kind = Kind::Integer { min: 1, max: 9_999_999 };

const fn kept(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
        .commands(EXPIRING)
        .indexed(IndexKey::Repo)
        .policy()
}

const fn of_expire(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
        .commands(CommandSet::of(&[Expire]))
        .scope(Scope::CommandLine)
}

/// Options of retention.
pub const OPTIONS: &[OptionSpec] = &[
    kept("retention-full", COUNT, "full backups, or days, that a repository keeps")
        .old("retention-full")
        .about(
            "With retention-full-type=count the newest so many full backups stay; older ones go with all that depend on \
            them. With time a full backup goes once a newer one is older than so many days, so that each moment of \
            these days can be restored. Without it full backups never expire, unless retention-daily, -weekly, -monthly \
            or -yearly is set.",
            "repo1-retention-full=2",
        ),
    kept(
        "retention-full-type",
        Kind::Choice(&["count", "time"]),
        "unit of retention-full",
    )
    .default("count")
    .about("count: full backups. time: days.", "repo1-retention-full-type=time"),
    kept("retention-diff", COUNT, "full and differential backups that count")
        .old("retention-diff")
        .about(
            "Differential backups older than the newest so many full and differential ones go, with the incremental \
            ones that depend on them. Full backups are counted, and do not go by it.",
            "repo1-retention-diff=3",
        ),
    kept("retention-archive", COUNT, "backups whose WAL is kept without a gap")
        .old("retention-archive")
        .about(
            "WAL from before the oldest of so many backups goes, but for the WAL that older backups need to be \
            consistent. Default: the value of retention-full, or of retention-diff where retention-archive-type says so; \
            with retention-full-type=time as many full backups as stay.",
            "repo1-retention-archive=2",
        ),
    kept(
        "retention-archive-type",
        Kind::Choice(&["full", "diff", "incr"]),
        "backups that retention-archive counts",
    )
    .default("full")
    .old("retention-archive-type")
    .about(
        "full: full backups. diff: full and differential ones. incr: all.",
        "repo1-retention-archive-type=diff",
    ),
    kept(
        "retention-history",
        Kind::Integer { min: 0, max: 9_999_999 },
        "days that copies of manifests are kept",
    )
    .about(
        "Accepted for pgBackRest's configuration files, and without effect: pgmesh keeps no copies of manifests beyond \
        their backups.",
        "repo1-retention-history=365",
    ),
    kept("retention-daily", COUNT, "days of which a full backup stays").about(
        "Of each of the last so many days that have a full backup the newest one stays, with its dependents. A backup \
        that any option keeps stays.",
        "repo2-retention-daily=7",
    ),
    kept("retention-weekly", COUNT, "weeks of which a full backup stays").about(
        "As retention-daily, by weeks that begin on Monday.",
        "repo2-retention-weekly=4",
    ),
    kept("retention-monthly", COUNT, "months of which a full backup stays")
        .about("As retention-daily, by months.", "repo2-retention-monthly=12"),
    kept("retention-yearly", COUNT, "years of which a full backup stays")
        .about("As retention-daily, by years.", "repo2-retention-yearly=5"),
    kept("retention-min", COUNT, "full backups that stay in any case").default("1").about(
        "The newest so many full backups that the repository has whole stay, whatever the other options, --set and \
        --oldest say.",
        "repo1-retention-min=2",
    ),
    OptionSpec::new("retention-time-zone", Kind::Text, "time zone of days, weeks, months and years")
        .commands(EXPIRING)
        .about(
            "An IANA name. The start of a backup in this zone says which day it belongs to. Default: the zone of this \
            host.",
            "retention-time-zone=Europe/Rome",
        ),
    OptionSpec::new("expire-auto", Kind::Flag, "expire after each backup")
        .commands(CommandSet::of(&[Backup]))
        .default("y")
        .about(
            "Each repository that has an option of retention is expired when a backup has succeeded. The options count \
            as `backup` reads them: [global:expire] is not looked at.",
            "expire-auto=n",
        ),
    of_expire("oldest", Kind::Flag, "expire the oldest full backup")
        .default("n")
        .about(
            "Whatever the options of retention say, the oldest full backup goes with all that depends on it, and the WAL \
            before the next one; the last full backup stays. For a disk that is nearly full.",
            "--oldest",
        ),
    of_expire("archive-expire-before", Kind::Text, "expire only WAL before this segment")
        .check(SEGMENT, is_segment)
        .policy()
        .about(
            "WAL is expired even if there are fewer backups than retention-archive says, but only before this segment. \
            WAL that a backup needs stays.",
            "--archive-expire-before=000000010000000200000031",
        ),
    OptionSpec::new("until", Kind::Text, "end of a hold")
        .commands(CommandSet::of(&[Hold]))
        .scope(Scope::CommandLine)
        .about(
            "A time such as `2027-06-30` or `2027-06-30 18:00:00+02`, in this host's time zone where it has no offset, \
            or a span from now on such as `90d`. Without it the hold lasts until `release`.",
            "--until=2027-06-30",
        ),
    OptionSpec::new("why", Kind::Text, "reason of a hold")
        .commands(CommandSet::of(&[Hold]))
        .scope(Scope::CommandLine)
        .about("`info` shows it, and the audit trail keeps it.", "--why='audit of 2026'"),
];

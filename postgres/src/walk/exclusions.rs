//! The files that a backup leaves out, decided by names alone (basebackup.c: `excludeDirContents`, `excludeFiles`).

use std::collections::HashSet;

use super::WalkOptions;
use crate::{Fork, RelationFile};

/// The decision on a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the backup.
    Take,
    /// A directory belongs to the backup, but its content does not.
    TakeEmpty,
    /// It does not belong to the backup.
    Leave,
}

/// Directories that must exist, and that the server fills anew.
const EMPTIED: &[&str] = &[
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal/archive_status",
    "pg_wal/summaries",
];

/// Files of the data directory itself that belong to a running server, to another backup or to another restore.
/// `pg_backup_stop` gives this backup its own `backup_label` and `tablespace_map`.
const LEFT_OUT: &[&str] = &[
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

/// The rules of one walk.
#[derive(Debug)]
pub struct Exclusions {
    tablespace_directory: String,
    excluded: HashSet<String>,
    emptied: HashSet<String>,
}

impl Exclusions {
    /// The rules of a walk with these options.
    #[must_use]
    pub fn new(options: &WalkOptions) -> Self {
        let clean = |path: &String| path.trim_start_matches('/').trim_end_matches('/').to_owned();
        let (emptied, excluded): (Vec<_>, Vec<_>) = options.exclude.iter().partition(|path| path.ends_with('/'));
        Self {
            tablespace_directory: options.version.tablespace_directory(),
            excluded: excluded.into_iter().map(clean).collect(),
            emptied: emptied.into_iter().map(clean).collect(),
        }
    }

    /// The decision on `path`, relative to PGDATA. Other files of its directory are not considered.
    #[must_use]
    pub fn verdict(&self, path: &str) -> Verdict {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.starts_with("pgsql_tmp")
            || name == "pg_internal.init"
            || name.starts_with("pg_internal.init.")
            || LEFT_OUT.contains(&path)
            || self.excluded.contains(path)
        {
            return Verdict::Leave;
        }
        if EMPTIED.contains(&path) || self.emptied.contains(path) {
            return Verdict::TakeEmpty;
        }
        // Segments come from the archive.
        if directory == "pg_wal" {
            return Verdict::Leave;
        }
        // Other versions may share the tablespace's directory.
        if is_tablespace(directory) && name != self.tablespace_directory {
            return Verdict::Leave;
        }
        Verdict::Take
    }
}

/// Whether `path` is a tablespace's link or, if it was created in place, its directory.
pub(super) fn is_tablespace(path: &str) -> bool {
    tablespace_oid(path).is_some()
}

/// The OID of the tablespace whose link `path` is.
pub(super) fn tablespace_oid(path: &str) -> Option<u32> {
    let oid = path.strip_prefix("pg_tblspc/")?;
    oid.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| oid.parse().ok())
        .flatten()
}

/// The relation files of a directory that are left out: the files of temporary relations, and of unlogged relations all
/// forks but the init fork, from which the server makes them anew. A relation is unlogged if it has an init fork.
#[derive(Default)]
pub(super) struct RelationExclusions {
    unlogged: HashSet<u32>,
}

impl RelationExclusions {
    /// Notes a path. All paths of a directory must be noted before the first question.
    pub(super) fn note(&mut self, path: &str) {
        let init = RelationFile::parse(path).filter(|file| file.fork == Fork::Init && !file.temporary);
        self.unlogged.extend(init.map(|file| file.filenode));
    }

    pub(super) fn leaves_out(&self, path: &str) -> bool {
        RelationFile::parse(path)
            .is_some_and(|file| file.temporary || (file.fork != Fork::Init && self.unlogged.contains(&file.filenode)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PgVersion;

    fn verdict(path: &str) -> Verdict {
        let exclude = vec!["junk".to_owned(), "cache/".to_owned(), "log/old".to_owned()];
        Exclusions::new(&WalkOptions {
            version: PgVersion::V15,
            exclude,
        })
        .verdict(path)
    }

    #[test]
    fn what_the_server_makes_anew_is_left_out() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "pg_wal/000000010000000000000001",
            "pg_wal/00000002.history",
            "base/pgsql_tmp",
            "base/5/pgsql_tmp123.0",
            "pg_tblspc/16500/PG_15_202209061/pgsql_tmp",
            "global/pg_internal.init",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.4711",
            "backup_label.old",
            "recovery.signal",
            "standby.signal",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "pg_tblspc/16500/PG_14_202107181",
            "pg_tblspc/16500/lost+found",
            "junk",
            "log/old",
        ] {
            assert_eq!(verdict(path), Verdict::Leave, "{path}");
        }
    }

    #[test]
    fn directories_that_the_server_must_find_are_kept_empty() {
        for path in [
            "pg_replslot",
            "pg_stat_tmp",
            "pg_subtrans",
            "pg_wal/archive_status",
            "cache",
        ] {
            assert_eq!(verdict(path), Verdict::TakeEmpty, "{path}");
        }
    }

    #[test]
    fn everything_else_belongs_to_the_backup() {
        for path in [
            "PG_VERSION",
            "global/pg_control",
            "global/pg_filenode.map",
            "pg_wal",
            "pg_xact/0000",
            "pg_tblspc/16500",
            "pg_tblspc/16500/PG_15_202209061",
            "postgresql.auto.conf",
            "current_logfiles",
            "base/5/postmaster.pid",
            "log/junk",
        ] {
            assert_eq!(verdict(path), Verdict::Take, "{path}");
        }
    }

    #[test]
    fn unlogged_relations_keep_their_init_forks_only() {
        let paths = [
            "base/5/100",
            "base/5/100.1",
            "base/5/100_fsm",
            "base/5/100_init",
            "base/5/1001",
            "base/5/t3_200",
        ];
        let mut exclusions = RelationExclusions::default();
        paths.into_iter().for_each(|path| exclusions.note(path));
        let kept: Vec<_> = paths.into_iter().filter(|path| !exclusions.leaves_out(path)).collect();
        assert_eq!(kept, ["base/5/100_init", "base/5/1001"]);
    }
}

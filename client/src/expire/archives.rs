//! Which WAL of a repository stays.

use super::history::{Ask, History};
use super::lines::Line;
use super::select::Selection;
use pgmesh_postgres::{SegmentName, TimelineId};
use pgmesh_protocol::{EXPIRED_AT_ONCE, ExitCode, Failure, KeptWal, RetainedBackup, RetainedDatabase};
use pgmesh_storage::{ArchiveId, BackupLabel, BackupType, DbId};
use std::collections::BTreeSet;

/// The WAL of one database that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePlan {
    /// The database.
    pub database: DbId,
    /// The name of its archive.
    pub archive: ArchiveId,
    /// The lines of the log, before the files that go.
    pub lines: Vec<Line>,
    /// No backup needs any of it, and the cluster has moved on: all goes, and is not counted by stretches.
    pub whole: bool,
    /// The stretches that stay, in order and apart from each other.
    pub keep: Vec<KeptWal>,
    /// Only segments before this one go.
    pub before: Option<SegmentName>,
    /// History files of the timelines below this one go.
    pub histories_below: Option<TimelineId>,
}

/// The WAL of a repository that stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalPlan {
    /// Why no archive is looked at, in a line of the log.
    pub lines: Vec<Line>,
    /// The archives of which WAL may go, oldest database first.
    pub archives: Vec<ArchivePlan>,
}

/// Decides which WAL stays once the selected backups are gone.
///
/// # Errors
/// 29: a backup is of a database that the stanza does not have.
pub fn wal(history: &History, selection: &Selection, time_based: bool, ask: &Ask) -> Result<WalPlan, Failure> {
    let gone = selection.labels();
    let left: Vec<&RetainedBackup> = history
        .backups()
        .filter(|backup| !gone.contains(&backup.label))
        .collect();
    let mut plan = WalPlan::default();
    if selection.archive.is_none() && ask.before.is_none() {
        let repo = history.repo;
        plan.lines.push(Line::info(if time_based {
            format!("repo{repo}: time-based archive retention not met - archive logs will not be expired")
        } else {
            format!("option 'repo{repo}-retention-archive' is not set - archive logs will not be expired")
        }));
        return Ok(plan);
    }
    let (count, of_type) = selection.archive.unwrap_or((u32::MAX, BackupType::Full));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    // Newest first, of all databases together.
    let counted: Vec<&RetainedBackup> = left
        .iter()
        .rev()
        .copied()
        .filter(|backup| history.counts(backup) && is_of_type(backup, of_type))
        .collect();
    let too_soon = counted.is_empty() || count > counted.len();
    if too_soon && ask.before.is_none() {
        return Ok(plan);
    }
    check_databases(history, &left)?;
    let retained: BTreeSet<&BackupLabel> = counted.iter().take(count).map(|backup| &backup.label).collect();
    for database in history.databases.iter().filter(|database| database.has_wal) {
        let of_database: Vec<&RetainedBackup> = left
            .iter()
            .copied()
            .filter(|backup| backup.database == database.id)
            .collect();
        let first = first_retained(history, &of_database, &retained, of_type);
        plan.archives
            .extend(archive(history, database, &of_database, first, ask.before));
    }
    Ok(plan)
}

/// `full` counts full backups, `diff` differential ones too, `incr` all.
fn is_of_type(backup: &RetainedBackup, of_type: BackupType) -> bool {
    backup.kind <= of_type
}

/// As pgBackRest compares the lists of its two info files.
fn check_databases(history: &History, backups: &[&RetainedBackup]) -> Result<(), Failure> {
    let known: BTreeSet<DbId> = history.databases.iter().map(|database| database.id).collect();
    if known.len() == history.databases.len() && backups.iter().all(|backup| known.contains(&backup.database)) {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Format,
        "archive expiration cannot continue - archive and backup history lists do not match",
    ))
}

/// The backup from whose start on all WAL of its database stays.
fn first_retained<'b>(
    history: &History,
    of_database: &[&'b RetainedBackup],
    retained: &BTreeSet<&BackupLabel>,
    of_type: BackupType,
) -> Option<&'b RetainedBackup> {
    let oldest_retained = of_database.iter().find(|backup| retained.contains(&backup.label));
    let newest = || {
        let mut newest_first = of_database.iter().rev();
        newest_first.find(|backup| history.counts(backup) && is_of_type(backup, of_type))
    };
    // Held backups, and backups that are still owed: they count for nothing else, and their database's WAL stays.
    let any = || of_database.iter().min_by_key(|backup| backup.wal_start);
    oldest_retained.or_else(newest).or_else(any).copied()
}

fn archive(
    history: &History,
    database: &RetainedDatabase,
    of_database: &[&RetainedBackup],
    first: Option<&RetainedBackup>,
    before: Option<SegmentName>,
) -> Option<ArchivePlan> {
    let mut plan = ArchivePlan {
        database: database.id,
        archive: database.archive_id,
        lines: Vec::new(),
        whole: false,
        keep: Vec::new(),
        before,
        histories_below: None,
    };
    let Some(first) = first else {
        if !history.is_current(database.id) {
            plan.whole = true;
            plan.before = None;
            plan.histories_below = Some(TimelineId(u32::MAX));
            return Some(plan);
        }
        return before.map(|_| plan);
    };
    let mut keep = Vec::new();
    for backup in of_database {
        let is_first = backup.label == first.label;
        let last = (!is_first).then_some(backup.wal_stop);
        if backup.label <= first.label {
            let stop = last.map_or(String::new(), |stop| format!(", stop = {stop}"));
            plan.lines.push(Line::detail(format!(
                "repo{}: {} archive retention on backup {}, start = {}{stop}",
                history.repo, database.archive_id, backup.label, backup.wal_start
            )));
        }
        let first = backup.wal_start;
        keep.push(KeptWal { first, last });
    }
    plan.keep = joined(keep);
    // A recovery of any backup that stays asks for the histories from its own timeline on.
    let timeline = first.wal_start.timeline;
    let kept = of_database.iter().map(|backup| backup.wal_start.timeline).min();
    let timeline = kept.map_or(timeline, |kept| kept.min(timeline));
    plan.histories_below = Some(before.map_or(timeline, |before| before.timeline.min(timeline)));
    Some(plan)
}

/// The same stretches in order and apart from each other, at most as many as one request has: further ones are joined,
/// the oldest first, so that more WAL stays.
fn joined(mut stretches: Vec<KeptWal>) -> Vec<KeptWal> {
    stretches.sort_by_key(|stretch| stretch.first);
    let mut apart: Vec<KeptWal> = Vec::new();
    for stretch in stretches {
        match apart.last_mut() {
            Some(before) if before.last.is_none_or(|last| stretch.first <= last) => {
                before.last = before.last.zip(stretch.last).map(|(one, other)| one.max(other));
            }
            _ => apart.push(stretch),
        }
    }
    let surplus = apart.len().saturating_sub(EXPIRED_AT_ONCE);
    if surplus > 0 {
        let oldest: Vec<KeptWal> = apart.drain(..=surplus).collect();
        if let (Some(first), Some(last)) = (oldest.first(), oldest.last()) {
            let stretch = KeptWal {
                first: first.first,
                last: last.last,
            };
            apart.insert(0, stretch);
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(first: u32, last: Option<u32>) -> KeptWal {
        let segment = |segment| SegmentName {
            timeline: TimelineId(1),
            log: 0,
            segment,
        };
        KeptWal {
            first: segment(first),
            last: last.map(segment),
        }
    }

    #[test]
    fn stretches_that_meet_are_joined() {
        let joined = joined(vec![
            stretch(9, None),
            stretch(1, Some(3)),
            stretch(3, Some(4)),
            stretch(2, Some(2)),
            stretch(12, Some(13)),
        ]);
        assert_eq!(joined, [stretch(1, Some(4)), stretch(9, None)]);
    }

    #[test]
    fn more_stretches_than_a_request_has_keep_more() {
        let count = u32::try_from(EXPIRED_AT_ONCE).unwrap();
        let many: Vec<KeptWal> = (0..count + 2).map(|at| stretch(at * 10, Some(at * 10 + 1))).collect();
        let joined = joined(many);
        assert_eq!(joined.len(), EXPIRED_AT_ONCE);
        assert_eq!(joined.first(), Some(&stretch(0, Some(21))));
        assert_eq!(
            joined.last(),
            Some(&stretch((count + 1) * 10, Some((count + 1) * 10 + 1)))
        );
    }
}

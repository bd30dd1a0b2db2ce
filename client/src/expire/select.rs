//! Which backups of a repository go.

use super::calendar::{self, Zone};
use super::history::{Ask, History};
use super::lines::Line;
use super::retention::{FullType, Retention};
use pgmesh_protocol::{ExitCode, Failure, RetainedBackup};
use pgmesh_storage::{BackupLabel, BackupType};
use std::collections::{BTreeMap, BTreeSet};

/// Seconds of a day, as `retention-full-type=time` counts days.
const DAY: i64 = 86_400;

/// A backup that goes with its dependents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredSet {
    /// The word of the log: `full`, `diff`, `time-based` or `adhoc`.
    pub kind: &'static str,
    /// The backups, oldest first.
    pub labels: Vec<BackupLabel>,
    /// The option that has them expire: `repo1-retention-full=2`.
    pub why: String,
}

/// The backups that go and the backups that stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The sets that go, in the order of the log.
    pub sets: Vec<ExpiredSet>,
    /// The reasons for which full backups stay.
    pub kept: BTreeMap<BackupLabel, String>,
    /// The full backups that the calendar keeps, with their dependents.
    calendar: BTreeSet<BackupLabel>,
    /// The lines of the log.
    pub lines: Vec<Line>,
    /// `--set` names a backup of this repository.
    pub found: bool,
    /// The number of backups whose WAL is kept without a gap, and their type; none: it is not set.
    pub archive: Option<(u32, BackupType)>,
}

impl Selection {
    /// All backups that go.
    #[must_use]
    pub fn labels(&self) -> BTreeSet<&BackupLabel> {
        self.sets.iter().flat_map(|set| &set.labels).collect()
    }

    fn add(&mut self, history: &History, label: &BackupLabel, kind: &'static str, why: &str) {
        let gone = self.labels();
        let labels: Vec<BackupLabel> = history.with_dependents(label);
        let labels: Vec<BackupLabel> = labels.into_iter().filter(|label| !gone.contains(label)).collect();
        if labels.is_empty() {
            return;
        }
        let (names, set) = (join(&labels), if labels.len() > 1 { "set " } else { "" });
        let line = Line::info(format!("repo{}: expire {kind} backup {set}{names}", history.repo));
        let why = why.to_owned();
        self.sets.push(ExpiredSet { kind, labels, why });
        self.lines.push(line);
    }
}

fn join(labels: &[BackupLabel]) -> String {
    labels.iter().map(BackupLabel::as_str).collect::<Vec<_>>().join(", ")
}

/// Decides which backups go.
///
/// # Errors
/// 75: `--set` names a backup that has to stay.
pub fn select(history: &History, retention: &Retention, ask: &Ask, zone: &Zone) -> Result<Selection, Failure> {
    let by_options = retention
        .archive_by_options()
        .map(|count| (count, retention.archive_type));
    let mut selection = Selection {
        archive: by_options,
        ..Selection::default()
    };
    if let Some(label) = &ask.set {
        by_set(&mut selection, history, retention, label)?;
        return Ok(selection);
    }
    let fulls: Vec<&RetainedBackup> = counted(history, &[BackupType::Full]);
    let oldest = ask.oldest && oldest_may_go(&mut selection, history, retention, fulls.len());
    if oldest {
        let left = u32::try_from(fulls.len().saturating_sub(1)).unwrap_or(u32::MAX);
        selection.archive = Some((left, BackupType::Full));
        protect_newest(&mut selection, history, retention);
        if let Some(oldest) = fulls.first() {
            selection.add(history, &oldest.label, "full", "--oldest");
        }
    } else {
        keep_by_calendar(&mut selection, history, retention, zone, &fulls);
        protect_newest(&mut selection, history, retention);
        match (retention.full_type, retention.full) {
            (FullType::Time, Some(days)) => by_time(&mut selection, history, retention, days, &fulls),
            (_, count) => by_count(&mut selection, history, retention, count, &fulls),
        }
    }
    differentials(&mut selection, history, retention);
    Ok(selection)
}

/// The backups of these types that count, oldest first.
fn counted<'h>(history: &'h History, types: &[BackupType]) -> Vec<&'h RetainedBackup> {
    let of_types = history.backups().filter(|backup| types.contains(&backup.kind));
    of_types.filter(|backup| history.counts(backup)).collect()
}

fn keep_by_calendar(
    selection: &mut Selection,
    history: &History,
    retention: &Retention,
    zone: &Zone,
    fulls: &[&RetainedBackup],
) {
    let kept = calendar::kept(retention, zone, fulls.iter().copied());
    selection.calendar.extend(kept.keys().cloned());
    let named = kept
        .into_iter()
        .map(|(label, why)| (label, format!("repo{}-{why}", history.repo)));
    selection.kept.extend(named);
}

/// `retention-min`: the newest full backups that the repository has whole.
fn protect_newest(selection: &mut Selection, history: &History, retention: &Retention) {
    let min = retention.min.get();
    let newest = history.whole_fulls().into_iter().rev();
    for backup in newest.take(usize::try_from(min).unwrap_or(usize::MAX)) {
        let reason = || format!("repo{}-retention-min={min}", history.repo);
        selection.kept.entry(backup.label.clone()).or_insert_with(reason);
    }
}

/// Full backups beyond the newest ones. Those of all databases count together.
fn by_count(
    selection: &mut Selection,
    history: &History,
    retention: &Retention,
    count: Option<u32>,
    fulls: &[&RetainedBackup],
) {
    let repo = history.repo;
    let (stay, why) = match count {
        Some(count) => (count, format!("repo{repo}-retention-full={count}")),
        None if retention.has_calendar() => (
            0,
            format!("no day, week, month or year of repo{repo}-retention-… keeps it"),
        ),
        None => return,
    };
    let surplus = fulls.len().saturating_sub(usize::try_from(stay).unwrap_or(usize::MAX));
    let (go, stay) = fulls.split_at(surplus);
    for full in stay {
        selection.kept.insert(full.label.clone(), why.clone());
    }
    for full in go {
        if !selection.kept.contains_key(&full.label) {
            selection.add(history, &full.label, "full", &why);
        }
    }
    if count.is_none() && retention.archive.is_none() && retention.archive_type == BackupType::Full {
        let left = counted_left(selection, history);
        selection.archive = (left > 0).then_some((left, BackupType::Full));
    }
}

/// Full backups before the newest one that is older than the days.
fn by_time(selection: &mut Selection, history: &History, retention: &Retention, days: u32, fulls: &[&RetainedBackup]) {
    let threshold = history.now.saturating_sub(i64::from(days).saturating_mul(DAY));
    let promised = fulls.iter().rposition(|full| full.time_stop < threshold);
    let (go, stay) = fulls.split_at(promised.unwrap_or(0));
    let why = format!(
        "repo{0}-retention-full-type=time, repo{0}-retention-full={days}",
        history.repo
    );
    for full in stay {
        selection.kept.insert(full.label.clone(), why.clone());
    }
    for full in go {
        if !selection.kept.contains_key(&full.label) {
            selection.add(history, &full.label, "time-based", &why);
        }
    }
    if !go.is_empty() && retention.archive.is_none() && retention.archive_type == BackupType::Full {
        let left = u32::try_from(stay.len()).unwrap_or(u32::MAX);
        selection.archive = Some((left, BackupType::Full));
    }
}

/// Full backups that count and stay.
fn counted_left(selection: &Selection, history: &History) -> u32 {
    let gone = selection.labels();
    let fulls = counted(history, &[BackupType::Full]);
    let left = fulls.iter().filter(|full| !gone.contains(&full.label)).count();
    u32::try_from(left).unwrap_or(u32::MAX)
}

/// Differential backups among the surplus of full and differential ones. The dependents of a full backup that the
/// calendar keeps stay with it.
fn differentials(selection: &mut Selection, history: &History, retention: &Retention) {
    let Some(count) = retention.diff else { return };
    let gone: BTreeSet<BackupLabel> = selection.labels().into_iter().cloned().collect();
    let mut both = counted(history, &[BackupType::Full, BackupType::Diff]);
    both.retain(|backup| !gone.contains(&backup.label));
    let surplus = both.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
    let go: Vec<BackupLabel> = both
        .iter()
        .take(surplus)
        .filter(|backup| backup.kind == BackupType::Diff && !selection.calendar.contains(&backup.label.full_part()))
        .map(|backup| backup.label.clone())
        .collect();
    let why = format!("repo{}-retention-diff={count}", history.repo);
    for label in go {
        selection.add(history, &label, "diff", &why);
    }
}

/// `--oldest` needs a full backup that may go.
fn oldest_may_go(selection: &mut Selection, history: &History, retention: &Retention, counted: usize) -> bool {
    let left = history.whole_fulls().len().saturating_sub(1);
    let enough = left >= usize::try_from(retention.min.get()).unwrap_or(usize::MAX);
    if counted > 1 && enough {
        return true;
    }
    selection.lines.push(Line::warn(format!(
        "repo{}: expire oldest requested but no eligible full backup to expire",
        history.repo
    )));
    false
}

/// `--set`.
fn by_set(
    selection: &mut Selection,
    history: &History,
    retention: &Retention,
    label: &BackupLabel,
) -> Result<(), Failure> {
    let Some(backup) = history.get(label) else {
        return Ok(());
    };
    selection.found = true;
    if history.is_held(label) {
        return Err(Failure::new(
            ExitCode::BackupSetInvalid,
            format!("backup {label} cannot be expired: it is held, or a dependent of it is"),
        )
        .remedy("'pgmesh info' shows the holds; an administrator releases one with 'pgmesh release LABEL'"));
    }
    let fulls = history.whole_fulls();
    if backup.kind == BackupType::Full && backup.is_whole {
        let before = fulls.iter().rev().nth(1);
        let is_newest = fulls.last().is_some_and(|newest| newest.label == *label);
        let is_alone = before.is_none_or(|before| before.database != backup.database);
        let refused = || {
            Failure::new(
                ExitCode::BackupSetInvalid,
                format!(
                    "full backup {label} cannot be expired until another full backup has been created on this repo"
                ),
            )
        };
        if is_newest && is_alone {
            return Err(refused());
        }
        if fulls.len() <= usize::try_from(retention.min.get()).unwrap_or(usize::MAX) {
            return Err(refused().because(format!(
                "repo{}-retention-min={} full backups stay",
                history.repo, retention.min
            )));
        }
    }
    let newest = history.backups().next_back().map(|newest| newest.label.clone());
    let gone = history.with_dependents(label);
    if let Some(newest) = newest.filter(|newest| gone.contains(newest)) {
        let repo = history.repo;
        selection.lines.push(Line::warn(format!(
            "repo{repo}: expiring latest backup {newest} - the ability to perform point-in-time-recovery (PITR) may be \
             affected\n\
             HINT: non-default settings for 'repo{repo}-retention-archive'/'repo{repo}-retention-archive-type' (even in \
             prior expires) can cause gaps in the WAL."
        )));
    }
    selection.add(history, label, "adhoc", "--set");
    Ok(())
}

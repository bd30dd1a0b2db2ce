//! Histories and decisions in short notation, for tables of cases.
//!
//! `F1 D1 I1 F2@3/2:7-9!` has a full backup, its differential, an incremental of that, and a full backup that ended 3
//! days ago, of database 2, with WAL from segment 7 to 9, which is held (`!`). `~` stands for a backup that is not
//! whole, `t2.` before the segments for timeline 2. Without `@` each backup is a day younger than the one before it,
//! without segments each has two of its own.

use super::calendar::Zone;
use super::history::{Ask, History};
use super::lines::Line;
use super::plan::{Plan, plan};
use super::retention::{FullType, Retention};
use pgmesh_postgres::{PgVersion, SegmentName, SystemId, TimelineId};
use pgmesh_protocol::{Failure, HoldInfo, KeptWal, RetainedBackup, RetainedDatabase};
use pgmesh_storage::{ArchiveId, BackupLabel, BackupType, DbId, RepoKey};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// 2026-11-30 12:00:00 UTC, a Monday.
pub const NOW: i64 = 1_796_040_000;
const DAY: i64 = 86_400;

/// A history, with the names of its backups.
#[derive(Debug)]
pub struct Sample {
    pub history: History,
    pub names: BTreeMap<BackupLabel, String>,
}

pub fn segment(timeline: u32, number: u32) -> SegmentName {
    SegmentName {
        timeline: TimelineId(timeline),
        log: number / 256,
        segment: number % 256,
    }
}

pub fn hold(until: Option<i64>) -> HoldInfo {
    HoldInfo {
        since: NOW - DAY,
        until,
        by: "alice".to_owned(),
        why: String::new(),
    }
}

fn databases(last: u32) -> Vec<RetainedDatabase> {
    let version: PgVersion = "15".parse().unwrap();
    let database = |id| RetainedDatabase {
        id: DbId(id),
        archive_id: ArchiveId { db: DbId(id), version },
        system_id: SystemId(u64::from(id)),
        version,
        has_wal: true,
    };
    (1..=last).map(database).collect()
}

/// Reads the notation. `databases` is the newest database's number.
pub fn sample(text: &str, last_database: u32) -> Sample {
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let mut names = BTreeMap::new();
    let mut backups: Vec<RetainedBackup> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_whole = !token.contains('~');
        let held = token.contains('!');
        let token = token.replace(['!', '~'], "");
        let (token, wal) = token
            .split_once(':')
            .map_or((token.as_str(), None), |(token, wal)| (token, Some(wal)));
        let (token, database) = token
            .split_once('/')
            .map_or((token, 1), |(token, database)| (token, database.parse().unwrap()));
        let (name, ago) = token
            .split_once('@')
            .map_or((token, None), |(name, ago)| (name, Some(ago)));
        let ago: f64 = ago.map_or((tokens.len() - at) as f64, |ago| ago.parse().unwrap());
        #[allow(clippy::cast_possible_truncation, reason = "days of a test")]
        let time = NOW - (ago * 86_400.0) as i64;
        let moment = OffsetDateTime::from_unix_timestamp(time).unwrap();
        let kind = match name.as_bytes()[0] {
            b'F' => BackupType::Full,
            b'D' => BackupType::Diff,
            _ => BackupType::Incr,
        };
        let prior = match kind {
            BackupType::Full => None,
            BackupType::Diff => backups.iter().rfind(|backup| backup.kind == BackupType::Full),
            BackupType::Incr => backups.last(),
        };
        let prior = prior.map(|prior| prior.label.clone());
        let label = match &prior {
            Some(prior) => BackupLabel::dependent(prior, kind, moment),
            None => BackupLabel::full(moment),
        };
        let own = u32::try_from(2 * at + 2).unwrap();
        let (timeline, first, last) = wal.map_or((1, own, own + 1), |wal| {
            let (timeline, wal) = wal
                .strip_prefix('t')
                .and_then(|wal| wal.split_once('.'))
                .map_or((1, wal), |(timeline, wal)| (timeline.parse().unwrap(), wal));
            let (first, last) = wal.split_once('-').unwrap_or((wal, wal));
            (timeline, first.parse().unwrap(), last.parse().unwrap())
        });
        names.insert(label.clone(), name.to_owned());
        backups.push(RetainedBackup {
            label,
            kind,
            prior,
            database: DbId(database),
            wal_start: segment(timeline, first),
            wal_stop: segment(timeline, last),
            time_start: time,
            time_stop: time,
            stored_delta: 1,
            is_whole,
            hold: held.then(|| hold(None)),
        });
    }
    let repo = RepoKey::new(1).unwrap();
    Sample {
        history: History::new(repo, databases(last_database), backups, NOW),
        names,
    }
}

/// `full=2 time diff=1 archive=3 atype=diff daily=7 weekly=4 monthly=12 yearly=5 min=2`.
pub fn retention(text: &str) -> Retention {
    let mut retention = Retention::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || Some(value.parse().unwrap());
        match name {
            "full" => retention.full = number(),
            "time" => retention.full_type = FullType::Time,
            "diff" => retention.diff = number(),
            "archive" => retention.archive = number(),
            "atype" => retention.archive_type = value.parse().unwrap(),
            "daily" => retention.daily = number(),
            "weekly" => retention.weekly = number(),
            "monthly" => retention.monthly = number(),
            "yearly" => retention.yearly = number(),
            "min" => retention.min = value.parse().unwrap(),
            other => panic!("{other}"),
        }
    }
    retention
}

impl Sample {
    pub fn label(&self, name: &str) -> BackupLabel {
        let found = self.names.iter().find(|(_, known)| *known == name);
        found.map_or_else(|| "20200101-000000F".parse().unwrap(), |(label, _)| label.clone())
    }

    /// `set=F1 oldest before=5`.
    pub fn ask(&self, text: &str) -> Ask {
        let mut ask = Ask::default();
        for word in text.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("set", name) => ask.set = Some(self.label(name)),
                ("oldest", _) => ask.oldest = true,
                ("before", number) => ask.before = Some(segment(1, number.parse().unwrap())),
                (other, _) => panic!("{other}"),
            }
        }
        ask
    }

    pub fn plan(&self, options: &str, ask: &str) -> Result<Plan, Failure> {
        plan(&self.history, &retention(options), &self.ask(ask), &Zone::utc())
    }

    /// `full F1 D1, diff D2`, or `-`, or the exit code of the refusal.
    pub fn backups(&self, options: &str, ask: &str) -> String {
        let plan = match self.plan(options, ask) {
            Ok(plan) => plan,
            Err(failure) => return format!("exit {}", failure.code.number()),
        };
        let set = |set: &super::ExpiredSet| {
            let names: Vec<&str> = set.labels.iter().map(|label| self.names[label].as_str()).collect();
            format!("{} {}", set.kind, names.join(" "))
        };
        let sets: Vec<String> = plan.selection.sets.iter().map(set).collect();
        if sets.is_empty() {
            "-".to_owned()
        } else {
            sets.join(", ")
        }
    }

    /// `1: 2-3 8-`: of database 1 segments 2 and 3 stay, and all from 8 on; `all` goes, or a `-` where no WAL is looked
    /// at.
    pub fn wal(&self, options: &str, ask: &str) -> String {
        let plan = match self.plan(options, ask).and_then(|plan| plan.wal) {
            Ok(wal) => wal,
            Err(failure) => return format!("exit {}", failure.code.number()),
        };
        let name = |segment: SegmentName| {
            let timeline = segment.timeline.0;
            let number = segment.log * 256 + segment.segment;
            if timeline == 1 {
                number.to_string()
            } else {
                format!("t{timeline}.{number}")
            }
        };
        let stretch = |kept: &KeptWal| format!("{}-{}", name(kept.first), kept.last.map(name).unwrap_or_default());
        let archive = |archive: &super::archives::ArchivePlan| {
            let mut parts = vec![format!("{}:", archive.database)];
            if archive.whole {
                parts.push("all".to_owned());
            }
            parts.extend(archive.keep.iter().map(stretch));
            parts.extend(archive.before.map(|before| format!("before {}", name(before))));
            parts.join(" ")
        };
        let archives: Vec<String> = plan.archives.iter().map(archive).collect();
        if archives.is_empty() {
            "-".to_owned()
        } else {
            archives.join(", ")
        }
    }

    /// All lines of the log, with names instead of labels.
    pub fn lines(&self, options: &str, ask: &str) -> Vec<String> {
        let plan = self.plan(options, ask).unwrap();
        let wal = plan.wal.unwrap();
        let archives = wal.archives.iter().flat_map(|archive| &archive.lines);
        let lines: Vec<&Line> = plan.selection.lines.iter().chain(&wal.lines).chain(archives).collect();
        let named = |line: &&Line| {
            let text = self.names.iter().rev().fold(line.text.clone(), |text, (label, name)| {
                text.replace(label.as_str(), name)
            });
            format!("{:?} {text}", line.level)
        };
        lines.iter().map(named).collect()
    }
}

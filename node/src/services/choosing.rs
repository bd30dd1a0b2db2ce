//! Which backup a restore needs, and which one a new backup is compared with.

use super::info::backup_info;
use crate::Node;
use crate::wal_holes::tree_of;
use pgmesh_postgres::{SystemId, TimelineId, WalFileName};
use pgmesh_protocol::choice::{Chooser, Chosen, Clusters, PriorChoice, PriorChooser, Wanted};
use pgmesh_protocol::lines::{Family, LastSegment, NewestBackup, TimelineFacts};
use pgmesh_protocol::{ChooseBackup, ChoosePrior, ExitCode, Failure};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{BackupRecord, Database, ReadError, StanzaRecord, View};
use pgmesh_storage::{BackupType, DbId, StanzaName};
use std::collections::BTreeMap;

impl Node {
    /// The backup with which a new one is compared.
    pub async fn choose_prior(&self, ask: ChoosePrior) -> Result<PriorChoice, Failure> {
        let (view, _) = self.newest_view().await;
        let record = view.stanza(&ask.stanza)?;
        let current = record.as_ref().and_then(StanzaRecord::current);
        let database = current.filter(|current| current.system_id == ask.system_id);
        let tree = record.as_ref().zip(database);
        let tree = tree
            .map(|(record, database)| tree_of(record, database.id))
            .unwrap_or_default();
        // A server that was promoted a moment ago has not archived its history yet. With any prior backup, the content
        // of the files decides.
        let is_known = ask.timeline == TimelineId(1) || tree.beginning(ask.timeline).is_some();
        let is_of_history =
            |backup: &BackupRecord| !is_known || tree.contains(ask.timeline, backup.timeline, backup.lsn_stop);
        let database = database.map(|database| database.id);
        Ok(prior(&view, &ask.stanza, ask.kind, database, is_of_history)?)
    }

    /// The backup that a restore needs.
    pub async fn choose_backup(&self, ask: ChooseBackup) -> Result<Chosen, Failure> {
        let (view, _) = self.newest_view().await;
        let Some(record) = view.stanza(&ask.stanza)? else {
            let what = format!("the mesh has no stanza {}", ask.stanza);
            return Err(Failure::new(ExitCode::BackupSetInvalid, what).remedy("'pgmesh info' lists the stanzas"));
        };
        let clusters = clusters_of(&view, &ask.stanza, &record)?;
        let mut chooser = Chooser::new(&ask.asked, &clusters);
        offer(&view, &ask, &mut chooser)?;
        let chosen = chooser.chosen(ask.stanza.as_str());
        chosen.map_err(|error| error.failure())
    }
}

/// The backup with which a new one is compared. Labels sort by the time of their backups. So the chain of the newest
/// full backup is read from its end, up to the first backup that fits.
fn prior<B: Base>(
    view: &View<B>,
    stanza: &StanzaName,
    kind: BackupType,
    database: Option<DbId>,
    is_of_history: impl Fn(&BackupRecord) -> bool,
) -> Result<PriorChoice, ReadError> {
    // No label comes before one that was: the chain of a backup that is gone takes no more.
    let last = view.stanza(stanza)?.and_then(|record| record.last_backup);
    let newest = view.last_backup(stanza)?.max(last);
    let mut chooser = PriorChooser::new(kind, database.map(|database| database.0), newest.clone());
    let Some(full) = newest.map(|newest| newest.full_part()) else {
        return Ok(chooser.chosen());
    };
    match kind {
        BackupType::Full => {}
        BackupType::Diff => {
            if let Some(backup) = view.backup(stanza, &full)? {
                chooser.offer(&full, backup.db.0, is_of_history(&backup));
            }
        }
        BackupType::Incr => {
            for row in view.backups_back(stanza, Some(&full)) {
                let (label, backup) = row?;
                chooser.offer(&label, backup.db.0, is_of_history(&backup));
                if chooser.is_decided() {
                    break;
                }
            }
        }
    }
    Ok(chooser.chosen())
}

/// Offers the backups of a stanza, the last one first, until one is wanted.
fn offer<B: Base>(view: &View<B>, ask: &ChooseBackup, chooser: &mut Chooser<'_>) -> Result<(), ReadError> {
    let info = |label, backup: &BackupRecord| {
        let info = backup_info(label, backup, &[]);
        // No restore begins from a backup that has expired in all repositories.
        let is_kept = !info.repositories.is_empty() || backup.expired.is_empty();
        let is_there = is_kept && ask.repo.is_none_or(|repo| info.repositories.contains(&repo));
        is_there.then_some(info)
    };
    let mut is_enough = false;
    if let Wanted::Label(label) = &ask.asked.wanted {
        let backup = view.backup(&ask.stanza, label)?;
        let named = backup.and_then(|backup| info(label.clone(), &backup));
        named.into_iter().for_each(|info| chooser.offer(info));
        // If the named backup does not fit, the message depends on whether there is any other.
        is_enough = true;
    }
    let mut rows = view.backups_back(&ask.stanza, None);
    while !chooser.is_decided()
        && let Some(row) = rows.next()
    {
        let (label, backup) = row?;
        if let Some(info) = info(label, &backup) {
            chooser.offer(info);
            if is_enough {
                break;
            }
        }
    }
    Ok(())
}

/// The clusters that a stanza has had: databases with the same system identifier are one, which came back after an
/// upgrade.
pub(crate) fn clusters_of<B: Base>(
    view: &View<B>,
    stanza: &StanzaName,
    record: &StanzaRecord,
) -> Result<Clusters, ReadError> {
    let mut databases: BTreeMap<SystemId, Vec<&Database>> = BTreeMap::new();
    for database in &record.databases {
        databases.entry(database.system_id).or_default().push(database);
    }
    let mut clusters = Clusters::default();
    for databases in databases.into_values() {
        let Some(newest) = databases.last() else { continue };
        let size = newest.segment_size;
        let mut family = Family {
            tree: tree_of(record, newest.id),
            ..Family::default()
        };
        for database in &databases {
            add_facts(view, stanza, record, database.id, &mut family)?;
        }
        for database in &databases {
            for (timeline, label, backup) in view.newest_backups(stanza, database.id)? {
                let newest = NewestBackup {
                    label,
                    began: backup.began.0,
                    stop: backup.lsn_stop,
                };
                family.add_backup(timeline, newest);
            }
        }
        clusters.add(databases.iter().map(|database| database.id.0), family, size);
    }
    Ok(clusters)
}

/// Adds the facts about timelines that one archive of a cluster has.
fn add_facts<B: Base>(
    view: &View<B>,
    stanza: &StanzaName,
    record: &StanzaRecord,
    db: DbId,
    family: &mut Family,
) -> Result<(), ReadError> {
    for timeline in view.timelines(stanza, db)? {
        let last = view.last_segment(stanza, db, timeline)?;
        let last = last.map(|(name, segment)| LastSegment {
            name,
            order: segment.pushed.0,
            at: segment.pushed_at,
        });
        let history = view.segment(stanza, db, &WalFileName::History(timeline))?;
        let known = family.facts.entry(timeline).or_default();
        *known = TimelineFacts {
            began: history.map_or(known.began, |history| history.pushed.0),
            last: last.into_iter().chain(known.last).max_by_key(|last| last.name),
            host: record.writers.get(&timeline).map(|writer| writer.host.clone()),
        };
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use pgmesh_postgres::{Lsn, SegmentName};
    use pgmesh_protocol::choice::{Follow, Restoring};
    use pgmesh_raft::apply::{Counting, MemoryBase, Writes};
    use pgmesh_raft::table::Table;
    use pgmesh_raft::{LogIndex, Replica, StoredObject, key, value};
    use pgmesh_storage::{BackupLabel, Digest, Generation, RepoKey};

    const INCREMENTALS: u32 = 400;

    fn stanza() -> StanzaName {
        "main".parse().unwrap()
    }

    fn record(timeline: u32, stop: u32, repo: u16) -> BackupRecord {
        let segment = |segment| SegmentName {
            timeline: TimelineId(timeline),
            log: 0,
            segment,
        };
        let replica = Replica {
            repo: RepoKey::new(repo).unwrap(),
            generation: Generation::FIRST,
        };
        BackupRecord {
            db: DbId(1),
            started_at: i64::from(stop) - 1,
            stopped_at: i64::from(stop),
            began: LogIndex(u64::from(stop)),
            lsn_start: Lsn(u64::from(stop) - 1),
            lsn_stop: Lsn(u64::from(stop)),
            wal_start: segment(1),
            wal_stop: segment(2),
            timeline: TimelineId(timeline),
            size: 1,
            delta: 1,
            stored: BTreeMap::new(),
            stored_delta: BTreeMap::new(),
            files: 1,
            page_errors: false,
            annotations: BTreeMap::new(),
            prior: None,
            manifest: StoredObject {
                digest: Digest([1; 32]),
                plain_length: 1,
                stored_length: 1,
                replicas: vec![replica],
            },
            program: String::new(),
            expired: pgmesh_raft::ExpiredIn::new(),
            hold: None,
        }
    }

    fn label(text: &str) -> BackupLabel {
        text.parse().unwrap()
    }

    fn incremental(full: u32, number: u32) -> BackupLabel {
        label(&format!("2026010{full}-000000F_2026020{full}-{number:06}I"))
    }

    /// Two full backups, each with many incremental ones; the second chain is on timeline 2.
    fn tables() -> MemoryBase {
        let mut writes = Writes::new();
        let mut put = |label: &BackupLabel, record: &BackupRecord| {
            let row = key::timeline_backup(&stanza(), record.db, record.timeline, label);
            writes.insert((Table::TimelineBackups, row), Some(value::encode(&())));
            let row = key::backup(&stanza(), label);
            writes.insert((Table::Backups, row), Some(value::encode(record)));
        };
        for full in 1..=2 {
            let base = 1_000 * full;
            put(&label(&format!("2026010{full}-000000F")), &record(full, base, 1));
            for number in 1..=INCREMENTALS {
                put(&incremental(full, number), &record(full, base + number, 1));
            }
        }
        let mut base = MemoryBase::default();
        base.write(writes);
        base
    }

    #[test]
    fn a_prior_backup_is_chosen_at_the_cost_of_what_is_newer() {
        let tables = tables();
        let base = Counting::new(&tables);
        let view = View::new(&base);
        let choose = |kind, database: Option<u32>, is_of_history: &dyn Fn(&BackupRecord) -> bool| {
            let choice = prior(&view, &stanza(), kind, database.map(DbId), is_of_history).unwrap();
            assert_eq!(choice.newest, Some(incremental(2, INCREMENTALS)));
            (choice.kind, choice.prior, base.taken())
        };
        let all = |_: &BackupRecord| true;
        let newest = Some(incremental(2, INCREMENTALS));
        assert_eq!(choose(BackupType::Incr, Some(1), &all), (BackupType::Incr, newest, 3));
        let full = Some(label("20260102-000000F"));
        assert_eq!(choose(BackupType::Diff, Some(1), &all), (BackupType::Diff, full, 3));
        assert_eq!(choose(BackupType::Full, Some(1), &all), (BackupType::Full, None, 2));
        // The last ten are of a branch that was given up.
        let kept = |backup: &BackupRecord| backup.lsn_stop <= Lsn(u64::from(2_000 + INCREMENTALS - 10));
        let prior = Some(incremental(2, INCREMENTALS - 10));
        assert_eq!(choose(BackupType::Incr, Some(1), &kept), (BackupType::Incr, prior, 13));
        // None of the last chain fits: no older one does.
        let none = |backup: &BackupRecord| backup.timeline == TimelineId(1);
        let (kind, prior, rows) = choose(BackupType::Incr, Some(1), &none);
        assert_eq!((kind, prior), (BackupType::Full, None));
        assert!(rows <= u64::from(INCREMENTALS) + 3, "{rows}");
        let (kind, ..) = choose(BackupType::Incr, Some(2), &all);
        assert_eq!(kind, BackupType::Full, "of another database");
    }

    #[test]
    fn the_backup_of_a_restore_is_chosen_at_the_cost_of_what_is_newer() {
        let tables = tables();
        let base = Counting::new(&tables);
        let view = View::new(&base);
        let clusters = Clusters::default();
        let choose = |wanted: Wanted, repo: u16| {
            let ask = ChooseBackup {
                stanza: stanza(),
                repo: RepoKey::new(repo).ok().filter(|_| repo > 1),
                asked: Restoring {
                    wanted,
                    follow: Follow::End,
                    goes_on: true,
                },
            };
            let mut chooser = Chooser::new(&ask.asked, &clusters);
            offer(&view, &ask, &mut chooser).unwrap();
            let chosen = chooser.chosen("main").map(|chosen| chosen.backup.label);
            (chosen, base.taken())
        };
        let last = i64::from(2_000 + INCREMENTALS);
        assert_eq!(choose(Wanted::Newest, 1), (Ok(incremental(2, INCREMENTALS)), 1));
        let before = incremental(2, INCREMENTALS - 5);
        assert_eq!(choose(Wanted::EndedBefore(last - 4), 1), (Ok(before), 6));
        let named = incremental(1, 7);
        assert_eq!(choose(Wanted::Label(named.clone()), 1), (Ok(named), 1));
        let (unknown, rows) = choose(Wanted::Label(label("20250101-000000F")), 1);
        assert!(
            matches!(unknown, Err(pgmesh_protocol::choice::NoBackup::Unknown { .. })),
            "{unknown:?}"
        );
        assert_eq!(rows, 2);
        let (young, _) = choose(Wanted::EndedBefore(5), 1);
        let oldest = label("20260101-000000F");
        assert!(
            matches!(&young, Err(pgmesh_protocol::choice::NoBackup::TooYoung { oldest: found, .. }) if *found == oldest),
            "{young:?}"
        );
        let (elsewhere, _) = choose(Wanted::Label(incremental(2, INCREMENTALS)), 3);
        assert!(
            matches!(elsewhere, Err(pgmesh_protocol::choice::NoBackup::None(_))),
            "{elsewhere:?}"
        );
    }
}

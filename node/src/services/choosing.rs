//! Which backup a restore needs, and which one a new backup is compared with.

use super::info::backup_info;
use crate::choice::{Chooser, Chosen, Clusters, PriorChoice, PriorChooser};
use crate::lines::{Family, LastSegment, NewestBackup, TimelineFacts};
use crate::protocol::{ChooseBackup, ChoosePrior};
use crate::wal_holes::tree_of;
use crate::{Failure, Node, code};
use pgmesh_postgres::{SystemId, TimelineId, WalFileName};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{Database, ReadError, StanzaRecord, View};
use pgmesh_storage::{DbId, StanzaName};
use std::collections::BTreeMap;

impl Node {
    /// What a new backup is compared with.
    pub async fn choose_prior(&self, ask: ChoosePrior) -> Result<PriorChoice, Failure> {
        let (view, _) = self.newest_view().await;
        let record = view.stanza(&ask.stanza)?;
        let current = record.as_ref().and_then(StanzaRecord::current);
        let database = current.filter(|current| current.system_id == ask.system_id);
        let tree = record.as_ref().zip(database);
        let tree = tree
            .map(|(record, database)| tree_of(record, database.id))
            .unwrap_or_default();
        // A server that was promoted a moment ago has not archived its history yet. Whatever it is compared with,
        // content decides.
        let is_known = ask.timeline == TimelineId(1) || tree.beginning(ask.timeline).is_some();
        let mut chooser = PriorChooser::new(ask.kind, database.map(|database| database.id.0));
        for row in view.backups(&ask.stanza, None) {
            let (label, backup) = row?;
            let is_of_history = !is_known || tree.contains(ask.timeline, backup.timeline, backup.lsn_stop);
            chooser.offer(&label, backup.db.0, backup.stopped_at, is_of_history);
        }
        Ok(chooser.chosen())
    }

    /// The backup that a restore needs.
    pub async fn choose_backup(&self, ask: ChooseBackup) -> Result<Chosen, Failure> {
        let (view, _) = self.newest_view().await;
        let Some(record) = view.stanza(&ask.stanza)? else {
            let what = format!("the mesh has no stanza {}", ask.stanza);
            return Err(Failure::new(code::BACKUP_SET_INVALID, what).remedy("'pgmesh info' lists the stanzas"));
        };
        let clusters = clusters_of(&view, &ask.stanza, &record)?;
        let mut chooser = Chooser::new(&ask.asked, &clusters);
        for row in view.backups(&ask.stanza, None) {
            let (label, backup) = row?;
            let info = backup_info(label, &backup, &[]);
            if ask.repo.is_none_or(|repo| info.repositories.contains(&repo)) {
                chooser.offer(info);
            }
        }
        let chosen = chooser.chosen(ask.stanza.as_str());
        chosen.map_err(|error| error.failure())
    }
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
        let ids: Vec<DbId> = databases.iter().map(|database| database.id).collect();
        for row in view.backups(stanza, None) {
            let (label, backup) = row?;
            if ids.contains(&backup.db) {
                let newest = NewestBackup {
                    label,
                    began: backup.began.0,
                    stop: backup.lsn_stop,
                };
                family.add_backup(backup.timeline, newest);
            }
        }
        clusters.add(ids.iter().map(|id| id.0), family, size);
    }
    Ok(clusters)
}

/// Adds what one archive of a cluster says of its timelines.
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

//! What `info` and `check` ask.

use crate::failure::chain;
use crate::garbage::never_deletes;
use crate::protocol::{
    ArchiveInfo, ArchiveStatus, BackupInfo, DatabaseInfo, DebtInfo, HealthInfo, KeptInfo, MeshInfo, RepositoryInfo,
    SegmentPresence, StanzaInfo,
};
use crate::{Failure, Node, code, now_unix};
use pgmesh_postgres::WalFileName;
use pgmesh_raft::{BackupRecord, Refusal, RepositoryRecord, StanzaRecord, View};
use pgmesh_storage::{BackupLabel, RepoKey, StanzaName};
use pgmesh_transport::Peer;

/// How many missing segments one answer names.
const SEGMENTS_NAMED: usize = 16;
/// How many segments one question may cover.
const SEGMENTS_ASKED: usize = 65_536;

impl Node {
    /// What is there, as far as the asker may know.
    pub async fn info(&self, peer: &Peer, stanza: Option<StanzaName>) -> Result<MeshInfo, Failure> {
        // Without a majority it says what this node last knew, and that it is so.
        let (view, stale) = match self.catalog.view_linearizable().await {
            Ok(view) => (view, None),
            Err(error) => (self.catalog.view(), Some(chain(&error))),
        };
        let mut stanzas = Vec::new();
        match &stanza {
            Some(name) => {
                if let Some(record) = view.stanza(name)? {
                    stanzas.push(stanza_info(&view, name, &record)?);
                }
            }
            None => {
                for row in view.stanzas(None) {
                    let (name, record) = row?;
                    if peer.may_use(&name) {
                        stanzas.push(stanza_info(&view, &name, &record)?);
                    }
                }
            }
        }
        let is_asked = |name: &StanzaName| stanza.as_ref().is_none_or(|only| only == name) && peer.may_use(name);
        let lost = self.lost_report(&view, is_asked).await?;
        Ok(MeshInfo {
            lost,
            mesh_id: self.mesh_id().to_string(),
            node: self.settings.name.clone(),
            repositories: self.repository_infos(&view).await?,
            stanzas,
            clock: now_unix(),
            stale,
        })
    }

    async fn repository_infos(&self, view: &View) -> Result<Vec<RepositoryInfo>, Failure> {
        let option = |record: &RepositoryRecord, name: &str, default: &str| {
            record
                .definition
                .get(name)
                .cloned()
                .unwrap_or_else(|| default.to_owned())
        };
        let mut infos = Vec::new();
        let mut healths = self.healths(view).await?;
        for (key, record) in view.repositories()? {
            infos.push(RepositoryInfo {
                key,
                kind: option(&record, "type", "posix"),
                cipher: option(&record, "cipher-type", "none"),
                host: record.host.as_ref().map(ToString::to_string),
                health: healths.remove(&key).unwrap_or(HealthInfo::Up),
                debt: debt_info(view, key)?,
                kept: kept_info(view, key, &record)?,
            });
        }
        // One that this node declares and that could not be registered is worth knowing about too.
        for slot in self.repositories.slots() {
            if view.repository(slot.key)?.is_none() {
                infos.push(RepositoryInfo {
                    key: slot.key,
                    kind: slot.settings.kind().to_owned(),
                    cipher: slot.settings.cipher().to_owned(),
                    host: self.host_of(slot).map(|host| host.to_string()),
                    health: slot.health(),
                    debt: DebtInfo::default(),
                    kept: KeptInfo::default(),
                });
            }
        }
        infos.sort_by_key(|info| info.key);
        Ok(infos)
    }

    /// Where the WAL of a range is.
    pub async fn archive_status(&self, ask: ArchiveStatus) -> Result<SegmentPresence, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .stanza(&ask.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(ask.stanza.clone())))?;
        let database = record
            .databases
            .iter()
            .rev()
            .find(|database| database.system_id == ask.system_id)
            .ok_or_else(|| {
                Failure::new(
                    code::ARCHIVE_MISMATCH,
                    format!(
                        "stanza {} has no database with system identifier {}",
                        ask.stanza, ask.system_id
                    ),
                )
                .remedy("check --stanza and pg1-path")
            })?;
        if let Some(instance) = &ask.instance
            && let Some(writer) = record.writers.get(&ask.first.timeline)
            && writer.instance != *instance
        {
            return Err(writer.refusal(&ask.stanza, ask.first.timeline, instance).into());
        }
        let repositories: Vec<_> = view.repositories()?.into_iter().map(|(key, _)| key).collect();
        let mut presence = SegmentPresence {
            missing: Vec::new(),
            owed: Vec::new(),
            repositories: repositories.iter().map(|key| key.get()).collect(),
        };
        let mut name = ask.first;
        for _ in 0..SEGMENTS_ASKED {
            match view.segment(&ask.stanza, database.id, &WalFileName::Segment(name))? {
                None => presence.missing.push(name.to_string()),
                Some(segment) => {
                    let has = |key| segment.object.replicas.iter().any(|replica| replica.repo == key);
                    let lacking = repositories.iter().filter(|key| !has(**key));
                    presence.owed.extend(lacking.map(|key| (key.get(), name.to_string())));
                }
            }
            if name >= ask.last || presence.missing.len() >= SEGMENTS_NAMED {
                break;
            }
            name = name.next(database.segment_size);
        }
        presence.owed.truncate(SEGMENTS_NAMED);
        Ok(presence)
    }
}

/// What a repository owes.
pub(crate) fn debt_info(view: &View, key: RepoKey) -> Result<DebtInfo, Failure> {
    let counters = view.counters(key)?;
    let first = view.debts(key, None).next().transpose()?;
    Ok(DebtInfo {
        objects: counters.debts,
        bytes: counters.debt_bytes,
        since: first.map(|(_, debt)| debt.since),
    })
}

/// What a repository does not let go.
pub(crate) fn kept_info(view: &View, key: RepoKey, record: &RepositoryRecord) -> Result<KeptInfo, Failure> {
    let objects = view.counters(key)?.kept;
    let why = match objects {
        0 => "",
        _ if never_deletes(&record.definition) => "delete=n",
        _ => "object lock",
    };
    Ok(KeptInfo {
        objects,
        why: why.to_owned(),
    })
}

fn stanza_info(view: &View, name: &StanzaName, record: &StanzaRecord) -> Result<StanzaInfo, Failure> {
    let mut archives = Vec::new();
    for database in &record.databases {
        if let Some((min, max)) = view.segment_bounds(name, database.id)? {
            archives.push(ArchiveInfo {
                database: database.id.0,
                id: database.archive_id().to_string(),
                min: min.to_string(),
                max: max.to_string(),
            });
        }
    }
    let registered: Vec<RepoKey> = view.repositories()?.into_iter().map(|(key, _)| key).collect();
    let backups = view
        .backups(name, None)
        .map(|row| row.map(|(label, backup)| backup_info(label, &backup, &registered)))
        .collect::<Result<Vec<_>, _>>()?;
    let backup_held_by = match &record.backup {
        None => None,
        Some(running) => view.session(running.session)?.map(|session| session.holder),
    };
    Ok(StanzaInfo {
        name: name.to_string(),
        stopped: record.stopped.clone(),
        backup_held_by,
        databases: record
            .databases
            .iter()
            .map(|database| DatabaseInfo {
                id: database.id.0,
                system_id: database.system_id,
                version: database.version.to_string(),
            })
            .collect(),
        archives,
        backups,
    })
}

fn backup_info(label: BackupLabel, record: &BackupRecord, registered: &[RepoKey]) -> BackupInfo {
    let repositories: Vec<_> = record.manifest.replicas.iter().map(|replica| replica.repo).collect();
    BackupInfo {
        kind: label.backup_type().to_string(),
        label,
        prior: record.prior.clone(),
        references: record.references.clone(),
        error: record.page_errors,
        database: record.db.0,
        wal_start: record.wal_start.to_string(),
        wal_stop: record.wal_stop.to_string(),
        lsn_start: record.lsn_start,
        lsn_stop: record.lsn_stop,
        timeline: record.timeline.0,
        time_start: record.started_at,
        time_stop: record.stopped_at,
        size: record.size,
        delta: record.delta,
        stored_size: record.stored.values().copied().max().unwrap_or(0),
        stored_delta: record.stored_delta.values().copied().max().unwrap_or(0),
        owed: record
            .stored_delta
            .keys()
            .copied()
            .filter(|key| !repositories.contains(key) && registered.contains(key))
            .collect(),
        repositories,
        annotations: record.annotations.clone(),
        program: record.program.clone(),
    }
}

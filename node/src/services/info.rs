//! The answers to `info` and `check`.

use crate::Node;
use crate::janitor::garbage::never_deletes;
use crate::services::healths::stuck_of;
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    ArchiveInfo, ArchiveStatus, BackupInfo, DatabaseInfo, DebtInfo, ExitCode, Failure, GetInfo, HealthInfo, HoldInfo,
    HolesReport, InfoCursor, KeptInfo, LostReport, MESSAGE_LIMIT, MeshInfo, RepositoryInfo, SegmentPresence,
    StanzaInfo, WorkerAlarm, now_unix,
};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{BackupRecord, Refusal, RepositoryRecord, StanzaRecord, View};
use pgmesh_storage::{BackupLabel, RepoKey, StanzaName, wire};
use pgmesh_transport::Peer;

/// When an answer has so many bytes of stanzas and backups, no more is added. The last addition is far smaller than the
/// rest of a message.
const PAGE_BYTES: usize = MESSAGE_LIMIT / 4;
/// How many missing segments one answer names.
const SEGMENTS_NAMED: usize = 16;
/// How many segments one question may cover.
const SEGMENTS_ASKED: usize = 65_536;

impl Node {
    /// The state of the mesh, as far as the peer may know it and an answer has room for it.
    pub async fn info(&self, peer: &Peer, ask: GetInfo) -> Result<MeshInfo, Failure> {
        let (view, stale) = self.newest_view().await;
        let page = Page::of(&view, &ask, |stanza| peer.may_see(stanza))?;
        // How the repositories do is asked of other nodes: once is enough.
        let repositories = match &ask.after {
            None => self.repository_infos(&view).await?,
            Some(_) => Vec::new(),
        };
        // Lost objects are looked for in the stanzas that were asked for, with the first page only.
        let is_asked = |name: &StanzaName| ask.stanza.as_ref().is_none_or(|only| only == name) && peer.may_see(name);
        let (lost, holes) = match &ask.after {
            None => (
                self.janitor.lost_report(&view, is_asked).await?,
                self.archive.holes(&view, ask.stanza.as_ref(), is_asked).await?,
            ),
            Some(_) => (LostReport::default(), HolesReport::default()),
        };
        let accounts = match &ask.after {
            None => self.glance().await,
            Some(_) => Vec::new(),
        };
        let workers = accounts.iter().flat_map(|own| own.workers.iter().cloned());
        // The text of a panic may name stanzas that the client may not know.
        let workers = workers.map(|alarm| WorkerAlarm {
            why: String::new(),
            ..alarm
        });
        Ok(MeshInfo {
            lost,
            stuck: stuck_of(&accounts, is_asked),
            workers: workers.collect(),
            holes,
            mesh_id: self.mesh_id().to_string(),
            node: self.settings.name.clone(),
            repositories,
            stanzas: page.stanzas,
            more: page.more,
            clock: now_unix(),
            stale,
        })
    }

    /// The newest view. Without a majority it is this node's last view, with the reason for that.
    pub(super) async fn newest_view(&self) -> (View, Option<String>) {
        match self.catalog.view_linearizable().await {
            Ok(view) => (view, None),
            Err(error) => (self.catalog.view(), Some(chain(&error))),
        }
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
        // The answer also names repositories that this node declares and that could not be registered.
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
                    ExitCode::ArchiveMismatch,
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
                    let room = SEGMENTS_NAMED.saturating_sub(presence.owed.len());
                    let lacking = repositories.iter().filter(|key| !has(**key)).take(room);
                    presence.owed.extend(lacking.map(|key| (key.get(), name.to_string())));
                }
            }
            if name >= ask.last || presence.missing.len() >= SEGMENTS_NAMED {
                break;
            }
            name = name.next(database.segment_size);
        }
        Ok(presence)
    }
}

/// The debts of a repository.
pub(crate) fn debt_info(view: &View, key: RepoKey) -> Result<DebtInfo, Failure> {
    let counters = view.counters(key)?;
    let first = view.debts(key, None).next().transpose()?;
    Ok(DebtInfo {
        objects: counters.debts,
        bytes: counters.debt_bytes,
        since: first.map(|(_, debt)| debt.since),
    })
}

/// The objects that a repository does not let go.
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

/// The stanzas and backups of one answer.
#[derive(Debug, Default)]
struct Page {
    stanzas: Vec<StanzaInfo>,
    more: Option<InfoCursor>,
    bytes: usize,
}

impl Page {
    /// The stanzas and backups after the cursor, until the answer is full.
    fn of<B: Base>(view: &View<B>, ask: &GetInfo, may_see: impl Fn(&StanzaName) -> bool) -> Result<Self, Failure> {
        let mut page = Self::default();
        let registered: Vec<RepoKey> = view.repositories()?.into_iter().map(|(key, _)| key).collect();
        let mut passed = None;
        if let Some(InfoCursor { stanza, label }) = &ask.after {
            passed = Some(stanza);
            let record = view.stanza(stanza)?.filter(|_| label.is_some() && may_see(stanza));
            if let Some(record) = record {
                page.add(view, stanza, &record, ask.backups, label.as_ref(), &registered)?;
            }
        }
        match &ask.stanza {
            Some(name) if passed.is_none() => {
                if let Some(record) = view.stanza(name)? {
                    page.add(view, name, &record, ask.backups, None, &registered)?;
                }
            }
            Some(_) => {}
            None => {
                for row in view.stanzas(passed) {
                    if page.more.is_some() {
                        break;
                    }
                    let (name, record) = row?;
                    if may_see(&name) {
                        page.add(view, &name, &record, ask.backups, None, &registered)?;
                    }
                }
            }
        }
        Ok(page)
    }

    /// Adds a stanza, with as many of its backups as there is room for.
    fn add<B: Base>(
        &mut self,
        view: &View<B>,
        name: &StanzaName,
        record: &StanzaRecord,
        with_backups: bool,
        after: Option<&BackupLabel>,
        registered: &[RepoKey],
    ) -> Result<(), Failure> {
        let mut info = stanza_info(view, name, record)?;
        self.bytes += wire::encode(&info).len();
        let mut rows = view.backups(name, after).take_while(|_| with_backups);
        let mut last = None;
        // At least one, so that there is an end to it.
        while last.is_none() || self.bytes < PAGE_BYTES {
            let Some(row) = rows.next() else {
                last = None;
                break;
            };
            let (label, backup) = row?;
            if !registered.iter().any(|repo| backup.is_kept_in(*repo)) {
                continue;
            }
            let backup = backup_info(label.clone(), &backup, registered);
            self.bytes += wire::encode(&backup).len();
            info.backups.push(backup);
            last = Some(label);
        }
        drop(rows);
        self.stanzas.push(info);
        if self.bytes >= PAGE_BYTES {
            self.more = Some(InfoCursor {
                stanza: name.clone(),
                label: last,
            });
        }
        Ok(())
    }
}

fn stanza_info<B: Base>(view: &View<B>, name: &StanzaName, record: &StanzaRecord) -> Result<StanzaInfo, Failure> {
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
        backups: Vec::new(),
    })
}

/// The hold on a backup.
pub(super) fn hold_info(record: &BackupRecord) -> Option<HoldInfo> {
    let hold = record.hold.as_ref().filter(|hold| hold.holds(now_unix()))?;
    Some(HoldInfo {
        since: hold.since,
        until: hold.until,
        by: hold.by.clone(),
        why: hold.why.clone(),
    })
}

pub(super) fn backup_info(label: BackupLabel, record: &BackupRecord, registered: &[RepoKey]) -> BackupInfo {
    let repositories: Vec<_> = record.holders().collect();
    BackupInfo {
        kind: label.backup_type().to_string(),
        label,
        prior: record.prior.clone(),
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
            .filter(|key| !repositories.contains(key) && registered.contains(key) && record.is_kept_in(*key))
            .collect(),
        repositories,
        annotations: record.annotations.clone(),
        program: record.program.clone(),
        hold: hold_info(record),
    }
}

//! Stanzas: the clusters of their archives, and the data directories that may write to them.

use super::backups::FoundBackup;
use super::inventory::{FoundArchive, FoundStanza};
use super::report::{Problem, ProblemKind};
use super::{Rebuilding, is_bad, unreadable};
use crate::services::claimed_object;
use pgmesh_postgres::{TimelineId, WalHeader};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, now_unix};
use pgmesh_raft::Command;
use pgmesh_raft::command::{Adopt, AdoptedDatabase, ClaimedObject, Cluster};
use pgmesh_storage::{
    ArchiveId, Codec, Generation, ObjectName, ObjectPath, Payload, STANZA_FORMAT, StanzaInfo, StanzaName, StoreError,
};
use std::collections::{BTreeMap, BTreeSet};

/// The recorded writer of a timeline whose writer is unknown: no data directory has this fingerprint, so that none is
/// taken for the original until an administrator names it.
pub(crate) const UNKNOWN_WRITER: &str = "unknown since the catalog was rebuilt";
/// How many damaged objects in a row under one name are passed over.
const GENERATIONS_TRIED: u32 = 8;

/// One database of a stanza, as it was taken up.
#[derive(Debug, Clone)]
pub struct RebuiltDatabase {
    /// Its archive.
    pub archive_id: ArchiveId,
    /// The cluster.
    pub cluster: Cluster,
    /// Its description was found, as opposed to written anew.
    pub was_described: bool,
}

impl Rebuilding {
    /// Takes up a stanza. Returns its databases, oldest first; none where neither description, backup nor WAL names the
    /// cluster.
    pub(super) async fn adopt_stanza(
        &mut self,
        stanza: &StanzaName,
        found: &FoundStanza,
        backups: &[FoundBackup],
    ) -> Result<Option<Vec<RebuiltDatabase>>, Failure> {
        let backups: Vec<&FoundBackup> = backups.iter().filter(|backup| backup.stanza == *stanza).collect();
        let mut ids: BTreeSet<ArchiveId> = found.infos.keys().chain(found.archives.keys()).copied().collect();
        ids.extend(backups.iter().map(|backup| backup.archive_id));
        let mut described: BTreeMap<_, (RebuiltDatabase, ClaimedObject, i64)> = BTreeMap::new();
        for archive_id in ids {
            let Some((database, info, created)) = self.describe(stanza, archive_id, found, &backups).await? else {
                continue;
            };
            // Two archives of one number: a stanza was deleted and made again. The later one counts.
            match described.get(&archive_id.db) {
                Some((other, _, since)) if *since >= created => {
                    self.found(unused(stanza, archive_id, other.archive_id))
                }
                other => {
                    if let Some((other, ..)) = other {
                        let unused = unused(stanza, other.archive_id, archive_id);
                        self.found(unused);
                    }
                    described.insert(archive_id.db, (database, info, created));
                }
            }
        }
        if described.is_empty() {
            return Ok(None);
        }
        let databases = described
            .values()
            .map(|(database, info, _)| AdoptedDatabase {
                id: database.archive_id.db,
                cluster: database.cluster,
                info: info.clone(),
            })
            .collect();
        let adopt = Adopt::Stanza {
            stanza: stanza.clone(),
            databases,
        };
        self.propose(Command::Adopt(Box::new(adopt))).await?;
        Ok(Some(described.into_values().map(|(database, ..)| database).collect()))
    }

    /// The cluster of an archive: from its description, else from a backup or the WAL.
    async fn describe(
        &mut self,
        stanza: &StanzaName,
        archive_id: ArchiveId,
        found: &FoundStanza,
        backups: &[&FoundBackup],
    ) -> Result<Option<(RebuiltDatabase, ClaimedObject, i64)>, Failure> {
        let mut best: Option<(StanzaInfo, ClaimedObject)> = None;
        let mut why = "it is missing".to_owned();
        for path in found.infos.get(&archive_id).into_iter().flatten() {
            match self.read_info(stanza, archive_id, path).await? {
                Ok(read) => {
                    let is_later = best.as_ref().is_none_or(|(info, object)| {
                        (read.0.created, read.1.claims.first()) > (info.created, object.claims.first())
                    });
                    if is_later {
                        best = Some(read);
                    }
                }
                Err(reason) => why = reason,
            }
        }
        if let Some((info, object)) = best {
            let database = RebuiltDatabase {
                archive_id,
                cluster: Cluster {
                    system_id: info.system_id,
                    version: archive_id.version,
                    catalog_version: info.catalog_version,
                    segment_size: info.segment_size,
                },
                was_described: true,
            };
            return Ok(Some((database, object, info.created)));
        }
        let of_backup = backups.iter().rev().find(|backup| backup.archive_id == archive_id);
        let (source, cluster) = match of_backup {
            Some(backup) => (format!("backup {}", backup.label), Some(backup.cluster)),
            None => (
                "its WAL".to_owned(),
                self.cluster_of_wal(archive_id, found.archives.get(&archive_id)).await?,
            ),
        };
        let problem =
            |what: String| Problem::new(ProblemKind::Description, format!("database {archive_id}"), what).of(stanza);
        let Some(cluster) = cluster else {
            self.found(
                problem(format!("its description cannot be used ({why}), nor does anything else say which cluster it is: its archive is left out"))
                    .remedy("another repository may have it: rebuild from that one instead"),
            );
            return Ok(None);
        };
        let info = self.write_info(stanza, archive_id, cluster).await?;
        self.found(problem(format!(
            "its description cannot be used ({why}); it was written anew after {source}"
        )));
        let database = RebuiltDatabase {
            archive_id,
            cluster,
            was_described: false,
        };
        Ok(Some((database, info, 0)))
    }

    async fn read_info(
        &self,
        stanza: &StanzaName,
        archive_id: ArchiveId,
        path: &ObjectPath,
    ) -> Result<Result<(StanzaInfo, ClaimedObject), String>, Failure> {
        let checked = match self.repository.get_by_path(&path.to_string()).await {
            Ok((_, checked)) => checked,
            Err(error) if is_bad(&error) => return Ok(Err(chain(&error))),
            Err(error) => return Err(unreadable(self.repo, &error)),
        };
        Ok(match StanzaInfo::decode(&checked.plain) {
            Ok(info) if info.stanza == *stanza && info.archive_id == archive_id => {
                let object = claimed_object(&checked.payload, vec![self.claim(path.generation())]);
                Ok((info, object))
            }
            Ok(info) => Err(format!("it describes {} of stanza {}", info.archive_id, info.stanza)),
            Err(error) => Err(chain(&error)),
        })
    }

    /// The cluster, from the first good segment of an archive.
    async fn cluster_of_wal(
        &self,
        archive_id: ArchiveId,
        archive: Option<&FoundArchive>,
    ) -> Result<Option<Cluster>, Failure> {
        for folder in archive.into_iter().flat_map(|archive| &archive.folders) {
            let paths = self.repository.list_sorted(folder).await;
            for (path, _) in paths.map_err(|error| unreadable(self.repo, &error))? {
                let checked = match self.repository.get_by_path(&path.to_string()).await {
                    Ok((_, checked)) => checked,
                    Err(error) if is_bad(&error) => continue,
                    Err(error) => return Err(unreadable(self.repo, &error)),
                };
                if let Ok(header) = WalHeader::parse(&checked.plain)
                    && header.version() == archive_id.version
                {
                    return Ok(Some(Cluster {
                        system_id: header.system_id,
                        version: archive_id.version,
                        catalog_version: archive_id.version.catalog_version(),
                        segment_size: header.segment_size,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Writes a description beside the damaged one.
    async fn write_info(
        &self,
        stanza: &StanzaName,
        archive_id: ArchiveId,
        cluster: Cluster,
    ) -> Result<ClaimedObject, Failure> {
        let info = StanzaInfo {
            format: STANZA_FORMAT,
            stanza: stanza.clone(),
            archive_id,
            system_id: cluster.system_id,
            catalog_version: cluster.catalog_version,
            segment_size: cluster.segment_size,
            created: now_unix(),
        };
        let unwritable = |error: &dyn std::error::Error| {
            Failure::new(
                ExitCode::RepoInvalid,
                format!("the description of {archive_id} of stanza {stanza} cannot be written"),
            )
            .because(chain(error))
        };
        let text = info.encode().map_err(|error| unwritable(&error))?;
        let payload =
            Payload::pack(self.repository.suite(), Codec::None, None, &text).map_err(|error| unwritable(&error))?;
        let name = ObjectName::StanzaInfo {
            stanza: stanza.clone(),
            archive_id,
            digest: payload.digest,
        };
        let mut generation = Generation::FIRST;
        loop {
            match self.repository.put(&name, generation, &payload).await {
                Ok(_) => return Ok(claimed_object(&payload, vec![self.claim(generation)])),
                Err(StoreError::DamagedExists { .. }) if generation.0 < GENERATIONS_TRIED => {
                    generation = generation.next();
                }
                Err(error) => return Err(unwritable(&error)),
            }
        }
    }

    /// Invariant 12: each timeline of the current cluster is bound to the data directory that the last backup of it was
    /// taken of; a timeline without such a backup is bound to no directory, until an administrator names it.
    pub(super) async fn adopt_writers(
        &mut self,
        stanza: &StanzaName,
        current: &RebuiltDatabase,
        found: &FoundStanza,
        backups: &[FoundBackup],
    ) -> Result<(), Failure> {
        let Some(archive) = found.archives.get(&current.archive_id) else {
            return Ok(());
        };
        let backups = backups
            .iter()
            .filter(|backup| backup.stanza == *stanza && backup.archive_id == current.archive_id);
        let known = writers(
            &archive.timelines,
            backups.map(|backup| (backup.timeline(), backup.instance.as_deref())),
        );
        for (timeline, instance) in &known {
            let command = Command::AdoptWriter {
                stanza: stanza.clone(),
                timeline: *timeline,
                instance: instance.unwrap_or(UNKNOWN_WRITER).to_owned(),
                machine: String::new(),
            };
            self.propose(command).await?;
        }
        if let Some((newest, None)) = known.last_key_value() {
            self.found(
                Problem::new(
                    ProblemKind::Writer,
                    format!("timeline {newest}"),
                    "no backup says which data directory writes it: until it is told, nobody may",
                )
                .of(stanza)
                .remedy(format!(
                    "run 'pgmesh --stanza={stanza} stanza-create' on the host of the original cluster, and on no copy, after it has joined anew"
                )),
            );
        }
        Ok(())
    }
}

/// The writer of each timeline, from the last backup of each.
fn writers<'b>(
    timelines: &BTreeSet<TimelineId>,
    backups: impl Iterator<Item = (TimelineId, Option<&'b str>)>,
) -> BTreeMap<TimelineId, Option<&'b str>> {
    let mut writers: BTreeMap<_, _> = timelines.iter().map(|timeline| (*timeline, None)).collect();
    for (timeline, instance) in backups {
        if instance.is_some() {
            writers.insert(timeline, instance);
        }
    }
    writers
}

fn unused(stanza: &StanzaName, left_out: ArchiveId, taken: ArchiveId) -> Problem {
    Problem::new(
        ProblemKind::Description,
        format!("database {left_out}"),
        format!(
            "database {taken} has the same number and was made later: {left_out} is left out, and its objects stay"
        ),
    )
    .of(stanza)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_backup_of_a_timeline_says_who_writes_it() {
        let timelines = BTreeSet::from([TimelineId(1), TimelineId(2), TimelineId(3)]);
        let backups = [
            (TimelineId(1), Some("old")),
            (TimelineId(1), Some("moved")),
            (TimelineId(1), None),
            (TimelineId(2), None),
        ];
        let expected = BTreeMap::from([
            (TimelineId(1), Some("moved")),
            (TimelineId(2), None),
            (TimelineId(3), None),
        ]);
        assert_eq!(writers(&timelines, backups.into_iter()), expected);
    }
}

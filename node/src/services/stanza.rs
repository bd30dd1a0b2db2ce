//! Creating, upgrading, stopping and deleting stanzas.

use crate::Node;
use crate::rebuild::UNKNOWN_WRITER;
use crate::refs;
use crate::replies::unexpected;
use crate::services::claimed_object;
use crate::settings::effective_ack;
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::{
    AdoptedStanza, AnnotateBackup, Collected, CreateStanza, DeletedStanza, ExitCode, Failure, NewStanza, SetStopped,
};
use pgmesh_raft::command::{ClaimedObject, Cluster};
use pgmesh_raft::{CatalogError, Command, Database, LogIndex, ObjectRef, Refusal, Reply, StanzaRecord};
use pgmesh_storage::{ArchiveId, Codec, DbId, ObjectName, Payload, STANZA_FORMAT, StanzaInfo, StanzaName};

/// How often the description of a cluster is written under another name, when the catalog moved under it.
const TRIES: usize = 8;
/// WAL that was pushed so many seconds ago is a sign that its cluster runs.
pub(super) const RECENT_PUSH_SECONDS: i64 = 300;

impl Node {
    /// Creates a stanza. For the same cluster it changes nothing: configuration management may run it everywhere, on
    /// copies too.
    pub async fn create_stanza(&self, actor: &str, create: CreateStanza) -> Result<NewStanza, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        if let Some(record) = view.stanza(&create.stanza)? {
            let database = current(&record, &create.stanza)?;
            return self.confirm(&create, &record, &database).await;
        }
        self.first_attempts().await;
        let created = self.add_database(actor, &create, DbId(1), false).await;
        created.map_err(|failure| self.with_reasons(failure))
    }

    /// Starts a new database id after pg_upgrade.
    pub async fn upgrade_stanza(&self, actor: &str, create: CreateStanza) -> Result<NewStanza, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .stanza(&create.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(create.stanza.clone())))?;
        let database = current(&record, &create.stanza)?;
        if (database.system_id, database.version) == (create.system_id, create.version) {
            return self.confirm(&create, &record, &database).await;
        }
        self.add_database(actor, &create, DbId(database.id.0 + 1), true).await
    }

    /// Makes a data directory the writer of its timeline (invariant 12), when an operator says that the cluster was
    /// moved there.
    pub async fn adopt_stanza(
        &self,
        actor: &str,
        cluster: CreateStanza,
        force: bool,
    ) -> Result<AdoptedStanza, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .stanza(&cluster.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(cluster.stanza.clone())))?;
        let database = current(&record, &cluster.stanza)?;
        need_same_cluster(&cluster, &database)?;
        let timeline = cluster.timeline;
        // A segment that a standby has archived says nothing of the writer.
        let last = match view.last_push(&cluster.stanza, database.id, timeline)? {
            Some(last) => Some((last.segment, last.at)),
            None => {
                let last = view.last_segment(&cluster.stanza, database.id, timeline)?;
                last.map(|(segment, record)| (segment, record.pushed_at))
            }
        };
        let before = record
            .writers
            .get(&timeline)
            .filter(|writer| writer.instance != cluster.instance || writer.is_elsewhere(&cluster.machine));
        let before = before.map(|writer| (writer.instance.clone(), writer.host.clone()));
        let is_bound = record.writers.contains_key(&timeline);
        let adopted = AdoptedStanza { timeline, before, last };
        let Some((instance, host)) = &adopted.before else {
            if !is_bound {
                let what = format!("timeline {timeline} of stanza {} has no writer yet", cluster.stanza);
                return Err(Failure::new(ExitCode::ArchiveMismatch, what)
                    .remedy("nothing needs to be adopted: the first server that pushes for it becomes its writer"));
            }
            return Ok(adopted);
        };
        let age = adopted
            .last
            .map(|(_, pushed_at)| pgmesh_protocol::now_unix().saturating_sub(pushed_at));
        // A rebuilt catalog does not know which server has pushed.
        let is_known = instance != UNKNOWN_WRITER;
        if let Some(age) = age.filter(|age| *age < RECENT_PUSH_SECONDS && !force && is_known) {
            let what = format!(
                "the data directory that writes timeline {timeline}, first pushed by {host}, pushed {age} s ago"
            );
            return Err(Failure::new(ExitCode::ArchiveMismatch, what)
                .because("two servers that write one timeline are two histories, and the archive can hold only one")
                .remedy("stop the other server first; if it is gone, wait some minutes, or give --force"));
        }
        let command = Command::AdoptWriter {
            stanza: cluster.stanza,
            timeline,
            instance: cluster.instance.into(),
            machine: cluster.machine.into(),
        };
        self.catalog.propose(actor, command).await?;
        Ok(adopted)
    }

    /// If the mesh has no repository yet, the user needs to know why this node's own repository is not open.
    fn with_reasons(&self, failure: Failure) -> Failure {
        match self.why_not_open() {
            Some(why) if failure.code == ExitCode::RepoInvalid => failure.because(why),
            _ => failure,
        }
    }

    async fn confirm(
        &self,
        create: &CreateStanza,
        record: &StanzaRecord,
        database: &Database,
    ) -> Result<NewStanza, Failure> {
        let writer = record.writers.get(&create.timeline);
        let other_writer = writer.filter(|writer| writer.instance != create.instance);
        let other_writer = other_writer.map(|writer| writer.host.clone());
        need_same_cluster(create, database)?;
        let durable: Vec<u16> = database
            .info
            .replicas
            .iter()
            .map(|replica| replica.repo.get())
            .collect();
        let repositories = self.catalog.view().repositories()?;
        let owed = repositories
            .iter()
            .map(|(key, _)| key.get())
            .filter(|key| !durable.contains(key))
            .collect();
        Ok(NewStanza {
            archive_id: database.archive_id(),
            already: true,
            durable,
            owed,
            other_writer,
        })
    }

    async fn add_database(
        &self,
        actor: &str,
        create: &CreateStanza,
        id: DbId,
        upgrade: bool,
    ) -> Result<NewStanza, Failure> {
        let archive_id = ArchiveId {
            db: id,
            version: create.version,
        };
        let payload = self.describe(create, archive_id)?;
        for _ in 0..TRIES {
            if let Some(new) = self
                .try_add_database(actor, create, archive_id, &payload, upgrade)
                .await?
            {
                return Ok(new);
            }
        }
        Err(Failure::new(
            ExitCode::ArchiveTimeout,
            "the name of the stanza's description kept being deleted while it was written",
        )
        .again())
    }

    /// None where the description's name may have been deleted since it was assigned: another one must be tried.
    async fn try_add_database(
        &self,
        actor: &str,
        create: &CreateStanza,
        archive_id: ArchiveId,
        payload: &Payload,
        upgrade: bool,
    ) -> Result<Option<NewStanza>, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let checked_at = view.applied()?;
        let object = ObjectRef::StanzaInfo {
            stanza: create.stanza.clone(),
            db: archive_id.db,
        };
        // A stanza of this name may have been deleted a moment ago: its objects' names are not free yet.
        let targets = refs::targets_of(&view.snapshot(), &object)?;
        let ack = effective_ack(self.settings.backup_ack, targets.len())
            .map_err(|why| Failure::new(ExitCode::OptionInvalid, "backup-ack cannot be met").because(why))?;
        let name = ObjectName::StanzaInfo {
            stanza: create.stanza.clone(),
            archive_id,
            digest: payload.digest,
        };
        let mut outcome = self.repositories.write(&name, payload, &targets, ack, None).await?;
        let info = claimed_object(payload, outcome.claims());
        let command = database_command(create, info, checked_at, upgrade);
        match self.catalog.propose(actor, command).await {
            Ok(Reply::Database(db)) if db == archive_id.db => {}
            Ok(other) => return Err(unexpected(&other)),
            Err(CatalogError::Refused(
                Refusal::Recheck { .. } | Refusal::StaleGenerations(_) | Refusal::TooFewReplicas { .. },
            )) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        self.settle(object, payload.digest, &mut outcome);
        Ok(Some(NewStanza {
            archive_id,
            already: false,
            durable: outcome.durable_numbers(),
            owed: outcome.owed_numbers(),
            other_writer: None,
        }))
    }

    /// Invariant 8: each repository says by itself which cluster an archive belongs to.
    fn describe(&self, create: &CreateStanza, archive_id: ArchiveId) -> Result<Payload, Failure> {
        let info = StanzaInfo {
            format: STANZA_FORMAT,
            stanza: create.stanza.clone(),
            archive_id,
            system_id: create.system_id,
            catalog_version: create.catalog_version,
            segment_size: create.segment_size,
            created: pgmesh_protocol::now_unix(),
        };
        let unwritable = |error: &dyn std::error::Error| {
            Failure::new(ExitCode::Assert, "the stanza's description cannot be written").because(error)
        };
        let text = info.encode().map_err(|error| unwritable(&error))?;
        Payload::pack(self.suite(), Codec::None, None, &text).map_err(|error| unwritable(&error))
    }

    /// Stops or starts one stanza or all. The number of sessions that were ended, where that was asked for.
    pub async fn set_stopped(&self, actor: &str, set: SetStopped) -> Result<u64, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let stanzas = match &set.stanza {
            Some(stanza) => vec![stanza.clone()],
            None => view
                .stanzas(None)
                .map(|row| row.map(|(name, _)| name))
                .collect::<Result<Vec<_>, _>>()?,
        };
        for stanza in stanzas {
            let command = match &set.stopped {
                Some(reason) => Command::StopStanza {
                    stanza,
                    reason: reason.clone().into(),
                },
                None => Command::StartStanza { stanza },
            };
            self.catalog.propose(actor, command).await?;
        }
        match set.ends_sessions {
            true => self.backups.terminate_sessions_of(actor, set.stanza.as_ref()).await,
            false => Ok(0),
        }
    }

    /// Sets annotations of a backup.
    pub async fn annotate(&self, actor: &str, annotate: AnnotateBackup) -> Result<(), Failure> {
        let AnnotateBackup {
            stanza,
            label,
            annotations,
        } = annotate;
        self.catalog
            .propose(
                actor,
                Command::Annotate {
                    stanza,
                    label,
                    annotations,
                },
            )
            .await?;
        Ok(())
    }

    /// Deletes a stanza: out of the catalog first, then its objects, as sessions allow (invariant 5). Returns the
    /// number of objects that are deleted so far. Objects that a session still holds are deleted later; objects that a
    /// repository does not let go stay, and are counted.
    ///
    /// Without `force` it is refused while its cluster seems to run; with `is_down`, the client has seen that it does
    /// not. The catalog refuses it while the stanza is being restored; with `force` the sessions of the restores end.
    pub async fn delete_stanza(
        &self,
        actor: &str,
        stanza: StanzaName,
        force: bool,
        is_down: bool,
    ) -> Result<DeletedStanza, Failure> {
        if !force && !is_down {
            self.refuse_running(&stanza).await?;
        }
        loop {
            let command = Command::DeleteStanza {
                stanza: stanza.clone(),
                force,
            };
            match self.catalog.propose(actor, command).await? {
                Reply::Deleting { more: true } => {}
                Reply::Deleting { more: false } => break,
                other => return Err(unexpected(&other)),
            }
        }
        let Collected { deleted, kept } = self.janitor.collect_garbage_anywhere().await;
        Ok(DeletedStanza { deleted, kept })
    }
}

impl Node {
    /// A node sees nothing of a cluster but its pushes: WAL that came a moment ago says that it runs.
    async fn refuse_running(&self, stanza: &StanzaName) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let Some(record) = view.stanza(stanza)? else {
            return Err(Refusal::UnknownStanza(stanza.clone()).into());
        };
        if record.deleting {
            // An interrupted deletion goes on: there is no way back.
            return Ok(());
        }
        let Some(database) = record.current() else {
            return Ok(());
        };
        let Some((_, last)) = view.segment_bounds(stanza, database.id)? else {
            return Ok(());
        };
        let last = view.segment(stanza, database.id, &WalFileName::Segment(last))?;
        let age = last.map(|segment| pgmesh_protocol::now_unix() - segment.pushed_at);
        match age {
            Some(age) if (0..RECENT_PUSH_SECONDS).contains(&age) => Err(Failure::new(
                ExitCode::PgRunning,
                format!("PostgreSQL may run: stanza {stanza} was pushed to {age} seconds ago"),
            )
            .remedy(
                "stop PostgreSQL and run this on its host, where that can be seen; or wait until nothing has been pushed for \
                 five minutes, or give --force",
            )),
            _ => Ok(()),
        }
    }
}

fn need_same_cluster(create: &CreateStanza, database: &Database) -> Result<(), Failure> {
    if database.system_id == create.system_id && database.version == create.version {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::FileInvalid,
        format!(
            "stanza {} exists for PostgreSQL {} with system identifier {}, the cluster here is PostgreSQL {} with {}",
            create.stanza, database.version, database.system_id, create.version, create.system_id
        ),
    )
    .remedy("after pg_upgrade run 'pgmesh --stanza=NAME stanza-upgrade'; another cluster needs a stanza of its own"))
}

fn database_command(create: &CreateStanza, info: ClaimedObject, checked_at: LogIndex, upgrade: bool) -> Command {
    let cluster = Cluster {
        system_id: create.system_id,
        version: create.version,
        catalog_version: create.catalog_version,
        segment_size: create.segment_size,
    };
    let stanza = create.stanza.clone();
    if upgrade {
        Command::UpgradeStanza {
            stanza,
            cluster,
            info,
            checked_at,
        }
    } else {
        Command::CreateStanza {
            stanza,
            cluster,
            info,
            checked_at,
        }
    }
}

pub(super) fn current(record: &StanzaRecord, stanza: &StanzaName) -> Result<Database, Failure> {
    if record.deleting {
        return Err(Refusal::StanzaDeleting(stanza.clone()).into());
    }
    record.current().cloned().ok_or_else(|| {
        Failure::new(
            ExitCode::Format,
            format!("the catalog's record of stanza {stanza} names no database"),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use crate::SessionTimes;
    use crate::testing::{TestNode, stanza};
    use pgmesh_protocol::ExitCode;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stanza_whose_cluster_seems_to_run_is_not_deleted() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let failure = site.node.delete_stanza("test", stanza(), false, false).await;
        assert_eq!(failure.unwrap_err().code, ExitCode::PgRunning);
        // The catalog refuses it, since the stanza is not stopped. The catalog has not changed.
        let failure = site.node.delete_stanza("test", stanza(), false, true).await;
        assert_eq!(failure.unwrap_err().code, ExitCode::Stop);
        let record = site.node.catalog.view().stanza(&stanza()).unwrap().unwrap();
        assert!(!record.deleting && record.stopped.is_none());
        site.node.delete_stanza("test", stanza(), true, false).await.unwrap();
        assert!(site.node.catalog.view().stanza(&stanza()).unwrap().is_none());
    }
}

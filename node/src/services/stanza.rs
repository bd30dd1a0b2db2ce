//! Creating, upgrading, stopping and deleting stanzas.

use crate::garbage::Collected;
use crate::protocol::{AnnotateBackup, CreateStanza, DeletedStanza, NewStanza, SetStopped};
use crate::refs;
use crate::services::{stored_object, unexpected};
use crate::settings::effective_ack;
use crate::{Failure, Node, code};
use pgmesh_raft::command::Cluster;
use pgmesh_raft::{Command, Database, ObjectRef, Refusal, Reply, StanzaRecord, StoredObject};
use pgmesh_storage::{ArchiveId, Codec, DbId, ObjectName, Payload, STANZA_FORMAT, StanzaInfo, StanzaName};

impl Node {
    /// Creates a stanza. For the same cluster it changes nothing, but makes its data directory the writer (invariant 12).
    pub async fn create_stanza(&self, actor: &str, create: CreateStanza) -> Result<NewStanza, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        if let Some(record) = view.stanza(&create.stanza)? {
            let database = current(&record, &create.stanza)?;
            return self.confirm(actor, &create, &record, &database).await;
        }
        self.add_database(actor, &create, DbId(1), false).await
    }

    /// Starts a new database id after pg_upgrade.
    pub async fn upgrade_stanza(&self, actor: &str, create: CreateStanza) -> Result<NewStanza, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .stanza(&create.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(create.stanza.clone())))?;
        let database = current(&record, &create.stanza)?;
        if (database.system_id, database.version) == (create.system_id, create.version) {
            return self.confirm(actor, &create, &record, &database).await;
        }
        self.add_database(actor, &create, DbId(database.id.0 + 1), true).await
    }

    async fn confirm(
        &self,
        actor: &str,
        create: &CreateStanza,
        record: &StanzaRecord,
        database: &Database,
    ) -> Result<NewStanza, Failure> {
        if database.system_id != create.system_id || database.version != create.version {
            return Err(Failure::new(
                code::FILE_INVALID,
                format!(
                    "stanza {} exists for PostgreSQL {} with system identifier {}, the cluster here is PostgreSQL {} with {}",
                    create.stanza, database.version, database.system_id, create.version, create.system_id
                ),
            )
            .remedy("after pg_upgrade run 'pgmesh --stanza=NAME stanza-upgrade'; another cluster needs a stanza of its own"));
        }
        let writer = record.writers.get(&create.timeline);
        if writer.is_some_and(|writer| writer.instance != create.instance) {
            let command = Command::AdoptWriter {
                stanza: create.stanza.clone(),
                timeline: create.timeline,
                instance: create.instance.clone(),
            };
            self.catalog.propose(actor, command).await?;
        }
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
        })
    }

    async fn add_database(
        &self,
        actor: &str,
        create: &CreateStanza,
        id: DbId,
        upgrade: bool,
    ) -> Result<NewStanza, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let archive_id = ArchiveId {
            db: id,
            version: create.version,
        };
        let payload = self.describe(create, archive_id)?;
        let object = ObjectRef::StanzaInfo {
            stanza: create.stanza.clone(),
            db: id,
        };
        // A stanza of this name may have been deleted a moment ago: its objects' names are not free yet.
        let targets = refs::targets_of(&view, &object)?;
        let ack = effective_ack(self.settings.backup_ack, targets.len())
            .map_err(|why| Failure::new(code::OPTION_INVALID, "backup-ack cannot be met").because(why))?;
        let name = ObjectName::StanzaInfo {
            stanza: create.stanza.clone(),
            archive_id,
            digest: payload.digest,
        };
        let mut outcome = self.repositories.write(&name, &payload, &targets, ack, None).await?;
        let info = stored_object(
            &payload,
            outcome.durable.iter().map(|written| written.replica).collect(),
        );
        match self
            .catalog
            .propose(actor, database_command(create, info, upgrade))
            .await?
        {
            Reply::Database(db) if db == id => {}
            other => return Err(unexpected(&other)),
        }
        self.settle(object, payload.digest, &mut outcome);
        Ok(NewStanza {
            archive_id,
            already: false,
            durable: outcome.durable_numbers(),
            owed: outcome.owed_numbers(),
        })
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
            created: crate::now_unix(),
        };
        let unwritable = |error: &dyn std::error::Error| {
            Failure::new(code::ASSERT, "the stanza's description cannot be written").because(error)
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
                    reason: reason.clone(),
                },
                None => Command::StartStanza { stanza },
            };
            self.catalog.propose(actor, command).await?;
        }
        match set.ends_sessions {
            true => self.terminate_sessions_of(actor, set.stanza.as_ref()).await,
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

    /// Deletes a stanza: out of the catalog first, then its objects, as sessions allow (invariant 5). The number of
    /// objects deleted before this returns; what a session still holds is deleted later. What a repository does not let go
    /// stays, and is told.
    pub async fn delete_stanza(&self, actor: &str, stanza: StanzaName, force: bool) -> Result<DeletedStanza, Failure> {
        if force {
            let reason = "it is being deleted".to_owned();
            let command = Command::StopStanza {
                stanza: stanza.clone(),
                reason,
            };
            match self.catalog.propose(actor, command).await {
                // A deletion that was interrupted goes on.
                Ok(_) | Err(pgmesh_raft::CatalogError::Refused(Refusal::StanzaDeleting(_))) => {}
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            let command = Command::DeleteStanza { stanza: stanza.clone() };
            match self.catalog.propose(actor, command).await? {
                Reply::Deleting { more: true } => {}
                Reply::Deleting { more: false } => break,
                other => return Err(unexpected(&other)),
            }
        }
        self.sweep.wake();
        let Collected { deleted, kept } = self.collect_garbage().await?;
        Ok(DeletedStanza { deleted, kept })
    }
}

fn database_command(create: &CreateStanza, info: StoredObject, upgrade: bool) -> Command {
    let cluster = Cluster {
        system_id: create.system_id,
        version: create.version,
        catalog_version: create.catalog_version,
        segment_size: create.segment_size,
    };
    let stanza = create.stanza.clone();
    if upgrade {
        Command::UpgradeStanza { stanza, cluster, info }
    } else {
        Command::CreateStanza { stanza, cluster, info }
    }
}

fn current(record: &StanzaRecord, stanza: &StanzaName) -> Result<Database, Failure> {
    if record.deleting {
        return Err(Refusal::StanzaDeleting(stanza.clone()).into());
    }
    record.current().cloned().ok_or_else(|| {
        Failure::new(
            code::FORMAT,
            format!("the catalog's record of stanza {stanza} names no database"),
        )
    })
}

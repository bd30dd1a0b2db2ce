//! Taking backups: the stanza's lock, chunks, the commit.

use crate::backups::Backups;
use crate::committer::ChunkCommit;
use crate::refs;
use crate::services::{
    Again, Checked, LookedUp, Patience, Thin, Whole, claimed_object, current_database, joined, look_again,
};
use crate::sessions::{ConnectionNumber, ResumeKey, holder_words};
use crate::settings::effective_ack;
use bytes::Bytes;
use pgmesh_protocol::{BackupBegun, BeginBackup, CommitBackup, CommittedBackup, ExitCode, Failure, PutChunk};
use pgmesh_raft::apply::Base;
use pgmesh_raft::command::{self, NewChunk};
use pgmesh_raft::{
    BackupRecord, CatalogError, ChunkState, Command, CondemnedChunk, ExpiredIn, LogIndex, ObjectRef, Refusal,
    SessionId, SessionKind, StanzaRecord, StoredObject, View,
};
use pgmesh_runtime::{random, tasks};
use pgmesh_storage::{
    BackupLabel, Digest, DigestSuite, Generation, ManifestRoot, ObjectName, PartReader, Payload, RepoKey, StanzaName,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// So many looks at all chunks of a backup start the time anew in which its commit must succeed.
const LOOKS: u32 = 16;

/// Condemned chunks that one command takes back.
const REPRIEVED_AT_ONCE: usize = 512;
/// How often a chunk is written again when the catalog moved under it.
const TRIES: usize = 8;
/// How soon for the second time; then later each time. A node that has a repository open at a place that it has left
/// finds that out within two seconds.
const PUT_PAUSE: Duration = Duration::from_millis(20);

impl Backups {
    /// Opens a backup session and takes the stanza's lock.
    pub async fn begin_backup(
        &self,
        actor: &str,
        begin: BeginBackup,
        connection: ConnectionNumber,
    ) -> Result<BackupBegun, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let (stanza, database) = current_database(&view, &begin.stanza)?;
        if database.system_id != begin.system_id || database.version != begin.version {
            return Err(Failure::new(
                ExitCode::BackupMismatch,
                format!(
                    "stanza {} is PostgreSQL {} with system identifier {}, the cluster here is PostgreSQL {} with {}",
                    begin.stanza, database.version, database.system_id, begin.version, begin.system_id
                ),
            )
            .remedy("check --stanza and pg1-path; after pg_upgrade run 'pgmesh --stanza=NAME stanza-upgrade'"));
        }
        let writer = known_writer(&stanza, &begin)?;
        let all = refs::repositories(&view)?;
        let ack = self.backup_ack(begin.backup_ack, all.len())?;
        let prior = view.last_backup(&begin.stanza)?;
        let resume_key = random_key()?;
        let open = self.opening_of(&begin, resume_key);
        let session = self.open_client_session(actor, open, ack, connection).await?;
        let command = Command::BeginBackup {
            stanza: begin.stanza.clone(),
            session,
            label: begin.label.clone(),
            system_id: begin.system_id,
        };
        if let Err(error) = self.catalog.propose(actor, command).await {
            self.end_session(actor, session, "the backup could not begin").await;
            return Err(error.into());
        }
        Ok(BackupBegun {
            session: session.0.0,
            suite: self.suite(),
            archive_id: database.archive_id(),
            repositories: all.iter().map(|key| key.get()).collect(),
            backup_ack: u16::try_from(ack).unwrap_or(u16::MAX),
            prior,
            writer,
            resume_key,
        })
    }

    fn backup_ack(&self, asked: Option<u16>, repositories: usize) -> Result<usize, Failure> {
        effective_ack(asked.or(self.settings.backup_ack), repositories)
            .map_err(|why| Failure::new(ExitCode::OptionInvalid, "backup-ack cannot be met").because(why))
    }

    fn opening_of(&self, begin: &BeginBackup, resume_key: ResumeKey) -> Command {
        Command::OpenSession {
            kind: SessionKind::Backup,
            stanza: Some(begin.stanza.clone()),
            holder: holder_words(&begin.holder),
            node: self.name.clone(),
            resume_key: Some(resume_key),
        }
    }

    /// Stores one chunk; returns when it is durable in `backup-ack` repositories and committed, and the stanza has the
    /// right to it. A chunk that is there already is written as if it were new: the repository finds it in its place,
    /// and compares it. The answer, the bytes that were sent, is the same then.
    pub async fn put_chunk(&self, put: PutChunk, body: Bytes, held: Arc<crate::budget::Held>) -> Result<u64, Failure> {
        let session = SessionId(LogIndex(put.session));
        let ack = self.clients.ack(session)?;
        let payload = checked(joined(put.payload, body)?, self.suite()).await?;
        let length = u32::try_from(payload.plain_length)
            .map_err(|_| Failure::new(ExitCode::Protocol, "a chunk larger than 4 GiB"))?;
        let mut first = None;
        for number in 0..TRIES {
            if number > 1 {
                tokio::time::sleep(PUT_PAUSE * (1 << number)).await;
            }
            let targets = chunk_targets(&self.catalog.view().snapshot(), payload.digest, first)?;
            let name = ObjectName::Chunk(payload.digest);
            let mut outcome = self
                .repositories
                .write(&name, &payload, &targets, ack, Some(held.clone()))
                .await?;
            let object = ObjectRef::Chunk(payload.digest);
            if !self
                .reads
                .report_passed_over(&object, &outcome.asked, &outcome.durable)
                .await?
            {
                continue;
            }
            let chunk = NewChunk {
                digest: payload.digest,
                length,
                stored_length: u32::try_from(payload.bytes.len()).unwrap_or(u32::MAX),
                claims: outcome.claims(),
            };
            match self.committer.chunk(session, ack, chunk).await? {
                ChunkCommit::Done => {
                    self.settle(object, payload.digest, &mut outcome);
                    return Ok(payload.bytes.len() as u64);
                }
                ChunkCommit::Stale(generation) => first = Some(generation),
            }
        }
        Err(Failure::new(
            ExitCode::ArchiveTimeout,
            format!(
                "chunk {} was written {TRIES} times and is in fewer than {ack} repositories",
                payload.digest
            ),
        )
        .because("its names kept being deleted, or its repositories replaced or moved, while it was written")
        .again())
    }

    /// Commits a backup when all that it names is durable (invariant 4).
    pub async fn commit_backup(
        &self,
        actor: &str,
        commit: CommitBackup,
        body: Bytes,
        held: Arc<crate::budget::Held>,
    ) -> Result<CommittedBackup, Failure> {
        let session = SessionId(LogIndex(commit.session));
        let ack = self.clients.ack(session)?;
        let payload = joined(commit.manifest, body)?;
        // A commit whose answer was lost is asked for again, perhaps through another node: it is done already.
        if let Some(done) = self.committed_before(&commit).await? {
            self.end_session(actor, session, "the backup is committed").await;
            return Ok(done);
        }
        let (payload, root) = opened_root(payload, self.suite()).await?;
        check_root(&root, &commit.stanza, &commit.label)?;
        let mut patience = Patience::begin();
        let mut looks = 0_u32;
        let mut before: Option<Whole> = None;
        let (mut is_noted, mut are_all_noted) = (false, true);
        // Between the last look and the command lies nothing else: a manifest that was written is not written again.
        let mut written = None;
        loop {
            // It ends with the session.
            self.clients.ack(session)?;
            let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
            let again = match before.take() {
                Some(before) => look_again(&view.snapshot(), before, &commit.stanza, session, ack)?,
                None => Again::Anew,
            };
            let whole = match again {
                Again::Whole(whole) => whole,
                Again::TakeBack(whole, chunks) => {
                    self.reprieve(actor, session, chunks).await?;
                    before = Some(whole);
                    // Ever later: some may not be there to be taken back.
                    patience.wait(None, kept_moving).await?;
                    continue;
                }
                Again::Anew => match self.check_chunks(&view, &root, session, ack).await? {
                    Checked::Missing(missing) => return Ok(CommittedBackup::Missing(missing)),
                    Checked::Condemned(chunks) => {
                        self.reprieve(actor, session, chunks).await?;
                        patience.wait(None, kept_moving).await?;
                        continue;
                    }
                    Checked::Thin(thin) => {
                        if !is_noted {
                            // Where a chunk has expired, it is owed from then on.
                            are_all_noted = self.note_uses(actor, session, &commit, &root).await?;
                            is_noted = true;
                        }
                        self.repair.wake();
                        patience.wait(Some(thin), || too_thin(thin, ack)).await?;
                        continue;
                    }
                    Checked::Whole(whole) => {
                        // The look may have taken long, but the rest of the commit is short, so the patience begins
                        // anew; not for ever.
                        looks += 1;
                        if looks <= LOOKS {
                            patience = Patience::begin();
                        }
                        whole
                    }
                },
            };
            if !is_noted {
                are_all_noted = self.note_uses(actor, session, &commit, &root).await?;
                is_noted = true;
                // Nothing of the stanza expires from here on; what went before is found by another look.
                before = Some(whole);
                continue;
            }
            let object = ObjectRef::Manifest {
                stanza: commit.stanza.clone(),
                label: commit.label.clone(),
            };
            let (targets, mut outcome) = match written.take() {
                Some(written) => written,
                None => {
                    let targets = refs::targets_of(&view.snapshot(), &object)?;
                    let name = ObjectName::Manifest {
                        stanza: commit.stanza.clone(),
                        label: commit.label.clone(),
                        digest: payload.digest,
                    };
                    let held = Some(held.clone());
                    let outcome = self.repositories.write(&name, &payload, &targets, ack, held).await?;
                    (targets, outcome)
                }
            };
            let claimed = claimed_object(&payload, outcome.claims());
            let manifest = claimed.stored(Vec::new());
            let stored = whole.sums.stored.clone();
            let record = backup_record(&root, manifest, stored, targets.iter().map(|(key, _)| *key));
            let command = Command::CommitBackup(Box::new(command::CommitBackup {
                stanza: commit.stanza.clone(),
                session,
                label: commit.label.clone(),
                record,
                claims: claimed.claims,
                ack: u16::try_from(ack).unwrap_or(u16::MAX),
                checked_at: whole.checked_at,
            }));
            match self.catalog.propose(actor, command).await {
                Ok(_) => {
                    self.settle(object, payload.digest, &mut outcome);
                    if !are_all_noted && let Err(failure) = self.doubt_uses(actor, &commit.stanza).await {
                        tracing::warn!(stanza = %commit.stanza, error = %failure, "chunks may stay that could go");
                    }
                    self.end_session(actor, session, "the backup is committed").await;
                    return Ok(CommittedBackup::Committed {
                        durable: outcome.durable_numbers(),
                        owed: outcome.owed_numbers(),
                    });
                }
                Err(CatalogError::Refused(Refusal::Recheck { .. })) => {
                    before = Some(whole);
                    written = Some((targets, outcome));
                    patience.wait_shortly(kept_moving).await?;
                    continue;
                }
                // Written to a repository that was replaced meanwhile, it counts for nothing: it is written again.
                Err(CatalogError::Refused(Refusal::StaleGenerations(_) | Refusal::TooFewReplicas { .. })) => {}
                Err(error) => return Err(error.into()),
            }
            patience.wait(None, kept_moving).await?;
        }
    }

    /// Takes chunks back that were condemned while the backup ran, or are suspected.
    async fn reprieve(&self, actor: &str, session: SessionId, chunks: Vec<CondemnedChunk>) -> Result<(), Failure> {
        for group in chunks.chunks(REPRIEVED_AT_ONCE) {
            let chunks = group.to_vec();
            let command = Command::Reprieve { session, chunks };
            self.catalog.propose(actor, command).await?;
        }
        Ok(())
    }

    /// The answer to a commit that has succeeded before.
    pub(crate) async fn committed_before(&self, commit: &CommitBackup) -> Result<Option<CommittedBackup>, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let Some(record) = view.backup(&commit.stanza, &commit.label)? else {
            return Ok(None);
        };
        if record.manifest.digest != commit.manifest.digest {
            return Ok(None);
        }
        let durable: Vec<u16> = record
            .manifest
            .replicas
            .iter()
            .map(|replica| replica.repo.get())
            .collect();
        let all = refs::repositories(&view)?;
        let owed = all
            .iter()
            .map(|key| key.get())
            .filter(|key| !durable.contains(key))
            .collect();
        Ok(Some(CommittedBackup::Committed { durable, owed }))
    }

    /// Looks every chunk of a manifest up. Reads the manifest's parts one after the other (invariant 11).
    async fn check_chunks(
        &self,
        view: &View,
        root: &ManifestRoot,
        session: SessionId,
        ack: usize,
    ) -> Result<Checked, Failure> {
        let checked_at = view.applied()?;
        let mut found = LookedUp::new(&root.stanza, session, ack).with_room(root.sizes.size >> 20);
        let part_digests: Vec<Digest> = root.parts.iter().map(|part| part.digest).collect();
        found.look_up(view, &part_digests)?;
        // No part is read that the stanza has no right to.
        if !found.is_there() {
            return Ok(found.checked(checked_at, true));
        }
        let are_parts_thin = found.has_thin();
        // Nor does a restore follow an entry that leads out of the data directory.
        let version_directory = root.tablespace_directory();
        for part in &root.parts {
            let plain = self.reads.part(view, part.digest).await?;
            let digests =
                PartReader::checked_chunks(&plain, &version_directory).map_err(crate::reads::not_understood)?;
            found.look_up(view, &digests)?;
            if found.is_enough() {
                break;
            }
        }
        Ok(found.checked(checked_at, are_parts_thin))
    }
}

/// Opens and decodes a manifest's root: on a thread of its own, as it may be large.
async fn opened_root(payload: Payload, suite: DigestSuite) -> Result<(Payload, ManifestRoot), Failure> {
    let opening = tasks::blocking("opening a manifest", move || {
        let plain = payload.open(suite).map_err(|error| {
            Failure::new(ExitCode::Checksum, "the manifest did not arrive as it was sent")
                .because(error)
                .again()
        })?;
        let root = ManifestRoot::decode(&plain)
            .map_err(|error| Failure::new(ExitCode::Format, "the manifest is not understood").because(error))?;
        Ok((payload, root))
    });
    opening
        .await
        .map_err(|error| Failure::new(ExitCode::Assert, "opening a manifest").because(error))?
}

/// Invariant 12: a copy's backup would rest on the original's WAL. The instance that writes the timeline, if any does
/// yet.
fn known_writer(stanza: &StanzaRecord, begin: &BeginBackup) -> Result<Option<String>, Failure> {
    let writer = stanza.writers.get(&begin.timeline);
    match (writer, &begin.instance) {
        (Some(known), Some(given)) if known.instance != *given => {
            Err(known.refusal(&begin.stanza, begin.timeline, given).into())
        }
        (None, None) => Err(Failure::new(
            ExitCode::ArchiveMismatch,
            format!(
                "nobody has archived WAL of timeline {} to stanza {} yet",
                begin.timeline, begin.stanza
            ),
        )
        .because("the primary is on another host, so that only its WAL tells it from a copy")
        .remedy(format!(
            "let the primary archive to the stanza: 'pgmesh --stanza={} check' on its host shows whether it does",
            begin.stanza
        ))),
        _ => Ok(writer.map(|writer| writer.instance.clone())),
    }
}

pub(super) fn random_key() -> Result<ResumeKey, Failure> {
    let mut key = [0; 16];
    random::secret(&mut key).map_err(|error| Failure::new(ExitCode::Crypto, "no randomness").because(error))?;
    Ok(key)
}

/// Chunks are shared between stanzas: a chunk with other content than its digest says would poison other backups.
async fn checked(payload: Payload, suite: DigestSuite) -> Result<Payload, Failure> {
    let (payload, opened) = tasks::blocking("checking a chunk", move || {
        let opened = payload.open(suite).map(drop);
        (payload, opened)
    })
    .await
    .map_err(|error| Failure::new(ExitCode::Assert, "checking a chunk").because(error))?;
    opened.map_err(|error| {
        Failure::new(
            ExitCode::Checksum,
            format!("chunk {} did not arrive as it was sent", payload.digest),
        )
        .because(error)
        .again()
    })?;
    Ok(payload)
}

fn kept_moving() -> Failure {
    Failure::new(
        ExitCode::Runtime,
        "chunks kept being deleted while the backup was committed",
    )
    .again()
}

fn too_thin(thin: Thin, ack: usize) -> Failure {
    Failure::new(
        ExitCode::ArchiveTimeout,
        format!(
            "{} chunks of the backup are in fewer than the {ack} repositories that must have them before it counts",
            thin.chunks
        ),
    )
    .because("a repository lost them while the backup was made, and they could not be copied to it from another one in time")
    .remedy(
        "'pgmesh info' shows which repository owes objects: bring it back, or lower backup-ack, and run the backup again: what \
         is stored is not sent twice",
    )
}

/// Where a chunk is to be written, in each repository under a name that is assigned to it: an object under any other
/// name may be about to be deleted. `at_least` is the generation that the catalog has asked for meanwhile.
pub(crate) fn chunk_targets<B: Base>(
    view: &View<B>,
    digest: Digest,
    at_least: Option<Generation>,
) -> Result<Vec<(RepoKey, Generation)>, Failure> {
    let at_least = at_least.unwrap_or_default();
    match view.chunk_states(&[digest])?.pop() {
        Some(ChunkState::Absent { generation }) => {
            let generation = generation.max(at_least);
            Ok(refs::repositories(view)?
                .into_iter()
                .map(|key| (key, generation))
                .collect())
        }
        known => {
            let replicas = match known {
                Some(ChunkState::Present(record)) => record.replicas,
                _ => Vec::new(),
            };
            let mut targets = refs::targets_of_known(view, &ObjectRef::Chunk(digest), &replicas)?;
            for (key, generation) in &mut targets {
                if !replicas.iter().any(|replica| replica.repo == *key) {
                    *generation = (*generation).max(at_least);
                }
            }
            Ok(targets)
        }
    }
}

fn check_root(root: &ManifestRoot, stanza: &StanzaName, label: &BackupLabel) -> Result<(), Failure> {
    if root.stanza == *stanza && root.label == *label {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Protocol,
        format!(
            "the manifest is of backup {} of stanza {}, not of {label} of {stanza}",
            root.label, root.stanza
        ),
    ))
}

/// The catalog's record of a manifest.
pub(crate) fn backup_record(
    root: &ManifestRoot,
    manifest: StoredObject,
    stored: BTreeMap<RepoKey, u64>,
    targets: impl Iterator<Item = RepoKey>,
) -> BackupRecord {
    BackupRecord {
        db: root.archive_id.db,
        started_at: root.start_time,
        stopped_at: root.stop_time,
        began: LogIndex(0),
        lsn_start: root.start_lsn,
        lsn_stop: root.stop_lsn,
        wal_start: root.wal_start,
        wal_stop: root.wal_stop,
        timeline: root.timeline,
        size: root.sizes.size,
        delta: root.sizes.delta,
        stored,
        stored_delta: targets.map(|key| (key, root.sizes.repository_delta)).collect(),
        files: root.file_count,
        page_errors: !root.errors.is_empty(),
        annotations: root.annotations.clone(),
        prior: root.prior.clone(),
        manifest,
        program: root.pgmesh_version.clone(),
        expired: ExpiredIn::new(),
        hold: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{SUITE, TestNode, manifest_of_file, stanza};
    use pgmesh_storage::Codec;

    /// A backup that a restore would refuse is refused at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_with_a_file_beside_the_clusters_directory_of_a_tablespace_is_refused() {
        const LABEL: &str = "20260101-000000F";
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let begun = client.begin_backup(LABEL).await.unwrap();
        let chunk = client.put_chunk(begun.session, &[1; 900]).await.unwrap();
        let commit = async |path: &str| {
            let (root, part) = manifest_of_file(path, LABEL, chunk, 900);
            client.put_chunk(begun.session, &part).await.unwrap();
            let payload = Payload::pack(SUITE, Codec::None, None, &root).unwrap();
            let commit = CommitBackup {
                stanza: stanza(),
                session: begun.session,
                label: LABEL.parse().unwrap(),
                manifest: payload.head(),
            };
            client.ask(&commit, Some(&payload.bytes)).await
        };
        let failure = commit("pg_tblspc/16385/cron.d/job").await.unwrap_err();
        assert_eq!(failure.code, ExitCode::Format, "{failure}");
        commit("pg_tblspc/16385/PG_15_202209061/5/1").await.unwrap();
    }
}

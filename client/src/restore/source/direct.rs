//! Reading from repositories alone (invariant 8): their folders and manifests tell which backups there are.

use super::archive::DirectArchive;
use super::decode_root;
use super::repositories::{DirectRepositories, copies};
use crate::mesh::Archived;
use crate::wal_sink::WalSink;
use bytes::Bytes;
use pgmesh_postgres::{SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_protocol::choice::{Chooser, Chosen, Clusters, Restoring};
use pgmesh_protocol::lines::NewestBackup;
use pgmesh_protocol::{BackupInfo, ExitCode, Failure};
use pgmesh_storage::{
    ArchiveId, BackupLabel, Digest, DigestSuite, ManifestRoot, ObjectName, ObjectPath, RepoKey, StanzaName, prefix,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The backups of one cluster.
#[derive(Default)]
struct Found {
    archives: BTreeSet<ArchiveId>,
    size: SegmentSize,
    backups: Vec<BackupInfo>,
}

/// Repositories as a source.
pub struct DirectSource {
    repositories: Arc<DirectRepositories>,
    stanza: StanzaName,
}

impl DirectSource {
    /// Of a stanza in these repositories.
    pub fn new(repositories: DirectRepositories, stanza: StanzaName) -> Self {
        Self {
            repositories: Arc::new(repositories),
            stanza,
        }
    }

    /// How digests are made.
    pub fn suite(&self) -> DigestSuite {
        self.repositories.suite()
    }

    /// The backup that is wanted, of all whose manifests can be read, and the timeline to follow.
    pub async fn choose(&self, asked: &Restoring) -> Result<Chosen, Failure> {
        let listing = self.repositories.list(&prefix::backups(&self.stanza)).await;
        for reason in &listing.silent {
            tracing::warn!("backups of a repository are ignored: {reason}");
        }
        let mut found: BTreeMap<SystemId, Found> = BTreeMap::new();
        for (label, copies) in copies(listing.found, label_of) {
            let repositories: Vec<RepoKey> = copies.iter().map(|(repo, _)| *repo).collect();
            match self.read(&label, copies).await {
                Ok(root) => {
                    let cluster = found.entry(root.system_id).or_default();
                    cluster.archives.insert(root.archive_id);
                    cluster.size = root.segment_size;
                    cluster.backups.push(describe(root, repositories));
                }
                Err(failure) => tracing::warn!("backup {label} is ignored: {failure}"),
            }
        }
        if found.is_empty() {
            let what = format!(
                "no declared repository has a backup of stanza {} that can be read",
                self.stanza
            );
            return Err(Failure::new(ExitCode::BackupSetInvalid, what).because(listing.silent.join("; ")));
        }
        let archive = DirectArchive::of(Arc::clone(&self.repositories));
        let mut clusters = Clusters::default();
        let mut backups = Vec::new();
        for Found {
            archives,
            size,
            backups: own,
        } in found.into_values()
        {
            let mut family = archive.family(&self.stanza, &archives).await;
            for backup in &own {
                let newest = NewestBackup {
                    label: backup.label.clone(),
                    began: u64::try_from(backup.time_start)
                        .unwrap_or_default()
                        .saturating_mul(1000),
                    stop: backup.lsn_stop,
                };
                family.add_backup(TimelineId(backup.timeline), newest);
            }
            clusters.add(archives.iter().map(|archive| archive.db.0), family, size);
            backups.extend(own);
        }
        let mut chooser = Chooser::new(asked, &clusters);
        backups.into_iter().for_each(|backup| chooser.offer(backup));
        let chosen = chooser.chosen(self.stanza.as_str());
        chosen.map_err(|error| error.failure())
    }

    /// The root of a backup's manifest.
    pub async fn manifest(&self, label: &BackupLabel) -> Result<ManifestRoot, Failure> {
        let listing = self.repositories.list(&prefix::backup(&self.stanza, label)).await;
        let copies = copies(listing.found, label_of).remove(label).unwrap_or_default();
        self.read(label, copies).await
    }

    async fn read(&self, label: &BackupLabel, copies: Vec<(RepoKey, ObjectPath)>) -> Result<ManifestRoot, Failure> {
        let mut reasons = Vec::new();
        for (repo, path) in copies {
            match self.repositories.at(repo, &path).await {
                Ok((_, plain)) => return decode_root(&plain, &self.stanza, label),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(Failure::new(
            ExitCode::RepoInvalid,
            format!("the manifest of backup {label} cannot be read"),
        )
        .because(reasons.join("; ")))
    }

    /// A chunk's plaintext.
    pub async fn chunk(&self, digest: Digest) -> Result<Bytes, Failure> {
        self.repositories.object(&ObjectName::Chunk(digest)).await
    }

    /// An archived file.
    pub async fn archived(
        &self,
        system_id: SystemId,
        file: WalFileName,
        sink: &mut dyn WalSink,
    ) -> Result<bool, Failure> {
        let mut archive = DirectArchive::of(Arc::clone(&self.repositories));
        let archived = archive.get(&self.stanza, Some(system_id), file, sink).await?;
        Ok(archived == Archived::Found)
    }
}

fn label_of(path: &ObjectPath) -> Option<BackupLabel> {
    match path {
        ObjectPath::Manifest { label, .. } => Some(label.clone()),
        _ => None,
    }
}

fn describe(root: ManifestRoot, mut repositories: Vec<RepoKey>) -> BackupInfo {
    repositories.dedup();
    BackupInfo {
        kind: root.backup_type.to_string(),
        label: root.label,
        prior: root.prior,
        error: !root.errors.is_empty(),
        database: root.archive_id.db.0,
        wal_start: root.wal_start.to_string(),
        wal_stop: root.wal_stop.to_string(),
        lsn_start: root.start_lsn,
        lsn_stop: root.stop_lsn,
        timeline: root.timeline.0,
        time_start: root.start_time,
        time_stop: root.stop_time,
        size: root.sizes.size,
        delta: root.sizes.delta,
        stored_size: root.sizes.repository,
        stored_delta: root.sizes.repository_delta,
        repositories,
        owed: Vec::new(),
        annotations: root.annotations,
        program: root.pgmesh_version,
        hold: None,
    }
}

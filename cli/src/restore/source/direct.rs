//! Reading from repositories alone (invariant 8): backups are what their folders and manifests say.

use super::archive::DirectArchive;
use super::decode_root;
use super::repositories::{DirectRepositories, copies};
use bytes::Bytes;
use pgmesh_node::choice::{Chooser, Wanted};
use pgmesh_node::protocol::BackupInfo;
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{SystemId, WalFileName};
use pgmesh_storage::{
    BackupLabel, Digest, DigestSuite, ManifestRoot, ObjectName, ObjectPath, RepoKey, StanzaName, prefix,
};
use std::sync::Arc;

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

    /// The backup that is wanted, of all whose manifests can be read.
    pub async fn choose(&self, wanted: &Wanted, timeline: Option<u32>) -> Result<BackupInfo, Failure> {
        let listing = self.repositories.list(&prefix::backups(&self.stanza)).await;
        for reason in &listing.silent {
            tracing::warn!("backups there are not considered: {reason}");
        }
        let mut chooser = Chooser::new(wanted, timeline);
        let mut found = false;
        for (label, copies) in copies(listing.found, label_of) {
            let repositories: Vec<RepoKey> = copies.iter().map(|(repo, _)| *repo).collect();
            match self.read(&label, copies).await {
                Ok(root) => {
                    found = true;
                    chooser.offer(describe(root, repositories));
                }
                Err(failure) => tracing::warn!("backup {label} is not considered: {failure}"),
            }
        }
        if !found {
            let what = format!(
                "no declared repository has a backup of stanza {} that can be read",
                self.stanza
            );
            return Err(Failure::new(code::BACKUP_SET_INVALID, what).because(listing.silent.join("; ")));
        }
        chooser.chosen(self.stanza.as_str()).map_err(|error| {
            Failure::new(code::BACKUP_SET_INVALID, error.to_string()).remedy("'pgmesh info' lists the backups")
        })
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
            code::REPO_INVALID,
            format!("the manifest of backup {label} cannot be read"),
        )
        .because(reasons.join("; ")))
    }

    /// A chunk's plaintext.
    pub async fn chunk(&self, digest: Digest) -> Result<Bytes, Failure> {
        self.repositories.object(&ObjectName::Chunk(digest)).await
    }

    /// An archived file.
    pub async fn archived(&self, system_id: SystemId, file: WalFileName) -> Result<Option<Bytes>, Failure> {
        let mut archive = DirectArchive::of(Arc::clone(&self.repositories));
        Ok(archive.get(&self.stanza, Some(system_id), file).await?.content())
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
    }
}

//! The root of the manifest, and the commit.

use super::context::Context;
use super::manifest::FileList;
use super::plan::Plan;
use super::summary::{BackupSummary, ChosenBy};
use super::tally::Sums;
use super::uploader::UploadCounts;
use super::wal::NeededWal;
use crate::pg::{BackupStart, BackupStop, DatabaseName, TablespaceName};
use bytes::Bytes;
use pgmesh_postgres::{BackupLabel, Tablespace};
use pgmesh_protocol::{CommitBackup, CommittedBackup, ExitCode, Failure};
use pgmesh_storage::{
    BackupSizes, BackupType, DatabaseRecord, FingerprintSeed, LinkRecord, MANIFEST_FORMAT, ManifestRoot, Payload,
    TablespaceRecord,
};
use std::sync::atomic::Ordering;

/// Facts for the root of the manifest that are known at the beginning.
pub struct Facts {
    start: BackupStart,
    databases: Vec<DatabaseRecord>,
    tablespaces: Vec<TablespaceRecord>,
    links: Vec<LinkRecord>,
    /// Page checksums are checked.
    pub page_checksums: bool,
    /// The seed of the fingerprints.
    pub fingerprint_seed: Option<FingerprintSeed>,
    /// When everything was last read, where this backup does not read everything.
    pub scanned_at: Option<i64>,
    /// How the pages to read were chosen.
    pub chosen_by: ChosenBy,
    /// Sums of the pages that were read and compared.
    pub sums: Sums,
}

impl Facts {
    /// Collects the answers of the server and the results of the walk.
    pub fn begin(
        start: BackupStart,
        databases: Vec<DatabaseName>,
        tablespaces: Vec<TablespaceName>,
        plan: &Plan,
    ) -> Self {
        let database = |database: DatabaseName| DatabaseRecord {
            oid: database.oid,
            name: database.name,
        };
        let links = plan.links.iter().map(|link| LinkRecord {
            path: link.path.clone(),
            destination: link.destination.clone(),
        });
        Self {
            start,
            databases: databases.into_iter().map(database).collect(),
            tablespaces: plan
                .tablespaces
                .iter()
                .map(|found| tablespace(found, &tablespaces))
                .collect(),
            links: links.collect(),
            page_checksums: false,
            fingerprint_seed: None,
            scanned_at: None,
            chosen_by: ChosenBy::Nothing,
            sums: Sums::default(),
        }
    }
}

/// A tablespace with its name. If it was created after the names were read, its oid is its name.
fn tablespace(found: &Tablespace, names: &[TablespaceName]) -> TablespaceRecord {
    let name = names
        .iter()
        .find(|named| named.oid == found.oid)
        .map(|named| named.name.clone());
    TablespaceRecord {
        oid: found.oid,
        name: name.unwrap_or_else(|| found.oid.to_string()),
        destination: found.destination.to_string_lossy().into_owned(),
    }
}

/// Commits the backup (invariant 4: the mesh checks that it is whole).
///
/// # Errors
/// The mesh refuses, or lacks chunks that it had while the backup was made.
pub async fn commit(
    context: &Context,
    facts: Facts,
    list: FileList,
    stop: BackupStop,
    label: BackupLabel,
    wal: NeededWal,
    counts: &UploadCounts,
) -> Result<BackupSummary, Failure> {
    let (sums, chosen_by) = (facts.sums, facts.chosen_by);
    let root = root(context, facts, list, stop, &label, wal, counts);
    let payload = pack(context, &root)?;
    let request = CommitBackup {
        stanza: context.settings.stanza.clone(),
        session: context.begun.session,
        label: context.label.clone(),
        manifest: payload.head(),
    };
    let body: Bytes = payload.bytes;
    match context.mesh.send(&request, &body).await? {
        CommittedBackup::Committed { durable, owed } => Ok(summary(root, counts, (sums, chosen_by), durable, owed)),
        CommittedBackup::Missing(missing) => Err(Failure::new(
            ExitCode::Runtime,
            format!(
                "the mesh does not have {} chunks that the backup names{}",
                missing.len(),
                missing
                    .first()
                    .map_or_else(String::new, |first| format!(", the first of them {first}"))
            ),
        )
        .because("they were removed before the backup was committed, or the stanza has no right to them")
        .remedy("run the backup again: it sends the chunks that are missing")
        .again()),
    }
}

fn pack(context: &Context, root: &ManifestRoot) -> Result<Payload, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(ExitCode::Runtime, "the manifest cannot be written").because(error)
    };
    let bytes = root.encode().map_err(|error| failed(&error))?;
    let settings = &context.settings;
    Payload::pack(context.begun.suite, settings.codec, settings.level, &bytes).map_err(|error| failed(&error))
}

fn root(
    context: &Context,
    facts: Facts,
    list: FileList,
    stop: BackupStop,
    label: &BackupLabel,
    wal: NeededWal,
    counts: &UploadCounts,
) -> ManifestRoot {
    let stored_new = counts.stored_new.load(Ordering::Relaxed);
    let control = &context.cluster.control;
    ManifestRoot {
        format: MANIFEST_FORMAT,
        pgmesh_version: env!("CARGO_PKG_VERSION").to_owned(),
        stanza: context.settings.stanza.clone(),
        label: context.label.clone(),
        backup_type: context.kind,
        archive_id: context.begun.archive_id,
        system_id: control.system_id,
        catalog_version: control.catalog_version,
        prior: context.prior.clone(),
        start_time: facts.start.time,
        stop_time: stop.time,
        start_lsn: label.start,
        stop_lsn: stop.lsn,
        checkpoint: label.checkpoint,
        timeline: label.start_timeline,
        instance: Some(context.cluster.instance.clone()),
        wal_start: wal.first,
        wal_stop: wal.last,
        segment_size: control.segment_size,
        page_checksums: facts.page_checksums,
        errors: list.errors,
        tablespaces: facts.tablespaces,
        databases: facts.databases,
        links: facts.links,
        fingerprint_seed: facts.fingerprint_seed,
        scanned_at: facts.scanned_at.or(Some(facts.start.time)),
        from_standby: context.standby.is_some(),
        data_checksums: Some(control.has_page_checksums()),
        annotations: context.settings.annotations.clone(),
        sizes: BackupSizes {
            size: list.size,
            delta: delta(context.kind, list.size, counts),
            // Only the catalog knows the bytes of the chunks that were there before: `info` shows the sum.
            repository: stored_new,
            repository_delta: stored_new,
        },
        file_count: list.files,
        backup_label: stop.label_file,
        tablespace_map: Some(stop.tablespace_map).filter(|map| !map.is_empty()),
        parts: list.parts,
    }
}

/// The bytes that the backup had to take in: all of the cluster for a full backup.
fn delta(kind: BackupType, size: u64, counts: &UploadCounts) -> u64 {
    match kind {
        BackupType::Full => size,
        BackupType::Diff | BackupType::Incr => counts.plain_new.load(Ordering::Relaxed),
    }
}

fn summary(
    root: ManifestRoot,
    counts: &UploadCounts,
    (sums, chosen_by): (Sums, ChosenBy),
    durable: Vec<u16>,
    owed: Vec<u16>,
) -> BackupSummary {
    BackupSummary {
        label: root.label,
        backup_type: root.backup_type,
        prior: root.prior,
        chosen_by,
        read: sums.read,
        pages_changed: sums.changed,
        pages_rewritten: sums.rewritten,
        pages_missed: sums.missed,
        start_time: root.start_time,
        stop_time: root.stop_time,
        start_lsn: root.start_lsn,
        stop_lsn: root.stop_lsn,
        wal_start: root.wal_start,
        wal_stop: root.wal_stop,
        files: root.file_count,
        size: root.sizes.size,
        new_size: counts.plain_new.load(Ordering::Relaxed),
        new_stored: counts.stored_new.load(Ordering::Relaxed),
        chunks_known: counts.known.load(Ordering::Relaxed),
        files_with_bad_pages: root.errors.len() as u64,
        durable,
        owed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_without_a_name_goes_by_its_oid() {
        let names = [TablespaceName {
            oid: 16500,
            name: "fast".to_owned(),
        }];
        let found = |oid| Tablespace {
            oid,
            destination: "/mnt/x".into(),
        };
        assert_eq!(tablespace(&found(16500), &names).name, "fast");
        let unnamed = tablespace(&found(16501), &names);
        assert_eq!(
            (unnamed.name.as_str(), unnamed.destination.as_str()),
            ("16501", "/mnt/x")
        );
    }
}

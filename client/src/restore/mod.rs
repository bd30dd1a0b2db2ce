//! `pgmesh restore`, the PostgreSQL host's side.
//!
//! ```text
//! options ── data_directory (may it be written?) ── source ── choose (which backup?)
//!                                                     │
//!   survey (manifest, first reading) ── configuration, places, databases, planning: decisions
//!                                                     │
//!   prepare (directories, links) ── pipeline (chunks ── writer ── files) ── recovery ── sync ── pg_control
//! ```
//!
//! The manifest is read twice, part by part: once for the decisions, once for the files. pg_control is taken away
//! before anything is changed and put back when everything is durable: a half restored cluster never starts. Everything
//! is written below open directories (`below`, `roots`), and no link in them is followed.

mod below;
mod configuration;
mod data_directory;
mod databases;
mod disk;
mod existing;
mod interruption;
pub(crate) mod late_tablespaces;
mod local;
mod options;
mod owners;
mod pg_manifest;
mod pipeline;
mod places;
mod plain;
mod planning;
mod prepare;
mod recovery;
mod roots;
mod select;
mod servers;
mod source;
mod summary;
mod survey;
mod tables;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod time_target;
mod workers;
mod writer;
mod zones;

pub use options::{ArchiveMode, Existing, PlaceOptions, RestoreSettings};
pub(crate) use source::{BackupSource, DirectArchive};
pub use source::{DirectRepositories, PassphraseSource, RepositorySettings, SourceSettings, direct_identity};
pub use summary::RestoreSummary;
pub(crate) use survey::Parts;
pub(crate) use tables::Tables;
pub use target::Target;
pub(crate) use workers::Workers;

use crate::caller::Caller;
use crate::mesh::restore_of;
use crate::progress::Progress;
use configuration::Configuration;
use data_directory::DataDirectory;
use data_directory::STOP_IT;
pub use data_directory::refuse_running;
use futures::FutureExt;
use interruption::{Began, stopped};
use owners::Owners;
use pg_manifest::PgManifest;
use pgmesh_postgres::RecoverySettings;
use pgmesh_protocol::Failure;
use pgmesh_storage::ManifestRoot;
use pipeline::Pipeline;
use places::PlannedLinks;
use planning::Rules;
use prepare::{FileSystems, Tree};
use select::{Selected, select};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use survey::Survey;
use writer::Writer;

/// Restores a backup out of `source`. If there is no source, the obstacles in the data directory are told before that.
///
/// # Errors
/// The failure in `source`; 38 when PostgreSQL runs there, 40 for directories that are not empty, 75 when there is no
/// fitting backup, 76 and 78 for mappings; failures of the mesh and of the operating system. A restore that failed
/// half-way leaves no pg_control, and goes on with `--delta` or `--force`.
pub async fn run(
    options: &RestoreSettings,
    source: Result<SourceSettings, Failure>,
    caller: &dyn Caller,
) -> Result<RestoreSummary, Failure> {
    data_directory::examine(&options.pgdata, options.existing)?;
    let workers = Workers::new(options.workers);
    let source = BackupSource::open(source?, options, &workers).await?;
    Box::pin(restore(options, Arc::new(source), workers, caller)).await
}

/// Restores from an opened source; from the mesh under a session, so that nothing of the backup is deleted meanwhile.
async fn restore(
    options: &RestoreSettings,
    source: Arc<BackupSource>,
    workers: Workers,
    caller: &dyn Caller,
) -> Result<RestoreSummary, Failure> {
    let began = Began::default();
    let (has_begun, stopped_options) = (began.clone(), options.clone());
    let interruption = caller.interruption(Box::new(move |by| stopped(by, &has_begun, &stopped_options)))?;
    let mut interruption = interruption.fuse();
    let Some(mesh) = source.mesh().cloned() else {
        return tokio::select! {
            outcome = Box::pin(write(options, source, workers, &began, caller)) => outcome,
            failure = &mut interruption => Err(failure),
        };
    };
    // Before a backup is chosen: the deletion of objects that become garbage afterwards waits for the session's end.
    let begin = restore_of(options.stanza.clone());
    mesh.begin_restore(&begin).await;
    let outcome = tokio::select! {
        outcome = Box::pin(write(options, source, workers, &began, caller)) => outcome,
        failure = &mut interruption => Err(failure),
        never = mesh.keep_restore(&begin) => match never {},
    };
    // The outcome of the restore is known; if the session is not ended here, the nodes end it.
    tokio::select! {
        () = mesh.end_session() => {}
        _ = &mut interruption => {}
    }
    outcome
}

async fn write(
    options: &RestoreSettings,
    source: Arc<BackupSource>,
    workers: Workers,
    began: &Began,
    caller: &dyn Caller,
) -> Result<RestoreSummary, Failure> {
    let activity = source.mesh().map(|mesh| mesh.activity().clone()).unwrap_or_default();
    let Selected { root, recovery } = select(options, &source).await?;
    let survey = Survey::take(&source, &root, options.existing == Existing::Compare).await?;
    check_configuration(options, &recovery, &source, &survey).await?;
    let links = plan_links(options, &root, &survey)?;
    let rules = Rules {
        left_out: databases::left_out(&root.databases, &options.include, &options.exclude)?,
        kept: recovery::kept(&options.pgdata, &options.target.recovery),
    };
    let tree = Tree::new(&root, &survey, &links, &rules, options.existing);
    tree.check_destinations(&options.pgdata)?;
    let late = late_tablespaces::find(&options.pgdata, &survey, &tree.version_directory)?;
    late_tablespaces::check(&late, &options.pgdata, options.force)?;

    // A large directory is emptied in minutes.
    let waiting = activity.wait();
    let directory = take(options)?;
    let owners = Owners::new(directory.below(), tree.like(), options.keeps_owners)?;
    began.now();
    let made = tree.make(&directory, &owners, &late);
    let (removed, roots) = made.map_err(|failure| unfinished(failure, options))?;
    let file_systems = FileSystems::open(&roots, &survey)?;
    drop(waiting);
    let trusts_times = options.trusts_times && !directory.was_interrupted;
    if options.trusts_times && directory.was_interrupted {
        tracing::info!(
            "an earlier restore was interrupted, so sizes and times of files prove nothing: their contents are compared"
        );
    }
    let pipeline = Arc::new(Pipeline {
        source,
        writer: Arc::new(Writer::new(roots, file_systems, owners)),
        workers,
        worker_count: options.workers.max(1),
        existing: options.existing,
        trusts_times,
        seed: root.fingerprint_seed,
        progress: Arc::new(
            Progress::start("restore", survey.bytes, caller.bar("restore", survey.bytes)).watched(activity),
        ),
        fetched: AtomicU64::new(0),
    });
    let restored = restore_content(options, (&root, &recovery), &tree, &pipeline).await;
    let segments = restored.map_err(|failure| unfinished(failure, options))?;

    let synced = pipeline.writer.file_systems().sync();
    synced.map_err(|failure| unfinished(failure, options))?;
    directory.enable()?;
    let counts = &pipeline.writer.counts;
    Ok(RestoreSummary {
        stanza: options.stanza.clone(),
        label: root.label.clone(),
        pgdata: options.pgdata.clone(),
        files: survey.files,
        bytes: survey.bytes,
        fetched: pipeline.fetched.load(Ordering::Relaxed),
        kept: counts.kept.load(Ordering::Relaxed),
        left_out: counts.zeros.load(Ordering::Relaxed),
        removed,
        links: links.into_iter().map(|(path, link)| (path, link.destination)).collect(),
        segments,
    })
}

/// Refuses a configuration in the backup that would change the recovery.
async fn check_configuration(
    options: &RestoreSettings,
    recovery: &RecoverySettings,
    source: &BackupSource,
    survey: &Survey,
) -> Result<(), Failure> {
    let configuration = Configuration::read(source, survey, &options.pgdata, recovery).await?;
    configuration.check_targets(recovery)?;
    match &options.target.local_time {
        Some(target) => zones::check(&configuration, target),
        None => Ok(()),
    }
}

/// Takes the data directory for this restore, unless a server was started while the manifest was read.
fn take(options: &RestoreSettings) -> Result<DataDirectory, Failure> {
    let directory = DataDirectory::take(&options.pgdata)?;
    if let Err(failure) = refuse_running(directory.path(), STOP_IT) {
        directory.leave()?;
        return Err(failure);
    }
    Ok(directory)
}

fn plan_links(options: &RestoreSettings, root: &ManifestRoot, survey: &Survey) -> Result<PlannedLinks, Failure> {
    // Links must not lead into the directory, also where its own path contains links.
    let pgdata = std::fs::canonicalize(&options.pgdata).unwrap_or_else(|_| options.pgdata.clone());
    let links = places::plan(&pgdata, &survey.found, &root.tablespaces, &options.places)?;
    for path in survey.found.links.keys().filter(|path| !links.contains_key(*path)) {
        tracing::info!("{path} was a link and is restored in place; --link-all or --link-map={path}=… keeps it one");
    }
    Ok(links)
}

/// Everything but pg_control in its place. Answers how many WAL segments were put into pg_wal.
async fn restore_content(
    options: &RestoreSettings,
    (root, settings): (&ManifestRoot, &RecoverySettings),
    tree: &Tree<'_>,
    pipeline: &Arc<Pipeline>,
) -> Result<u64, Failure> {
    let roots = pipeline.writer.roots();
    let pgdata = roots.pgdata().path();
    let mut manifest = match options.write_manifest {
        true => Some(PgManifest::begin(roots.pgdata(), root)?),
        false => None,
    };
    pipeline.run(root, tree.rules, manifest.as_mut()).await?;

    let owners = pipeline.writer.owners();
    let owner = tree.like().map(|base| (base.user.as_deref(), base.group.as_deref()));
    let owner = owner.unwrap_or_default();
    recovery::write_settings(roots, root, settings, owners, owner)?;
    let mut segments = 0;
    if recovery::needs_wal(pgdata, &options.target.recovery, options.write_manifest) {
        segments = recovery::fetch_wal(roots, root, &pipeline.source, owners, owner).await?;
    }
    if let Some(manifest) = manifest {
        let file = manifest.finish(root)?;
        owners.give(&file, pgdata, owner.0, owner.1)?;
    }
    tree.finish_directories(roots, owners)?;
    Ok(segments)
}

/// Says how to go on.
fn unfinished(failure: Failure, options: &RestoreSettings) -> Failure {
    let advice = format!(
        "{} is not complete and cannot be started; when the cause is removed, restore again with --delta or --force",
        options.pgdata.display()
    );
    match &failure.remedy {
        Some(remedy) => {
            let remedy = format!("{remedy}\n{advice}");
            failure.remedy(remedy)
        }
        None => failure.remedy(advice),
    }
}

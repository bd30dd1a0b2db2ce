//! A backup from `pg_backup_start` to `pg_backup_stop`, and to the commit.

use super::commit::{Facts, commit};
use super::context::Context;
use super::feed::feed;
use super::manifest::{FileList, ManifestBuilder, file_entry};
use super::plan::{Jobs, Plan, walk_failure};
use super::prior::{self, Beginning, Prior};
use super::proof::WalProof;
use super::queue::JobQueue;
use super::reader::{Reader, Reading, unreadable};
use super::summary::{BackupSummary, ChosenBy};
use super::tally::{Sums, Tally};
use super::uploader::{Halt, Piece, UploadCounts, UploadSettings, Uploader};
use super::wal::{self, NeededWal};
use crate::pg::{BackupStop, check_archiving, database_failure};
use crate::progress::Progress;
use pgmesh_postgres::{BackupLabel, ControlFile, Entry, WalkOptions, walk};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::tasks;
use pgmesh_storage::{EntryKind, Extent};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Entries that readers have finished and the manifest has not taken yet.
const ENTRIES_WAITING: usize = 256;
/// `pg_control` may be caught in the middle of a write; the server writes it in an instant.
const CONTROL_ATTEMPTS: u32 = 10;
const CONTROL_PAUSE: Duration = Duration::from_millis(10);

/// Takes the backup and commits it.
///
/// # Errors
/// A step fails. The server ends the backup when the connection in `context` is dropped, the uploads under way are
/// dropped, and the readers end when they find their channels closed.
pub async fn take(context: Context) -> Result<BackupSummary, Failure> {
    // PostgreSQL answers within db-timeout, and the walk of the data directory comes to its end.
    let waiting = context.mesh.activity().wait();
    let client = &context.cluster.client;
    check_archiving(client, context.settings.archiving).await?;
    if context.settings.archiving.is_wanted {
        wal::wait_for_archiver(&context.settings, client).await?;
    }
    let name = format!("pgmesh backup {}", context.label);
    let start = client
        .start_backup(&name, context.settings.start_fast)
        .await
        .map_err(|e| database_failure(&e))?;
    tracing::info!("backup start: WAL position {}", start.lsn);
    if let Some(standby) = &context.standby {
        standby
            .prepare(&context.mesh, &context.settings, &context.cluster, &start)
            .await?;
    }
    let databases = client.databases().await.map_err(|error| database_failure(&error))?;
    let tablespaces = client.tablespaces().await.map_err(|error| database_failure(&error))?;

    let beginning = prior::begin(&context, &start).await?;
    let plan = plan(&context).await?;
    let mut facts = Facts::begin(start, databases, tablespaces, &plan);
    facts.scanned_at = beginning.scanned_at;
    facts.fingerprint_seed = Some(beginning.seed);
    facts.chosen_by = beginning.prior.as_ref().map_or(ChosenBy::Nothing, Prior::chosen_by);
    facts.page_checksums = context
        .settings
        .checks_pages(context.cluster.control.has_page_checksums());
    drop(waiting);
    let StoredFiles {
        list,
        end: BackupEnd { proof, stop, label },
        counts,
        sums,
    } = Box::pin(store(&context, plan, beginning, facts.page_checksums)).await?;
    facts.sums = sums;
    let _waiting = context.mesh.activity().wait();

    let needed = NeededWal::of(&label, stop.lsn, context.cluster.control.segment_size);
    tracing::info!(
        "backup stop: WAL position {}; waiting for WAL up to {}",
        stop.lsn,
        needed.last
    );
    if !context.settings.archiving.is_wanted && context.primary_is_here() {
        wal::push(&context.mesh, &context.settings, &context.cluster, needed).await?;
    }
    // Invariant 4: the commit is refused without it; waiting here says why.
    wal::wait(&context.mesh, &context.settings, &context.cluster, needed).await?;
    // Invariants 4 and 12: under these names the archive may have the WAL of another history.
    let stanza = &context.settings.stanza;
    proof
        .find(&context.mesh, stanza, &context.cluster, label.start_timeline)
        .await?;
    commit(&context, facts, list, stop, label, needed, &counts).await
}

/// Walks the data directory.
async fn plan(context: &Context) -> Result<Plan, Failure> {
    let mut options = WalkOptions::new(context.cluster.control.version);
    options.exclude.clone_from(&context.settings.exclude);
    let pgdata = context.cluster.pgdata.clone();
    let tree = match &context.standby {
        Some(standby) => standby.tree(&context.cluster, &options.exclude).await?,
        None => tasks::blocking("walking the data directory", move || walk(&pgdata, &options))
            .await
            .map_err(|error| Failure::new(ExitCode::Assert, "the walk ended abnormally").because(error))?
            .map_err(|error| walk_failure(&error))?,
    };
    for skipped in &tree.skipped {
        tracing::warn!("{} is {} and is left out", skipped.path, skipped.what);
    }
    Plan::of(tree)
}

/// The stored files, when the server has ended the backup.
struct StoredFiles {
    list: FileList,
    end: BackupEnd,
    counts: Arc<UploadCounts>,
    sums: Sums,
}

/// The server's output at the end of the backup.
struct BackupEnd {
    /// Lies between the start and the stop.
    proof: WalProof,
    stop: BackupStop,
    label: BackupLabel,
}

/// Stores all files and the list of them.
async fn store(
    context: &Context,
    plan: Plan,
    beginning: Beginning,
    checks_pages: bool,
) -> Result<StoredFiles, Failure> {
    let (pieces, upload) = Uploader::start(context.mesh.clone(), upload_settings(context));
    // In a set, so that it ends when this future is dropped.
    let mut upload_task = JoinSet::new();
    upload_task.spawn(tasks::named("uploading", upload));
    let read = Box::pin(read_all(context, plan, beginning, checks_pages, pieces)).await;
    let ended = match &read {
        Err(Halt::Failed(failure)) => return Err(failure.clone()),
        Ok(_) | Err(Halt::UploadEnded) => upload_task.join_next().await,
    };
    let counts = match ended {
        Some(Ok(result)) => result?,
        Some(Err(error)) => return Err(Failure::new(ExitCode::Assert, "the upload ended abnormally").because(error)),
        None => return Err(Failure::new(ExitCode::Assert, "the upload was never begun")),
    };
    match read {
        Ok((list, end, sums)) => Ok(StoredFiles {
            list,
            end,
            counts,
            sums,
        }),
        Err(_) => Err(Failure::new(
            ExitCode::Assert,
            "the upload ended before everything was sent",
        )),
    }
}

fn upload_settings(context: &Context) -> UploadSettings {
    UploadSettings {
        stanza: context.settings.stanza.clone(),
        session: context.begun.session,
        codec: context.settings.codec,
        level: context.settings.level,
        workers: context.settings.workers.max(1),
    }
}

/// Reads everything in its order: all files, then `pg_control`, then the server's output at the end.
async fn read_all(
    context: &Context,
    plan: Plan,
    beginning: Beginning,
    checks_pages: bool,
    pieces: mpsc::Sender<Piece>,
) -> Result<(FileList, BackupEnd, Sums), Halt> {
    let suite = context.begun.suite;
    let mut builder = ManifestBuilder::new(suite, pieces.clone());
    let total = plan.entries_to_read();
    let progress = Progress::start("backup", plan.bytes, context.caller.bar("backup", plan.bytes))
        .watched(context.mesh.activity().clone());
    let reading = Arc::new(Reading {
        queue: JobQueue::new(context.settings.workers.max(1)),
        suite,
        seed: beginning.seed,
        checks_pages,
        progress,
        tally: Tally::new(beginning.tested, context.mesh.activity().clone()),
    });
    let fed = feed(
        context,
        Jobs::of(plan.entries),
        beginning.prior.as_ref(),
        &reading.queue,
    );
    let feeding = async { fed.await.map_err(Halt::Failed) };
    let reading_files = read_files(&reading, context.settings.workers.max(1), pieces, &mut builder, total);
    // When one fails the other ends: no reader takes jobs any more, or none come.
    tokio::try_join!(feeding, reading_files)?;

    let _waiting = context.mesh.activity().wait();
    if let Some(standby) = &context.standby {
        standby.refresh_control(&context.cluster).await.map_err(Halt::Failed)?;
    }
    let control = read_control(&plan.control).await.map_err(Halt::Failed)?;
    reading.progress.advance(control.len() as u64);
    push_control(&mut builder, &plan.control, control).await?;
    let client = &context.cluster.client;
    let proof = WalProof::write(client).await.map_err(Halt::Failed)?;
    let stop = client
        .stop_backup()
        .await
        .map_err(|e| Halt::Failed(database_failure(&e)))?;
    let label = BackupLabel::parse(&stop.label_file).map_err(|error| Halt::Failed(odd_label(&error)))?;
    if let Some(standby) = &context.standby {
        standby.check_end(label.start_timeline).await.map_err(Halt::Failed)?;
    }
    let end = BackupEnd { proof, stop, label };
    Ok((builder.finish().await?, end, reading.tally.sums()))
}

/// Runs the readers until each entry was taken.
async fn read_files(
    reading: &Arc<Reading>,
    readers: usize,
    pieces: mpsc::Sender<Piece>,
    builder: &mut ManifestBuilder,
    total: u64,
) -> Result<(), Halt> {
    let (taken, mut all_taken) = mpsc::channel(ENTRIES_WAITING);
    for _ in 0..readers {
        let reader = Reader::new(reading.clone(), pieces.clone(), taken.clone());
        // Threads of their own: the runtime's are for compression, which readers wait for.
        tasks::thread("reader", move || reader.run())
            .map_err(|error| Halt::Failed(Failure::new(ExitCode::Runtime, "starting a reader").because(error)))?;
    }
    drop(taken);
    while let Some(next) = all_taken.recv().await {
        builder.take(next.map_err(Halt::Failed)?).await?;
        reading.queue.has_taken(builder.taken());
    }
    if builder.taken() == total {
        Ok(())
    } else if pieces.is_closed() {
        Err(Halt::UploadEnded)
    } else {
        Err(Halt::Failed(Failure::new(
            ExitCode::Assert,
            "a reader ended abnormally",
        )))
    }
}

/// Reads `pg_control` until it is whole.
async fn read_control(entry: &Entry) -> Result<Vec<u8>, Failure> {
    let mut attempt = 1;
    loop {
        let bytes = tokio::fs::read(entry.disk_path())
            .await
            .map_err(|error| unreadable(entry, &error))?;
        match ControlFile::parse(&bytes) {
            Ok(_) => return Ok(bytes),
            Err(error) if attempt >= CONTROL_ATTEMPTS => {
                let what = format!("{} cannot be backed up", entry.disk_path().display());
                return Err(Failure::new(ExitCode::FileInvalid, what).because(chain(&error)));
            }
            Err(_) => tokio::time::sleep(CONTROL_PAUSE).await,
        }
        attempt += 1;
    }
}

/// Adds `pg_control` behind all of the readers' entries; there, the place in the order does not matter.
async fn push_control(builder: &mut ManifestBuilder, entry: &Entry, control: Vec<u8>) -> Result<(), Halt> {
    let (size, crc32c) = (control.len() as u64, crc32c::crc32c(&control));
    let extent = Extent {
        digest: builder.send_chunk(control).await?,
        offset: 0,
        length: u32::try_from(size).unwrap_or(u32::MAX),
    };
    let kind = EntryKind::File {
        size,
        crc32c,
        extents: vec![extent],
        bad_pages: Vec::new(),
    };
    builder.push(file_entry(entry, kind)).await
}

fn odd_label(error: &pgmesh_postgres::BackupLabelError) -> Failure {
    Failure::new(
        ExitCode::Format,
        "the backup_label that PostgreSQL gave is not understood",
    )
    .because(error)
}

//! Getting one file out of the archive, for `restore_command`.
//!
//! Invariant 7: [`Got::Nothing`] is said only where it is known that the file was never archived.

use crate::mesh::{Archived, Mesh, WantedFile};
use crate::restore::{DirectArchive, SourceSettings, late_tablespaces};
use crate::wal_sink::{FileSink, Temporary, give};
use bytes::Bytes;
use pgmesh_postgres::wal::CreatedTablespaces;
use pgmesh_postgres::{ControlFile, TimelineId, WalFileName, WalHole};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::StanzaName;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which file is wanted, and where it goes.
#[derive(Debug, Clone)]
pub struct GetSettings {
    /// The stanza.
    pub stanza: StanzaName,
    /// The data directory of the server that recovers; where it is not known, the working directory is taken for it.
    pub pgdata: Option<PathBuf>,
    /// The file.
    pub file: WalFileName,
    /// Where it is put.
    pub destination: PathBuf,
    /// A hole in the archive is taken for its end (`archive-hole=end`).
    pub ends_at_holes: bool,
}

/// The answer about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// It is at its destination, durable.
    File,
    /// It was never archived, or the recovery is to end before it.
    Nothing,
}

/// Gets one file from where `source` says. If there is no source, that counts like a source that fails: a history that
/// lies in `pg_wal` is handed back all the same.
///
/// # Errors
/// It cannot be known whether the file exists, or it cannot be had or written; a hole in the archive (55); a segment
/// that would make a tablespace around files that are not this cluster's.
pub async fn get(settings: &GetSettings, source: Result<SourceSettings, Failure>) -> Result<Got, Failure> {
    let GetSettings { file, destination, .. } = settings;
    let (file, pgdata) = (*file, settings.pgdata.as_deref());
    if file == WalFileName::History(TimelineId(1)) {
        tracing::info!("timeline 1 has no history");
        return Ok(Got::Nothing);
    }
    // The newest database of the stanza, where the data directory does not say which.
    let system_id = pgdata
        .and_then(|pgdata| ControlFile::read(pgdata).ok())
        .map(|control| control.system_id);
    // PostgreSQL never sees a part of the file.
    let temporary = Temporary::beside(destination);
    // PostgreSQL runs this in its data directory.
    let recovering = pgdata.unwrap_or(Path::new("."));
    let looked_at = file
        .segment()
        .filter(|_| matches!(file, WalFileName::Segment(_)) && late_tablespaces::is_recovering(recovering));
    let mut sink = FileSink::at(temporary.path(), looked_at);
    let stanza = &settings.stanza;
    let ask = async {
        match source? {
            SourceSettings::Direct(repositories) => {
                let mut archive = DirectArchive::open(repositories).await?;
                archive.get(stanza, system_id, file, &mut sink).await
            }
            SourceSettings::Mesh(access) => {
                let wanted = WantedFile {
                    stanza,
                    system_id,
                    file,
                    only: None,
                };
                Mesh::connect(access).await?.wal_file(&wanted, &mut sink).await
            }
        }
    };
    let archived = match local_history(file, destination) {
        None => ask.await?,
        Some(local) => match tokio::time::timeout(HISTORY_PATIENCE, ask).await {
            Ok(Ok(archived)) => archived,
            unknown => {
                let why = unknown.map_or_else(
                    |_| "no answer yet".to_owned(),
                    |answer| answer.err().map(|failure| failure.to_string()).unwrap_or_default(),
                );
                tracing::warn!(
                    "{file} cannot be fetched from the archive ({why}): the file in pg_wal is returned instead"
                );
                give(&mut sink, &local)?;
                Archived::Found
            }
        },
    };
    match archived {
        Archived::Found => {
            let (content, created) = sink.finish()?;
            if let Some(refusal) = tablespace_refusal(recovering, file, created.as_ref(), destination) {
                return refusal;
            }
            finish(&content, temporary, destination)?;
            tracing::info!("got WAL file '{file}'");
            Ok(Got::File)
        }
        Archived::Never => {
            tracing::info!("WAL file '{file}' was never archived");
            Ok(Got::Nothing)
        }
        Archived::Hole(hole) if settings.ends_at_holes => {
            tracing::warn!(
                "WAL file '{file}' is a hole in the archive ({hole}); because of archive-hole=end, recovery ends there"
            );
            Ok(Got::Nothing)
        }
        Archived::Hole(hole) => Err(refuse_hole(file, hole)),
    }
}

/// A segment whose redo would make a tablespace around files that are not this cluster's is not handed out. A recovery
/// to a point ends before it, as before a hole: PostgreSQL reads ahead, and does not open a server that has not reached
/// its target.
fn tablespace_refusal(
    pgdata: &Path,
    file: WalFileName,
    created: Option<&CreatedTablespaces>,
    destination: &Path,
) -> Option<Result<Got, Failure>> {
    let (WalFileName::Segment(name), Some(created)) = (file, created) else {
        return None;
    };
    let before = || late_tablespaces::created_before(destination.parent()?, name, created.size);
    let refusal = late_tablespaces::foreign_files(pgdata, created, before)?.refusal(name);
    if late_tablespaces::ends_at_a_point(pgdata) {
        let remedy = refusal.remedy.as_deref().unwrap_or_default();
        tracing::warn!(
            "{refusal}. The recovery ends before this file, at its target or with an error; in case of an error: \
             {remedy}"
        );
        return Some(Ok(Got::Nothing));
    }
    Some(Err(refusal))
}

/// How long the archive is asked for a history that also lies in pg_wal.
const HISTORY_PATIENCE: Duration = Duration::from_secs(5);

/// A history file that the server has already, in the folder where the asked file goes. PostgreSQL itself would read it
/// there if the archive did not have it; but it takes an error above 125 as a reason to end, and when it is promoted it
/// asks for the history of the timeline that it leaves after standby.signal is gone: it would start again as a writable
/// server on the old timeline.
fn local_history(file: WalFileName, destination: &Path) -> Option<Bytes> {
    if !matches!(file, WalFileName::History(_)) {
        return None;
    }
    let path = destination.parent()?.join(file.to_string());
    fs::read(path).ok().map(Bytes::from)
}

/// Invariant 7: an end of recovery at a hole would lose the transactions that were committed behind it.
fn refuse_hole(file: WalFileName, hole: WalHole) -> Failure {
    Failure::new(
        ExitCode::FileMissing,
        format!("WAL file {file} is a hole in the archive, not its end"),
    )
    .because(format!(
        "{hole}: a recovery that ended here would open the server without the transactions committed after the hole"
    ))
    .remedy(
        "if a server still has the file in pg_wal, push it: 'pgmesh archive-push PATH'; else restore a later backup, \
         or recover to a target before the hole ('restore --type=time|lsn|immediate'); to recover without the WAL \
         after the hole: 'restore --archive-hole=end'",
    )
}

/// Gives the file its name, once it is durable.
fn finish(content: &File, temporary: Temporary, destination: &Path) -> Result<(), Failure> {
    let written = content.sync_all().and_then(|()| temporary.rename(destination));
    written.map_err(|error| {
        Failure::new(
            ExitCode::Runtime,
            format!("{} cannot be written", destination.display()),
        )
        .because(error)
    })
}

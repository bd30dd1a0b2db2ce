//! The WAL that a backup needs: which segments, and waiting until they are archived.

use super::settings::BackupSettings;
use crate::mesh::Mesh;
use crate::pg::{ArchiverFailure, OpenCluster, PgClient, database_failure};
use crate::text;
use crate::wal_push::{WalFile, WalPusher};
use pgmesh_postgres::{BackupLabel, Lsn, SegmentName, SegmentSize, WalFileName};
use pgmesh_protocol::{ArchiveStatus, ExitCode, Failure};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause between two questions.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The segments that make a backup consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededWal {
    /// Holds the redo position of the backup's checkpoint.
    pub first: SegmentName,
    /// Holds the last byte before the stop position.
    pub last: SegmentName,
}

impl NeededWal {
    /// The segments that a backup with this `backup_label` needs that stopped at `stop`.
    pub fn of(label: &BackupLabel, stop: Lsn, size: SegmentSize) -> Self {
        Self {
            first: SegmentName::containing(label.start_timeline, label.start, size),
            last: SegmentName::ending_at(label.start_timeline, stop, size),
        }
    }
}

/// Pushes the needed segments that the mesh does not hold yet from `pg_wal` (`archive-check=n`): the backup does not
/// wait for archive_command, and is whole all the same (invariant 4). Segments that `pg_wal` does not have any more are
/// left to the archiver.
///
/// # Errors
/// A segment is refused, or the mesh cannot be asked.
pub async fn push(
    mesh: &Mesh,
    settings: &BackupSettings,
    cluster: &OpenCluster,
    needed: NeededWal,
) -> Result<(), Failure> {
    let pusher = WalPusher {
        settings: &settings.push,
        mesh,
        stanza: &settings.stanza,
        pgdata: &cluster.pgdata,
    };
    let mut name = needed.first;
    loop {
        let path = cluster.pgdata.join("pg_wal").join(name.to_string());
        if path.is_file() {
            let file = WalFileName::Segment(name);
            let begun = WalFile::begin(&settings.push, &cluster.pgdata, &path, file)?;
            pusher.push(&path, file, begun).await?;
        }
        let next = name.next(cluster.control.segment_size);
        if name >= needed.last || next == name {
            return Ok(());
        }
        name = next;
    }
}

/// Waits until the mesh holds all of it.
///
/// # Errors
/// Not within `archive-timeout` (82), or the mesh could not be asked.
pub async fn wait(
    mesh: &Mesh,
    settings: &BackupSettings,
    cluster: &OpenCluster,
    needed: NeededWal,
) -> Result<(), Failure> {
    let request = ArchiveStatus {
        stanza: settings.stanza.clone(),
        system_id: cluster.control.system_id,
        first: needed.first,
        last: needed.last,
        instance: Some(cluster.instance.clone().into()),
    };
    let deadline = Instant::now() + settings.archive_timeout;
    let mut pause = FIRST_PAUSE;
    loop {
        let presence = mesh.call(&request).await?;
        let Some(missing) = presence.missing.first() else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let archiver = cluster.client.archiver_failure().await.ok().flatten();
            return Err(not_archived(missing, settings.archive_timeout, archiver));
        }
        tracing::debug!("waiting for WAL segment {missing} to be archived");
        tokio::time::sleep(pause).await;
        pause = next_pause(pause);
    }
}

/// Waits while archive_command fails: a backup whose WAL is not archived would be of no use. The server tries again
/// each minute, and whenever a segment is finished, so one is finished here.
///
/// # Errors
/// It still fails after `archive-timeout` (82), or the server could not be asked.
pub async fn wait_for_archiver(settings: &BackupSettings, client: &PgClient) -> Result<(), Failure> {
    let failure = async || {
        client
            .archiver_failure()
            .await
            .map_err(|error| database_failure(&error))
    };
    let Some(mut newest) = failure().await? else {
        return Ok(());
    };
    tracing::info!(
        "archive_command failed for {}, the newest file it was run for: waiting for it to succeed",
        newest.file
    );
    client.switch_wal().await.map_err(|error| database_failure(&error))?;
    let deadline = Instant::now() + settings.archive_timeout;
    let mut pause = FIRST_PAUSE;
    while Instant::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = next_pause(pause);
        match failure().await? {
            Some(again) => newest = again,
            None => return Ok(()),
        }
    }
    let what = format!(
        "archive_command fails: it failed last for {}, at {}, and did not succeed within {} s (archive-timeout)",
        newest.file,
        text::timestamp(newest.at),
        settings.archive_timeout.as_secs()
    );
    Err(Failure::new(ExitCode::ArchiveTimeout, what)
        .because("the WAL of a backup that is taken now would not be archived, so the backup could not be restored")
        .remedy("see what archive_command says in PostgreSQL's log; 'pgmesh check' tries it"))
}

/// Half as long again, up to the longest.
fn next_pause(pause: Duration) -> Duration {
    pause.saturating_mul(3).div_f64(2.0).min(LONGEST_PAUSE)
}

fn not_archived(missing: &str, waited: Duration, archiver: Option<ArchiverFailure>) -> Failure {
    let what = format!(
        "WAL segment {missing}, which the backup needs, was not archived within {} s (archive-timeout)",
        waited.as_secs()
    );
    let cause = match archiver {
        Some(failure) => format!(
            "PostgreSQL's archive_command failed for {} last, at {}",
            failure.file,
            text::timestamp(failure.at)
        ),
        None => {
            "PostgreSQL knows of no failure of archive_command: it is slow, or archives to another stanza".to_owned()
        }
    };
    Failure::new(ExitCode::ArchiveTimeout, what).because(cause).remedy(
        "see what archive_command says in PostgreSQL's log, then run the backup again: chunks that are stored already \
         are not sent again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_postgres::TimelineId;

    fn needed(start: &str, stop: &str) -> (String, String) {
        let start: Lsn = start.parse().unwrap();
        let size = SegmentSize::DEFAULT;
        let label = BackupLabel {
            start,
            start_segment: SegmentName::containing(TimelineId(2), start, size),
            checkpoint: start + 0x38,
            method: "streamed".into(),
            from: "primary".into(),
            start_time: String::new(),
            label: String::new(),
            start_timeline: TimelineId(2),
        };
        let needed = NeededWal::of(&label, stop.parse().unwrap(), size);
        (needed.first.to_string(), needed.last.to_string())
    }

    #[test]
    fn from_the_start_to_the_last_byte_before_the_stop() {
        let segment = |number: u32| format!("0000000200000000000000{number:02X}");
        assert_eq!(needed("0/3000028", "0/3000100"), (segment(3), segment(3)));
        assert_eq!(needed("0/3000028", "0/5000100"), (segment(3), segment(5)));
        // At a boundary the stop needs nothing of the segment that begins there.
        assert_eq!(needed("0/3000028", "0/5000000"), (segment(3), segment(4)));
        assert_eq!(needed("0/3000000", "0/4000000"), (segment(3), segment(3)));
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let mut pause = FIRST_PAUSE;
        for _ in 0..20 {
            let next = next_pause(pause);
            assert!(next > pause || next == LONGEST_PAUSE);
            pause = next;
        }
        assert_eq!(pause, LONGEST_PAUSE);
    }

    #[test]
    fn the_missing_segment_and_the_archivers_failure_are_named() {
        let archiver = Some(ArchiverFailure {
            file: "000000010000000000000007".into(),
            at: 0,
        });
        let failure = not_archived("000000010000000000000008", Duration::from_secs(60), archiver);
        assert_eq!(failure.code, ExitCode::ArchiveTimeout);
        assert!(failure.what.contains("000000010000000000000008") && failure.what.contains("60 s"));
        assert!(failure.cause.unwrap().contains("000000010000000000000007"));
    }
}

//! Proof that a primary on another host is the one whose WAL the mesh has (invariant 12).
//!
//! Its data directory cannot be looked at, so its fingerprint is not known, and a copy of the cluster has the same system
//! identifier and timeline. But only the primary can write into the WAL that the mesh takes from it: it is told a text that
//! nobody could know, and the text must come back from the archive.

use super::super::settings::BackupSettings;
use super::super::wal::{self, NeededWal};
use crate::mesh::Mesh;
use crate::pg::{OpenCluster, database_failure};
use pgmesh_node::failure::chain;
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{ControlFile, Lsn, SegmentName, TimelineId, WalFileName, WalSearch};

/// Longer than the record of a restore point with the page header in it.
const RECORD: u64 = 256;
/// The random bytes of the text.
const RANDOM: usize = 16;

/// Has the primary write the text, and waits until the archive has it.
///
/// # Errors
/// The segment is not archived within `archive-timeout` (82), or what is archived is not what the primary wrote (44).
pub async fn prove(mesh: &Mesh, settings: &BackupSettings, primary: &OpenCluster) -> Result<(), Failure> {
    let text = random_text()?;
    let refused = |error| database_failure(&error);
    let end = primary.client.write_restore_point(&text).await.map_err(refused)?;
    primary.client.switch_wal().await.map_err(refused)?;
    let needed = around(end, &primary.control);
    wal::wait(mesh, settings, primary, needed).await?;

    let mut search = WalSearch::default();
    let mut names = vec![needed.first];
    if needed.last != needed.first {
        names.push(needed.last);
    }
    for name in names {
        let file = WalFileName::Segment(name);
        let segment = mesh
            .wal_file(&settings.stanza, Some(primary.control.system_id), file)
            .await?
            .content()
            .ok_or_else(|| not_the_archives(settings, name, "it is not there any more"))?;
        search
            .add(&segment)
            .map_err(|error| not_the_archives(settings, name, &chain(&error)))?;
    }
    if search.holds(&text) {
        Ok(())
    } else {
        let cause = "the archived segment lacks a record that the primary was just asked to write";
        Err(not_the_archives(settings, needed.last, cause))
    }
}

/// The segments that hold a record that ends there.
fn around(end: Lsn, control: &ControlFile) -> NeededWal {
    let timeline = timeline(control);
    let size = control.segment_size;
    NeededWal {
        first: SegmentName::containing(timeline, Lsn(end.0.saturating_sub(RECORD)), size),
        last: SegmentName::ending_at(timeline, end, size),
    }
}

/// Just after a promotion the last checkpoint may still be the old timeline's.
pub fn timeline(control: &ControlFile) -> TimelineId {
    control.checkpoint_timeline.max(control.min_recovery_timeline)
}

fn random_text() -> Result<String, Failure> {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).map_err(|error| Failure::new(code::CRYPTO, "no randomness").because(error))?;
    Ok(format!("pgmesh proof {}", hex::encode(random)))
}

fn not_the_archives(settings: &BackupSettings, name: SegmentName, cause: &str) -> Failure {
    let what = format!(
        "the primary's WAL is not what stanza {} has archived: segment {name} is another server's",
        settings.stanza
    );
    Failure::new(code::ARCHIVE_MISMATCH, what)
        .because(cause)
        .remedy("let pgN-host name the server that archives to the stanza, not a copy of it")
}

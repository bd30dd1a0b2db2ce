//! Which blocks changed since a backup, as the WAL tells: PostgreSQL's own summaries from 17 on, else the change maps that
//! the mesh has made of the archived WAL.

use super::take::Context;
use pgmesh_postgres::{ChangeMap, Lsn};
use pgmesh_storage::ManifestRoot;
use std::time::Duration;
use tokio::time::Instant;

/// How long PostgreSQL's summaries are waited for: they follow the checkpoint that the backup began with.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

/// Why nothing is known.
pub struct Unknown(pub String);

/// The blocks that changed between the beginnings of the two backups.
pub async fn since(context: &Context, root: &ManifestRoot, start: Lsn) -> Result<ChangeMap, Unknown> {
    if start < root.start_lsn {
        return Err(Unknown(format!("backup {} began later in the WAL", root.label)));
    }
    if !context.cluster.control.version.has_wal_summaries() {
        return Err(Unknown("the mesh has no change maps".to_owned()));
    }
    summaries(context, root, start).await
}

async fn summaries(context: &Context, root: &ManifestRoot, start: Lsn) -> Result<ChangeMap, Unknown> {
    let client = &context.cluster.client;
    let unknown = |error: crate::pg::PgClientError| Unknown(pgmesh_node::failure::chain(&error));
    if !client.summarizes_wal().await.map_err(unknown)? {
        return Err(Unknown("summarize_wal is off".to_owned()));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let summaries = client
            .wal_summaries(root.timeline, root.start_lsn..start)
            .await
            .map_err(unknown)?;
        match covered(&summaries, root.start_lsn, start) {
            Covered::All => {
                return client.changed_blocks(&summaries).await.map_err(unknown);
            }
            Covered::UpTo(end) if Instant::now() >= deadline => {
                return Err(Unknown(format!("PostgreSQL's summaries of the WAL end at {end}")));
            }
            Covered::UpTo(_) => tokio::time::sleep(PAUSE).await,
            Covered::Hole(at) => {
                return Err(Unknown(format!(
                    "PostgreSQL has no summary of the WAL at {at} (wal_summary_keep_time)"
                )));
            }
        }
    }
}

/// How much of a stretch of WAL there are summaries of.
#[derive(Debug, PartialEq)]
enum Covered {
    All,
    UpTo(Lsn),
    Hole(Lsn),
}

fn covered(summaries: &[crate::pg::WalSummary], from: Lsn, to: Lsn) -> Covered {
    let mut end = from;
    let mut sorted: Vec<_> = summaries.iter().map(|summary| (summary.start, summary.end)).collect();
    sorted.sort();
    for (start, stop) in sorted {
        if start > end {
            return Covered::Hole(end);
        }
        end = end.max(stop);
    }
    if end >= to { Covered::All } else { Covered::UpTo(end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::WalSummary;
    use pgmesh_postgres::TimelineId;

    #[test]
    fn summaries_must_follow_each_other() {
        let summary = |start, end| WalSummary {
            timeline: TimelineId(1),
            start: Lsn(start),
            end: Lsn(end),
        };
        let judge = |summaries: &[WalSummary]| covered(summaries, Lsn(100), Lsn(200));
        assert_eq!(judge(&[summary(150, 220), summary(90, 150)]), Covered::All);
        assert_eq!(judge(&[summary(90, 150)]), Covered::UpTo(Lsn(150)));
        assert_eq!(judge(&[summary(90, 150), summary(160, 200)]), Covered::Hole(Lsn(150)));
        assert_eq!(judge(&[summary(120, 200)]), Covered::Hole(Lsn(100)));
        assert_eq!(judge(&[]), Covered::UpTo(Lsn(100)));
        assert_eq!(covered(&[], Lsn(100), Lsn(100)), Covered::All);
    }
}

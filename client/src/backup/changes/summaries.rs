//! PostgreSQL's own summaries of its WAL.

use super::{Stretch, Unknown};
use crate::backup::context::Context;
use pgmesh_postgres::{ChangeMap, Lsn};
use pgmesh_protocol::failure::chain;
use std::time::Duration;
use tokio::time::Instant;

/// How long summaries are waited for: they follow the checkpoint that the backup began with, and an idle summarizer
/// sleeps for half a minute.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// The blocks that the summaries of a stretch name.
pub async fn of(context: &Context, stretch: &Stretch) -> Result<ChangeMap, Unknown> {
    let client = &context.cluster.client;
    let unknown = |error: crate::pg::PgClientError| Unknown(chain(&error));
    if !client.summarizes_wal().await.map_err(unknown)? {
        return Err(Unknown("summarize_wal is off".to_owned()));
    }
    let (start, end) = (stretch.wal.start, stretch.wal.end);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = client.wal_summaries(stretch.timeline, start..end).await;
        let found = found.map_err(unknown)?;
        match covered(&found, start, end) {
            Covered::All => return client.changed_blocks(&found).await.map_err(unknown),
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

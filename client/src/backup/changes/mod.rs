//! Which blocks changed since a backup, as the WAL tells: PostgreSQL's own summaries from 17 on, else maps of the WAL.
//!
//! A failure here costs time and never content: without an answer, files are read.

mod maps;
mod summaries;

use super::context::Context;
use super::summary::ChosenBy;
use pgmesh_postgres::{ChangeMap, Lsn, TimelineId};
use pgmesh_storage::ManifestRoot;
use std::ops::Range;

/// Why nothing is known.
pub struct Unknown(pub String);

/// The blocks that may have changed, and no others.
#[derive(Debug)]
pub struct Changes {
    /// The blocks.
    pub map: ChangeMap,
    /// Where the map comes from.
    pub chosen_by: ChosenBy,
}

/// A stretch of one timeline's WAL. At both ends a backup began, and so a record.
struct Stretch {
    timeline: TimelineId,
    wal: Range<Lsn>,
}

/// The blocks that changed between the beginnings of the two backups.
pub async fn since(context: &Context, root: &ManifestRoot, start: Lsn) -> Result<Changes, Unknown> {
    if start < root.start_lsn {
        return Err(Unknown(format!("backup {} began later in the WAL", root.label)));
    }
    let stretch = Stretch {
        timeline: root.timeline,
        wal: root.start_lsn..start,
    };
    if context.cluster.control.version.has_wal_summaries() {
        match summaries::of(context, &stretch).await {
            Ok(map) => {
                let chosen_by = ChosenBy::Summaries;
                return Ok(Changes { map, chosen_by });
            }
            Err(Unknown(why)) => {
                tracing::info!(
                    "PostgreSQL's WAL summaries do not tell which pages changed, so change maps of the archived WAL \
                     are used: {why}"
                );
            }
        }
    }
    let map = maps::of(context, &stretch).await?;
    let chosen_by = ChosenBy::Maps;
    Ok(Changes { map, chosen_by })
}

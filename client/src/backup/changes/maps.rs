//! Maps of the WAL. The mesh has a map of each segment that it has archived, or makes it now. Segments that are not
//! archived yet lie in `pg_wal`, which the server has flushed up to where a backup begins.

use super::{Stretch, Unknown};
use crate::backup::context::Context;
use pgmesh_postgres::wal::{Joiner, SegmentMap, SegmentMapper};
use pgmesh_postgres::{ChangeMap, Lsn, PgVersion, SegmentName, SegmentSize};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ChangeMaps, ChangeMapsReply};
use pgmesh_runtime::tasks;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How much of a segment is read at once.
const PIECE: usize = 1 << 20;

/// The map of a stretch of WAL.
pub async fn of(context: &Context, stretch: &Stretch) -> Result<ChangeMap, Unknown> {
    let control = &context.cluster.control;
    let (size, version) = (control.segment_size, control.version);
    let (from, to) = (stretch.wal.start, stretch.wal.end);
    let mut joiner = Joiner::new(stretch.timeline, size, version, from, to);
    // The segment that the backup begins in is still being written, as a rule.
    let open = SegmentName::containing(stretch.timeline, to, size);
    let last = SegmentName::ending_at(stretch.timeline, open.start(size), size);
    let local = Local {
        folder: context.cluster.pgdata.join("pg_wal"),
        size,
        version,
    };
    while let Some(next) = joiner.wanted() {
        let maps = if next == open {
            match local.map(next, Some(to)).await {
                Ok(map) => vec![map],
                // A standby may have had it from the archive, whole.
                Err(_) => archived(context, next, open).await?,
            }
        } else {
            match archived(context, next, last).await {
                Ok(maps) => maps,
                Err(Unknown(why)) => {
                    let read = local.map(next, None).await;
                    vec![read.map_err(|error| Unknown(format!("{why}, and {error}")))?]
                }
            }
        };
        for map in &maps {
            joiner.add(map).map_err(|error| Unknown(chain(&error)))?;
        }
    }
    joiner.finish().map_err(|error| Unknown(chain(&error)))
}

/// The first maps of those segments, at least one, as the mesh has them.
async fn archived(context: &Context, first: SegmentName, last: SegmentName) -> Result<Vec<SegmentMap>, Unknown> {
    let request = ChangeMaps {
        stanza: context.settings.stanza.clone(),
        first,
        last,
    };
    let reply: Result<ChangeMapsReply, _> = context.mesh.call(&request).await;
    let reply = reply.map_err(|failure| Unknown(failure.to_string()))?;
    if reply.maps.is_empty() {
        let why = reply.ended.unwrap_or_else(|| format!("the mesh has no map of {first}"));
        return Err(Unknown(why));
    }
    tracing::debug!(
        "the mesh sent change maps of {} segments from {first} on",
        reply.maps.len()
    );
    let decoded = reply.maps.iter().map(|map| SegmentMap::decode(map));
    decoded
        .collect::<Result<_, _>>()
        .map_err(|error| Unknown(format!("a change map cannot be read: {}", chain(&error))))
}

/// The cluster's own WAL.
struct Local {
    folder: PathBuf,
    size: SegmentSize,
    version: PgVersion,
}

impl Local {
    /// The map of a segment, or of its records before `to`.
    async fn map(&self, name: SegmentName, to: Option<Lsn>) -> Result<SegmentMap, String> {
        let path = self.folder.join(name.to_string());
        let failed = {
            let place = path.display().to_string();
            move |error: &dyn std::error::Error| format!("{place} cannot be read: {error}")
        };
        let mapper = SegmentMapper::new(name, self.size, self.version);
        let mapper = match to {
            Some(to) => mapper.up_to(to),
            None => mapper,
        };
        let read = tasks::blocking("reading a change map", move || read(&path, mapper)).await;
        read.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}

fn read(path: &Path, mut mapper: SegmentMapper) -> io::Result<SegmentMap> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(mapper.finish());
        }
        mapper.feed(piece.get(..length).unwrap_or_default());
    }
}

//! The message to a server whose WAL is refused (invariant 12): which servers were seen where, where their WAL parts,
//! and the one command that goes on in each case.

use crate::archive::Archive;
use pgmesh_postgres::{Lsn, WalFileName};
use pgmesh_protocol::{Failure, PushSegment, utc};
use pgmesh_raft::refusal::{OtherMachine, OtherWriter};
use pgmesh_raft::{Database, Refusal, View};

impl Archive {
    /// Adds the known facts about the other server to a refusal. `parting` is the first position at which the two
    /// contents differ, where they were compared.
    pub(super) fn explained(
        &self,
        view: &View,
        database: &Database,
        push: &PushSegment,
        refusal: Refusal,
        parting: Option<Lsn>,
    ) -> Failure {
        let (timeline, forgets) = match &refusal {
            Refusal::OtherWriter(OtherWriter { timeline, .. })
            | Refusal::OtherMachine(OtherMachine { timeline, .. }) => (*timeline, None),
            Refusal::Duplicate { file, .. } => (file.timeline(), forgettable(*file)),
            Refusal::HistoryContradicts { other, .. } => (*other, Some(WalFileName::History(*other))),
            _ => return refusal.into(),
        };
        let stanza = push.stanza.clone();
        let mut causes = Vec::new();
        if let Some(position) = parting {
            causes.push(format!("the two contents part at {position}"));
        }
        match view.last_push(&stanza, database.id, timeline) {
            Ok(Some(last)) => causes.push(format!(
                "timeline {timeline} was last written by {} at {}, data directory {}, which pushed {} at {}",
                last.host,
                last.address,
                last.instance,
                last.segment,
                utc(last.at)
            )),
            Ok(None) => causes.push(format!("who wrote timeline {timeline} last is not known")),
            // The refusal stands without it.
            Err(error) => tracing::warn!(%error, "the last push could not be read"),
        }
        let server = &push.server;
        causes.push(format!(
            "this is data directory {} at {}, on timeline {}",
            server.instance, server.address, server.timeline
        ));
        causes.push("an archive with WAL of both could restore neither".to_owned());
        let failure = Failure::from(refusal).because(causes.join("; "));
        match forgets {
            None => failure,
            Some(file) => failure.remedy(format!(
                "nothing in the archive was changed. If this server is a copy, stop its archiving (archive_mode=off), or give it a stanza \
                 of its own: 'pgmesh --stanza=OTHER stanza-create'. If it is the original, and what is archived is a copy's, or of a \
                 state that was given up when a snapshot was put back: 'pgmesh --stanza={stanza} archive-forget {file}', with a \
                 node's configuration file, takes that out of the archive, and this server's goes in. Of two clones of one volume \
                 only you know which is the original"
            )),
        }
    }
}

/// From which file on the archive is to be forgotten, so that another file of this name can be archived.
fn forgettable(file: WalFileName) -> Option<WalFileName> {
    match file {
        WalFileName::History(_) => Some(file),
        other => other.segment().map(WalFileName::Segment),
    }
}

/// The position of a byte of a file, if it holds WAL.
pub(super) fn position(file: WalFileName, database: &Database, byte: u64) -> Option<Lsn> {
    let segment = file.segment().filter(|_| file.holds_wal())?;
    Some(Lsn(segment.start(database.segment_size).0.saturating_add(byte)))
}

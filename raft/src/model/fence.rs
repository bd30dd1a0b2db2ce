//! Invariant 12: whose WAL an archive takes. Pure.
//!
//! PostgreSQL's own files decide: the history of the timeline that the pushing server is on, whether the server is in
//! recovery, and the content of the file.
//!
//! ```text
//! T1 ────────────┬──────────╌╌╌ the rest of timeline 1
//!                S
//!                └──────────────── T2, on which the server is
//!    below       │ the fork's      beyond
//!                  segment
//! ```
//!
//! - A server that is on a timeline and not in recovery *writes* the timeline. The first such server is bound to it.
//!   Another data directory that pushes as its writer is a copy of the cluster, or the cluster was moved: it is refused
//!   until an administrator says which.
//! - If the bound data directory pushes from another machine, its volume was moved, or it is a clone. While the first
//!   machine pushes, the other is refused. Once the first machine has been silent for longer than usual, the server
//!   goes on, and is bound to the new machine; but not where an administrator has said that its machine's place was
//!   taken.
//! - A segment that lies wholly below the point where the server's timeline left an older one is the server's own past
//!   as well: it may give it.
//! - A recovery along the server's history never asks for a segment with that point in it, or beyond it: it reads the
//!   newer timeline's segment of the same number, which begins with a copy of the older one's content. Such a segment
//!   is *set aside*.
//! - A server in recovery writes nothing of its own. The files that it archives (`archive_mode=always`) it has
//!   received, from the writer or from a copy. It is bound to nothing. It gives nothing new of a timeline that has a
//!   writer, and tries again: the writer archives the same bytes, or is gone, and then the server leaves the timeline.

use pgmesh_postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use pgmesh_storage::{Digest, StanzaName};

use super::{LastPush, Server, StanzaRecord, Writer};
use crate::refusal::Refusal;

/// The catalog's knowledge when a file is judged.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The content that is archived under the file's name.
    pub content: Option<Digest>,
    /// The last push of the writer of the file's timeline.
    pub last_push: Option<&'a LastPush>,
    /// The time, in seconds since the Unix epoch.
    pub now: i64,
}

/// The judgement of a pushed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It goes into the archive.
    Archive {
        /// The server becomes the writer of its timeline.
        binds: bool,
    },
    /// It is set aside: kept under a name of its own, and never handed out. The content that is archived under its name
    /// must agree with it up to this position, as far as there are records.
    Aside {
        /// The first position that is not compared.
        upto: Lsn,
    },
}

impl StanzaRecord {
    /// Judges a file that is not archived with this content.
    ///
    /// # Errors
    /// [`Refusal::OtherWriter`] where another server writes the timeline, [`Refusal::OtherMachine`] where the same one
    /// does on another machine; [`Refusal::Duplicate`] where another content is archived (invariant 3).
    pub fn judge(
        &self,
        stanza: &StanzaName,
        file: WalFileName,
        server: &Server,
        known: Known<'_>,
        given: Digest,
    ) -> Result<Judgement, Refusal> {
        let is_archived = known.content.is_some();
        let archive = |binds| match known.content {
            None => Ok(Judgement::Archive { binds }),
            Some(known) => Err(Refusal::Duplicate {
                stanza: stanza.clone(),
                file,
                known,
                given,
            }),
        };
        match file {
            WalFileName::Segment(segment) => match self.place(segment, server, known) {
                Place::Written { binds } => archive(binds),
                // After a switch of segments two servers may have different remains behind the last record.
                Place::Shared if is_archived => Ok(Judgement::Aside {
                    upto: self.end(segment),
                }),
                Place::Shared => archive(false),
                Place::Aside { upto } => Ok(Judgement::Aside { upto }),
                Place::Others(writer) => Err(writer.refusal(stanza, segment.timeline, &server.instance)),
                Place::Elsewhere(last) => Err(last.refusal(stanza, segment.timeline, known.now)),
            },
            // A server that is promoted archives the last, unfinished segment of the timeline that it leaves. Of two
            // servers that are promoted within one segment, each has its own. No recovery asks for it.
            WalFileName::Partial(segment) if is_archived => Ok(Judgement::Aside {
                upto: self.start(segment),
            }),
            WalFileName::BackupHistory { segment, .. } => match self.place(segment, server, known) {
                Place::Others(writer) => Err(writer.refusal(stanza, segment.timeline, &server.instance)),
                Place::Elsewhere(last) => Err(last.refusal(stanza, segment.timeline, known.now)),
                Place::Written { .. } | Place::Shared | Place::Aside { .. } => archive(false),
            },
            WalFileName::Partial(_) | WalFileName::History(_) | WalFileName::Map(_) | WalFileName::Aside { .. } => {
                archive(false)
            }
        }
    }

    /// Where a segment lies in the history of a server.
    fn place<'a>(&'a self, segment: SegmentName, server: &Server, known: Known<'a>) -> Place<'a> {
        let (start, end) = (self.start(segment), self.end(segment));
        let writer = self.writers.get(&segment.timeline);
        let is_own = writer.is_some_and(|writer| writer.instance == server.instance);
        if let Some(switch) = self.left(server, segment.timeline) {
            return match () {
                () if end <= switch => Place::Shared,
                // The rest of a timeline that the server wrote itself; unless other content is archived, as after
                // pg_rewind.
                () if is_own && !server.in_recovery && known.content.is_none() => Place::Written { binds: false },
                () => Place::Aside {
                    upto: switch.max(start),
                },
            };
        }
        match writer {
            Some(other) if !is_own || other.bars(&server.machine) => Place::Others(other),
            _ if server.in_recovery => Place::Shared,
            Some(own) if own.is_elsewhere(&server.machine) => {
                match known.last_push.filter(|last| last.is_recent(known.now)) {
                    Some(last) => Place::Elsewhere(last),
                    None => Place::Written { binds: true },
                }
            }
            // A server whose history is not known may push, and is bound to the timeline that it is on.
            writer => Place::Written {
                binds: writer.is_none_or(|own| own.machine.is_empty() && !server.machine.is_empty())
                    && server.timeline == segment.timeline,
            },
        }
    }

    /// Where the server's timeline left an older one; `None` for the timeline that it is on, and for others.
    fn left(&self, server: &Server, timeline: TimelineId) -> Option<Lsn> {
        let known = self.histories.get(&server.timeline);
        let known = known.map(|history| history.branches.as_slice()).unwrap_or_default();
        let branches = if server.branches.is_empty() {
            known
        } else {
            server.branches.as_slice()
        };
        let at = branches.iter().position(|branch| branch.parent == timeline)?;
        // A later line may leave at an earlier position: a server that was promoted with less than its parent had.
        branches.iter().skip(at).map(|branch| branch.switch).min()
    }

    fn start(&self, segment: SegmentName) -> Lsn {
        self.current()
            .map_or(Lsn(0), |database| segment.start(database.segment_size))
    }

    fn end(&self, segment: SegmentName) -> Lsn {
        self.current()
            .map_or(Lsn(u64::MAX), |database| segment.end(database.segment_size))
    }
}

/// Where a segment lies in the history of a server.
enum Place<'w> {
    /// The server wrote it.
    Written {
        /// It becomes the writer of the timeline.
        binds: bool,
    },
    /// The server has the same content as the timeline's writer.
    Shared,
    /// No recovery along the server's history asks for it.
    Aside { upto: Lsn },
    /// Another server writes the timeline.
    Others(&'w Writer),
    /// The same one wrote the timeline on another machine a moment ago.
    Elsewhere(&'w LastPush),
}

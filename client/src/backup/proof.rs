//! Proof that the WAL in the archive is the WAL that a server writes (invariants 4 and 12).
//!
//! Names prove nothing: a machine that was rolled back to a snapshot, or a copy of the cluster, has segments of the
//! same names, the same system identifier and the same timeline as the archive, and other content. But only the server
//! can write into its own WAL. So the client has it write a random text (as a restore point), and the text must come
//! back from the archive.

use super::wal::NeededWal;
use crate::mesh::{Archived, Mesh, WantedFile};
use crate::pg::{OpenCluster, PgClient, database_failure};
use crate::wal_sink::WalSink;
use pgmesh_postgres::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId, WalFileName, WalSearch};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::random;
use pgmesh_storage::StanzaName;

/// Longer than the record of a restore point with the page header in it.
const RECORD: u64 = 256;
/// The random bytes of the text.
const RANDOM: usize = 16;

/// A text that a server has written into its WAL.
#[derive(Debug, Clone)]
pub struct WalProof {
    text: String,
    /// Where its record ends.
    end: Lsn,
}

impl WalProof {
    /// Has the server write a random text, which reaches the archive with the segment that it lies in.
    ///
    /// # Errors
    /// The server refuses, as a standby does, or cannot be asked.
    pub async fn write(client: &PgClient) -> Result<Self, Failure> {
        let text = random_text()?;
        let written = client.write_restore_point(&text).await;
        let end = written.map_err(|error| database_failure(&error))?;
        Ok(Self { text, end })
    }

    /// The segments that hold the text.
    pub fn segments(&self, timeline: TimelineId, size: SegmentSize) -> NeededWal {
        NeededWal {
            first: SegmentName::containing(timeline, Lsn(self.end.0.saturating_sub(RECORD)), size),
            last: SegmentName::ending_at(timeline, self.end, size),
        }
    }

    /// Looks for the text in the archive, which has its segments.
    ///
    /// # Errors
    /// The archive has other WAL under these names (44), or cannot be read.
    pub async fn find(
        &self,
        mesh: &Mesh,
        stanza: &StanzaName,
        cluster: &OpenCluster,
        timeline: TimelineId,
    ) -> Result<(), Failure> {
        let NeededWal { first, last } = self.segments(timeline, cluster.control.segment_size);
        let id = cluster.control.system_id;
        let missing = || not_its_own(stanza, last, "it is not there any more");
        let end = self.search(mesh, stanza, id, last, WalSearch::new(&self.text)).await?;
        if end.ok_or_else(missing)?.found() {
            return Ok(());
        }
        // The record may begin in the segment before. Where a timeline begins with `last`, there is none.
        if first != last
            && let Some(begun) = self.search(mesh, stanza, id, first, WalSearch::new(&self.text)).await?
        {
            let both = self.search(mesh, stanza, id, last, begun).await?;
            if both.ok_or_else(missing)?.found() {
                return Ok(());
            }
        }
        let cause = "the archived segment lacks a record that the server was just asked to write";
        Err(not_its_own(stanza, last, cause))
    }

    /// Looks through an archived segment; nothing where it is not archived.
    async fn search(
        &self,
        mesh: &Mesh,
        stanza: &StanzaName,
        system_id: SystemId,
        name: SegmentName,
        before: WalSearch,
    ) -> Result<Option<WalSearch>, Failure> {
        let wanted = WantedFile {
            stanza,
            system_id: Some(system_id),
            file: WalFileName::Segment(name),
            only: None,
        };
        let mut sink = Searched {
            now: before.clone(),
            before,
            stanza,
            name,
        };
        let archived = mesh.wal_file(&wanted, &mut sink).await?;
        Ok((archived == Archived::Found).then_some(sink.now))
    }
}

/// A segment that is looked through as it comes.
struct Searched<'a> {
    before: WalSearch,
    now: WalSearch,
    stanza: &'a StanzaName,
    name: SegmentName,
}

impl WalSink for Searched<'_> {
    fn begin(&mut self) -> Result<(), Failure> {
        self.now = self.before.clone();
        self.now.begin_segment();
        Ok(())
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let fed = self.now.feed(piece);
        fed.map_err(|error| not_its_own(self.stanza, self.name, &chain(&error)))
    }
}

fn random_text() -> Result<String, Failure> {
    let mut random = [0; RANDOM];
    random::fill(&mut random).map_err(|error| Failure::new(ExitCode::Crypto, "no randomness").because(error))?;
    Ok(format!("pgmesh proof {}", hex::encode(random)))
}

fn not_its_own(stanza: &StanzaName, name: SegmentName, cause: &str) -> Failure {
    let what = format!("the archived WAL segment {name} of stanza {stanza} is not what this server wrote");
    Failure::new(ExitCode::ArchiveMismatch, what)
        .because(format!(
            "{cause}: the archive has WAL of another history of this cluster, so no backup of this server could be recovered with it"
        ))
        .remedy(
            "if the server was put back to a snapshot and its WAL is refused, 'pgmesh status' and PostgreSQL's log \
             name the file, and the command that takes the abandoned WAL out of the archive; if archive_command hides \
             the refusal, give the server a timeline of its own: stop it, create standby.signal in its data \
             directory, start it, 'select pg_promote()', then take a full backup; a copy of the cluster needs a \
             stanza of its own, and pgN-host must name the server that archives to the stanza",
        )
}

//! Fetching a file of the archive.

use super::{BAD_COPIES, Mesh};
use bytes::Bytes;
use pgmesh_node::failure::chain;
use pgmesh_node::protocol::{GetSegment, Request, SegmentReply};
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{SystemId, WalFileName, WalHole};
use pgmesh_storage::{Payload, StanzaName};

/// What an archive says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archived {
    /// Its content, checked against its digest (invariant 6).
    Content(Bytes),
    /// It was never archived, and no WAL behind it is known of (invariant 7).
    Never,
    /// It is not archived, but WAL behind it is known of.
    Hole(WalHole),
}

impl Archived {
    /// The content, where there is one.
    pub fn content(self) -> Option<Bytes> {
        match self {
            Self::Content(content) => Some(content),
            Self::Never | Self::Hole(_) => None,
        }
    }
}

impl Mesh {
    /// A file of the archive of the cluster with this system identifier, else of the stanza's newest. A damaged copy is asked
    /// for again from elsewhere.
    ///
    /// # Errors
    /// As [`Self::call`]; every copy that was tried is damaged (26).
    pub async fn wal_file(
        &self,
        stanza: &StanzaName,
        system_id: Option<SystemId>,
        file: WalFileName,
    ) -> Result<Archived, Failure> {
        let suite = self.suite().await?;
        let mut avoid = Vec::new();
        loop {
            let request = Request::GetSegment(GetSegment {
                stanza: stanza.clone(),
                file: file.to_string(),
                system_id,
                avoid: avoid.clone(),
            });
            let length = |reply: &SegmentReply| match reply {
                SegmentReply::Found { payload, .. } => Some(payload.length),
                SegmentReply::NeverArchived | SegmentReply::Hole(_) => None,
            };
            let (payload, repo, body) = match self.fetch(&request, length).await? {
                (SegmentReply::Found { payload, repo }, body) => (payload, repo, body.unwrap_or_default()),
                (SegmentReply::NeverArchived, _) => return Ok(Archived::Never),
                (SegmentReply::Hole(hole), _) => return Ok(Archived::Hole(hole)),
            };
            // Invariant 6: nothing is handed out before its digest has been checked.
            let opened = Payload::from_parts(payload, body).and_then(|payload| payload.open(suite));
            match opened {
                Ok(content) => return Ok(Archived::Content(content)),
                Err(error) => {
                    let failure = Failure::new(code::CHECKSUM, format!("{file} as repo{repo} has it is damaged"))
                        .because(chain(&error));
                    if avoid.len() == BAD_COPIES {
                        return Err(failure);
                    }
                    tracing::warn!("{failure}; it is asked for again from elsewhere");
                    avoid.push(repo);
                }
            }
        }
    }
}

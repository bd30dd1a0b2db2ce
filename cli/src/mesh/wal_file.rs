//! Fetching a file of the archive.

use super::{BAD_COPIES, Mesh};
use bytes::Bytes;
use pgmesh_node::failure::chain;
use pgmesh_node::protocol::{GetSegment, Request, SegmentReply};
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{SystemId, WalFileName};
use pgmesh_storage::{Payload, StanzaName};

impl Mesh {
    /// A file of the archive of the cluster with this system identifier, else of the stanza's newest; `None` when the mesh
    /// knows that it was never archived (invariant 7). A damaged copy is asked for again from elsewhere.
    ///
    /// # Errors
    /// As [`Self::call`]; every copy that was tried is damaged (26).
    pub async fn wal_file(
        &self,
        stanza: &StanzaName,
        system_id: Option<SystemId>,
        file: WalFileName,
    ) -> Result<Option<Bytes>, Failure> {
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
                SegmentReply::NeverArchived => None,
            };
            let (reply, body) = self.fetch(&request, length).await?;
            let (SegmentReply::Found { payload, repo }, Some(body)) = (reply, body) else {
                return Ok(None);
            };
            // Invariant 6: nothing is handed out before its digest has been checked.
            let opened = Payload::from_parts(payload, body).and_then(|payload| payload.open(suite));
            match opened {
                Ok(content) => return Ok(Some(content)),
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

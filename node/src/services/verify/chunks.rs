//! The chunks of one stanza. Whoever verifies a stanza is told of no other stanza's chunks (decision 47): they are
//! found by the catalog, not by a listing.

use super::{READS_AT_ONCE, Verification, check_held};
use crate::repositories::OpenRepository;
use futures::StreamExt;
use pgmesh_protocol::Failure;
use pgmesh_protocol::failure::chain;
use pgmesh_raft::{ChunkRecord, Replica, View};
use pgmesh_storage::{Digest, ObjectName, RepoKey};

/// Chunks that are looked up at once.
const PAGE: usize = 1024;

impl Verification<'_> {
    /// The next chunks of the catalog after `after`, without condemned ones: of the stanza that is verified, or of all.
    /// Moves `after` on; none at the end.
    pub(super) fn page(
        &self,
        view: &View,
        after: &mut Option<Digest>,
    ) -> Result<Option<Vec<(Digest, ChunkRecord)>>, Failure> {
        let rows = view.all_chunks(after.as_ref()).take(PAGE);
        let page: Vec<_> = rows.collect::<Result<_, _>>()?;
        let Some((last, _)) = page.last() else { return Ok(None) };
        *after = Some(*last);
        let rights = self.request.stanza.as_ref().map(|stanza| view.rights([stanza]));
        let rights = rights.transpose()?;
        let mut wanted = Vec::new();
        for (digest, record) in page {
            let is_wanted = match &rights {
                Some(rights) => rights.may_have(&digest)?,
                None => true,
            };
            if is_wanted && record.condemned.is_none() {
                wanted.push((digest, record));
            }
        }
        Ok(Some(wanted))
    }

    /// Reads every chunk of the stanza in one repository (invariant 6). The inner error ends the repository.
    pub(super) async fn own_chunks(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
    ) -> Result<Result<(), String>, Failure> {
        let mut after = None;
        while let Some(page) = self.page(view, &mut after)? {
            let here = |replicas: &[Replica]| replicas.iter().find(|replica| replica.repo == repo).copied();
            let lying = page.into_iter().filter_map(|(digest, record)| {
                let replica = here(&record.replicas)?;
                let path = repository.path_of(&ObjectName::Chunk(digest), replica.generation);
                Some((path.to_string(), u64::from(record.stored_length)))
            });
            let budget = &self.node.budget;
            let mut checks = futures::stream::iter(lying)
                .map(|(path, length)| {
                    let (repository, budget) = (repository.clone(), budget.clone());
                    async move {
                        let checked = check_held(repo, repository, budget, path.clone(), length).await;
                        (path, length, checked)
                    }
                })
                .buffer_unordered(READS_AT_ONCE);
            while let Some((path, length, checked)) = checks.next().await {
                match checked {
                    Ok(_) => self.read_one(length).await?,
                    Err(error) => match error.condemns() {
                        // Whether it should be there is asked below.
                        Some(true) => {}
                        Some(false) => {
                            self.read_one(length).await?;
                            self.damaged(repo, &path, &chain(&error)).await?;
                        }
                        None => return Ok(Err(chain(&error))),
                    },
                }
            }
        }
        Ok(Ok(()))
    }
}

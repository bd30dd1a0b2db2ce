//! Repositories that are lost with their disks, or given up.

use crate::Node;
use crate::links::{Lane, Recipient};
use crate::repositories::There;
use crate::settings::effective_ack;
use pgmesh_protocol::{ExitCode, Failure, ReplaceRepository, Replaced};
use pgmesh_raft::{CatalogError, Command, NodeName, Refusal, Reply};
use pgmesh_storage::RepoKey;
use std::time::Duration;

/// How long another node may take to replace a repository: it makes one, and walks over the catalog.
const REPLACE_LIMIT: Duration = Duration::from_secs(300);

impl Node {
    /// Puts an empty repository in the place of a repository that was lost with its disk. Objects that the mesh
    /// believes to be in the old one are withdrawn, and owed to the new one. If an older copy of the repository is in
    /// its place, the copy is taken up: only the objects that it lacks are withdrawn and owed to it.
    ///
    /// # Errors
    /// This node does not host it, or the old repository is still there: objects that can be read are not thrown away.
    pub(crate) async fn replace_repository(
        &self,
        actor: &str,
        repo: RepoKey,
        from_node: bool,
    ) -> Result<Replaced, Failure> {
        if let Some(host) = self.replacer_elsewhere(repo, from_node)? {
            let command = Command::Audit {
                what: format!("repo{repo}: node {host} is asked to put an empty repository in its place"),
            };
            self.catalog.propose(actor, command).await?;
            let request = ReplaceRepository { repo };
            return Ok(self
                .links
                .call(&Recipient::Named(host), Lane::Data, &request, REPLACE_LIMIT)
                .await?);
        }
        let slot = self.own_slot(repo)?.clone();
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .repository(repo)?
            .ok_or_else(|| Failure::from(Refusal::UnknownRepository(repo)))?;
        let there = self.look_there(&slot, &record).await?;
        let (uuid, wrapped_keys) = match there {
            There::OlderCopy(repository) if record.change.is_none() => {
                let command = Command::Audit {
                    what: format!("repo{repo}: an older copy of it is taken up; what it lacks is owed"),
                };
                self.catalog.propose(actor, command).await?;
                let (missing, there) = self.take_older_copy(repo, &repository).await?;
                self.open_one(&slot).await;
                self.repair.wake();
                return Ok(Replaced::OlderCopy { missing, there });
            }
            There::TheSame if record.change.is_none() => {
                return Err(Failure::new(
                    ExitCode::CommandInvalid,
                    format!(
                        "{} holds repo{repo}, as the mesh knows it: nothing is lost",
                        slot.settings.store()
                    ),
                )
                .remedy(
                    "objects that are damaged or missing are found by 'pgmesh verify' and made good by themselves",
                ));
            }
            // A replacement that was interrupted on its way is brought to its end.
            There::TheSame | There::OlderCopy(_) => (record.uuid, record.wrapped_keys),
            There::Another => {
                // An empty repository that an interrupted replacement has made is taken up.
                let made = self.make_empty_repository(&slot).await?;
                (made.identity().uuid.clone(), made.wrapped_keys().to_vec())
            }
        };
        loop {
            let command = Command::ReplaceRepository {
                repo,
                uuid: uuid.clone(),
                wrapped_keys: wrapped_keys.clone(),
                node: self.name.clone(),
            };
            match self.catalog.propose(actor, command).await? {
                Reply::Replacing { more: true } => {}
                _ => break,
            }
        }
        self.open_one(&slot).await;
        self.repair.wake();
        Ok(Replaced::Empty)
    }

    /// If this node does not declare a shared repository, a node that reaches it replaces it.
    fn replacer_elsewhere(&self, repo: RepoKey, from_node: bool) -> Result<Option<NodeName>, Failure> {
        if from_node || self.repositories.slot(repo).is_some() {
            return Ok(None);
        }
        let view = self.catalog.view();
        let is_shared = view.repository(repo)?.is_some_and(|record| record.host.is_none());
        let mut reaching = view.reaching(repo)?.into_iter().map(|(name, _)| name);
        Ok(reaching.next().filter(|_| is_shared))
    }

    /// Forgets a repository; its files stay.
    ///
    /// # Errors
    /// It is the mesh's last repository. Without `force`, also if too few are left to acknowledge a push while one
    /// of them is away, or if some object is in no other.
    pub(crate) async fn remove_repository(&self, actor: &str, repo: RepoKey, force: bool) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let all = view.repositories()?;
        if !all.iter().any(|(key, _)| *key == repo) {
            return Err(Failure::from(Refusal::UnknownRepository(repo)));
        }
        if all.len() == 1 {
            return Err(Refusal::LastRepository(repo).into());
        }
        let left = all.len() - 1;
        let ack = effective_ack(self.settings.archive_ack, all.len()).unwrap_or(left);
        if !force && left <= ack {
            return Err(Failure::new(
                ExitCode::CommandInvalid,
                format!(
                    "without repo{repo} there are {left} repositories, and {ack} must acknowledge each push: the next one that \
                     is away would stop archiving"
                ),
            )
            .remedy("declare another repository first, or give --force"));
        }
        // Whether objects would be lost is decided by the catalog, at each step.
        let mut has_begun = false;
        loop {
            let command = Command::RetireRepository { repo, force };
            match self.catalog.propose(actor, command).await {
                Ok(Reply::Retiring { more: true }) => has_begun = true,
                Ok(Reply::StillNeeded { object }) => {
                    let refusal = Refusal::RepositoryNeeded { repo, object };
                    return Err(refusal.into());
                }
                // The leader may have taken the last step.
                Err(CatalogError::Refused(Refusal::UnknownRepository(_))) if has_begun => return Ok(()),
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{SUITE, TestNode};
    use pgmesh_raft::command::NewChunk;
    use pgmesh_raft::{Claim, Replica, SessionKind};
    use pgmesh_storage::Generation;

    /// So many chunks that one step of a walk does not come to the end of them.
    const CHUNKS: u32 = 2_500;

    /// A node whose repository has been replaced by an empty one, but for all steps after the first.
    async fn interrupted() -> (TestNode, RepoKey, String) {
        let site = TestNode::start(SessionTimes::default()).await;
        let repo = RepoKey::new(1).unwrap();
        let identity = site.node.catalog.view().repository(repo).unwrap().unwrap().identity();
        let open = Command::OpenSession {
            kind: SessionKind::Repair,
            stanza: None,
            holder: "test".to_owned(),
            node: site.node.name.clone(),
            resume_key: None,
        };
        let session = site.open_unknown(open).await;
        let chunks = (0..CHUNKS).map(|number| NewChunk {
            digest: SUITE.digest(&number.to_le_bytes()),
            length: 9,
            stored_length: 9,
            claims: vec![Claim {
                replica: Replica {
                    repo,
                    generation: Generation::FIRST,
                },
                identity: identity.clone(),
            }],
        });
        let chunks = chunks.collect();
        site.propose(Command::AddChunks {
            session,
            ack: 1,
            chunks,
        })
        .await;
        let slot = site.node.own_slot(repo).unwrap().clone();
        for entry in std::fs::read_dir(site.repository()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
        let made = site.node.make_empty_repository(&slot).await.unwrap();
        let uuid = made.identity().uuid.clone();
        let command = Command::ReplaceRepository {
            repo,
            uuid: uuid.clone(),
            wrapped_keys: made.wrapped_keys().to_vec(),
            node: site.node.name.clone(),
        };
        assert_eq!(site.propose(command).await, Reply::Replacing { more: true });
        (site, repo, uuid)
    }

    fn is_replaced(node: &Node, repo: RepoKey, uuid: &str) -> bool {
        let view = node.catalog.view();
        let record = view.repository(repo).unwrap().unwrap();
        let debts = view.counters(repo).unwrap().debts;
        record.change.is_none() && record.uuid == uuid && debts >= u64::from(CHUNKS)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replacement_that_was_interrupted_is_finished_by_asking_again() {
        let (site, repo, uuid) = interrupted().await;
        let replaced = site.node.replace_repository("test", repo, false).await;
        assert!(matches!(replaced, Ok(Replaced::Empty)), "{replaced:?}");
        assert!(is_replaced(&site.node, repo, &uuid));
        let again = site.node.replace_repository("test", repo, false).await;
        assert!(again.unwrap_err().what.contains("nothing is lost"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replacement_that_was_interrupted_is_finished_by_the_leader() {
        let (site, repo, uuid) = interrupted().await;
        site.wait("the end of the replacement", |node| is_replaced(node, repo, &uuid))
            .await;
    }
}

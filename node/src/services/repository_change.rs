//! Repositories that are lost with their disks, or given up.

use crate::links::{Lane, Whom};
use crate::protocol::{Replaced, Request};
use crate::repositories::There;
use crate::settings::effective_ack;
use crate::{Failure, Node, code};
use pgmesh_raft::{Command, NodeName, Reply};
use pgmesh_storage::RepoKey;
use std::time::Duration;

/// How long another node may take to replace a repository: it makes one, and walks over the catalog.
const REPLACE_LIMIT: Duration = Duration::from_secs(300);

impl Node {
    /// Puts an empty repository in the place of one that was lost with its disk. What the mesh believes to be in the old one
    /// is withdrawn, and owed to the new one. An older copy that is in its place is taken up: what it lacks is withdrawn and
    /// owed to it.
    ///
    /// # Errors
    /// This node does not host it, or the old one is still there: what can be read is not thrown away.
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
            let request = Request::ReplaceRepository { repo };
            return Ok(self
                .links
                .call(&Whom::Named(host), Lane::Data, &request, REPLACE_LIMIT)
                .await?);
        }
        let slot = self.own_slot(repo)?.clone();
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .repository(repo)?
            .ok_or_else(|| Failure::from(pgmesh_raft::Refusal::UnknownRepository(repo)))?;
        let there = self.look_there(&slot, &record).await?;
        if let There::OlderCopy(repository) = there {
            let command = Command::Audit {
                what: format!("repo{repo}: an older copy of it is taken up; what it lacks is owed"),
            };
            self.catalog.propose(actor, command).await?;
            let (missing, there) = self.take_older_copy(repo, &repository).await?;
            self.open_one(&slot).await;
            self.repair.wake();
            return Ok(Replaced::OlderCopy { missing, there });
        }
        if matches!(there, There::TheSame) {
            return Err(Failure::new(
                code::COMMAND_INVALID,
                format!(
                    "{} holds repo{repo}, as the mesh knows it: nothing is lost",
                    slot.settings.store()
                ),
            )
            .remedy("objects that are damaged or missing are found by 'pgmesh verify' and made good by themselves"));
        }
        // An empty one that an interrupted replacement has made is taken up.
        let made = self.make_empty_repository(&slot).await?;
        loop {
            let command = Command::ReplaceRepository {
                repo,
                uuid: made.identity().uuid.clone(),
                wrapped_keys: made.wrapped_keys().to_vec(),
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

    /// The node that replaces a shared repository which this one does not declare: one that reaches it.
    fn replacer_elsewhere(&self, repo: RepoKey, from_node: bool) -> Result<Option<NodeName>, Failure> {
        if from_node || self.repositories.slot(repo).is_some() {
            return Ok(None);
        }
        let view = self.catalog.view();
        let is_shared = view.repository(repo)?.is_some_and(|record| record.host.is_none());
        let mut reaching = view.reaching(repo)?.into_iter().map(|(name, _)| name);
        Ok(reaching.next().filter(|_| is_shared))
    }

    /// Forgets a repository; what lies there stays.
    ///
    /// # Errors
    /// It is the only one, or the only one that has some object, and `force` is not given.
    pub(crate) async fn remove_repository(&self, actor: &str, repo: RepoKey, force: bool) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let all = view.repositories()?;
        if !all.iter().any(|(key, _)| *key == repo) {
            return Err(Failure::from(pgmesh_raft::Refusal::UnknownRepository(repo)));
        }
        if all.len() == 1 {
            return Err(pgmesh_raft::Refusal::LastRepository(repo).into());
        }
        let left = all.len() - 1;
        let ack = effective_ack(self.settings.archive_ack, all.len()).unwrap_or(left);
        if !force && left <= ack {
            return Err(Failure::new(
                code::COMMAND_INVALID,
                format!(
                    "without repo{repo} there are {left} repositories, and {ack} must acknowledge each push: the next one that \
                     is away would stop archiving"
                ),
            )
            .remedy("declare another repository first, or give --force"));
        }
        // Whether objects would be lost is decided by the catalog, at each step.
        loop {
            let command = Command::RetireRepository { repo, force };
            match self.catalog.propose(actor, command).await? {
                Reply::Retiring { more: true } => {}
                Reply::StillNeeded { object } => {
                    let refusal = pgmesh_raft::Refusal::RepositoryNeeded { repo, object };
                    return Err(refusal.into());
                }
                _ => return Ok(()),
            }
        }
    }
}

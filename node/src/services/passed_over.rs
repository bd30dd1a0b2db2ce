//! Replicas that a write has found damaged: it wrote the object beside them, under another generation (invariant 2).
//!
//! The catalog counts such a replica as good. It must hear that it is bad before it is told of the new object, or it
//! would keep the bad one and throw the good one away.

use crate::reads::Reads;
use crate::repositories::{BadReplica, Written};
use pgmesh_protocol::Failure;
use pgmesh_raft::apply::Base;
use pgmesh_raft::{Claim, ObjectRef, View};
use pgmesh_storage::{Generation, RepoKey};
use std::collections::BTreeMap;

/// The replicas, as the catalog has them, that these writes have passed over.
pub(super) fn passed_over<B: Base>(
    view: &View<B>,
    object: &ObjectRef,
    asked: &BTreeMap<RepoKey, Generation>,
    written: &[Written],
) -> Result<Vec<BadReplica>, Failure> {
    let is_passed = |written: &&Written| {
        let replica = written.claim.replica;
        asked
            .get(&replica.repo)
            .is_some_and(|asked| *asked < replica.generation)
    };
    let passing: Vec<&Written> = written.iter().filter(is_passed).collect();
    if passing.is_empty() {
        return Ok(Vec::new());
    }
    let held = view.object(object)?.map(|stored| stored.replicas).unwrap_or_default();
    let bad = passing.into_iter().filter_map(|written| {
        let repo = written.claim.replica.repo;
        let of_asked =
            |replica: &&pgmesh_raft::Replica| replica.repo == repo && asked.get(&repo) == Some(&replica.generation);
        let replica = *held.iter().find(of_asked)?;
        let identity = written.claim.identity.clone();
        Some(BadReplica {
            claim: Claim { replica, identity },
            missing: false,
            what: "a damaged object was found under its name when it was written again".to_owned(),
        })
    });
    Ok(bad.collect())
}

impl Reads {
    /// Reports the replicas that these writes have passed over. Returns whether the new objects in their place count.
    /// If not, their name may have been used and forgotten before (decision 18), and they are written again under the
    /// name that the debt asks for.
    pub(super) async fn report_passed_over(
        &self,
        object: &ObjectRef,
        asked: &BTreeMap<RepoKey, Generation>,
        written: &[Written],
    ) -> Result<bool, Failure> {
        let bad = passed_over(&self.catalog.view(), object, asked, written)?;
        self.report_bad(object, &bad).await;
        let view = self.catalog.view();
        for bad in bad {
            let repo = bad.claim.replica.repo;
            let debt = view.debt(repo, object)?;
            let is_paid = |written: &Written| {
                let replica = written.claim.replica;
                replica.repo == repo && debt.as_ref().is_some_and(|debt| debt.generation <= replica.generation)
            };
            if !written.iter().any(is_paid) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_raft::{Command, Replica};
    use pgmesh_storage::{Generation, RepoKey};

    /// The catalog's replicas of a chunk that is sent again after it has rotted; the floor is raised before.
    async fn sent_again(floor: u32) -> Vec<Replica> {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let begun = client.begin_backup("20260101-000000F").await.unwrap();
        let content = [7; 900];
        let digest = client.put_chunk(begun.session, &content).await.unwrap();
        let generation = Generation(floor);
        site.propose(Command::RaiseFloor { generation }).await;
        site.damage(digest);
        assert_eq!(client.put_chunk(begun.session, &content).await.unwrap(), digest);
        let chunks = site.node.catalog.view().chunks(&[digest]).unwrap();
        chunks.into_iter().flatten().flat_map(|chunk| chunk.replicas).collect()
    }

    fn replica(generation: u32) -> Replica {
        Replica {
            repo: RepoKey::new(1).unwrap(),
            generation: Generation(generation),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_good_copy_takes_the_place_of_one_that_has_rotted() {
        assert_eq!(sent_again(0).await, [replica(1)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn below_the_floor_it_is_written_again_under_the_name_that_the_debt_asks_for() {
        assert_eq!(sent_again(1000).await, [replica(1000)]);
    }
}

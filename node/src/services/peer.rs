//! The requests of other nodes to the repositories that this node hosts or reaches.

use crate::Node;
use crate::core::Core;
use crate::repositories::{Opened, RepositoryRoute, Slot, SlotError, write_one};
use crate::services::joined;
use bytes::Bytes;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    DeleteObject, ExitCode, Failure, ObjectAnswer, ReadObject, RemoteError, RemoteErrorKind, StoreObject, StoredAt,
    TargetOutcome,
};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Payload, RepoKey};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

impl Node {
    /// Writes an object to repositories of this node, each under its own key; each outcome is sent to `ends`.
    ///
    /// The payload's digest is not checked here: the node that sends it has done so, or the repair that reads it will.
    pub(crate) async fn store_object(&self, store: StoreObject, body: Bytes, ends: mpsc::Sender<TargetOutcome>) {
        let payload = match joined(store.payload, body) {
            Ok(payload) => payload,
            Err(failure) => {
                for target in store.targets {
                    let error = unavailable(failure.to_string());
                    let _ = ends.send(stored(target.repo, Err(error))).await;
                }
                return;
            }
        };
        let mut writes = JoinSet::new();
        for target in store.targets {
            let Some(slot) = self.repositories.serving(target.repo, &target.uuid).cloned() else {
                let error = unavailable(self.not_here(target.repo));
                let _ = ends.send(stored(target.repo, Err(error))).await;
                continue;
            };
            if !self.is_ours(&slot) {
                let error = unavailable("whether another catalog has taken over is not known".to_owned());
                let _ = ends.send(stored(target.repo, Err(error))).await;
                continue;
            }
            let (object, payload, ends) = (store.object.clone(), payload.clone(), ends.clone());
            writes.spawn(tasks::named("writing for a node", async move {
                let written = write_one(&slot, &object, target.generation, &payload).await;
                drop(payload);
                let outcome = match written {
                    Ok(written) => Ok(StoredAt {
                        identity: written.claim.identity,
                        generation: written.claim.replica.generation,
                        bytes: written.stored,
                    }),
                    Err(error) => Err(remote_error(&error)),
                };
                // The sending node may have gone. Its next try finds the object that was written.
                let _ = ends.send(stored(slot.key, outcome)).await;
            }));
        }
        // Joined, so that the memory that was taken for the payload is held until the last write is done.
        while writes.join_next().await.is_some() {}
    }

    /// Reads an object from a repository of this node; its tag is checked.
    pub(crate) async fn read_object(&self, read: ReadObject) -> (ObjectAnswer, Option<Bytes>) {
        let Some(slot) = self.repositories.serving(read.repo, &read.uuid) else {
            let error = unavailable(self.not_here(read.repo));
            return (ObjectAnswer::Failed(error), None);
        };
        match read_from(slot, read).await {
            Ok((generation, payload)) => {
                let found = ObjectAnswer::Found {
                    generation,
                    payload: payload.head(),
                };
                (found, Some(payload.bytes))
            }
            Err(error) => (ObjectAnswer::Failed(remote_error(&error)), None),
        }
    }

    /// Deletes an object from a repository of this node.
    pub(crate) async fn delete_object(&self, delete: DeleteObject) -> Result<(), RemoteError> {
        let Some(slot) = self.repositories.serving(delete.repo, &delete.uuid) else {
            return Err(unavailable(self.not_here(delete.repo)));
        };
        if self.doubts_past() {
            let what = "whether the catalog is whole is not known: nothing is deleted".to_owned();
            return Err(unavailable(what));
        }
        if !self.is_ours(slot) {
            let what = "whether another catalog has taken over is not known: nothing is deleted".to_owned();
            return Err(unavailable(what));
        }
        let term = self.catalog.status().term;
        if delete.term < term {
            let what = format!(
                "only the leader deletes, and node {} knows of a later one than that of term {}",
                self.name, delete.term
            );
            return Err(unavailable(what));
        }
        if !slot.may_delete() {
            return Err(RemoteError {
                kind: RemoteErrorKind::Retained,
                identity: None,
                what: format!("repo{}-delete=n says that nothing is deleted there", delete.repo),
            });
        }
        let deleting =
            slot.request(|repository| async move { repository.delete(&delete.object, delete.generation).await });
        match tokio::time::timeout(self.settings.fence_timeout, deleting).await {
            Ok(deleted) => deleted.map_err(|error| remote_error(&error)),
            Err(_) => Err(unavailable("it did not answer in time".to_owned())),
        }
    }

    fn not_here(&self, repo: RepoKey) -> String {
        let name = &self.name;
        match self.repositories.slot(repo).map(|slot| slot.opened()) {
            Some(Opened::Closed { why, .. } | Opened::Refused { why, .. }) => {
                format!("repo{repo} is not open on node {name}: {why}")
            }
            Some(Opened::Open(_)) => {
                format!("what node {name} has open is another repository than the mesh's repo{repo}")
            }
            None => format!("node {name} does not declare repo{repo}"),
        }
    }
}

impl Core {
    pub(crate) fn own_slot(&self, repo: RepoKey) -> Result<&Arc<Slot>, Failure> {
        self.repositories.slot(repo).ok_or_else(|| {
            let failure = Failure::new(
                ExitCode::RepoInvalid,
                format!("node {} does not host repo{repo}", self.name),
            );
            match self.repositories.place(repo) {
                Ok(RepositoryRoute::There(slot)) => failure.remedy(format!(
                    "run it on node {}, which does, with that node's file",
                    slot.host
                )),
                _ => failure.remedy("'pgmesh status' lists the repositories and their nodes"),
            }
        })
    }
}

async fn read_from(slot: &Slot, read: ReadObject) -> Result<(pgmesh_storage::Generation, Payload), SlotError> {
    match read.generation {
        Some(generation) if read.checked => {
            let checked = slot
                .read(|repository| async move { repository.get_checked(&read.object, generation).await })
                .await?;
            Ok((generation, checked.payload))
        }
        Some(generation) => {
            let payload = slot
                .read(|repository| async move { repository.get(&read.object, generation).await })
                .await?;
            Ok((generation, payload))
        }
        None => {
            let (generation, checked) = slot
                .read(|repository| async move { repository.get_any_generation(&read.object).await })
                .await?;
            Ok((generation, checked.payload))
        }
    }
}

fn stored(repo: RepoKey, outcome: Result<StoredAt, RemoteError>) -> TargetOutcome {
    TargetOutcome { repo, outcome }
}

fn unavailable(what: String) -> RemoteError {
    RemoteError {
        kind: RemoteErrorKind::Unavailable,
        identity: None,
        what,
    }
}

fn remote_error(error: &SlotError) -> RemoteError {
    RemoteError {
        kind: match error.condemns() {
            _ if error.is_retained() => RemoteErrorKind::Retained,
            Some(true) => RemoteErrorKind::Missing,
            Some(false) => RemoteErrorKind::Damaged,
            None => RemoteErrorKind::Unavailable,
        },
        identity: error.identity().cloned(),
        what: chain(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_storage::{Generation, ObjectName};

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_deleted_for_a_leader_of_the_past() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let begun = client.begin_backup("20260101-000000F").await.unwrap();
        let digest = client.put_chunk(begun.session, &[7; 900]).await.unwrap();
        let repo = RepoKey::new(1).unwrap();
        let uuid = site.node.catalog.view().repository(repo).unwrap().unwrap().uuid;
        let term = site.node.catalog.status().term;
        let delete = |term| DeleteObject {
            repo,
            uuid: uuid.clone().into(),
            object: ObjectName::Chunk(digest),
            generation: Generation::FIRST,
            term,
        };
        let refused = site.node.delete_object(delete(term - 1)).await.unwrap_err();
        assert_eq!(refused.kind, RemoteErrorKind::Unavailable);
        assert!(site.has_file(digest));
        site.node.delete_object(delete(term)).await.unwrap();
        assert!(!site.has_file(digest));
    }
}

//! A repository that is reached through another node: that node encrypts, stores, reads and checks; this node watches
//! the repository's health.

use super::slot::SlotError;
use super::watch::{Attempt, Watch};
use super::write_ends::Ends;
use super::written::Written;
use crate::health::Work;
use crate::links::{Lane, LinkError, Links, Recipient, receive, receive_body};
use pgmesh_protocol::{
    BODY_LIMIT, DeleteObject, ObjectAnswer, ReadObject, RemoteError, RemoteErrorKind, StoreObject, StoreTarget,
};
use pgmesh_raft::{Claim, Lead, NodeName, Replica};
use pgmesh_storage::{Generation, ObjectName, Payload, RepoKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A repository that another node reaches. A shared repository has a slot for each node that reaches it: each way fails
/// for itself.
pub struct RemoteSlot {
    /// Its number.
    pub key: RepoKey,
    /// The node that hosts it, or by way of which it is reached.
    pub host: NodeName,
    /// Its identity in the catalog: the peer refuses a request if it has another repository open under that number.
    pub uuid: String,
    pub(crate) watch: Arc<Watch>,
    links: Arc<Links>,
    io_timeout: Duration,
}

impl RemoteSlot {
    /// A slot that has sent no request yet.
    pub fn new(key: RepoKey, host: NodeName, uuid: String, links: Arc<Links>, io_timeout: Duration) -> Self {
        Self {
            key,
            host,
            uuid,
            watch: Arc::default(),
            links,
            io_timeout,
        }
    }

    /// Reads an object; any generation of it that is good where none is given.
    pub async fn get(
        &self,
        object: &ObjectName,
        generation: Option<Generation>,
        checked: bool,
    ) -> Result<Payload, SlotError> {
        let attempt = self.watch.begin(Work::Read, 0);
        let request = ReadObject {
            repo: self.key,
            uuid: self.uuid.clone().into(),
            object: object.clone(),
            generation,
            checked,
        };
        let whom = self.whom();
        let work = async {
            let mut stream = self.links.ask(&whom, Lane::Data, &request, None).await?;
            match receive::<ReadObject>(&mut stream, &whom).await? {
                ObjectAnswer::Failed(error) => Ok(Err(error)),
                ObjectAnswer::Found { payload, .. } => {
                    let body = receive_body(&mut stream, &whom, payload.length, BODY_LIMIT).await?;
                    Ok(Payload::from_parts(payload, body).map_err(|error| damaged_in_transit(&error)))
                }
            }
        };
        let answer = self.links.within(&whom, self.io_timeout, work).await;
        self.judge(attempt, answer)
    }

    /// Deletes an object.
    pub async fn delete(&self, lead: &Lead, object: &ObjectName, generation: Generation) -> Result<(), SlotError> {
        let attempt = self.watch.begin(Work::Write, 0);
        let request = DeleteObject {
            repo: self.key,
            uuid: self.uuid.clone().into(),
            object: object.clone(),
            generation,
            term: lead.term(),
        };
        let answer = self
            .links
            .call(&self.whom(), Lane::Data, &request, self.io_timeout)
            .await;
        self.judge(attempt, answer)
    }

    fn whom(&self) -> Recipient {
        Recipient::Named(self.host.clone())
    }

    /// Ends an attempt by the answer, which speaks for or against the repository, or only against the object.
    fn judge<T>(&self, attempt: Attempt, answer: Result<Result<T, RemoteError>, LinkError>) -> Result<T, SlotError> {
        match answer {
            Ok(Ok(value)) => {
                attempt.succeeded();
                Ok(value)
            }
            Ok(Err(error)) => {
                match error.kind {
                    RemoteErrorKind::Unavailable => attempt.failed(error.what.clone()),
                    RemoteErrorKind::Missing | RemoteErrorKind::Damaged | RemoteErrorKind::Retained => {
                        attempt.answered();
                    }
                }
                Err(self.error(error))
            }
            Err(error) => {
                attempt.failed(error.to_string());
                Err(SlotError::Away {
                    repo: self.key,
                    why: error.to_string(),
                })
            }
        }
    }

    fn error(&self, error: RemoteError) -> SlotError {
        SlotError::Remote {
            repo: self.key,
            host: self.host.clone(),
            identity: error.identity.map(Box::new),
            kind: error.kind,
            what: error.what,
        }
    }
}

fn damaged_in_transit(error: &dyn std::error::Error) -> RemoteError {
    RemoteError {
        kind: RemoteErrorKind::Unavailable,
        identity: None,
        what: format!("what the node sent is not whole: {error}"),
    }
}

/// Writes one object to several repositories of one node: the payload crosses the mesh once. Each target's outcome is
/// sent to `ends` as it comes. When the node falls silent, that is the outcome of all targets that are left.
pub async fn write_there(
    targets: Vec<(Arc<RemoteSlot>, Generation)>,
    object: ObjectName,
    payload: Payload,
    mut ends: Ends,
) {
    let Some((first, _)) = targets.first() else { return };
    let (links, whom, limit) = (first.links.clone(), first.whom(), first.io_timeout);
    let request = StoreObject {
        object,
        payload: payload.head(),
        targets: targets
            .iter()
            .map(|(slot, generation)| StoreTarget {
                repo: slot.key,
                uuid: slot.uuid.clone().into(),
                generation: *generation,
            })
            .collect(),
    };
    let bytes = payload.bytes.len() as u64;
    let mut waiting: BTreeMap<RepoKey, (Arc<RemoteSlot>, Attempt)> = targets
        .into_iter()
        .map(|(slot, _)| {
            let attempt = slot.watch.begin(Work::Write, bytes);
            (slot.key, (slot, attempt))
        })
        .collect();
    let work = async {
        let mut stream = links.ask(&whom, Lane::Data, &request, Some(&payload.bytes)).await?;
        while !waiting.is_empty() {
            let stored = receive::<StoreObject>(&mut stream, &whom).await?;
            let Some((slot, attempt)) = waiting.remove(&stored.repo) else {
                continue;
            };
            let written = slot.judge(attempt, Ok(stored.outcome)).map(|stored| {
                let (repo, generation) = (slot.key, stored.generation);
                let replica = Replica { repo, generation };
                Written {
                    claim: Claim {
                        replica,
                        identity: stored.identity,
                    },
                    stored: stored.bytes,
                }
            });
            ends.end(slot.key, written);
        }
        Ok(())
    };
    let outcome = links.within(&whom, limit, work).await;
    if let Err(error) = outcome {
        for (key, (slot, attempt)) in waiting {
            let ended = slot.judge(attempt, Err(error.clone()));
            ends.end(key, ended);
        }
    }
}

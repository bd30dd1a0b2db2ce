//! Whether the catalog has gone back: all its copies were replaced by older ones, and no node is left that knows
//! better.
//!
//! One node with an older copy is found out by the others (`pgmesh_raft`). When all copies are old, only the
//! repositories know: each mark that is written there says how far the catalog had come (`repositories/marks.rs`). A
//! node that opens a repository reads the marks that its catalog does not know of. If one of them is ahead of what a
//! majority has committed, the catalog has lost what it had acknowledged. Segments that are in the repositories would
//! be answered as never archived, and backups swept as rubbish. So the mesh serves no more until an administrator has
//! decided.
//!
//! A mark that a crash cut off from the command that tells of it is not ahead: the position in it was applied before it
//! was written, so it was committed.

use crate::clock::utc;
use crate::failure::chain;
use crate::protocol::Request;
use crate::repositories::Slot;
use crate::{Failure, Node, code};
use pgmesh_raft::{CatalogLoss, Command, LogIndex, View};
use pgmesh_storage::{Anchor, Generation, Repository, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// How often positions that are ahead are compared with what is committed.
const PERIOD: Duration = Duration::from_millis(200);
/// For so long after its start a node waits for repositories that it could not look at yet, before it says that
/// something is not there.
const LOOK_FOR: Duration = Duration::from_secs(20);
/// What a mark may say at most: more is damage.
const LARGEST: u64 = 1 << 31;
/// So many marks are read, the newest first. The catalog does not know of more than one in ordinary life.
const READ_AT_MOST: usize = 16;

/// How far the catalog had come, as a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    anchor: Anchor,
    /// When the mark was written, Unix seconds.
    written: i64,
}

impl Node {
    /// Reads the marks of a repository that this node's catalog does not know of.
    pub(crate) async fn look_at_anchors(&self, slot: &Slot, repository: &Repository) -> Result<(), StoreError> {
        let view = self.catalog.view();
        let record = view.repository(slot.key).ok().flatten();
        let known = record.and_then(|record| record.mark).map_or(0, |mark| mark.number);
        let marks = repository.marks().await?;
        let unknown = marks.into_iter().rev().take_while(|mark| mark.number > known);
        let mut furthest: Option<Ahead> = None;
        for mark in unknown.take(READ_AT_MOST) {
            let (written, anchor) = match repository.read_mark(mark).await {
                Ok(read) => read,
                // Deleted since, or damaged.
                Err(error @ (StoreError::NotFound { .. } | StoreError::Damaged { .. })) => {
                    tracing::debug!(repo = %slot.key, error = %chain(&error), "a mark is passed over");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !is_plausible(anchor) {
                tracing::warn!(repo = %slot.key, ?anchor, "a mark says what cannot be, and is passed over");
                continue;
            }
            if furthest.is_none_or(|furthest| place(furthest.anchor) < place(anchor)) {
                furthest = Some(Ahead { anchor, written });
            }
        }
        slot.set_ahead(furthest.filter(|ahead| self.is_ahead(ahead.anchor).unwrap_or(true)));
        slot.set_looked();
        Ok(())
    }

    /// Compares what repositories say of the catalog with what is committed, until the node stops.
    pub async fn keep_comparing(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            for slot in self.repositories.slots() {
                let Some(ahead) = slot.ahead() else {
                    continue;
                };
                match self.compare(slot, ahead).await {
                    Ok(()) => slot.forget_ahead(ahead),
                    // There is no majority: nothing is acknowledged either.
                    Err(failure) => {
                        tracing::debug!(repo = %slot.key, error = %failure, "the catalog is compared with a mark later");
                    }
                }
            }
        }
    }

    /// Tells the mesh if what is committed is behind.
    async fn compare(&self, slot: &Slot, ahead: Ahead) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await?;
        if !self.is_ahead(ahead.anchor)? {
            return Ok(());
        }
        let Anchor { era, position, .. } = ahead.anchor;
        let loss = CatalogLoss {
            repo: slot.key,
            node: self.name.clone(),
            position: LogIndex(position),
            era,
            floor: Generation(ahead.anchor.floor),
            written: ahead.written,
            found_at: view.applied()?,
        };
        tracing::error!(repo = %slot.key, position, found_at = %loss.found_at, "the catalog has lost what it had acknowledged");
        self.catalog.propose(self.actor(), Command::ReportLoss(loss)).await?;
        Ok(())
    }

    /// Whether this node's catalog has come less far.
    fn is_ahead(&self, anchor: Anchor) -> Result<bool, Failure> {
        let view = self.catalog.view();
        let own = self.anchor()?;
        let is_founded = view.mesh()?.is_some();
        Ok(!is_founded || own.founded == anchor.founded && place(own) < place(anchor))
    }

    /// How far this node's catalog has come.
    pub(crate) fn anchor(&self) -> Result<Anchor, Failure> {
        let view = self.catalog.view();
        Ok(Anchor {
            founded: view.mesh()?.map_or(0, |mesh| mesh.created),
            era: view.past()?.era,
            position: view.applied()?.0,
            floor: view.floor()?.0,
        })
    }

    /// Whether the catalog is known to have lost something, or it is being found out.
    pub(crate) fn doubts_past(&self) -> bool {
        self.repositories.slots().any(|slot| slot.ahead().is_some())
            || self.catalog.view().past().map_or(true, |past| past.loss.is_some())
    }

    /// Refuses what rests on a catalog that has lost something.
    pub(crate) fn check_past(&self, request: &Request) -> Result<(), Failure> {
        if !rests_on_catalog(request) {
            return Ok(());
        }
        self.refuse_loss(&self.catalog.view())?;
        // What is answered without a majority, because a restore must not hang on one, is answered here, too.
        let is_restore = matches!(
            request,
            Request::BeginRestore(_) | Request::ResumeSession(_) | Request::ChoosePrior(_) | Request::ChooseBackup(_)
        );
        if is_restore {
            return Ok(());
        }
        match self.repositories.slots().find(|slot| slot.ahead().is_some()) {
            None => Ok(()),
            Some(slot) => Err(Failure::new(
                code::RUNTIME,
                format!("whether the catalog is whole is being compared with repo{}", slot.key),
            )
            .remedy("try again; it takes as long as a majority of the nodes takes to answer")
            .again()),
        }
    }

    /// Refuses if the catalog is known to have lost something.
    pub(crate) fn refuse_loss(&self, view: &View) -> Result<(), Failure> {
        match view.past()?.loss {
            None => Ok(()),
            Some(loss) => Err(Failure::new(code::RUNTIME, describe(&loss)).remedy(remedy(&loss))),
        }
    }

    /// Whether this node's repositories may still show that the catalog has lost something: they have not all been
    /// looked at since its start. It is not waited for for ever: a repository that is away must not stop what rests on
    /// it.
    pub(crate) fn may_learn_of_loss(&self) -> bool {
        let is_early = self.started.elapsed() < LOOK_FOR;
        is_early && self.repositories.slots().any(|slot| !slot.has_looked())
    }

    /// Whether what the catalog does not know may be taken for rubbish.
    pub(crate) fn may_forget(&self) -> bool {
        !self.doubts_past() && !self.may_learn_of_loss()
    }

    /// Gives up what the catalog has lost.
    pub(crate) async fn accept_loss(&self, actor: &str, position: u64) -> Result<(), Failure> {
        let position = LogIndex(position);
        self.catalog.propose(actor, Command::AcceptLoss { position }).await?;
        Ok(())
    }
}

/// Whether a catalog can have come so far.
fn is_plausible(anchor: Anchor) -> bool {
    anchor.position < LARGEST && u64::from(anchor.floor) < LARGEST && anchor.era < u32::from(u16::MAX)
}

/// In which order the positions of one catalog come.
fn place(anchor: Anchor) -> (u32, u64) {
    (anchor.era, anchor.position)
}

/// What an administrator needs to find out how the mesh does, and to put it right, is answered.
fn rests_on_catalog(request: &Request) -> bool {
    matches!(
        request,
        Request::PushSegment(_)
            | Request::GetSegment(_)
            | Request::ChangeMaps(_)
            | Request::BeginBackup(_)
            | Request::BeginRestore(_)
            | Request::ResumeSession(_)
            | Request::QueryChunks(_)
            | Request::PutChunk(_)
            | Request::CommitBackup(_)
            | Request::ChoosePrior(_)
            | Request::ChooseBackup(_)
            | Request::CreateStanza(_)
            | Request::UpgradeStanza(_)
            | Request::AdoptStanza { .. }
            | Request::ForgetWal(_)
            | Request::DeleteStanza { .. }
            | Request::RemoveRepository { .. }
            | Request::ReplaceRepository { .. }
            | Request::CollectGarbage
    )
}

fn describe(loss: &CatalogLoss) -> String {
    format!(
        "the catalog has lost what was acknowledged last: it has come to position {} and had come to {} at {}, as repo{} shows",
        loss.found_at,
        loss.position,
        utc(loss.written),
        loss.repo
    )
}

fn remedy(loss: &CatalogLoss) -> String {
    format!(
        "the node-path of every node is an older copy. Stop all nodes and put newer ones back; or found the mesh anew with 'pgmesh \
         catalog-rebuild' from a repository, which finds backups and WAL of that time again; or give them up: 'pgmesh \
         catalog-accept-loss {}'",
        loss.position
    )
}

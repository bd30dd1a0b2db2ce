//! Whether this catalog is still the mesh's: it has not gone back, and no other catalog has taken its place.
//!
//! If one node has an older copy, the others notice (`pgmesh_raft`). When all copies are old, only the repositories
//! know: each mark that is written there says how far the catalog had come (`repositories/marks.rs`). A node reads the
//! marks that it has not written. If a mark is ahead of the position that a majority has committed, the catalog has
//! lost acknowledged entries. Segments in the repositories would be answered as never archived, and backups swept as
//! rubbish. So the mesh serves no more until an administrator has decided.
//!
//! A mark that a crash cut off from the command that tells of it is not ahead: the position in it was applied before it
//! was written, so it was committed.
//!
//! The same marks say that another catalog of the mesh goes on: a node was rescued without the others, or the catalog
//! was made anew from a repository. Each of these begins an *era*, and writes a mark of it into every repository that
//! it reaches before it serves. A node of an earlier era acknowledges and deletes nothing from the moment at which it
//! sees such a mark. It looks every third of `fence-timeout`, and does neither if its last look is older than
//! `fence-timeout`. So no node of an earlier era deletes any more when twice that time has passed since the mark was
//! durable (`stock.rs`).

mod rests;

use crate::awake::Awake;
use crate::core::Core;
use crate::repositories::{Ahead, Slot, next_mark};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, Request, now_unix, utc};
use pgmesh_raft::{CatalogLoss, CatalogPast, Command, LogIndex, NodeName, View, limits};
use pgmesh_runtime::random;
use pgmesh_storage::{Anchor, Generation, Mark, Repository, StoreError};
use rests::{Rests, rests};
use std::sync::Arc;
use std::time::Duration;

/// How often a node looks whether it has to read marks again.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// The most commands that the other catalog has applied since it began its era, and that this one has not heard of.
const COMMANDS_IN_A_FORK: u32 = 1 << 25;
/// How often marks that are ahead are compared with the committed position.
const PERIOD: Duration = Duration::from_millis(200);
/// For so long after its start a node waits for repositories that it could not look at yet, before it says that an
/// object is not there.
const LOOK_FOR: Duration = Duration::from_secs(20);
/// The highest position and floor that a mark may have: more is damage.
const LARGEST: u64 = 1 << 31;
/// The most marks that are read, the newest first. In ordinary life, at most the newest mark is unknown to the catalog.
const READ_AT_MOST: usize = 16;

impl Core {
    /// Reads the marks of a repository that this process has not read yet.
    pub(crate) async fn look_at_anchors(&self, slot: &Slot, repository: &Repository) -> Result<(), StoreError> {
        let began = Awake::now();
        let marks = repository.marks().await?;
        let unread = marks.iter().rev().filter(|mark| !slot.has_read(**mark));
        let read = read_anchors(repository, unread).await?;
        let ahead = read
            .into_iter()
            .filter(|ahead| self.is_ahead(ahead.anchor).unwrap_or(true));
        let furthest = ahead.max_by_key(|ahead| place(ahead.anchor));
        if let Some(ahead) = furthest {
            slot.set_ahead(ahead);
        }
        slot.set_looked(began, marks);
        Ok(())
    }

    /// Looks at the marks of open repositories again and again, until the node stops. A repository that hangs holds up
    /// no other.
    pub async fn keep_looking(self: Arc<Self>) {
        self.repositories
            .keep_with_each(&self.supervisor, "fence", |slot| self.keep_looking_at(slot))
            .await;
    }

    /// A look begins a third of `fence-timeout` after the last one, and takes no longer than that: a repository that
    /// does not answer is closed before the time is over, and the node goes on with its other repositories.
    async fn keep_looking_at(&self, slot: &Slot) {
        let lease = self.settings.fence_timeout;
        loop {
            tokio::time::sleep(LOOK_PERIOD.min(lease / 10)).await;
            let Some(repository) = slot.repository() else { continue };
            let since = slot.since_look().unwrap_or(lease);
            if since < lease / 3 {
                continue;
            }
            // Where the time is over already, nothing is acknowledged, and a look comes before the repository is
            // closed.
            let left = if since >= lease { lease / 3 } else { lease - since };
            let limit = (lease / 3).min(left);
            let why = match tokio::time::timeout(limit, self.look_at_anchors(slot, &repository)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => chain(&error),
                Err(_) => format!("no answer within {} ms", limit.as_millis()),
            };
            tracing::debug!(repo = %slot.key, why, "marks cannot be read");
            if slot.since_look().is_none_or(|since| since + LOOK_PERIOD >= lease) {
                self.close(slot, &format!("its marks cannot be read: {why}"));
            }
        }
    }

    /// Whether this node's open repositories have all shown within `fence-timeout` that no other catalog has taken them
    /// over.
    pub(crate) fn has_looked_lately(&self) -> bool {
        let mut open = self.repositories.slots().filter(|slot| slot.repository().is_some());
        open.all(|slot| self.is_ours(slot))
    }

    /// Whether a repository has shown within `fence-timeout` that this catalog is the mesh's.
    pub(crate) fn is_ours(&self, slot: &Slot) -> bool {
        let lately = slot
            .since_look()
            .is_some_and(|since| since < self.settings.fence_timeout);
        lately && slot.ahead().is_none()
    }

    /// Compares the marks of repositories with the committed position, until the node stops.
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

    /// Tells the mesh if the committed position is behind a mark.
    async fn compare(&self, slot: &Slot, ahead: Ahead) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await?;
        if !self.is_ahead(ahead.anchor)? {
            return Ok(());
        }
        let Anchor {
            era, branch, position, ..
        } = ahead.anchor;
        let loss = CatalogLoss {
            repo: slot.key,
            node: self.name.clone(),
            told_by: None,
            position: LogIndex(position),
            era,
            branch,
            floor: Generation(ahead.anchor.floor),
            written: ahead.written,
            found_at: view.applied()?,
        };
        tracing::error!(repo = %slot.key, era, position, found_at = %loss.found_at, "this catalog is not the mesh's, or has lost something");
        self.catalog.propose(self.actor(), Command::ReportLoss(loss)).await?;
        Ok(())
    }

    /// Tells the mesh that a node has a catalog of a later era, or of another branch.
    pub(crate) async fn report_fork(&self, told_by: &NodeName, told: Era) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await?;
        let own = anchor_of(&view)?;
        let known = view.past()?.loss;
        let Some((repo, _)) = view.repositories()?.into_iter().next() else {
            return Ok(());
        };
        if known.is_some_and(|known| known.era >= told.number) {
            return Ok(());
        }
        // The generations that the other catalog assigns begin about there: see `rescue`.
        let floor = own
            .floor
            .saturating_add(u32::try_from(own.position).unwrap_or(u32::MAX));
        let loss = CatalogLoss {
            repo,
            node: self.name.clone(),
            told_by: Some(told_by.clone()),
            position: LogIndex(own.position),
            era: told.number,
            branch: told.branch,
            floor: Generation(floor.saturating_add(COMMANDS_IN_A_FORK)),
            written: now_unix(),
            found_at: LogIndex(own.position),
        };
        tracing::error!(node = %told_by, era = told.number, "another catalog of this mesh has taken over, as one of its nodes says");
        self.catalog.propose(self.actor(), Command::ReportLoss(loss)).await?;
        Ok(())
    }

    /// Whether this node's catalog has come less far than a mark, or another catalog has taken its place.
    fn is_ahead(&self, anchor: Anchor) -> Result<bool, Failure> {
        let is_founded = self.catalog.view().mesh()?.is_some();
        Ok(!is_founded || is_beyond(anchor, self.anchor()?))
    }

    /// How far this node's catalog has come.
    pub(crate) fn anchor(&self) -> Result<Anchor, Failure> {
        anchor_of(&self.catalog.view())
    }

    /// Whether the catalog is known to have lost entries, or may have: a mark is still to be compared.
    pub(crate) fn doubts_past(&self) -> bool {
        self.repositories.slots().any(|slot| slot.ahead().is_some())
            || self.catalog.view().past().map_or(true, |past| past.loss.is_some())
    }

    /// Refuses a request that rests on the catalog, if the catalog has lost entries.
    pub(crate) fn check_past(&self, request: &Request) -> Result<(), Failure> {
        let rests = rests(request);
        if rests == Rests::No {
            return Ok(());
        }
        let view = self.catalog.view();
        self.refuse_loss(&view)?;
        if rests == Rests::OnReplicas {
            refuse_uncompared(&view)?;
        }
        if rests == Rests::AsRestore {
            return Ok(());
        }
        match self.repositories.slots().find(|slot| slot.ahead().is_some()) {
            None if rests != Rests::AsRead && !self.has_looked_lately() => Err(Failure::new(
                ExitCode::Runtime,
                "this node has not been able to see for a while whether its repositories are its mesh's",
            )
            .remedy("try again: it looks within seconds, or closes the repository that does not answer")
            .again()),
            None => Ok(()),
            Some(slot) => Err(Failure::new(
                ExitCode::Runtime,
                format!("whether the catalog is whole is being compared with repo{}", slot.key),
            )
            .remedy("try again; it takes as long as a majority of the nodes takes to answer")
            .again()),
        }
    }

    /// Refuses to acknowledge a request during which another catalog may have taken over.
    pub(crate) fn refuse_if_taken_over(&self) -> Result<(), Failure> {
        self.refuse_loss(&self.catalog.view())?;
        if self.doubts_past() || !self.has_looked_lately() {
            let what = "whether this catalog is still the mesh's was not known when it was to be acknowledged";
            return Err(Failure::new(ExitCode::Runtime, what)
                .remedy("try again: the same once more changes nothing")
                .again());
        }
        Ok(())
    }

    /// Refuses if the catalog is known to have lost entries.
    pub(crate) fn refuse_loss(&self, view: &View) -> Result<(), Failure> {
        match view.past()?.loss {
            None => Ok(()),
            Some(loss) if is_taken_over(&loss, &view.past()?) => {
                Err(Failure::new(ExitCode::Runtime, describe_takeover(&loss)).remedy(takeover_remedy(&loss)))
            }
            Some(loss) => Err(Failure::new(ExitCode::Runtime, describe(&loss)).remedy(remedy(&loss))),
        }
    }

    /// Whether this node's repositories may still show that the catalog has lost entries: not all of them have been
    /// looked at since its start. The node does not wait for ever: a repository that is away must not block requests.
    pub(crate) fn may_learn_of_loss(&self) -> bool {
        let is_early = self.started.elapsed() < LOOK_FOR;
        is_early && self.repositories.slots().any(|slot| !slot.has_looked())
    }

    /// Whether objects that the catalog does not know may be taken for rubbish.
    pub(crate) fn may_forget(&self) -> bool {
        let is_compared = self.catalog.view().past().is_ok_and(|past| past.uncompared.is_empty());
        is_compared && !self.doubts_past() && !self.may_learn_of_loss() && self.has_looked_lately()
    }

    /// Gives up the lost entries of the catalog.
    pub(crate) async fn accept_loss(&self, actor: &str, position: u64) -> Result<(), Failure> {
        let position = LogIndex(position);
        let branch = random_branch()?;
        self.catalog
            .propose(actor, Command::AcceptLoss { position, branch })
            .await?;
        Ok(())
    }
}

/// Reads marks of a repository. A mark that is gone, damaged or implausible is passed over.
async fn read_anchors(
    repository: &Repository,
    marks: impl Iterator<Item = &Mark> + Send,
) -> Result<Vec<Ahead>, StoreError> {
    let mut read = Vec::new();
    for mark in marks.take(READ_AT_MOST) {
        match repository.read_mark(*mark).await {
            Ok((written, anchor)) if is_plausible(anchor) => read.push(Ahead { anchor, written }),
            Ok((_, anchor)) => tracing::warn!(?anchor, "a mark says what cannot be, and is passed over"),
            Err(error @ (StoreError::NotFound { .. } | StoreError::Damaged { .. })) => {
                tracing::debug!(error = %chain(&error), "a mark is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Raises each field of `highest` to that of `by`.
pub(crate) fn raise(highest: &mut Anchor, by: Anchor) {
    highest.era = highest.era.max(by.era);
    highest.floor = highest.floor.max(by.floor);
    highest.position = highest.position.max(by.position);
}

/// Whether a catalog can have come so far.
fn is_plausible(anchor: Anchor) -> bool {
    anchor.position < LARGEST && u64::from(anchor.floor) < LARGEST && anchor.era < u32::from(u16::MAX)
}

/// In which order the positions of one catalog come.
fn place(anchor: Anchor) -> (u32, u64) {
    (anchor.era, anchor.position)
}

/// Whether a mark says that the catalog with this anchor is not the mesh's: it has come less far, a later era has
/// begun, or another node has begun the same era.
fn is_beyond(mark: Anchor, own: Anchor) -> bool {
    place(own) < place(mark) || own.era == mark.era && own.branch != mark.branch
}

/// How far a catalog has come.
pub(crate) fn anchor_of(view: &View) -> Result<Anchor, Failure> {
    let past = view.past()?;
    Ok(Anchor {
        era: past.era,
        branch: past.branch,
        position: view.applied()?.0,
        floor: view.floor()?.0,
    })
}

/// A random branch, by which two catalogs that begin the same era differ.
pub(crate) fn random_branch() -> Result<u64, Failure> {
    let mut branch = [0; 8];
    random::fill(&mut branch).map_err(|error| Failure::new(ExitCode::Crypto, "no randomness").because(error))?;
    // The first era has 0.
    Ok(u64::from_be_bytes(branch).max(1))
}

fn refuse_uncompared(view: &View) -> Result<(), Failure> {
    let past = view.past()?;
    if past.uncompared.is_empty() {
        return Ok(());
    }
    let repositories: Vec<String> = past.uncompared.iter().map(|repo| format!("repo{repo}")).collect();
    let repositories = repositories.join(", ");
    Err(Failure::new(
        ExitCode::RepoInvalid,
        format!(
            "{repositories}: not compared with the catalog yet, which has lost its end (era {})",
            past.era
        ),
    )
    .because("what the lost part had deleted may be missing, and a backup must not count on it")
    .remedy(
        "the nodes do it by themselves, some minutes after they have started; of a repository that does not come back, \
         'pgmesh --repo=N --force repo-remove' says so",
    ))
}

/// Whether the proof is another catalog's: it was rescued or made anew.
pub(crate) fn is_taken_over(loss: &CatalogLoss, past: &CatalogPast) -> bool {
    (loss.era, loss.branch) != (past.era, past.branch)
}

fn describe_takeover(loss: &CatalogLoss) -> String {
    format!(
        "another catalog of this mesh has taken over in era {}, as {} has shown since {}: a node was rescued, or the catalog \
         was made anew, while this one was away",
        loss.era,
        witness(loss),
        utc(loss.written)
    )
}

/// The node or the repository that has shown the loss.
fn witness(loss: &CatalogLoss) -> String {
    match &loss.told_by {
        Some(node) => format!("node {node}"),
        None => format!("repo{}", loss.repo),
    }
}

fn takeover_remedy(loss: &CatalogLoss) -> String {
    format!(
        "if that is right: stop this node, empty its node-path and let it join that mesh ('pgmesh invite --role=node NAME' there). \
         If this catalog is the one to go on with: stop the nodes of the other one, then run 'pgmesh catalog-accept-loss {}' here",
        loss.position
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

/// An era of the catalog, as one node tells it to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Era {
    pub(crate) number: u32,
    pub(crate) branch: u64,
}

impl Era {
    pub(crate) fn of(view: &View) -> Result<Self, Failure> {
        let CatalogPast { era, branch, .. } = view.past()?;
        Ok(Self { number: era, branch })
    }

    /// A text with the era at its end: all that the closing of a connection can carry.
    pub(crate) fn append_to(self, why: &str) -> String {
        format!("{why} [era {} {:016x}]", self.number, self.branch)
    }

    /// The era that [`Self::append_to`] has appended.
    pub(crate) fn at_end_of(text: &str) -> Option<Self> {
        let (_, said) = text.strip_suffix(']')?.rsplit_once("[era ")?;
        let (number, branch) = said.split_once(' ')?;
        Some(Self {
            number: number.parse().ok()?,
            branch: u64::from_str_radix(branch, 16).ok()?,
        })
    }

    /// Whether another catalog has taken the place of this one's.
    pub(crate) fn is_beyond(self, own: Self) -> bool {
        self.number > own.number || self.number == own.number && self.branch != own.branch
    }
}

/// The lowest generation that an era assigns: so no name is assigned twice, also not one from the lost part of the
/// catalog. A command raises the highest generation by one at most.
///
/// # Errors
/// No numbers are left.
pub(crate) fn floor_of_era(shown: Anchor, own: Anchor) -> Result<Generation, Failure> {
    let known = u64::from(shown.floor.max(own.floor));
    let floor = known + shown.position.max(own.position) + LOST_COMMANDS;
    let floor = u32::try_from(floor)
        .ok()
        .filter(|floor| (*floor as usize) < limits::LOSS_GENERATIONS);
    floor.map(Generation).ok_or_else(|| {
        Failure::new(
            ExitCode::Runtime,
            "no numbers are left for objects: the catalog has come too far",
        )
        .remedy("found a new mesh with other repositories; these stay readable with --repo-direct")
    })
}

/// The most commands that the lost part of a catalog has applied since the last known mark or entry.
const LOST_COMMANDS: u64 = 1 << 24;

/// The marks of a repository, and their anchors taken together.
pub(crate) struct ShownMarks {
    there: Vec<Mark>,
    /// The highest value of each field over all marks.
    pub(crate) highest: Anchor,
    /// The mark that has come farthest, and when it was written, Unix seconds.
    pub(crate) furthest: Option<(Anchor, i64)>,
    /// When the last mark was written, Unix seconds.
    pub(crate) newest: Option<i64>,
}

/// The number of an era's mark is so far above the others that nodes of the old mesh, which number theirs one by one,
/// never take it for an old mark of theirs, and delete it.
const MARK_STEP: u64 = 1 << 32;

impl ShownMarks {
    /// Reads the newest marks; damaged marks are passed over.
    ///
    /// # Errors
    /// As the store answers.
    pub(crate) async fn read(repository: &Repository) -> Result<Self, StoreError> {
        let mut this = Self {
            there: repository.marks().await?,
            highest: Anchor {
                era: 0,
                branch: 0,
                position: 0,
                floor: 0,
            },
            furthest: None,
            newest: None,
        };
        let read = read_anchors(repository, this.there.iter().rev()).await?;
        for Ahead { anchor, written } in read {
            this.newest = this.newest.max(Some(written));
            raise(&mut this.highest, anchor);
            if this.furthest.is_none_or(|(known, _)| place(known) < place(anchor)) {
                this.furthest = Some((anchor, written));
            }
        }
        Ok(this)
    }

    /// The name of a mark by which an era takes the repository over.
    pub(crate) fn mark_of_era(&self) -> Result<Mark, Failure> {
        let next = next_mark(&self.there, 0)?;
        Ok(Mark {
            number: next.number.saturating_add(MARK_STEP),
            ..next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_travels_at_the_end_of_a_reason() {
        let era = Era {
            number: 3,
            branch: u64::MAX - 1,
        };
        let text = era.append_to("node beta was removed [by rescue]");
        assert_eq!(Era::at_end_of(&text), Some(era));
        for other in ["", "removed", "removed [era 3]", "[era x 1]", "[era 1 xyz]"] {
            assert_eq!(Era::at_end_of(other), None, "{other}");
        }
        let own = Era { number: 3, branch: 1 };
        assert!(
            era.is_beyond(own) && own.is_beyond(era),
            "somebody else has begun the same era"
        );
        assert!(!own.is_beyond(own) && !Era { number: 2, branch: 9 }.is_beyond(own));
    }

    #[test]
    fn a_mark_of_another_catalog_is_beyond_this_one() {
        let anchor = |era, branch, position| Anchor {
            era,
            branch,
            position,
            floor: 0,
        };
        let own = anchor(2, 7, 100);
        // The catalog's own marks, and marks of earlier eras, however far they had come.
        for mark in [
            anchor(2, 7, 100),
            anchor(2, 7, 3),
            anchor(1, 9, 5000),
            anchor(0, 0, 5000),
        ] {
            assert!(!is_beyond(mark, own), "{mark:?}");
        }
        // The catalog has lost entries; a later era has begun; another node has begun the same era.
        for mark in [anchor(2, 7, 101), anchor(3, 1, 0), anchor(2, 8, 0)] {
            assert!(is_beyond(mark, own), "{mark:?}");
        }
    }
}

//! A group of one, made from the state and the log of one node of a larger group.
//!
//! A group whose majority is gone for good can neither decide nor shrink. One of its nodes may go on alone, with its
//! whole state and log, the end of the log included. Entries at the end may not have been committed. But a committed
//! entry is kept only in this way, and an uncommitted entry does no harm, because no client was told that it failed.
//!
//! The catalog is made in a folder of its own, under another number, and the old one stays as it is. So nothing is
//! half done after a crash, and the old number, for which others know positions and votes, is never used again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use openraft::{BasicNode, Membership, StoredMembership, Vote};

use super::{Catalog, clearance};
use crate::apply::Base;
use crate::error::CatalogError;
use crate::key;
use crate::options::CatalogOptions;
use crate::peers::NoPeers;
use crate::store::{Folder, LogStore, StateStore};
use crate::table::Table;

/// The number of a rescued node is so far above the last that its catalog knows: the lost part of the catalog may have
/// given out some.
const NUMBERS_SKIPPED: u64 = 1000;

/// A catalog of one voter that is not complete yet: see [`Catalog::regroup`].
pub struct Regrouped {
    /// It leads, and takes commands.
    pub catalog: Catalog,
    /// How many entries at the end of the log were not known to be committed, and are kept.
    pub uncommitted: u64,
    /// The number that the node has had.
    pub was: u64,
    /// Whether it had a vote.
    pub was_voter: bool,
    folder: Folder,
}

impl Regrouped {
    /// Stops the catalog and declares it complete: from now on it can be opened.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn complete(self) -> Result<(), CatalogError> {
        self.catalog.shutdown().await?;
        self.folder.complete()
    }
}

impl Catalog {
    /// Makes in `to` a catalog of one voter, which is reached at `address`, from the catalog in `from`. Its number is
    /// 1,000 above the last that was given out. The old catalog must not be open, and is not changed. The next attempt
    /// replaces the remains of an interrupted one.
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::InUse`], [`CatalogError::Format`]; a disk that has lost something;
    /// entries that cannot be applied; errors of disk and database.
    pub async fn regroup(
        from: &Path,
        to: &Path,
        address: String,
        options: &CatalogOptions,
    ) -> Result<Regrouped, CatalogError> {
        let folder = Folder::create(to).await?;
        let copied = copy(from, &folder, address, options).await?;
        let catalog = Self::start(&folder, None, std::sync::Arc::new(NoPeers), options).await?;
        // The number is new: no other node can know anything of it.
        catalog.clearance.clear(clearance::Pledge::default());
        catalog.wait_for_leadership().await?;
        Ok(Regrouped {
            catalog,
            uncommitted: copied.uncommitted,
            was: copied.was,
            was_voter: copied.was_voter,
            folder,
        })
    }
}

struct Copied {
    uncommitted: u64,
    was: u64,
    was_voter: bool,
}

/// Copies the state, brings the copy to the end of the log, and lets an empty log begin behind it. Nothing of this is
/// done to the old catalog: an administrator who thinks better of it starts the node as it was.
async fn copy(from: &Path, to: &Folder, address: String, options: &CatalogOptions) -> Result<Copied, CatalogError> {
    let folder = Folder::open(from).await?;
    let log = LogStore::open(&folder, options)?;
    let number = log.node_id(None).await?;
    let committed = log.committed().await?.map_or(0, |committed| committed.index);
    let vote = log.vote().await?.map_or(0, |vote| vote.leader_id.term);
    let old = StateStore::open_after(&folder, options, log.purged()?)?;
    old.copy_to(to)?;
    drop(old);
    let state = StateStore::open(to, options)?;
    state.skip(log.skip(&[]).await?);
    loop {
        let applied = state.current().raft_state()?.last_applied;
        let next = applied.map_or(0, |applied| applied.index.saturating_add(1));
        let entries = log.entries_from(next).await?;
        match entries.first() {
            None => break,
            Some(entry) if entry.log_id.index == next => state.apply_entries(entries).await?,
            Some(entry) => {
                return Err(CatalogError::Stopped(format!(
                    "the log of node number {number} goes on at entry {}, and its state ends before entry {next}",
                    entry.log_id.index
                )));
            }
        }
    }
    let mut raft = state.current().raft_state()?;
    let Some(last) = raft.last_applied else {
        return Err(CatalogError::Missing(from.to_owned()));
    };
    let last_number: Option<u64> = state.current().record(Table::Mesh, key::LAST_NODE_ID)?;
    let known = last_number.unwrap_or_default().max(number);
    let new = known.saturating_add(NUMBERS_SKIPPED);
    let was_voter = raft.membership.voter_ids().any(|voter| voter == number);
    let nodes = BTreeMap::from([(new, BasicNode::new(address))]);
    let membership = Membership::new(vec![BTreeSet::from([new])], nodes);
    raft.membership = StoredMembership::new(Some(last), membership);
    state.set_raft_state(&raft)?;
    let log = LogStore::open(to, options)?;
    log.node_id(Some(new)).await?;
    log.begin_behind(last, Vote::new(vote.max(last.leader_id.term), new))
        .await?;
    Ok(Copied {
        uncommitted: last.index.saturating_sub(committed),
        was: number,
        was_voter,
    })
}

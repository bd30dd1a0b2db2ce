//! Telling an older copy of a repository from the repository.
//!
//! A directory that is put back from a backup, or the wrong snapshot of a volume, has the identity and the keys of the
//! repository, and all its objects are whole: only the objects that were written last are missing. So a node that
//! writes to a repository writes a *mark* there, a small object under a new name, at most once a minute and when it
//! stops, and tells the catalog when it is durable. A repository that lacks the newest mark is not opened.
//!
//! An ordinary restart, a crash, and debts never trip this: the mark is durable before the catalog hears of it, and the
//! two newest are never deleted. A catalog that lags behind knows an older mark than the repository has, which is no
//! reason for alarm either.

use super::marking::Marking;
use super::slot::{OpenRepository, Opened, Slot};
use crate::core::Core;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, now_unix, utc};
use pgmesh_raft::{Command, ObjectRef, Replica, RepositoryMark, RepositoryRecord, View};
use pgmesh_runtime::random;
use pgmesh_storage::{Mark, RepoKey, Repository, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a node looks whether a mark is due.
const PERIOD: Duration = Duration::from_secs(3);
/// How long the last marks may hold up a node that stops.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// How many marks a node writes until it lists them again: a listing costs money in a bucket.
const LISTED_EVERY: u32 = 60;
/// Objects that are looked for at once in an older copy.
const LOOKED_FOR_AT_ONCE: usize = 64;

/// Whether a repository has the newest mark.
pub(super) enum Newest {
    /// As far as is known.
    There,
    /// It is an older copy: why, in words.
    Missing(String),
}

impl Core {
    /// Marks repositories until the node stops.
    pub async fn keep_marking(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            join_all(self.repositories.slots().map(|slot| async {
                let Opened::Open(repository) = slot.opened() else {
                    return;
                };
                match tokio::time::timeout(slot.io_timeout, self.mark_if_due(slot, &repository)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => tracing::warn!(repo = %slot.key, error = %failure, "no mark was written"),
                    Err(_) => tracing::warn!(repo = %slot.key, limit = ?slot.io_timeout, "no mark was written in time"),
                }
            }))
            .await;
        }
    }

    /// Writes marks for objects that were written since the last marks, before the node stops: a copy that is put back
    /// while the node is down is compared with them. Nothing hangs on its success.
    pub(crate) async fn mark_before_stop(&self) {
        let marks = join_all(self.repositories.slots().map(|slot| async {
            if let Opened::Open(repository) = slot.opened()
                && let Err(failure) = self.mark_last(slot, &repository).await
            {
                tracing::debug!(repo = %slot.key, error = %failure, "no mark was written before the stop");
            }
        }));
        // Without a quorum the catalog hears of no mark.
        let _ = tokio::time::timeout(STOP_LIMIT, marks).await;
    }

    async fn mark_last(&self, slot: &Slot, repository: &OpenRepository) -> Result<(), Failure> {
        let mut marking = slot.marking.lock().await;
        if self.doubts_past() || slot.written() <= marking.written || self.to_be_marked(slot, repository)?.is_none() {
            return Ok(());
        }
        // A mark in an older copy would make it pass for the repository.
        match self.has_newest(slot, repository).await {
            Ok(Newest::There) => self.write_mark(slot, repository, &mut marking).await,
            Ok(Newest::Missing(why)) => {
                tracing::warn!(repo = %slot.key, why, "no mark is written before the stop");
                Ok(())
            }
            Err(error) => Err(unmarked(slot.key, &error)),
        }
    }

    /// The catalog's record of an open repository, if it is the mesh's, has the host that this node's file gives it,
    /// and takes replicas.
    fn to_be_marked(&self, slot: &Slot, repository: &OpenRepository) -> Result<Option<RepositoryRecord>, Failure> {
        let record = self.catalog.view().repository(slot.key)?;
        let identity = repository.claimed_as();
        Ok(record.filter(|record| record.takes_replicas(identity) && record.host == self.host_of(slot)))
    }

    async fn mark_if_due(&self, slot: &Slot, repository: &OpenRepository) -> Result<(), Failure> {
        let Some(record) = self.to_be_marked(slot, repository)? else {
            return Ok(());
        };
        if self.doubts_past() {
            return Ok(());
        }
        let mut marking = slot.marking.lock().await;
        let known = record.mark.as_ref().map_or(0, |mark| mark.number);
        let is_due = marking.is_due(slot.written(), Instant::now());
        if known > marking.newest || is_due {
            // The catalog knows a newer mark, or a new mark is due: is this still the same repository?
            let newest = self.has_newest(slot, repository).await;
            if let Newest::Missing(why) = newest.map_err(|error| unmarked(slot.key, &error))? {
                self.close(slot, &why);
                return Ok(());
            }
        }
        if known > marking.newest {
            marking.newest = known;
            // After a restart the first write is marked at once.
            marking.since = marking.since.map(|_| Instant::now());
            return Ok(());
        }
        if is_due {
            self.write_mark(slot, repository, &mut marking).await?;
        }
        Ok(())
    }

    async fn write_mark(&self, slot: &Slot, repository: &OpenRepository, marking: &mut Marking) -> Result<(), Failure> {
        let written = slot.written();
        // Also where it fails: at most one a minute.
        marking.since = Some(Instant::now());
        let (mut there, since_listed) = match marking.there.take() {
            Some((there, since_listed)) if since_listed < LISTED_EVERY => (there, since_listed),
            _ => (repository.marks().await.map_err(|error| unmarked(slot.key, &error))?, 0),
        };
        let mark = next_mark(&there, marking.newest)?;
        let at = now_unix();
        let put = repository.write_mark(mark, at, self.anchor()?).await;
        put.map_err(|error| unmarked(slot.key, &error))?;
        self.tell_mark(slot.key, repository, mark).await?;
        let before = marking.newest;
        marking.are_kept = !slot.may_delete();
        // The mark before it stays: it is the newest for nodes that have not heard of the new mark yet.
        let is_old = |old: &Mark| old.number < before;
        for old in there.clone().into_iter().filter(|old| is_old(old) && !marking.are_kept) {
            match repository.delete_mark(old).await {
                Ok(()) => there.retain(|known| *known != old),
                Err(StoreError::Retained { .. }) => {
                    marking.are_kept = true;
                    break;
                }
                Err(error) => {
                    tracing::debug!(repo = %slot.key, error = %chain(&error), "an old mark stays for now");
                    break;
                }
            }
        }
        // Where nothing can be deleted their number grows, and only the highest counts.
        there.retain(|known| !marking.are_kept || !is_old(known));
        there.push(mark);
        marking.there = Some((there, since_listed + 1));
        marking.newest = mark.number;
        marking.written = written;
        Ok(())
    }

    async fn tell_mark(&self, repo: RepoKey, repository: &OpenRepository, mark: Mark) -> Result<(), Failure> {
        let command = Command::MarkRepository {
            repo,
            identity: repository.claimed_as().clone(),
            number: mark.number,
            nonce: mark.nonce,
        };
        self.catalog.propose(self.actor(), command).await?;
        Ok(())
    }

    /// Whether a repository has the newest mark that the catalog knows of it, or a newer mark.
    pub(super) async fn has_newest(&self, slot: &Slot, repository: &Repository) -> Result<Newest, StoreError> {
        let record = self.catalog.view().repository(slot.key).ok().flatten();
        let Some(known) = record.and_then(|record| record.mark) else {
            return Ok(Newest::There);
        };
        let (number, nonce) = (known.number, known.nonce);
        if repository.has_mark(Mark { number, nonce }).await? {
            return Ok(Newest::There);
        }
        let last = repository.marks().await?.into_iter().next_back();
        if last.is_some_and(|last| last.number > number) {
            // This node's catalog lags behind.
            return Ok(Newest::There);
        }
        let time = match last {
            Some(last) => repository.read_mark(last).await.ok().map(|(at, _)| at),
            None => None,
        };
        Ok(Newest::Missing(older_copy(slot, &known, time)))
    }

    /// Accepts an older copy as the repository: replicas that the catalog lists there, and that are missing, are
    /// withdrawn and owed. Returns the number of missing objects, and of present ones.
    pub(crate) async fn take_older_copy(
        &self,
        repo: RepoKey,
        repository: &OpenRepository,
    ) -> Result<(u64, u64), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let (mut missing, mut there) = (0, 0);
        let mut walk = Walk::default();
        let slot = self.own_slot(repo)?.clone();
        while let Some((lacks, has)) = self.compare_page(&view, &slot, repository, &mut walk, false).await? {
            missing += lacks;
            there += has;
        }
        // Last: an attempt that was interrupted leaves an older copy, and all of this begins again.
        self.mark_anew(repo, repository).await?;
        Ok((missing, there))
    }

    /// Looks for the next objects that the catalog believes to be in a repository; missing replicas are withdrawn and
    /// owed. Returns how many are missing and how many are there; none at the end. A walk whose page has failed
    /// goes on with the same page. With `tolerate`, objects that the repository does not hand out count as missing, if
    /// it answers for other objects.
    pub(crate) async fn compare_page(
        &self,
        view: &View,
        slot: &Slot,
        repository: &OpenRepository,
        walk: &mut Walk,
        tolerate: bool,
    ) -> Result<Option<(u64, u64)>, Failure> {
        let before = walk.after.clone();
        let Some(page) = walk.page(view, slot.key)? else {
            return Ok(None);
        };
        let looks = page.into_iter().map(|(object, replica)| async move {
            let looked = self.withdraw_missing(view, repository, object.clone(), replica);
            let silent = || Failure::new(ExitCode::RepoInvalid, format!("repo{} does not answer", slot.key));
            let looked = tokio::time::timeout(slot.io_timeout, looked).await;
            (object, replica, looked.unwrap_or_else(|_| Err(silent())))
        });
        let looked: Vec<_> = stream::iter(looks).buffer_unordered(LOOKED_FOR_AT_ONCE).collect().await;
        let (mut missing, mut there, mut failures) = (0, 0, Vec::new());
        for (object, replica, looked) in looked {
            match looked {
                Ok(true) => there += 1,
                Ok(false) => missing += 1,
                Err(failure) => failures.push((object, replica, failure)),
            }
        }
        let answers = there + missing > 0;
        for (object, replica, failure) in failures {
            if !tolerate || !answers {
                walk.after = before;
                return Err(failure);
            }
            tracing::warn!(repo = %slot.key, %object, error = %failure, "an object that cannot be looked for counts as lost");
            self.withdraw(repository, object, replica, "it cannot be looked for")
                .await?;
            missing += 1;
        }
        Ok(Some((missing, there)))
    }

    /// Writes a mark above all marks that are there, whether a mark is due or not.
    pub(crate) async fn mark_now(&self, slot: &Slot, repository: &OpenRepository) -> Result<(), Failure> {
        let _alone = slot.marking.lock().await;
        self.mark_anew(slot.key, repository).await
    }

    async fn mark_anew(&self, repo: RepoKey, repository: &OpenRepository) -> Result<(), Failure> {
        let known = self.catalog.view().repository(repo)?.and_then(|record| record.mark);
        let marks = repository.marks().await.map_err(|error| unmarked(repo, &error))?;
        let mark = next_mark(&marks, known.map_or(0, |known| known.number))?;
        let put = repository.write_mark(mark, now_unix(), self.anchor()?).await;
        put.map_err(|error| unmarked(repo, &error))?;
        self.tell_mark(repo, repository, mark).await
    }

    /// Whether a replica is there; a missing replica is withdrawn.
    async fn withdraw_missing(
        &self,
        view: &View,
        repository: &OpenRepository,
        object: ObjectRef,
        replica: Replica,
    ) -> Result<bool, Failure> {
        let Some(known) = crate::refs::known(view, &object)? else {
            return Ok(true);
        };
        match repository.stored_length(&known.name, replica.generation).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => {
                let what = "the repository does not have it";
                self.withdraw(repository, object, replica, what).await?;
                Ok(false)
            }
            Err(error) => Err(Failure::new(
                ExitCode::RepoInvalid,
                format!("repo{} cannot be looked through", replica.repo),
            )
            .because(chain(&error))
            .remedy("run the command again: what was found missing so far is owed already")),
        }
    }
}

impl Core {
    /// A replica is not there.
    async fn withdraw(
        &self,
        repository: &OpenRepository,
        object: ObjectRef,
        replica: Replica,
        what: &str,
    ) -> Result<(), Failure> {
        let identity = repository.claimed_as().clone();
        let command = Command::ReportBad {
            object,
            bad: pgmesh_raft::Claim { replica, identity },
            reason: pgmesh_raft::DebtReason::Missing,
            what: what.to_owned(),
        };
        self.catalog.propose(self.actor(), command).await?;
        Ok(())
    }
}

/// A walk over all objects that the catalog believes to be in a repository.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    after: Option<ObjectRef>,
}

/// How many objects one page of a walk has.
const PAGE: usize = 1_000;

impl Walk {
    fn page(&mut self, view: &View, repo: RepoKey) -> Result<Option<Vec<(ObjectRef, Replica)>>, Failure> {
        let page = view.objects_after(self.after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(None);
        };
        self.after = Some(last.clone());
        let held = page.into_iter().filter_map(|(object, stored)| {
            let replica = stored.replicas.into_iter().find(|replica| replica.repo == repo);
            replica.map(|replica| (object, replica))
        });
        Ok(Some(held.collect()))
    }
}

/// Above all marks that are known or there.
pub(crate) fn next_mark(there: &[Mark], known: u64) -> Result<Mark, Failure> {
    let highest = there.iter().map(|mark| mark.number).max().unwrap_or(0).max(known);
    let mut nonce = [0; 8];
    random::fill(&mut nonce).map_err(|error| Failure::new(ExitCode::Crypto, "no randomness").because(error))?;
    Ok(Mark {
        number: highest.saturating_add(1),
        nonce: u64::from_be_bytes(nonce),
    })
}

fn unmarked(repo: RepoKey, error: &StoreError) -> Failure {
    Failure::new(ExitCode::RepoInvalid, format!("the marks of repo{repo} cannot be used")).because(chain(error))
}

fn older_copy(slot: &Slot, known: &RepositoryMark, there: Option<i64>) -> String {
    let (place, repo) = (slot.settings.store(), slot.key);
    let has = match there {
        Some(at) => format!("the newest there is of {}", utc(at)),
        None => "there is none".to_owned(),
    };
    format!(
        "{place} holds an older copy of repo{repo}: the mark that the mesh wrote there at {} is missing, {has}, and what was \
         written since is missing, too. Put the newer one back; if it is lost, run 'pgmesh --repo={repo} repo-replace': it \
         withdraws what is missing, which is then copied from the other repositories",
        utc(known.at)
    )
}

#[cfg(test)]
mod tests {
    use super::super::marking::{INTERVAL, INTERVAL_WHERE_KEPT};
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;

    #[test]
    fn a_mark_follows_writes_and_no_sooner_than_a_minute_after_the_last() {
        let now = Instant::now();
        let mut marking = Marking::default();
        assert!(!marking.is_due(0, now), "nothing was written");
        assert!(marking.is_due(1, now));
        marking.since = Some(now);
        marking.written = 1;
        assert!(!marking.is_due(1, now + INTERVAL * 9));
        assert!(!marking.is_due(2, now + INTERVAL / 2));
        assert!(marking.is_due(2, now + INTERVAL));
        marking.are_kept = true;
        assert!(
            !marking.is_due(2, now + INTERVAL),
            "marks under object lock stay for ever"
        );
        assert!(marking.is_due(2, now + INTERVAL_WHERE_KEPT));
    }

    #[test]
    fn numbers_rise_above_all_that_are_there() {
        let mark = |number| Mark { number, nonce: 1 };
        assert_eq!(next_mark(&[], 0).unwrap().number, 1);
        assert_eq!(next_mark(&[mark(3), mark(9)], 4).unwrap().number, 10);
        assert_eq!(next_mark(&[mark(3)], 40).unwrap().number, 41);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_copy_gets_no_mark_before_the_stop() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let repo = RepoKey::new(1).unwrap();
        let marks = || std::fs::read_dir(site.repository().join("pgmesh.mark")).unwrap();
        site.node.mark_before_stop().await;
        let known = site.node.catalog.view().repository(repo).unwrap().unwrap().mark;
        assert!(known.is_some());
        for mark in marks() {
            std::fs::remove_file(mark.unwrap().path()).unwrap();
        }
        site.node.own_slot(repo).unwrap().note_written();
        site.node.mark_before_stop().await;
        assert_eq!(marks().count(), 0);
        let after = site.node.catalog.view().repository(repo).unwrap().unwrap().mark;
        assert_eq!(after, known);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_copy_is_closed_before_it_gets_the_next_mark_and_is_not_opened_again() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        site.node.mark_before_stop().await;
        let folder = site.repository().join("pgmesh.mark");
        for mark in std::fs::read_dir(&folder).unwrap() {
            std::fs::remove_file(mark.unwrap().path()).unwrap();
        }
        let slot = site.node.own_slot(RepoKey::new(1).unwrap()).unwrap().clone();
        let Opened::Open(repository) = slot.opened() else {
            panic!("it is not open")
        };
        slot.marking.lock().await.since = None;
        slot.note_written();
        site.node.mark_if_due(&slot, &repository).await.unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        for _ in 0..2 {
            assert!(matches!(slot.opened(), Opened::Closed { why, .. } if why.contains("older copy")));
            site.node.open_one(&slot).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn marks_are_listed_once_in_a_while_and_two_of_them_stay() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let slot = site.node.own_slot(RepoKey::new(1).unwrap()).unwrap().clone();
        let Opened::Open(repository) = slot.opened() else {
            panic!("it is not open")
        };
        let marks = || {
            std::fs::read_dir(site.repository().join("pgmesh.mark"))
                .unwrap()
                .count()
        };
        let mut marking = slot.marking.lock().await;
        let mut listings = 0;
        for _ in 0..=LISTED_EVERY {
            slot.note_written();
            listings += u32::from(marking.there.as_ref().is_none_or(|(_, since)| *since >= LISTED_EVERY));
            site.node.write_mark(&slot, &repository, &mut marking).await.unwrap();
            assert!(marks() <= 2, "{} marks", marks());
        }
        assert_eq!((listings, marks()), (2, 2));
        // A mark that a dead process has left is deleted after the next listing.
        let left = Mark { number: 1, nonce: 7 };
        repository
            .write_mark(left, 1, site.node.anchor().unwrap())
            .await
            .unwrap();
        marking.there = None;
        site.node.write_mark(&slot, &repository, &mut marking).await.unwrap();
        assert_eq!(marks(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_repository_that_another_node_hosts_now_is_closed_and_gets_no_mark() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let repo = RepoKey::new(1).unwrap();
        site.node.mark_before_stop().await;
        let known = site.node.catalog.view().repository(repo).unwrap().unwrap().mark;
        site.propose(Command::UpdateRepository {
            repo,
            definition: None,
            host: Some(Some("beta".parse().unwrap())),
            wrapped_keys: None,
        })
        .await;
        let marks = || {
            std::fs::read_dir(site.repository().join("pgmesh.mark"))
                .unwrap()
                .count()
        };
        let before = marks();
        site.node.own_slot(repo).unwrap().note_written();
        site.node.mark_before_stop().await;
        let record = site.node.catalog.view().repository(repo).unwrap().unwrap();
        assert_eq!((record.mark, marks()), (known, before));
        site.wait("its end", |node| {
            !matches!(node.own_slot(repo).unwrap().opened(), Opened::Open(_))
        })
        .await;
        // The repository comes back, and objects that are written from now on are claimed of its present place.
        let host = Some(Some(site.node.name.clone()));
        site.propose(Command::UpdateRepository {
            repo,
            definition: None,
            host,
            wrapped_keys: None,
        })
        .await;
        let placed = site.node.catalog.view().repository(repo).unwrap().unwrap().placed;
        site.wait("it to be open at its place", |node| {
            match node.own_slot(repo).unwrap().opened() {
                Opened::Open(open) => open.claimed_as().placed == placed,
                _ => false,
            }
        })
        .await;
        client.begin_backup("20260101-000000F").await.unwrap();
    }
}

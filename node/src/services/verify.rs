//! Reading and checking everything: each object of each repository, each backup's chunks, each timeline's WAL.

mod backups;
mod chunks;
mod parts;
mod wal;

use self::parts::{Sets, check_part, damaged_path};
use super::foreign::Foreign;
use crate::budget::Budget;
use crate::repositories::{BadReplica, OpenRepository, Slot, SlotError};
use crate::{Node, refs};
use futures::{StreamExt, TryStreamExt};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, Finding, FindingKind, HealthInfo, VerifyEvent, VerifyRequest, VerifySummary};
use pgmesh_raft::{Claim, GarbageKey, ObjectRef, Refusal, Replica, SessionKind, StanzaRecord, View};
use pgmesh_runtime::tasks;
use pgmesh_storage::{
    Digest, FILE_PART_LENGTH, Generation, LARGEST_SINGLE_OBJECT, ObjectKind, ObjectName, ObjectPath, RepoKey,
    Repository, StanzaName,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Where events go; a closed receiver ends the verification at the next event.
pub(crate) type VerifySink = mpsc::Sender<VerifyEvent>;

/// Objects read at once from one repository.
const READS_AT_ONCE: usize = 4;
/// The plaintext of a chunk or a manifest is seldom longer.
const USUAL_PLAIN: u64 = 2 << 20;
/// The file with the identity of a repository.
const IDENTITY: &str = "pgmesh.repo";
/// Objects between two progress events.
const PROGRESS_EVERY: u64 = 64;

/// The state of one verification.
struct Verification<'n> {
    node: &'n Node,
    request: VerifyRequest,
    sink: VerifySink,
    summary: VerifySummary,
    /// Bad paths of each repository; the chunks of the backups are compared with them.
    bad: BTreeMap<RepoKey, HashSet<String>>,
    /// Repositories that could not be read to the end: no object is reported as missing from them.
    unreadable: BTreeSet<RepoKey>,
}

/// The kind of object found at a path of a listing.
enum Lies {
    /// An object with content.
    Content(ObjectName),
    /// The repository's identity, or a key.
    Own,
    /// No object of the repository.
    Foreign,
    /// A part of a file, which was read with its first part.
    Part,
}

impl Node {
    /// Verifies this node's own repositories. Events go into `sink`; the last is `Done` or `Failed`.
    pub(crate) async fn verify_own(&self, request: VerifyRequest, sink: VerifySink) {
        let last = match self.run_verify(request, sink.clone()).await {
            Ok(summary) => VerifyEvent::Done(summary),
            Err(failure) => VerifyEvent::Failed(failure),
        };
        // The client may have gone.
        let _ = sink.send(last).await;
        self.repair.wake();
    }

    async fn run_verify(&self, request: VerifyRequest, sink: VerifySink) -> Result<VerifySummary, Failure> {
        let holder = format!("node {}: verify", self.name);
        let _session = self
            .sessions
            .open(SessionKind::Verify, request.stanza.clone(), holder)
            .await?;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        if let Some(stanza) = &request.stanza
            && view.stanza(stanza)?.is_none()
        {
            return Err(Refusal::UnknownStanza(stanza.clone()).into());
        }
        let slots: Vec<Arc<Slot>> = self
            .repositories
            .slots()
            .filter(|slot| request.repo.is_none_or(|repo| slot.key.get() == repo))
            .filter(|slot| request.part.as_ref().is_none_or(|part| part.contains(&slot.key)))
            .cloned()
            .collect();
        if slots.is_empty() {
            return Err(Failure::new(
                ExitCode::RepoInvalid,
                "this node's file declares no such repository",
            ));
        }
        let mut verification = Verification {
            node: self,
            request,
            sink,
            summary: VerifySummary::default(),
            bad: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        };
        for slot in &slots {
            verification.repository(&view, slot).await?;
        }
        // The stanzas are checked in a newer view: bad objects have been reported since, and debts may have been paid.
        verification.stanzas(&view, &slots).await?;
        Ok(verification.summary)
    }
}

impl Verification<'_> {
    async fn found(&mut self, finding: Finding) -> Result<(), Failure> {
        self.tell(VerifyEvent::Found(finding)).await
    }

    async fn tell(&self, event: VerifyEvent) -> Result<(), Failure> {
        self.sink
            .send(event)
            .await
            .map_err(|_| Failure::new(ExitCode::Runtime, "whoever asked for the verification has gone"))
    }

    /// Reads every object of one repository (invariant 6), and says which known ones are not there.
    async fn repository(&mut self, view: &View, slot: &Arc<Slot>) -> Result<(), Failure> {
        let Some(repository) = slot.repository() else {
            return self.unreadable(slot.key, why_closed(slot.health())).await;
        };
        let mut foreign = Foreign::default();
        for folder in self.folders() {
            let read = self.folder(view, slot.key, &repository, &folder, &mut foreign).await?;
            if let Err(error) = read {
                return self.unreadable(slot.key, error).await;
            }
        }
        for finding in foreign.findings(slot.key) {
            self.found(finding).await?;
        }
        if self.request.stanza.is_some() {
            // Not in any folder; without a stanza it is listed with all the rest.
            self.identity(slot.key, &repository).await?;
            if let Err(error) = self.own_chunks(view, slot.key, &repository).await? {
                return self.unreadable(slot.key, error).await;
            }
        }
        self.missing(view, slot.key, &repository).await
    }

    async fn identity(&mut self, repo: RepoKey, repository: &Repository) -> Result<(), Failure> {
        self.summary.objects += 1;
        match repository.verify_path(IDENTITY).await {
            Ok(length) => {
                self.summary.bytes += length;
                Ok(())
            }
            Err(error) => self.damaged(repo, IDENTITY, &chain(&error)).await,
        }
    }

    async fn unreadable(&mut self, repo: RepoKey, what: String) -> Result<(), Failure> {
        self.unreadable.insert(repo);
        self.found(Finding {
            kind: FindingKind::Unreadable,
            repo: Some(repo.get()),
            stanza: None,
            subject: format!("repo{repo}"),
            what,
        })
        .await
    }

    /// A stanza's objects are in its folder, its chunks among all chunks: these are not listed.
    fn folders(&self) -> Vec<String> {
        match &self.request.stanza {
            None => vec![String::new()],
            Some(stanza) => vec![pgmesh_storage::prefix::stanza(stanza), "pgmesh.key".to_owned()],
        }
    }

    /// Reads all objects of a folder. The inner error ends the repository.
    async fn folder(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
        folder: &str,
        foreign: &mut Foreign,
    ) -> Result<Result<(), String>, Failure> {
        let budget = &self.node.budget;
        let mut objects = repository
            .list(folder)
            .map_ok(|listed| {
                let (repository, budget) = (repository.clone(), budget.clone());
                async move {
                    let checked = check_held(repo, repository, budget, listed.path.clone(), listed.length).await;
                    Ok((listed, checked))
                }
            })
            .try_buffer_unordered(READS_AT_ONCE);
        let mut sets = Sets::default();
        while let Some(next) = objects.next().await {
            let (listed, checked) = match next {
                Ok(next) => next,
                Err(error) => return Ok(Err(chain(&error))),
            };
            if matches!(checked, Ok(Lies::Foreign)) {
                if !Repository::is_left_by_check(&listed.path) {
                    foreign.add(&listed.path);
                }
                continue;
            }
            let part = ObjectPath::parse(&listed.path).and_then(|path| Some((path.part()?, path)));
            if let Some((part, path)) = &part
                && let Some(file) = sets.add(path, *part)
            {
                self.unreferenced_file(view, repo, repository, file).await?;
            }
            self.read_one(listed.length).await?;
            match checked {
                Ok(Lies::Content(name)) => self.referenced(view, repo, &name, &listed.path).await?,
                Ok(Lies::Own | Lies::Foreign | Lies::Part) => {}
                Err(error) => match error.condemns() {
                    // Deleted between the listing and the reading: whether it should be there is asked below.
                    Some(true) => {}
                    Some(false) => {
                        if let Some((_, path)) = part {
                            self.bad.entry(repo).or_default().insert(path.whole().to_string());
                        }
                        let path = damaged_path(&error, &listed.path);
                        self.damaged(repo, &path, &chain(&error)).await?;
                    }
                    None => return Ok(Err(chain(&error))),
                },
            }
        }
        self.unreferenced_sets(view, repo, repository, sets).await?;
        Ok(Ok(()))
    }

    /// One more object was read.
    async fn read_one(&mut self, length: u64) -> Result<(), Failure> {
        self.summary.objects += 1;
        self.summary.bytes += length;
        if self.summary.objects.is_multiple_of(PROGRESS_EVERY) {
            let (objects, bytes) = (self.summary.objects, self.summary.bytes);
            self.tell(VerifyEvent::Progress { objects, bytes }).await?;
        }
        Ok(())
    }

    async fn damaged(&mut self, repo: RepoKey, path: &str, what: &str) -> Result<(), Failure> {
        self.bad.entry(repo).or_default().insert(path.to_owned());
        let stanza = ObjectPath::parse(path).and_then(|path| path.stanza().map(ToString::to_string));
        self.found(Finding {
            kind: FindingKind::Damaged,
            repo: Some(repo.get()),
            stanza,
            subject: path.to_owned(),
            what: what.to_owned(),
        })
        .await
    }

    /// Says when nothing refers to a good object, and it is not known either to be of no use and on its way out, or
    /// kept.
    async fn referenced(&mut self, view: &View, repo: RepoKey, name: &ObjectName, path: &str) -> Result<(), Failure> {
        let generation = ObjectPath::parse(path).map_or(Generation::FIRST, |path| path.generation());
        let stored = view.object(&refs::object_ref(name))?;
        let replica = Replica { repo, generation };
        if stored.is_some_and(|stored| stored.digest == name.digest() && stored.replicas.contains(&replica)) {
            return Ok(());
        }
        // It may have been committed since the view was taken.
        let now = self.node.catalog.view().object(&refs::object_ref(name))?;
        if now.is_some_and(|stored| stored.replicas.contains(&replica)) {
            return Ok(());
        }
        let useless = GarbageKey {
            object: refs::object_ref(name),
            repo,
            generation,
        };
        if self.node.catalog.view().is_useless(&useless)? {
            return Ok(());
        }
        self.found(Finding {
            kind: FindingKind::Unreferenced,
            repo: Some(repo.get()),
            stanza: None,
            subject: path.to_owned(),
            what: "no backup or archive refers to it (left by an upload that was not finished)".to_owned(),
        })
        .await
    }

    /// Reports the objects that the catalog knows in a repository and that are not there.
    async fn missing(&mut self, view: &View, repo: RepoKey, repository: &OpenRepository) -> Result<(), Failure> {
        let mut after: Option<Digest> = None;
        while let Some(page) = self.page(view, &mut after)? {
            for (digest, record) in page {
                let object = ObjectRef::Chunk(digest);
                self.check_present(view, repo, repository, object, &record.replicas)
                    .await?;
            }
        }
        for (stanza, record) in self.stanza_rows(view)? {
            for database in &record.databases {
                let object = ObjectRef::StanzaInfo {
                    stanza: stanza.clone(),
                    db: database.id,
                };
                self.check_present(view, repo, repository, object, &database.info.replicas)
                    .await?;
                for row in view.segments(&stanza, database.id, None) {
                    let (file, segment) = row?;
                    let object = ObjectRef::Segment {
                        stanza: stanza.clone(),
                        db: database.id,
                        file,
                    };
                    self.check_present(view, repo, repository, object, &segment.object.replicas)
                        .await?;
                }
            }
            for row in view.backups(&stanza, None) {
                let (label, backup) = row?;
                // What no repository keeps any more is about to go.
                if backup.holders().next().is_none() && !backup.expired.is_empty() {
                    continue;
                }
                let object = ObjectRef::Manifest {
                    stanza: stanza.clone(),
                    label,
                };
                self.check_present(view, repo, repository, object, &backup.manifest.replicas)
                    .await?;
            }
        }
        Ok(())
    }

    /// Checks that an object that the catalog knows is there and is good. If not, it is reported, so that it is
    /// repaired.
    async fn check_present(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
        object: ObjectRef,
        replicas: &[Replica],
    ) -> Result<(), Failure> {
        let Some(known) = refs::known(view, &object)? else {
            return Ok(());
        };
        let Some(replica) = replicas.iter().find(|replica| replica.repo == repo) else {
            let path = repository.path_of(&known.name, Generation::FIRST).to_string();
            return self.lost(view, repo, &object, path, replicas).await;
        };
        let path = repository.path_of(&known.name, replica.generation).to_string();
        if self.bad.get(&repo).is_some_and(|bad| bad.contains(&path)) {
            self.report(&object, *replica, repository, false, "found by verify")
                .await;
            return Ok(());
        }
        match repository.stored_length(&known.name, replica.generation).await {
            Ok(_) => Ok(()),
            Err(pgmesh_storage::StoreError::NotFound { .. }) => {
                self.bad.entry(repo).or_default().insert(path.clone());
                self.report(&object, *replica, repository, true, "verify did not find it")
                    .await;
                self.found(Finding {
                    kind: FindingKind::Missing,
                    repo: Some(repo.get()),
                    stanza: stanza_of(&object),
                    subject: path,
                    what: format!("{object} is in the catalog and not in the repository"),
                })
                .await
            }
            Err(error) => {
                if self.unreadable.insert(repo) {
                    return self.unreadable(repo, chain(&error)).await;
                }
                Ok(())
            }
        }
    }

    /// An object that no repository has in good order any more; said once, for the first repository.
    async fn lost(
        &mut self,
        view: &View,
        repo: RepoKey,
        object: &ObjectRef,
        path: String,
        replicas: &[Replica],
    ) -> Result<(), Failure> {
        let first = view.repositories()?.first().map(|(key, _)| *key);
        if !replicas.is_empty() || first != Some(repo) {
            return Ok(());
        }
        self.found(Finding {
            kind: FindingKind::Missing,
            repo: Some(repo.get()),
            stanza: stanza_of(object),
            subject: path,
            what: format!("no repository has a good replica of {object}"),
        })
        .await
    }

    async fn report(&self, object: &ObjectRef, replica: Replica, of: &OpenRepository, missing: bool, what: &str) {
        let identity = of.claimed_as().clone();
        let bad = BadReplica {
            claim: Claim { replica, identity },
            missing,
            what: what.to_owned(),
        };
        self.node.reads.report_bad(object, &[bad]).await;
    }

    fn stanza_rows(&self, view: &View) -> Result<Vec<(StanzaName, StanzaRecord)>, Failure> {
        let rows = view.stanzas(None).collect::<Result<Vec<_>, _>>()?;
        Ok(rows
            .into_iter()
            .filter(|(name, record)| !record.deleting && self.request.stanza.as_ref().is_none_or(|only| only == name))
            .collect())
    }

    async fn stanzas(&mut self, view: &View, slots: &[Arc<Slot>]) -> Result<(), Failure> {
        let registered: Vec<RepoKey> = view.repositories()?.into_iter().map(|(repo, _)| repo).collect();
        for (stanza, record) in self.stanza_rows(view)? {
            self.wal(view, &stanza, &record).await?;
            for row in view.backups(&stanza, None) {
                let (label, backup) = row?;
                if !registered.iter().any(|repo| backup.is_kept_in(*repo)) {
                    continue;
                }
                self.summary.backups += 1;
                self.backup(view, &stanza, &label, slots).await?;
            }
        }
        for slot in slots {
            let owed = view.counters(slot.key)?.debts;
            if owed > 0 {
                self.found(Finding {
                    kind: FindingKind::Owed,
                    repo: Some(slot.key.get()),
                    stanza: None,
                    subject: format!("repo{}", slot.key),
                    what: format!("{owed} replicas are owed to it and are being made"),
                })
                .await?;
            }
        }
        Ok(())
    }
}

fn stanza_of(object: &ObjectRef) -> Option<String> {
    match object {
        ObjectRef::Chunk(_) => None,
        ObjectRef::Segment { stanza, .. }
        | ObjectRef::Manifest { stanza, .. }
        | ObjectRef::StanzaInfo { stanza, .. } => Some(stanza.to_string()),
    }
}

/// Why a repository is not open, in words.
fn why_closed(health: HealthInfo) -> String {
    match health {
        // It has been opened since it was found closed.
        HealthInfo::Up => "it was not open".to_owned(),
        HealthInfo::Down { why, .. } => format!("it is down: {why}"),
        HealthInfo::Refused { why } => format!("this node does not serve it: {why}"),
    }
}

/// The memory of a check: the object as it is stored, decrypted, and plain. Of a file in parts, the first one stands
/// for all: they are read one after the other.
fn memory_of(path: &str, stored: u64) -> u64 {
    let path = ObjectPath::parse(path);
    if let Some(part) = path.as_ref().and_then(ObjectPath::part) {
        return if part.number() == 1 { 3 * FILE_PART_LENGTH } else { 0 };
    }
    let is_file = path.is_some_and(|path| path.kind() == Some(ObjectKind::Segment));
    let plain = if is_file { LARGEST_SINGLE_OBJECT } else { USUAL_PLAIN };
    stored
        .min(LARGEST_SINGLE_OBJECT)
        .saturating_mul(2)
        .saturating_add(plain)
}

/// Checks one object, in memory of the budget. A task of its own: it gives the memory back although the asker of the
/// verification does not read what was found so far.
async fn check_held(
    repo: RepoKey,
    repository: OpenRepository,
    budget: Budget,
    path: String,
    stored: u64,
) -> Result<Lies, SlotError> {
    let checking = async move {
        let _held = budget.hold(memory_of(&path, stored)).await;
        check_object(repo, &repository, &path).await
    };
    match tasks::spawn("verifying an object", checking).await {
        Ok(checked) => checked,
        // Nothing was found out of the object: the verification ends as the task has.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Checks one object to the last byte. A file that is no object of the repository is not read.
async fn check_object(repo: RepoKey, repository: &OpenRepository, path: &str) -> Result<Lies, SlotError> {
    let store = |source| SlotError::Store {
        repo,
        identity: Box::new(repository.claimed_as().clone()),
        source,
    };
    let Some(parsed) = ObjectPath::parse(path) else {
        return Ok(Lies::Foreign);
    };
    if let Some(part) = parsed.part() {
        return check_part(repo, repository, &parsed, part).await;
    }
    match parsed.kind() {
        Some(ObjectKind::Chunk | ObjectKind::Segment | ObjectKind::Manifest | ObjectKind::StanzaInfo) => repository
            .get_by_path(path)
            .await
            .map(|(name, _)| Lies::Content(name))
            .map_err(store),
        None => repository.verify_path(path).await.map(|_| Lies::Own).map_err(store),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_repository_says_why_in_words() {
        let why = "no route to host".to_owned();
        let down = why_closed(HealthInfo::Down { since: 17, why });
        assert_eq!(down, "it is down: no route to host");
        let why = "the passphrase is wrong".to_owned();
        let refused = why_closed(HealthInfo::Refused { why });
        assert_eq!(refused, "this node does not serve it: the passphrase is wrong");
    }
}

//! One scan of a repository.

use super::names::Names;
use crate::failure::chain;
use crate::repositories::{OpenRepository, Slot};
use crate::services::unexpected;
use crate::{Failure, Node, code, refs};
use futures::StreamExt;
use pgmesh_raft::command::{DiscardOrphans, NoteOrphans};
use pgmesh_raft::{Command, GarbageKey, LogIndex, OrphanTally, PlacedIdentity, Reply, SessionId, SightedOrphan, View};
use pgmesh_storage::{Digest, Generation, Listed, ObjectPath, RepoKey, Repository};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The folders of chunks, one for each first byte of a name.
const CHUNK_FOLDERS: u16 = 256;
/// With the folder of all else.
pub(super) const FOLDERS: u16 = CHUNK_FOLDERS + 1;
/// After so many folders what was found is told.
const TELL_EVERY: u16 = 64;
/// What was found and not told yet; few in tests, so that it is told in the midst of a folder there.
const SUSPECTS: usize = if cfg!(test) { 3 } else { 4096 };
/// Objects between two pauses: as many as one request lists.
const PAGE: u32 = 1000;
/// The pause: 20,000 objects a second at most.
const PAUSE: Duration = Duration::from_millis(50);
/// What was found is held against names that are no older, where there are new ones to be had.
const FRESH: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 600 });
/// Orphans of one command; few in tests, so that several commands are needed there.
const BATCH: usize = if cfg!(test) { 2 } else { 512 };
/// Paths of one command that are not unknown any more.
const GONE: usize = 4096;

/// The folder of this number.
pub(super) fn folder(number: u16) -> String {
    match number {
        0..CHUNK_FOLDERS => format!("chunk/{number:02x}"),
        _ => "stanza".to_owned(),
    }
}

/// The number of the folder that an object is in.
pub(super) fn folder_of(path: &ObjectPath) -> u16 {
    match path {
        ObjectPath::Chunk { name, .. } => u16::from(name.as_bytes()[0]),
        _ => CHUNK_FOLDERS,
    }
}

/// An object that the catalog did not know when it was listed.
struct Suspect {
    path: ObjectPath,
    text: String,
    bytes: u64,
}

/// A scan under way.
pub(super) struct Scan<'a> {
    node: &'a Node,
    slot: &'a Slot,
    repository: OpenRepository,
    /// The position of a linearizable view from before the first listing of the scan.
    began: LogIndex,
    /// The oldest session that was open when this node began with it.
    oldest: Option<SessionId>,
    /// The first folder of which it was not told what was found.
    from: u16,
    found: OrphanTally,
    /// What was seen before.
    rows: BTreeMap<String, SightedOrphan>,
    /// What of that was seen again in the folders of which it was not told.
    again: BTreeSet<String>,
    names: Names,
    suspects: Vec<Suspect>,
}

impl<'a> Scan<'a> {
    /// Goes on with what was left unfinished, or begins a new one.
    pub(super) async fn begin(
        node: &'a Node,
        slot: &'a Slot,
        repository: OpenRepository,
    ) -> Result<Option<Self>, Failure> {
        let view = node.catalog.view_linearizable().await.map_err(Failure::from)?;
        if !node.scans(slot)? {
            return Ok(None);
        }
        let known = view.orphan_scan(slot.key)?;
        let (began, from, found) = match known.next {
            Some(next) => (known.began, next, known.found),
            None => (view.applied()?, 0, OrphanTally::default()),
        };
        Ok(Some(Self {
            node,
            slot,
            began,
            oldest: view.oldest_session()?,
            from,
            found,
            rows: view.orphans(slot.key).collect::<Result<_, _>>()?,
            again: BTreeSet::new(),
            names: Names::read(&view, &repository, slot.key).await?,
            suspects: Vec::new(),
            repository,
        }))
    }

    pub(super) async fn run(mut self) -> Result<(), Failure> {
        for number in self.from..FOLDERS {
            // It drains, another one is to do it, or the catalog is in doubt: it goes on here when that is over.
            if !self.node.scans(self.slot)? {
                return Ok(());
            }
            self.list(number).await?;
            let done = number + 1;
            if done == FOLDERS || done % TELL_EVERY == 0 {
                self.tell(done).await?;
            }
        }
        let found = self.found;
        tracing::info!(
            repo = %self.slot.key, unknown = found.unknown.objects, bytes = found.unknown.bytes, foreign = found.foreign,
            "this repository was looked through for objects that the catalog does not know"
        );
        if self.node.catalog.is_leader() {
            self.node.repair.wake();
        }
        Ok(())
    }

    async fn list(&mut self, number: u16) -> Result<(), Failure> {
        let mut objects = self.repository.list(&folder(number));
        let mut listed = 0;
        loop {
            let next = tokio::time::timeout(self.slot.io_timeout, objects.next()).await;
            let next = next.map_err(|_| self.unreadable("it does not answer"))?;
            let Some(object) = next.transpose().map_err(|error| self.unreadable(&chain(&error)))? else {
                return Ok(());
            };
            self.judge(object)?;
            if self.suspects.len() >= SUSPECTS {
                self.tell(number).await?;
            }
            listed += 1;
            if listed % PAGE == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn unreadable(&self, why: &str) -> Failure {
        Failure::new(code::REPO_INVALID, format!("repo{} cannot be listed", self.slot.key)).because(why)
    }

    fn judge(&mut self, listed: Listed) -> Result<(), Failure> {
        let Some(path) = ObjectPath::parse(&listed.path) else {
            self.found.foreign += u64::from(!Repository::is_left_by_check(&listed.path));
            return Ok(());
        };
        let is_known = match (&path, path.name()) {
            (ObjectPath::Chunk { .. }, Some(name)) => self.names.may_have(name, path.generation()),
            _ => is_known(&self.node.catalog.view(), &self.repository, self.slot.key, &path)?,
        };
        if !is_known {
            let (text, bytes) = (listed.path, listed.length);
            self.suspects.push(Suspect { path, text, bytes });
        }
        Ok(())
    }

    /// Tells the catalog what was found in the folders up to this one: what is new, what was seen before and is unknown
    /// still, and what is not unknown any more.
    async fn tell(&mut self, done: u16) -> Result<(), Failure> {
        let due = self.sift().await?;
        let mut gone: Vec<String> = Vec::new();
        let (sighted, due) = due;
        self.discard(due, &mut gone).await?;
        for path in self.rows.keys() {
            let number = ObjectPath::parse(path).map_or(CHUNK_FOLDERS, |path| folder_of(&path));
            if (self.from..done).contains(&number) && !self.again.contains(path) {
                gone.push(path.clone());
            }
        }
        while gone.len() > GONE {
            let some = gone.split_off(gone.len() - GONE);
            self.note(Some(self.from), Vec::new(), some).await?;
        }
        self.note((done < FOLDERS).then_some(done), sighted, gone).await?;
        self.again
            .retain(|path| ObjectPath::parse(path).is_some_and(|path| folder_of(&path) >= done));
        self.from = done;
        Ok(())
    }

    /// What of the suspects is unknown still, as the catalog is now: what nobody has seen before, with its bytes, and
    /// what this is the second look at.
    async fn sift(&mut self) -> Result<(Vec<(String, u64)>, Vec<Suspect>), Failure> {
        let mut suspects = std::mem::take(&mut self.suspects);
        let is_chunk = |suspect: &Suspect| matches!(suspect.path, ObjectPath::Chunk { .. });
        let view = self.node.catalog.view_linearizable().await.map_err(Failure::from)?;
        if suspects.iter().any(is_chunk) && self.names.age() >= FRESH {
            self.names = Names::read(&view, &self.repository, self.slot.key).await?;
        }
        let (mut sighted, mut due) = (Vec::new(), Vec::new());
        let lowest = view.era_floor()?;
        for suspect in suspects.drain(..) {
            let is_known = match suspect.path.name().filter(|_| is_chunk(&suspect)) {
                Some(name) if self.names.may_have(name, suspect.path.generation()) => true,
                _ => is_known(&view, &self.repository, self.slot.key, &suspect.path)?,
            };
            if is_known {
                continue;
            }
            self.found.unknown.add(suspect.bytes);
            // Parts say nothing of the digest of the whole, by which garbage is named, unless all of them are there.
            if suspect.path.part().is_some() {
                self.found.unreadable += 1;
                continue;
            }
            if suspect.path.generation() < lowest {
                self.found.earlier.add(suspect.bytes);
                continue;
            }
            match self.rows.get(&suspect.text) {
                None => sighted.push((suspect.text, suspect.bytes)),
                Some(row) => {
                    self.again.insert(suspect.text.clone());
                    if row.is_due(self.began, self.oldest) {
                        due.push(suspect);
                    }
                }
            }
        }
        Ok((sighted, due))
    }

    /// Proposes as garbage what was seen twice. What has vanished meanwhile is added to `gone`.
    async fn discard(&mut self, due: Vec<Suspect>, gone: &mut Vec<String>) -> Result<(), Failure> {
        let mut orphans = Vec::new();
        for suspect in due {
            match self.digest_of(&suspect).await? {
                Content::Is(digest) => orphans.extend(refs::orphan(&suspect.text, &suspect.path, digest)),
                Content::Gone => gone.push(suspect.text),
                Content::Damaged => self.found.unreadable += 1,
            }
        }
        for orphans in orphans.chunks(BATCH) {
            let command = Command::DiscardOrphans(Box::new(DiscardOrphans {
                repo: self.slot.key,
                identity: self.identity(),
                began: self.began,
                orphans: orphans.to_vec(),
            }));
            match self.node.catalog.propose(self.node.actor(), command).await? {
                Reply::Discarded { objects: 0, .. } => {}
                Reply::Discarded { objects, bytes } => {
                    tracing::info!(repo = %self.slot.key, objects, bytes, "objects that nobody knows are garbage now");
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    /// In an encrypted repository the name does not tell the digest, by which the catalog knows what it is.
    async fn digest_of(&self, suspect: &Suspect) -> Result<Content, Failure> {
        if let Some(digest) = self.repository.digest_in(&suspect.path) {
            return Ok(Content::Is(digest));
        }
        let path = suspect.text.clone();
        let read = self
            .slot
            .read(|repository| async move { repository.get_by_path(&path).await });
        match read.await {
            Ok((name, _)) => Ok(Content::Is(name.digest())),
            Err(error) => match error.condemns() {
                Some(true) => Ok(Content::Gone),
                Some(false) => Ok(Content::Damaged),
                None => Err(self.unreadable(&chain(&error))),
            },
        }
    }

    async fn note(&self, next: Option<u16>, sighted: Vec<(String, u64)>, gone: Vec<String>) -> Result<(), Failure> {
        let note = NoteOrphans {
            repo: self.slot.key,
            identity: self.identity(),
            began: self.began,
            next,
            found: self.found,
            sighted,
            gone,
        };
        let command = Command::NoteOrphans(Box::new(note));
        self.node.catalog.propose(self.node.actor(), command).await?;
        Ok(())
    }

    fn identity(&self) -> PlacedIdentity {
        self.repository.claimed_as().clone()
    }
}

/// What lies under a path.
enum Content {
    Is(Digest),
    Gone,
    Damaged,
}

/// Whether the catalog knows an object of which only the path is known. Of a chunk whose name does not tell the digest it
/// cannot be said: `false`.
fn is_known(view: &View, repository: &Repository, repo: RepoKey, path: &ObjectPath) -> Result<bool, Failure> {
    let Some(stored) = path.name() else {
        // The repository's own: identity, keys, marks.
        return Ok(true);
    };
    let told = repository.digest_in(path);
    if told.is_none() && matches!(path, ObjectPath::Chunk { .. }) {
        return Ok(false);
    }
    let Some(name) = path.object_name(told.unwrap_or(NO_DIGEST)) else {
        return Ok(true);
    };
    let object = refs::object_ref(&name);
    let known = view
        .object(&object)?
        .filter(|known| repository.stored_name(known.digest) == stored);
    let digest = told.or(known.map(|known| known.digest)).unwrap_or(NO_DIGEST);
    let generation: Generation = path.generation();
    let name = GarbageKey {
        object,
        repo,
        generation,
    };
    Ok(view.knows(&name, digest)?)
}

/// Stands for the digest of another content than the known one.
const NO_DIGEST: Digest = Digest([0; 32]);

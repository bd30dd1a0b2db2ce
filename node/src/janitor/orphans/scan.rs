//! One scan of a repository.

use super::names::Names;
use crate::janitor::Janitor;
use crate::janitor::garbage::never_deletes;
use crate::refs;
use crate::replies::unexpected;
use crate::repositories::{OpenRepository, Slot};
use futures::StreamExt;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::command::{DiscardOrphans, NoteOrphans};
use pgmesh_raft::{
    Command, GarbageKey, LogIndex, OrphanTally, PlacedIdentity, Reply, SessionId, SightedOrphan, View, limits,
};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Digest, Generation, Listed, ObjectPath, RepoKey, Repository};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The folders of chunks, one for each first byte of a name.
const CHUNK_FOLDERS: u16 = 256;
/// With the folder of all else.
pub(super) const FOLDERS: u16 = CHUNK_FOLDERS + 1;
/// The scan reports its findings to the catalog after so many folders.
const TELL_EVERY: u16 = 64;
/// The scan also reports as soon as it has so many suspects; few in tests, so that it reports within a folder there.
const SUSPECTS: usize = if cfg!(test) { 3 } else { 4096 };
/// Objects that are judged at a time on a blocking thread, and between two pauses: as many as one request lists.
const PAGE: usize = 1000;
/// The pause: 20,000 objects a second at most.
const PAUSE: Duration = Duration::from_millis(50);
/// Before suspects are reported, names older than this are read anew.
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
    janitor: &'a Janitor,
    slot: &'a Slot,
    repository: OpenRepository,
    /// The position of a linearizable view from before the first listing of the scan.
    began: LogIndex,
    /// The oldest session that was open when this node began with it.
    oldest: Option<SessionId>,
    /// The first folder whose findings are not reported yet.
    from: u16,
    found: OrphanTally,
    /// Orphans that were sighted before.
    rows: BTreeMap<String, SightedOrphan>,
    /// Orphans of `rows` that were sighted again, in folders that are not reported yet.
    again: BTreeSet<String>,
    names: Arc<Names>,
    suspects: Vec<Suspect>,
    /// Whether the repository deletes anything at all: else unknown objects are counted only.
    deletes: bool,
    /// The table of sighted orphans had no room for some unknown object.
    is_full: bool,
    /// An orphan was noted or discarded.
    has_progress: bool,
}

impl<'a> Scan<'a> {
    /// Goes on with an unfinished scan, or begins a new one.
    pub(super) async fn begin(
        janitor: &'a Janitor,
        slot: &'a Slot,
        repository: OpenRepository,
    ) -> Result<Option<Self>, Failure> {
        let view = janitor.catalog.view_linearizable().await.map_err(Failure::from)?;
        if !janitor.scans(slot)? {
            return Ok(None);
        }
        let known = view.orphan_scan(slot.key)?;
        let (began, from, found) = match known.next {
            Some(next) => (known.began, next, known.found),
            None => (view.applied()?, 0, OrphanTally::default()),
        };
        let record = view.repository(slot.key)?;
        Ok(Some(Self {
            janitor,
            slot,
            began,
            oldest: view.oldest_session()?,
            from,
            found,
            rows: view.orphans(slot.key).collect::<Result<_, _>>()?,
            again: BTreeSet::new(),
            names: Arc::new(Names::read(&view, &repository, slot.key).await?),
            suspects: Vec::new(),
            deletes: slot.may_delete() && record.is_some_and(|record| !never_deletes(&record.definition)),
            is_full: false,
            has_progress: false,
            repository,
        }))
    }

    /// Whether the next scan is to begin at once.
    pub(super) async fn run(mut self) -> Result<bool, Failure> {
        for number in self.from..FOLDERS {
            // It drains, another one is to do it, or the catalog is in doubt: it goes on here when that is over.
            if !self.janitor.scans(self.slot)? {
                return Ok(false);
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
        if self.janitor.catalog.is_leader() {
            self.janitor.repair.wake();
        }
        // Where nothing moves, another look is of no use.
        Ok(self.is_full && self.has_progress)
    }

    async fn list(&mut self, number: u16) -> Result<(), Failure> {
        let mut objects = self.repository.list(&folder(number));
        loop {
            let mut page = Vec::new();
            while page.len() < PAGE {
                let next = tokio::time::timeout(self.slot.io_timeout, objects.next()).await;
                let next = next.map_err(|_| self.unreadable("it does not answer"))?;
                match next.transpose().map_err(|error| self.unreadable(&chain(&error)))? {
                    Some(object) => page.push(object),
                    None => break,
                }
            }
            let is_last = page.len() < PAGE;
            self.look_at(page).await?;
            if self.suspects.len() >= SUSPECTS {
                self.tell(number).await?;
            }
            if is_last {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn unreadable(&self, why: &str) -> Failure {
        Failure::new(ExitCode::RepoInvalid, format!("repo{} cannot be listed", self.slot.key)).because(why)
    }

    /// Adds the objects of a page that the catalog does not know to the suspects.
    async fn look_at(&mut self, page: Vec<Listed>) -> Result<(), Failure> {
        let mut suspects = Vec::new();
        for listed in page {
            let (text, bytes) = (listed.path, listed.length);
            match ObjectPath::parse(&text) {
                Some(path) => suspects.push(Suspect { path, text, bytes }),
                None => self.found.foreign += u64::from(!Repository::is_left_by_check(&text)),
            }
        }
        let unknown = self.unknown(self.janitor.catalog.view(), suspects).await?;
        self.suspects.extend(unknown);
        Ok(())
    }

    /// The suspects that this view of the catalog does not know. Names that it cannot have assigned count as foreign.
    async fn unknown(&mut self, view: View, mut suspects: Vec<Suspect>) -> Result<Vec<Suspect>, Failure> {
        let (repository, repo, names) = (self.repository.clone(), self.slot.key, self.names.clone());
        let judging = tasks::blocking("judging names", move || {
            let mut foreign = 0;
            let mut failed = None;
            suspects.retain(|suspect| match judge(&view, &repository, repo, &names, &suspect.path) {
                Ok(Judgement::Known) => false,
                Ok(Judgement::Unknown) => true,
                Ok(Judgement::Foreign) => {
                    foreign += 1;
                    false
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            });
            failed.map_or(Ok((suspects, foreign)), Err)
        });
        let (suspects, foreign) = judging
            .await
            .map_err(|error| Failure::new(ExitCode::Runtime, "a walk over the catalog has ended").because(error))??;
        self.found.foreign += foreign;
        Ok(suspects)
    }

    /// Reports the folders up to `done` to the catalog: new orphans, orphans that are due, and sighted orphans that
    /// have vanished or are known now.
    async fn tell(&mut self, done: u16) -> Result<(), Failure> {
        let (mut sighted, due) = self.sift().await?;
        let mut gone: Vec<String> = Vec::new();
        self.discard(due, &mut gone).await?;
        for path in self.rows.keys() {
            let number = ObjectPath::parse(path).map_or(CHUNK_FOLDERS, |path| folder_of(&path));
            if (self.from..done).contains(&number) && !self.again.contains(path) {
                gone.push(path.clone());
                self.has_progress = true;
            }
        }
        while gone.len() > GONE {
            let some = gone.split_off(gone.len() - GONE);
            self.note(Some(self.from), Vec::new(), some).await?;
        }
        // The catalog would drop orphans beyond its limit; they need not go through the log.
        let waiting = self.janitor.catalog.view().orphan_scan(self.slot.key)?.waiting.objects;
        let room = limits::ORPHANS
            .saturating_sub(waiting)
            .saturating_add(gone.len() as u64);
        self.is_full |= cut(&mut sighted, room);
        self.has_progress |= !sighted.is_empty();
        self.note((done < FOLDERS).then_some(done), sighted, gone).await?;
        self.again
            .retain(|path| ObjectPath::parse(path).is_some_and(|path| folder_of(&path) >= done));
        self.from = done;
        Ok(())
    }

    /// The suspects that are still unknown to the catalog as it is now. First the orphans that are sighted for the
    /// first time, with their bytes; then the orphans that are due, since an earlier scan sighted them.
    async fn sift(&mut self) -> Result<(Vec<(String, u64)>, Vec<Suspect>), Failure> {
        let suspects = std::mem::take(&mut self.suspects);
        let is_chunk = |suspect: &Suspect| matches!(suspect.path, ObjectPath::Chunk { .. });
        let view = self.janitor.catalog.view_linearizable().await.map_err(Failure::from)?;
        if suspects.iter().any(is_chunk) && self.names.age() >= FRESH {
            // One at a time: each may take much memory.
            self.names = Arc::new(Names::none());
            self.names = Arc::new(Names::read(&view, &self.repository, self.slot.key).await?);
        }
        let (mut sighted, mut due) = (Vec::new(), Vec::new());
        let lowest = view.era_floor()?;
        for suspect in self.unknown(view, suspects).await? {
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
            if !self.deletes {
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

    /// Proposes orphans that were sighted twice as garbage. Objects that have vanished meanwhile are added to `gone`.
    async fn discard(&mut self, due: Vec<Suspect>, gone: &mut Vec<String>) -> Result<(), Failure> {
        let mut orphans = Vec::new();
        for suspect in due {
            match self.digest_of(&suspect).await? {
                Content::Is(digest) => {
                    let Some(orphan) = refs::orphan(&suspect.text, &suspect.path, digest) else {
                        continue;
                    };
                    if self
                        .janitor
                        .catalog
                        .view()
                        .may_be_assigned(&orphan.key(self.slot.key))?
                    {
                        orphans.push(orphan);
                    } else {
                        self.found.foreign += 1;
                        gone.push(suspect.text);
                    }
                }
                Content::Gone => gone.push(suspect.text),
                // It takes no room from others that can be discarded.
                Content::Unreadable => {
                    self.found.unreadable += 1;
                    gone.push(suspect.text);
                }
            }
        }
        for orphans in orphans.chunks(BATCH) {
            let command = Command::DiscardOrphans(Box::new(DiscardOrphans {
                repo: self.slot.key,
                identity: self.identity(),
                began: self.began,
                orphans: orphans.to_vec(),
            }));
            match self.janitor.catalog.propose(self.janitor.actor(), command).await? {
                Reply::Discarded { objects: 0, .. } => {}
                Reply::Discarded { objects, bytes } => {
                    self.has_progress = true;
                    tracing::info!(repo = %self.slot.key, objects, bytes, "objects that nobody knows are garbage now");
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    /// The digest of a suspect's content. In an encrypted repository the name does not tell it, so the object is read.
    async fn digest_of(&self, suspect: &Suspect) -> Result<Content, Failure> {
        if let Some(digest) = self.repository.digest_in(&suspect.path) {
            return Ok(Content::Is(digest));
        }
        // Before anything is held that others may wait for.
        self.janitor.pace.wait(self.slot.key, suspect.bytes).await;
        let _held = self.janitor.budget.hold(suspect.bytes.saturating_mul(2)).await;
        let path = suspect.text.clone();
        let read = self
            .slot
            .read(|repository| async move { repository.get_by_path(&path).await });
        match read.await {
            Ok((name, _)) => Ok(Content::Is(name.digest())),
            Err(error) => match error.condemns() {
                Some(true) => Ok(Content::Gone),
                Some(false) => Ok(Content::Unreadable),
                // One bad sector does not end all scans. A repository that does not answer at all is looked through
                // later.
                None => match self
                    .slot
                    .read(|repository| async move { repository.probe().await })
                    .await
                {
                    Ok(()) => {
                        tracing::warn!(repo = %self.slot.key, path = suspect.text, error = %chain(&error), "an unknown object cannot be read");
                        Ok(Content::Unreadable)
                    }
                    Err(silent) => Err(self.unreadable(&chain(&silent))),
                },
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
        self.janitor.catalog.propose(self.janitor.actor(), command).await?;
        Ok(())
    }

    fn identity(&self) -> PlacedIdentity {
        self.repository.claimed_as().clone()
    }
}

/// The content of the object at a path.
enum Content {
    Is(Digest),
    Gone,
    Unreadable,
}

/// The catalog's judgement of an object of which only the path is known.
enum Judgement {
    Known,
    Unknown,
    /// Of a generation that this catalog has never assigned.
    Foreign,
}

/// Of a chunk whose name does not tell the digest, `names` alone say whether it is known.
fn judge(
    view: &View,
    repository: &Repository,
    repo: RepoKey,
    names: &Names,
    path: &ObjectPath,
) -> Result<Judgement, Failure> {
    let generation: Generation = path.generation();
    let Some(stored) = path.name() else {
        // The repository's own: identity, keys, marks.
        return Ok(Judgement::Known);
    };
    let is_chunk = matches!(path, ObjectPath::Chunk { .. });
    if is_chunk && names.may_have(stored, generation) {
        return Ok(Judgement::Known);
    }
    let told = repository.digest_in(path);
    if told.is_none() && is_chunk {
        // Whether the catalog can have assigned the name is checked once the digest is read from the object.
        let may_be = (generation.0 as usize) < limits::LOSS_GENERATIONS;
        return Ok(if may_be { Judgement::Unknown } else { Judgement::Foreign });
    }
    let Some(name) = path.object_name(told.unwrap_or(NO_DIGEST)) else {
        return Ok(Judgement::Known);
    };
    let object = refs::object_ref(&name);
    let known = view
        .object(&object)?
        .filter(|known| repository.stored_name(known.digest) == stored);
    let digest = told.or(known.map(|known| known.digest)).unwrap_or(NO_DIGEST);
    let name = GarbageKey {
        object,
        repo,
        generation,
    };
    Ok(if view.knows(&name, digest)? {
        Judgement::Known
    } else if view.may_be_assigned(&name)? {
        Judgement::Unknown
    } else {
        Judgement::Foreign
    })
}

/// Stands for the digest of another content than the known one.
const NO_DIGEST: Digest = Digest([0; 32]);

/// Keeps only so many; says whether there were more.
fn cut(sighted: &mut Vec<(String, u64)>, room: u64) -> bool {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let is_more = sighted.len() > room;
    sighted.truncate(room);
    is_more
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;

    #[test]
    fn no_more_is_sent_than_there_is_room_for() {
        let seen = |count: u64| -> Vec<(String, u64)> { (0..count).map(|number| (number.to_string(), 1)).collect() };
        let (mut three, mut two) = (seen(3), seen(2));
        assert!(cut(&mut three, 2) && !cut(&mut two, 2));
        assert_eq!((&three, &two), (&seen(2), &seen(2)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_object_that_cannot_be_read_does_not_end_the_scan() {
        let site = TestNode::start_encrypted(SessionTimes::default()).await;
        let slot = site.node.own_slot(RepoKey::new(1).unwrap()).unwrap().clone();
        let scan = Scan::begin(&site.node.janitor, &slot, slot.repository().unwrap()).await;
        let scan = scan.unwrap().unwrap();
        let text = format!("chunk/00/{}", "0".repeat(64));
        let path = ObjectPath::parse(&text).unwrap();
        let suspect = Suspect { path, text, bytes: 10 };
        let file = site.repository().join(&suspect.text);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        // Links to itself: neither missing nor damaged.
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert!(matches!(scan.digest_of(&suspect).await, Ok(Content::Unreadable)));
        // Nothing of the repository answers.
        let away = site.repository().with_extension("away");
        std::fs::rename(site.repository(), &away).unwrap();
        std::fs::write(site.repository(), "").unwrap();
        assert!(scan.digest_of(&suspect).await.is_err());
    }
}

//! Archives: every file is read and checked, some at once, a folder after the other.
//!
//! A name says neither the digest, in an encrypted repository, nor whether the content is good. A file that a recovery
//! asks for and does not find ends the recovery. So a file that was archived and has no good copy stays known by its
//! name (invariant 7), and so does the first segment of every gap, which a recovery would meet.

use super::inventory::FoundArchive;
use super::report::{Problem, ProblemKind, RebuildEvent, Tell};
use super::stanzas::RebuiltDatabase;
use super::{Rebuilding, is_bad, unreadable};
use crate::core::Core;
use crate::repositories::{OpenRepository, Slot};
use crate::services::{branches_of, claimed_object};
use crate::wal_ranges::Ranges;
use futures::{StreamExt, TryStreamExt, stream};
use pgmesh_postgres::wal::SegmentMap;
use pgmesh_postgres::{SegmentName, WalFileName, WalHeader};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::wal_copies::{Copies, Copy, Listed, grouped, judged};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::command::{Adopt, AdoptedFile, ClaimedObject, Cluster};
use pgmesh_raft::{Branch, CatalogError, Claim, Command, Database, GarbageKey, LogIndex, ObjectRef, Refusal, Replica};
use pgmesh_storage::{ObjectPath, RepoKey, StanzaName, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most objects of unknown files that are held in memory.
const LISTED_AT_ONCE: usize = 10_000;
/// Files in one command.
const BATCH: usize = 500;

/// The state of a file.
enum Found {
    Good(ClaimedObject, Vec<Branch>),
    Damaged(String),
    Foreign(String),
    Different(Vec<Copy>),
    /// An upload that was cut.
    Cut,
}

impl Rebuilding {
    /// Takes up an archive. How many files are good.
    pub(super) async fn adopt_archive(
        &mut self,
        stanza: &StanzaName,
        database: &RebuiltDatabase,
        archive: &FoundArchive,
    ) -> Result<u64, Failure> {
        let mut good = 0;
        let checked_at = self.catalog.view().applied()?;
        let mut ranges = Ranges::new(database.cluster.segment_size);
        let mut batch = Vec::new();
        let folders = std::iter::once(None).chain(archive.folders.iter().map(Some));
        for folder in folders {
            let listed = match folder {
                None => archive.histories.clone(),
                Some(folder) => {
                    let listed = self.repository.list_sorted(folder).await;
                    let listed = listed.map_err(|error| unreadable(self.repo, &error))?;
                    listed.into_iter().map(|(path, _)| path).collect()
                }
            };
            let reader = Reader {
                repository: self.repository.clone(),
                repo: self.repo,
                cluster: database.cluster,
                tell: self.tell.clone(),
            };
            let reads = grouped(listed).into_iter().map(|(file, copies)| {
                let reader = &reader;
                async move { (file, reader.read(file, copies).await) }
            });
            let mut reads = stream::iter(reads).buffered(self.workers);
            while let Some((file, found)) = reads.next().await {
                let found = found?;
                if matches!(found, Found::Cut) {
                    self.found(problem(stanza, file, &found));
                    continue;
                }
                if let WalFileName::Segment(name) = file {
                    ranges.add(name);
                }
                let (object, branches) = match found {
                    Found::Good(object, branches) => (object, branches),
                    // A map is made anew of its segment when it is asked for, and no recovery asks for WAL that was set
                    // aside.
                    _ if matches!(file, WalFileName::Map(_) | WalFileName::Aside { .. }) => continue,
                    bad => {
                        let is_foreign = matches!(bad, Found::Foreign(_));
                        self.found(problem(stanza, file, &bad));
                        if is_foreign {
                            continue;
                        }
                        (ClaimedObject::unknown(), Vec::new())
                    }
                };
                good += u64::from(object != ClaimedObject::unknown());
                batch.push(AdoptedFile { file, object, branches });
                // A history goes alone: if it contradicts another, no other file is refused with it.
                if batch.len() >= BATCH || matches!(file, WalFileName::History(_)) {
                    good -= self
                        .adopt_files(stanza, database, std::mem::take(&mut batch), checked_at)
                        .await?;
                }
            }
        }
        for gap in ranges.gaps() {
            self.found(gap_problem(stanza, &gap));
            batch.push(AdoptedFile {
                file: WalFileName::Segment(gap.first),
                object: ClaimedObject::unknown(),
                branches: Vec::new(),
            });
        }
        good -= self.adopt_files(stanza, database, batch, checked_at).await?;
        Ok(good)
    }

    /// Adds files to the catalog. How many were refused.
    async fn adopt_files(
        &mut self,
        stanza: &StanzaName,
        database: &RebuiltDatabase,
        files: Vec<AdoptedFile>,
        checked_at: LogIndex,
    ) -> Result<u64, Failure> {
        let Some(first) = files.first().map(|file| file.file) else {
            return Ok(0);
        };
        let adopt = Adopt::WalFiles {
            stanza: stanza.clone(),
            db: database.archive_id.db,
            files,
            checked_at,
        };
        match self.catalog.propose(&self.actor, Command::Adopt(Box::new(adopt))).await {
            Ok(_) => Ok(0),
            Err(CatalogError::Refused(refusal @ Refusal::HistoryContradicts { .. })) => {
                self.found(problem(stanza, first, &Found::Foreign(refusal.to_string())));
                Ok(1)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Takes up WAL that lies in a repository and that the catalog does not know: the lost part of it may have acknowledged
/// it. A file that has no good copy, or several contents, is known by its name from then on, until another repository
/// has a good copy. Returns the number of files. With `tolerate`, an object that the repository does not hand out
/// counts as damaged.
pub(crate) async fn adopt_unknown_wal(
    node: &Core,
    slot: &Slot,
    repository: &OpenRepository,
    tolerate: bool,
) -> Result<u64, Failure> {
    let mut adopted = 0;
    let view = node.catalog.view_linearizable().await.map_err(Failure::from)?;
    for row in view.stanzas(None) {
        let (stanza, record) = row?;
        for database in &record.databases {
            adopted += Unknown {
                node,
                slot,
                repository,
                stanza: &stanza,
                database,
                tolerate,
            }
            .adopt()
            .await?;
        }
    }
    Ok(adopted)
}

/// One archive that is looked through for files that the catalog does not know.
struct Unknown<'a> {
    node: &'a Core,
    slot: &'a Slot,
    repository: &'a OpenRepository,
    stanza: &'a StanzaName,
    database: &'a Database,
    tolerate: bool,
}

/// Some of the files that the catalog does not know.
struct Unlisted {
    files: BTreeMap<WalFileName, Listed>,
    /// There was no more.
    is_last: bool,
    /// The position of the catalog before they were listed.
    checked_at: LogIndex,
}

impl Unknown<'_> {
    async fn adopt(&self) -> Result<u64, Failure> {
        let (repo, database) = (self.slot.key, self.database);
        let reader = Reader {
            repository: self.repository.clone(),
            repo,
            cluster: Cluster {
                system_id: database.system_id,
                version: database.version,
                catalog_version: database.catalog_version,
                segment_size: database.segment_size,
            },
            tell: Arc::new(|_| {}),
        };
        let (mut adopted, mut left_out) = (0, BTreeSet::new());
        loop {
            let Unlisted {
                files,
                mut is_last,
                checked_at,
            } = self.list(&left_out).await?;
            for (file, copies) in judged(files) {
                let patience = self.slot.io_timeout * objects_of(&copies);
                let read = tokio::time::timeout(patience, reader.read(file, copies)).await;
                let silent = || Failure::new(ExitCode::RepoInvalid, format!("repo{repo} does not answer"));
                let (object, branches) = match read.unwrap_or_else(|_| Err(silent())) {
                    Ok(Found::Good(object, branches)) => (object, branches),
                    Ok(Found::Foreign(why)) => {
                        tracing::warn!(%repo, stanza = %self.stanza, %file, why, "it lies in the archive, and is left out");
                        left_out.insert(file);
                        continue;
                    }
                    Ok(Found::Cut) => {
                        tracing::warn!(%repo, stanza = %self.stanza, %file, "its upload was cut: here it was never archived");
                        left_out.insert(file);
                        continue;
                    }
                    Ok(Found::Damaged(_) | Found::Different(_)) => (ClaimedObject::unknown(), Vec::new()),
                    Err(_) if self.tolerate => (ClaimedObject::unknown(), Vec::new()),
                    Err(failure) => return Err(failure),
                };
                if object == ClaimedObject::unknown() {
                    // Read again below, it would never end.
                    left_out.insert(file);
                }
                match self.propose(AdoptedFile { file, object, branches }, checked_at).await {
                    Ok(()) => adopted += 1,
                    // An object of the stanza was deleted since: it is listed anew.
                    Err(CatalogError::Refused(Refusal::Recheck { .. })) => {
                        left_out.remove(&file);
                        is_last = false;
                        break;
                    }
                    // It was pushed meanwhile, or contradicts a history that was.
                    Err(CatalogError::Refused(refusal)) => {
                        tracing::warn!(%repo, stanza = %self.stanza, %file, %refusal, "it lies in the archive, and is left out");
                        left_out.insert(file);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if is_last {
                return Ok(adopted);
            }
        }
    }

    async fn propose(&self, file: AdoptedFile, checked_at: LogIndex) -> Result<(), CatalogError> {
        let adopt = Adopt::WalFiles {
            stanza: self.stanza.clone(),
            db: self.database.id,
            files: vec![file],
            checked_at,
        };
        let command = Command::Adopt(Box::new(adopt));
        self.node.catalog.propose(self.node.actor(), command).await.map(drop)
    }

    /// Some objects of the archive of which the catalog does not know the content, and does not know that they are
    /// useless.
    async fn list(&self, left_out: &BTreeSet<WalFileName>) -> Result<Unlisted, Failure> {
        let (repo, stanza, db) = (self.slot.key, self.stanza, self.database.id);
        let folder = format!("stanza/{stanza}/archive/{}", self.database.archive_id());
        // Linearizable: with an older view, the catalog would refuse each time, and demand a new listing.
        let view = self.node.catalog.view_linearizable().await.map_err(Failure::from)?;
        let checked_at = view.applied()?;
        let mut listed = self.repository.list(&folder);
        let (mut unknown, mut is_last) = (BTreeMap::<WalFileName, Listed>::new(), true);
        while let Some(object) = listed.try_next().await.map_err(|error| unreadable(repo, &error))? {
            let Some(path) = ObjectPath::parse(&object.path) else {
                continue;
            };
            let ObjectPath::Segment { file, .. } = &path else {
                continue;
            };
            // A map is made anew when it is asked for, and no recovery asks for WAL that was set aside.
            if matches!(file, WalFileName::Map(_) | WalFileName::Aside { .. }) || left_out.contains(file) {
                continue;
            }
            let known = view.segment(stanza, db, file)?;
            if known.is_some_and(|known| !known.object.is_unknown()) {
                continue;
            }
            let object = ObjectRef::Segment {
                stanza: stanza.clone(),
                db,
                file: *file,
            };
            let generation = path.generation();
            if view.is_useless(&GarbageKey {
                object,
                repo,
                generation,
            })? {
                continue;
            }
            // All objects of one file are looked at together, in any order of the listing.
            let file = *file;
            if unknown.len() >= LISTED_AT_ONCE && !unknown.contains_key(&file) {
                is_last = false;
                continue;
            }
            unknown.entry(file).or_default().add(path);
        }
        Ok(Unlisted {
            files: unknown,
            is_last,
            checked_at,
        })
    }
}

/// Reads one file after the other of an archive.
struct Reader {
    repository: OpenRepository,
    repo: RepoKey,
    cluster: Cluster,
    tell: Tell,
}

impl Reader {
    async fn read(&self, file: WalFileName, copies: Copies) -> Result<Found, Failure> {
        let copies = match copies {
            Copies::One(copies) => copies,
            Copies::Different(copies) => return Ok(Found::Different(copies)),
            Copies::Cut => return Ok(Found::Cut),
        };
        let mut why = String::new();
        for Copy { path, of } in copies {
            if let Some(of) = of {
                match self.read_parts(file, &path, of).await {
                    Ok(found) => return Ok(found),
                    Err(error) if is_bad(&error) => why = chain(&error),
                    Err(error) => return Err(unreadable(self.repo, &error)),
                }
                continue;
            }
            match self.repository.get_by_path(&path.to_string()).await {
                Ok((_, checked)) => {
                    (self.tell)(RebuildEvent::Read(checked.payload.bytes.len() as u64));
                    return Ok(match self.check(file, &checked.plain) {
                        Ok(branches) => {
                            let claim = self.claim(&path);
                            Found::Good(claimed_object(&checked.payload, vec![claim]), branches)
                        }
                        Err(why) => Found::Foreign(why),
                    });
                }
                Err(error) if is_bad(&error) => why = chain(&error),
                Err(error) => return Err(unreadable(self.repo, &error)),
            }
        }
        Ok(Found::Damaged(why))
    }

    /// The claim of the object at a path of this repository.
    fn claim(&self, path: &ObjectPath) -> Claim {
        let replica = Replica {
            repo: self.repo,
            generation: path.generation(),
        };
        let identity = self.repository.claimed_as().clone();
        Claim { replica, identity }
    }

    /// Reads a file that lies in parts, one after the other.
    async fn read_parts(&self, file: WalFileName, path: &ObjectPath, of: u16) -> Result<Found, StoreError> {
        let mut reader = self.repository.read_parts(path, of);
        let mut begin = None;
        while let Some(checked) = reader.next().await? {
            (self.tell)(RebuildEvent::Read(checked.payload.bytes.len() as u64));
            // No more of it is needed than its header.
            let header = checked.plain.len().min(WalHeader::LENGTH);
            begin.get_or_insert_with(|| checked.plain.get(..header).unwrap_or_default().to_vec());
        }
        let whole = reader.finish()?;
        let name = file
            .segment()
            .filter(|_| file.holds_wal() || matches!(file, WalFileName::Aside { .. }));
        let Some(name) = name else {
            return Ok(Found::Foreign(format!("no {file} has {} bytes", whole.plain_length)));
        };
        let begin = begin.unwrap_or_default();
        if let Err(why) = self.check_header(name, &begin, whole.plain_length) {
            return Ok(Found::Foreign(why));
        }
        let object = ClaimedObject {
            digest: whole.digest,
            plain_length: whole.plain_length,
            stored_length: whole.payload_length,
            claims: vec![self.claim(path)],
        };
        Ok(Found::Good(object, Vec::new()))
    }

    /// Whether a whole content belongs to this archive and this name. Returns the lines of a history.
    fn check(&self, file: WalFileName, plain: &[u8]) -> Result<Vec<Branch>, String> {
        if let WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::Aside { segment: name, .. } = file
        {
            self.check_header(name, plain, plain.len() as u64)?;
        }
        if let WalFileName::Map(name) = file {
            let map = SegmentMap::decode(plain).map_err(|error| chain(&error))?;
            if map.name() != name {
                return Err(format!("it is the map of {}", map.name()));
            }
        }
        branches_of(file, plain).map_err(|error| chain(&error))
    }

    fn check_header(&self, name: SegmentName, begin: &[u8], length: u64) -> Result<(), String> {
        let header = WalHeader::parse(begin).map_err(|error| chain(&error))?;
        header.check(name, length).map_err(|error| chain(&error))?;
        if header.system_id == self.cluster.system_id {
            return Ok(());
        }
        Err(format!(
            "it was written by cluster {}, not by {}",
            header.system_id, self.cluster.system_id
        ))
    }
}

/// How many objects are read of a file.
fn objects_of(copies: &Copies) -> u32 {
    match copies {
        Copies::One(copies) => copies.iter().map(|copy| u32::from(copy.of.unwrap_or(1))).sum(),
        Copies::Different(_) | Copies::Cut => 1,
    }
}

fn problem(stanza: &StanzaName, file: WalFileName, found: &Found) -> Problem {
    let again = "push it again with 'pgmesh archive-push' if the cluster still has it in pg_wal";
    let of = |kind, what: String| Problem::new(kind, file, what).of(stanza);
    match found {
        Found::Good(..) => of(ProblemKind::WalDamaged, String::new()),
        Found::Damaged(why) => of(
            ProblemKind::WalDamaged,
            format!("no good copy is there, and a recovery that needs it stops there: {why}"),
        )
        .remedy(again),
        Found::Cut => of(
            ProblemKind::WalCut,
            "its upload was cut, so it was never archived here; its parts stay where they are".to_owned(),
        )
        .remedy(again),
        Found::Foreign(why) => of(
            ProblemKind::WalForeign,
            format!("it is left out, and stays where it is: {why}"),
        ),
        Found::Different(copies) => {
            let paths: Vec<String> = copies.iter().map(|copy| copy.path.to_string()).collect();
            of(
                ProblemKind::WalDuplicate,
                format!(
                    "different contents lie under its name, and only the lost catalog knew which one is right; neither is used, both stay: {}",
                    paths.join(", ")
                ),
            )
            .remedy(format!(
                "{again}; else find out which is right ('pgmesh repo-get PATH' reads each), move the other away, and rebuild into an empty node-path"
            ))
        }
    }
}

fn gap_problem(stanza: &StanzaName, gap: &crate::wal_ranges::Range) -> Problem {
    Problem::new(
        ProblemKind::WalGap,
        format!("{} to {}", gap.first, gap.last),
        format!(
            "{} segments are missing between others: no recovery crosses them",
            gap.count
        ),
    )
    .of(stanza)
    .remedy("another repository may have them; else take a new backup")
}

//! The WAL archive, read from repositories alone.

use super::repositories::{DirectRepositories, GRACE, Opening, RepositorySettings};
use crate::mesh::Archived;
use crate::wal_sink::{WalSink, give};
use bytes::Bytes;
use futures::future::join_all;
use pgmesh_postgres::{Descent, SegmentName, SegmentSize, SystemId, TimelineHistory, TimelineId, WalFileName, WalHole};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::lines::{Family, LastSegment, TimelineFacts};
use pgmesh_protocol::wal_copies::{Copies, Copy, Listed};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{ArchiveId, Digest, ObjectName, ObjectPath, PartsReader, RepoKey, StanzaInfo, StanzaName, prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the others are waited for when one repository is open, where that one may be enough.
const AT_ONCE: Duration = Duration::from_millis(500);

/// The archives in the declared repositories, for `archive-get --repo-direct`.
pub struct DirectArchive {
    /// The repositories that are open.
    repositories: Arc<DirectRepositories>,
    /// The other repositories, as long as no request needs them.
    opening: Option<Opening>,
}

impl DirectArchive {
    /// Opens the repositories.
    ///
    /// # Errors
    /// None is declared or can be opened.
    pub async fn open(repositories: Vec<RepositorySettings>) -> Result<Self, Failure> {
        Self::when_open(Opening::start(repositories)).await
    }

    /// When one repository is open, and the others are or take their time.
    pub(in crate::restore) async fn when_open(mut opening: Opening) -> Result<Self, Failure> {
        opening.wait(AT_ONCE).await;
        Ok(if opening.is_incomplete() {
            Self {
                repositories: Arc::new(opening.so_far()),
                opening: Some(opening),
            }
        } else {
            Self::of(Arc::new(opening.into_all()?))
        })
    }

    /// Of opened repositories.
    pub(super) fn of(repositories: Arc<DirectRepositories>) -> Self {
        Self {
            repositories,
            opening: None,
        }
    }

    /// One archived file. `system_id` says of which of the stanza's clusters; without it: of the newest. "Never
    /// archived" is the answer only when every declared repository could be listed, and none has the file nor WAL
    /// behind it (invariant 7).
    ///
    /// # Errors
    /// 44 for a cluster that the stanza does not have, 75 for a stanza that is not there; 103 when every copy is bad,
    /// or when no copy was found and not every declared repository could be asked: then the file may exist (invariant
    /// 7).
    pub async fn get(
        &mut self,
        stanza: &StanzaName,
        system_id: Option<SystemId>,
        file: WalFileName,
        sink: &mut dyn WalSink,
    ) -> Result<Archived, Failure> {
        // PostgreSQL asks for thousands of files, each in a process of its own: a silent repository must not delay a
        // file that an open one has. Any other answer needs all repositories, and so does the choice of the newest
        // cluster.
        if self.opening.is_some()
            && system_id.is_some()
            && let Ok(Archived::Found) = self.find(stanza, system_id, file, sink).await
        {
            return Ok(Archived::Found);
        }
        if let Some(opening) = &mut self.opening {
            opening.wait(GRACE).await;
        }
        if let Some(opening) = self.opening.take() {
            self.repositories = Arc::new(opening.into_all()?);
        }
        self.find(stanza, system_id, file, sink).await
    }

    /// Whether it has answered so far without some of the repositories.
    #[cfg(test)]
    pub fn is_incomplete(&self) -> bool {
        self.opening.is_some()
    }

    async fn find(
        &self,
        stanza: &StanzaName,
        system_id: Option<SystemId>,
        file: WalFileName,
        sink: &mut dyn WalSink,
    ) -> Result<Archived, Failure> {
        let archives = self.archives(stanza, system_id).await?;
        let mut silent = archives.silent;
        let mut found = FoundContents::new(sink);
        for (archive_id, _) in &archives.ids {
            let listing = self
                .repositories
                .list(&prefix::archived_file(stanza, *archive_id, &file))
                .await;
            silent.extend(listing.silent);
            let mut copies: BTreeMap<RepoKey, Listed> = BTreeMap::new();
            for (repo, path) in listing.found {
                if is_copy_of(&path, file) {
                    copies.entry(repo).or_default().add(path);
                }
            }
            // All of them, since two that differ must be noticed: the names of one content are others in each
            // repository.
            let (mut objects, mut sets) = (Vec::new(), Vec::new());
            for (repo, listed) in copies {
                match listed.copies() {
                    Copies::Cut => tracing::warn!("repo{repo}: the upload of {file} is incomplete and is ignored"),
                    Copies::One(copies) | Copies::Different(copies) => {
                        for Copy { path, of } in copies {
                            match of {
                                None => objects.push((repo, path)),
                                Some(of) => sets.push((repo, path, of)),
                            }
                        }
                    }
                }
            }
            let objects = objects.iter().map(|(repo, path)| self.repositories.at(*repo, path));
            for copy in join_all(objects).await {
                found.object(copy)?;
            }
            for (repo, path, of) in sets {
                match self.repositories.parts_at(repo, &path, of) {
                    Ok(reader) => found.parts(repo, reader).await?,
                    Err(reason) => found.bad.push(reason),
                }
            }
        }
        let FoundContents { digests, bad, .. } = found;
        for reason in silent.iter().chain(&bad) {
            tracing::warn!("{file}: {reason}");
        }
        match (judge(file, digests.len(), &bad, &silent)?, file) {
            (Archived::Never, WalFileName::Segment(segment)) => {
                for (archive_id, size) in archives.ids {
                    if let Some(hole) = self.hole(stanza, archive_id, size, segment).await? {
                        return Ok(Archived::Hole(hole));
                    }
                }
                Ok(Archived::Never)
            }
            (answer, _) => Ok(answer),
        }
    }

    /// Whether the absence of a segment is a hole, by all objects that the repositories have of its archive. One pass
    /// over the listing of each, of which only the histories and one later segment are kept.
    async fn hole(
        &self,
        stanza: &StanzaName,
        archive_id: ArchiveId,
        size: SegmentSize,
        missing: SegmentName,
    ) -> Result<Option<WalHole>, Failure> {
        let mut later: Option<SegmentName> = None;
        let mut histories = Vec::new();
        let folder = prefix::archive(stanza, archive_id);
        let silent = self
            .repositories
            .visit(&folder, |repo, path, _| match &path {
                ObjectPath::Segment {
                    file: WalFileName::Segment(name) | WalFileName::Partial(name),
                    ..
                } if name.timeline == missing.timeline && *name > missing => {
                    later.get_or_insert(*name);
                }
                ObjectPath::Segment {
                    file: WalFileName::History(_),
                    ..
                } => histories.push((repo, path)),
                _ => {}
            })
            .await;
        let (descents, bad) = self.descents(histories).await;
        let hole = WalHole::judge(missing, size, later, descents);
        match judge(WalFileName::Segment(missing), 0, &bad, &silent) {
            // A file that cannot be read might prove a hole; a hole that is known of needs no more proof.
            Err(unknown) if hole.is_none() => Err(unknown),
            _ => Ok(hole),
        }
    }

    /// The lines of the history files that can be read, and the reasons of the others.
    async fn descents(&self, histories: Vec<(RepoKey, ObjectPath)>) -> (Vec<Descent>, Vec<String>) {
        let mut bad = Vec::new();
        let mut descents = Vec::new();
        for (repo, path) in histories {
            match self.repositories.at(repo, &path).await {
                Ok((name, plain)) => descents.extend(descents_of(&name, &plain)),
                Err(reason) => bad.push(reason),
            }
        }
        (descents, bad)
    }

    /// The archive's facts about the timelines of its cluster. Without a catalog, times tell which of two files was
    /// archived first: of each file the earliest at which a repository wrote it.
    pub(super) async fn family(&self, stanza: &StanzaName, archive_ids: &BTreeSet<ArchiveId>) -> Family {
        let mut facts: BTreeMap<TimelineId, TimelineFacts> = BTreeMap::new();
        let mut histories = Vec::new();
        for archive_id in archive_ids {
            let folder = prefix::archive(stanza, *archive_id);
            let silent = self
                .repositories
                .visit(&folder, |repo, path, written| {
                    let ObjectPath::Segment { file, .. } = &path else {
                        return;
                    };
                    let facts = facts.entry(file.timeline()).or_default();
                    match file {
                        WalFileName::Segment(name) => learn_segment(facts, *name, written),
                        WalFileName::History(_) => {
                            let began = order(written);
                            facts.began = if facts.began == 0 {
                                began
                            } else {
                                facts.began.min(began)
                            };
                            histories.push((repo, path));
                        }
                        _ => {}
                    }
                })
                .await;
            for reason in silent {
                tracing::warn!("timelines of a repository are ignored: {reason}");
            }
        }
        let (descents, bad) = self.descents(histories).await;
        for reason in bad {
            tracing::warn!("a history file is ignored: {reason}");
        }
        Family {
            tree: descents.into_iter().collect(),
            facts,
            ..Family::default()
        }
    }

    async fn archives(&self, stanza: &StanzaName, system_id: Option<SystemId>) -> Result<Archives, Failure> {
        let listing = self.repositories.list(&prefix::databases(stanza)).await;
        let mut known: BTreeMap<ArchiveId, (SystemId, SegmentSize)> = BTreeMap::new();
        let mut bad = Vec::new();
        let read = listing.found.iter().map(|(repo, path)| async move {
            let read = self.repositories.at(*repo, path).await;
            (path, read.and_then(|(name, plain)| read_info(&name, &plain)))
        });
        for (path, info) in join_all(read).await {
            match info {
                Ok(info) => drop(known.insert(info.archive_id, (info.system_id, info.segment_size))),
                Err(reason) => bad.push((path, reason)),
            }
        }
        // One good copy of a description replaces the bad ones.
        let is_missed = |path: &ObjectPath| !matches!(path, ObjectPath::StanzaInfo { archive_id, .. } if known.contains_key(archive_id));
        let bad: Vec<String> = bad
            .into_iter()
            .filter(|(path, _)| is_missed(path))
            .map(|(_, reason)| reason)
            .collect();
        let newest = known.keys().max_by_key(|id| id.db).copied();
        let ids: Vec<(ArchiveId, SegmentSize)> = known
            .iter()
            .filter(|(archive, (id, _))| system_id.map_or(newest == Some(**archive), |wanted| wanted == *id))
            .map(|(archive, (_, size))| (*archive, *size))
            .collect();
        let silent = [listing.silent, bad].concat();
        if !ids.is_empty() {
            return Ok(Archives { ids, silent });
        }
        let failure = match system_id {
            Some(id) if !known.is_empty() => Failure::new(
                ExitCode::ArchiveMismatch,
                format!("stanza {stanza} has no cluster with system identifier {id}"),
            )
            .remedy("check --stanza"),
            _ => Failure::new(
                ExitCode::BackupSetInvalid,
                format!("no declared repository describes stanza {stanza}"),
            ),
        };
        Err(if silent.is_empty() {
            failure
        } else {
            failure.because(silent.join("; "))
        })
    }
}

struct Archives {
    /// The archives of the cluster, and the size of their segments.
    ids: Vec<(ArchiveId, SegmentSize)>,
    silent: Vec<String>,
}

/// Keeps the last segment, and the earliest time at which a repository wrote it.
fn learn_segment(facts: &mut TimelineFacts, name: SegmentName, written: SystemTime) {
    let order = match &facts.last {
        Some(last) if last.name > name => return,
        Some(last) if last.name == name => last.order.min(order(written)),
        _ => order(written),
    };
    facts.last = Some(LastSegment {
        name,
        order,
        at: i64::try_from(order / 1000).unwrap_or(i64::MAX),
    });
}

/// A time as an order: milliseconds since the Unix epoch.
fn order(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The lines of a history file; none if it makes no sense.
fn descents_of(name: &ObjectName, plain: &[u8]) -> Vec<Descent> {
    let ObjectName::Segment {
        file: WalFileName::History(timeline),
        ..
    } = name
    else {
        return Vec::new();
    };
    let history = TimelineHistory::parse(*timeline, plain).map(|history| history.entries);
    let line = |entry: &pgmesh_postgres::TimelineHistoryEntry| Descent {
        timeline: *timeline,
        parent: entry.parent,
        switch: entry.switch,
    };
    history.unwrap_or_default().iter().map(line).collect()
}

fn read_info(name: &ObjectName, plain: &[u8]) -> Result<StanzaInfo, String> {
    let info = StanzaInfo::decode(plain).map_err(|error| format!("{name}: {error}"))?;
    match name {
        ObjectName::StanzaInfo { stanza, archive_id, .. }
            if *stanza == info.stanza && *archive_id == info.archive_id =>
        {
            Ok(info)
        }
        _ => Err(format!("{name} describes {} {}", info.stanza, info.archive_id)),
    }
}

fn is_copy_of(path: &ObjectPath, wanted: WalFileName) -> bool {
    matches!(path, ObjectPath::Segment { file, .. } if *file == wanted)
}

/// The contents of a file that were found. The sink has the first of them.
struct FoundContents<'s> {
    sink: &'s mut dyn WalSink,
    digests: BTreeSet<Digest>,
    bad: Vec<String>,
}

impl<'s> FoundContents<'s> {
    fn new(sink: &'s mut dyn WalSink) -> Self {
        Self {
            sink,
            digests: BTreeSet::new(),
            bad: Vec::new(),
        }
    }

    fn object(&mut self, copy: Result<(ObjectName, Bytes), String>) -> Result<(), Failure> {
        match copy {
            Ok((name, plain)) => {
                if self.digests.is_empty() {
                    give(self.sink, &plain)?;
                }
                self.digests.insert(name.digest());
            }
            Err(reason) => self.bad.push(reason),
        }
        Ok(())
    }

    /// Reads a file that lies in parts; invariant 6: it counts when all of it was found good.
    async fn parts(&mut self, repo: RepoKey, mut reader: PartsReader) -> Result<(), Failure> {
        let is_first = self.digests.is_empty();
        if is_first {
            self.sink.begin()?;
        }
        let whole = loop {
            match reader.next().await {
                Ok(Some(part)) if is_first => self.sink.take(&part.plain)?,
                Ok(Some(_)) => {}
                Ok(None) => break reader.finish(),
                Err(error) => break Err(error),
            }
        };
        match whole {
            Ok(whole) => drop(self.digests.insert(whole.digest)),
            Err(error) => self.bad.push(format!("repo{repo}: {}", chain(&error))),
        }
        Ok(())
    }
}

/// The verdict on a file: pure, since everything hangs on it.
fn judge(file: WalFileName, contents: usize, bad: &[String], silent: &[String]) -> Result<Archived, Failure> {
    let reasons = || bad.iter().chain(silent).cloned().collect::<Vec<_>>().join("; ");
    match contents {
        1 => Ok(Archived::Found),
        // Invariant 3 is the catalog's; without it there is no telling which content was acknowledged.
        2.. => Err(Failure::new(
            ExitCode::ArchiveDuplicate,
            format!("the repositories have {file} with different contents"),
        )
        .remedy("run this without --repo-direct: only the catalog of a node knows which content is right")),
        // Invariant 7: not found is a fact only when every repository was asked.
        0 if bad.is_empty() && silent.is_empty() => Ok(Archived::Never),
        0 => Err(Failure::new(
            ExitCode::RepoInvalid,
            format!("{file} may exist, but not every repository can be read"),
        )
        .because(reasons())
        .remedy("make the repositories readable, or declare only the readable ones")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_7_not_there_is_said_only_when_everybody_was_asked() {
        let file: WalFileName = "000000010000000000000001".parse().unwrap();
        let reason = ["repo2: gone".to_owned()];
        assert_eq!(judge(file, 0, &[], &[]), Ok(Archived::Never));
        assert!(judge(file, 0, &reason, &[]).is_err());
        assert!(judge(file, 0, &[], &reason).is_err());
        assert_eq!(judge(file, 1, &reason, &reason), Ok(Archived::Found));
        assert_eq!(judge(file, 2, &[], &[]).unwrap_err().code, ExitCode::ArchiveDuplicate);
    }
}

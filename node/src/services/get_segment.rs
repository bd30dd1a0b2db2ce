//! Getting WAL.

use crate::archive::Archive;
use crate::refs;
use crate::wal_holes::descents_of;
use bytes::Bytes;
use pgmesh_postgres::{WalFileName, WalHole};
use pgmesh_protocol::{ExitCode, Failure, GetSegment, SegmentPart, SegmentReply};
use pgmesh_raft::{Database, ObjectRef, Refusal, StanzaRecord, View};
use pgmesh_storage::{FilePart, RepoKey, StanzaName};
use std::sync::Arc;

impl Archive {
    /// Reads one WAL file, or says where its parts are. "Never archived" is the answer of a linearizable read
    /// (invariant 7).
    pub(crate) async fn get_segment(self: &Arc<Self>, get: GetSegment) -> Result<Got, Failure> {
        let file: WalFileName = get.file.parse().map_err(|error| {
            Failure::new(
                ExitCode::OptionInvalid,
                format!("'{}' is no name of a WAL file", get.file),
            )
            .because(error)
        })?;
        if let WalFileName::Aside { .. } = file {
            let what = format!("{file} was set aside, and is not handed out to a recovery");
            return Err(Failure::new(ExitCode::OptionInvalid, what).remedy("'pgmesh repo-get' reads it"));
        }
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let stanza = view
            .stanza(&get.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(get.stanza.clone())))?;
        // A cluster that came back after an upgrade has several databases, each with a part of its WAL.
        let is_asked = |database: &&Database| match get.system_id {
            None => stanza.current() == Some(*database),
            Some(id) => database.system_id == id,
        };
        let databases: Vec<&Database> = stanza.databases.iter().rev().filter(is_asked).collect();
        if databases.is_empty() {
            return Err(no_such_database(&get));
        }
        let Some((object, known)) = find_file(&view, &get.stanza, &databases, file)? else {
            for database in databases {
                if let Some(hole) = hole(&view, &get.stanza, &stanza, database, file)? {
                    return Ok(Got::Said(SegmentReply::Hole(hole)));
                }
            }
            // This view is newer than the view that was checked when the request came.
            self.refuse_loss(&view)?;
            let past = view.past()?;
            if let Some(repo) = past.unlisted.first() {
                let what = format!("{file} is not in the catalog, which has begun era {}", past.era);
                return Err(Failure::new(ExitCode::ArchiveTimeout, what)
                    .because(format!("repo{repo} has not been looked through yet for WAL that the lost part knew"))
                    .remedy(format!(
                        "try again: it takes some minutes after the start. If repo{repo} does not come back, 'pgmesh --repo={repo} \
                         --force repo-remove' says so; --repo-direct restores from one repository alone"
                    ))
                    .again());
            }
            if self.may_learn_of_loss() {
                return Err(Failure::new(
                    ExitCode::ArchiveTimeout,
                    format!(
                        "{file} is not in the catalog, and this node has not yet looked at all of its repositories"
                    ),
                )
                .because("it has just started, and they may show that the catalog has lost something")
                .again());
            }
            return Ok(Got::Said(SegmentReply::NeverArchived));
        };
        if view.object(&object)?.is_some_and(|stored| stored.is_unknown()) {
            return Err(content_unknown(&file));
        }
        let avoid: Vec<RepoKey> = get.avoid.iter().filter_map(|repo| RepoKey::new(*repo).ok()).collect();
        if let Some(of) = known.parts() {
            let doubted: Vec<RepoKey> = get.doubted.iter().filter_map(|repo| RepoKey::new(*repo).ok()).collect();
            let avoid = self.beside_doubted(&object, &known, avoid, doubted).await;
            // The record without the replicas that were found to be bad.
            let known = refs::known(&self.catalog.view(), &object)?.unwrap_or(known);
            let file = PartedFile {
                object,
                known,
                of,
                avoid,
            };
            return Ok(Got::Parts(file));
        }
        let source = self.reads.read_known(&object, &known, &avoid).await?;
        let reply = SegmentReply::Found {
            payload: source.payload.head(),
            repo: source.repo.get(),
        };
        Ok(Got::Whole(reply, source.payload.bytes))
    }

    /// Has the doubted copies of a file looked at; those to avoid meanwhile. Waits for it where no other is there.
    async fn beside_doubted(
        self: &Arc<Self>,
        object: &ObjectRef,
        known: &refs::Known,
        mut avoid: Vec<RepoKey>,
        doubted: Vec<RepoKey>,
    ) -> Vec<RepoKey> {
        if doubted.is_empty() {
            return avoid;
        }
        let doubt = self.reads.doubt_once(object, known, &doubted);
        avoid.extend(doubted);
        let is_another = |repo: &RepoKey| {
            let place = self.repositories.place(*repo);
            !avoid.contains(repo) && place.is_ok_and(|place| place.admits())
        };
        let mut repos = known.replicas.iter().map(|replica| replica.repo);
        if let Some(doubt) = doubt
            && !repos.any(|repo| is_another(&repo))
        {
            doubt.wait().await;
        }
        avoid
    }

    /// Reads one part of a file; the next is read while it is sent.
    pub(crate) async fn get_part(
        &self,
        file: &PartedFile,
        part: FilePart,
    ) -> Result<(SegmentPart, Option<Bytes>), Failure> {
        let known = file.known.of_part(part);
        let (payload, repo) = self.reads.read_part(&file.object, &known, &file.avoid).await?;
        let head = SegmentPart {
            payload: payload.head(),
            repo: repo.get(),
        };
        Ok((head, Some(payload.bytes)))
    }
}

/// The answer to a request for a WAL file.
pub(crate) enum Got {
    /// It is not there.
    Said(SegmentReply),
    /// All of it.
    Whole(SegmentReply, Bytes),
    /// Its parts follow, one by one.
    Parts(PartedFile),
}

/// A file that lies in parts.
pub(crate) struct PartedFile {
    object: ObjectRef,
    known: refs::Known,
    of: u16,
    avoid: Vec<RepoKey>,
}

impl PartedFile {
    /// The answer that precedes the parts.
    pub(crate) fn reply(&self) -> SegmentReply {
        SegmentReply::InParts {
            digest: self.known.digest,
            plain_length: self.known.plain_length,
        }
    }

    /// Its plaintext, in bytes.
    pub(crate) fn plain_length(&self) -> u64 {
        self.known.plain_length
    }

    /// Its parts, in their order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = FilePart> + use<> {
        FilePart::all(self.of)
    }
}

/// A file in the first of these databases that has it.
fn find_file(
    view: &View,
    stanza: &StanzaName,
    databases: &[&Database],
    file: WalFileName,
) -> Result<Option<(ObjectRef, refs::Known)>, Failure> {
    for database in databases {
        let object = ObjectRef::Segment {
            stanza: stanza.clone(),
            db: database.id,
            file,
        };
        if let Some(known) = refs::known(view, &object)? {
            return Ok(Some((object, known)));
        }
    }
    Ok(None)
}

/// Invariant 7: whether the absence of a file is a hole in the archive. Of files other than segments no recovery takes
/// the absence for its end.
fn hole(
    view: &View,
    name: &StanzaName,
    stanza: &StanzaRecord,
    database: &Database,
    file: WalFileName,
) -> Result<Option<WalHole>, Failure> {
    let WalFileName::Segment(segment) = file else {
        return Ok(None);
    };
    let later = view.segment_after(name, database.id, segment)?;
    let descents = descents_of(stanza, database.id);
    Ok(WalHole::judge(segment, database.segment_size, later, descents))
}

/// Invariant 7: it was archived, so "not found" would be a lie, and would end a recovery early.
fn content_unknown(file: &WalFileName) -> Failure {
    Failure::new(
        ExitCode::FileMissing,
        format!("{file} was archived once, but the repository that the catalog was rebuilt from has no good copy of it"),
    )
    .remedy(
        "if the cluster still has it in pg_wal, push it again with 'pgmesh archive-push'; else recover to a target before it, \
         or from a later backup",
    )
}

fn no_such_database(get: &GetSegment) -> Failure {
    let given = get.system_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    Failure::new(
        ExitCode::ArchiveMismatch,
        format!("stanza {} has no database with system identifier {given}", get.stanza),
    )
    .remedy("check --stanza and pg1-path")
}

//! Which files of a push go into the archive, and which are set aside (invariants 3 and 12; decision 29).

use super::archive::segment_ref;
use super::comparison::Comparison;
use super::refused_push::position;
use crate::archive::Archive;
use crate::refs;
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::{ExitCode, Failure, PushSegment};
use pgmesh_raft::{Database, Judgement, Known, Refusal, SegmentRecord, StanzaRecord, View, command};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Digest, FILE_PART_LENGTH, Payload, StanzaName};

/// Where a pushed file goes.
pub(super) struct Filed {
    /// Its name in the archive.
    pub(super) file: WalFileName,
    /// Why it is set aside, if it is.
    pub(super) aside: Option<command::Aside>,
    /// The record of the archived file of that name.
    pub(super) known: Option<SegmentRecord>,
    /// The condition that the content must meet, where it comes later.
    pub(super) condition: Option<Condition>,
}

/// The content of a file that is pushed.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// It is here, checked.
    Here(&'a Payload),
    /// It comes later, in parts, and will have this digest.
    InParts(Digest),
}

impl Content<'_> {
    pub(super) fn digest(self) -> Digest {
        match self {
            Self::Here(payload) => payload.digest,
            Self::InParts(digest) => digest,
        }
    }
}

impl Archive {
    /// The name under which a file is archived, or set aside. Said before anything is written, so that a copy leaves no
    /// objects behind; decided again by the catalog.
    pub(super) async fn file_under(
        &self,
        view: &View,
        stanza: &StanzaRecord,
        database: &Database,
        push: &PushSegment,
        file: &WalFileName,
        content: Content<'_>,
    ) -> Result<Filed, Failure> {
        let given = content.digest();
        let known = archived(view, &push.stanza, database, file)?;
        let digest = known.as_ref().map(|record| record.object.digest);
        // The same bytes are no harm: a promoted server archives some of the files that its primary has archived.
        let archived_here = |known| Filed {
            file: *file,
            aside: None,
            known,
            condition: None,
        };
        if digest == Some(given) {
            return Ok(archived_here(known));
        }
        let last_push = view.last_push(&push.stanza, database.id, file.timeline())?;
        let seen = Known {
            content: digest,
            last_push: last_push.as_ref(),
            now: pgmesh_protocol::now_unix(),
        };
        let judged = match stanza.judge(&push.stanza, *file, &push.server, seen, given) {
            Ok(judged) => judged,
            Err(refusal) => {
                let parting = match (&refusal, content) {
                    (Refusal::Duplicate { .. }, Content::Here(payload)) => {
                        let comparison = comparison(view, database, push, file)?;
                        match comparison {
                            Some(comparison) => self.parting(comparison, payload).await.ok(),
                            None => None,
                        }
                    }
                    _ => None,
                };
                let parting = parting.and_then(|byte| position(*file, database, byte));
                return Err(self.explained(view, database, push, refusal, parting));
            }
        };
        let (Judgement::Aside { upto }, Some(segment)) = (judged, file.segment()) else {
            return Ok(archived_here(known));
        };
        let shared = upto.0.saturating_sub(segment.start(database.segment_size).0);
        let mut condition = None;
        if let Some(known) = digest.filter(|_| shared > 0)
            && let Some(comparison) = comparison(view, database, push, file)?
        {
            match content {
                Content::Here(payload) => {
                    let same = self.parting(comparison, payload).await?;
                    self.check_shared(view, database, push, file, (known, given), (shared, same))?;
                }
                Content::InParts(_) => {
                    condition = Some(Condition {
                        comparison,
                        shared,
                        known,
                    });
                }
            }
        }
        tracing::info!(stanza = %push.stanza, %file, "set aside: no recovery along the archive's history needs it");
        let aside = command::Aside {
            of: *file,
            compared: digest,
        };
        let digest = given.0.first_chunk().copied().unwrap_or_default();
        let file = WalFileName::Aside { segment, digest };
        Ok(Filed {
            file,
            aside: Some(aside),
            known: archived(view, &push.stanza, database, &file)?,
            condition,
        })
    }

    /// Refuses a file that came in parts and does not begin as it must to be set aside.
    pub(super) fn check_condition(
        &self,
        database: &Database,
        push: &PushSegment,
        file: &WalFileName,
        condition: &Condition,
    ) -> Result<(), Failure> {
        let contents = (condition.known, push.payload.digest);
        let lengths = (condition.shared, condition.comparison.same());
        self.check_shared(&self.catalog.view(), database, push, file, contents, lengths)
    }

    /// Invariant 3: the file begins as the archived file of its name does, up to where the server's timeline left.
    fn check_shared(
        &self,
        view: &View,
        database: &Database,
        push: &PushSegment,
        file: &WalFileName,
        (known, given): (Digest, Digest),
        (shared, same): (u64, u64),
    ) -> Result<(), Failure> {
        if same >= shared {
            return Ok(());
        }
        let refusal = Refusal::Duplicate {
            stanza: push.stanza.clone(),
            file: *file,
            known,
            given,
        };
        let parting = position(*file, database, same);
        Err(self.explained(view, database, push, refusal, parting))
    }

    /// How many bytes at the beginning of a file are as in the archived file of its name.
    async fn parting(&self, mut comparison: Comparison, payload: &Payload) -> Result<u64, Failure> {
        let (suite, given) = (self.suite(), payload.clone());
        let opened = tasks::blocking("opening a segment", move || given.open(suite)).await;
        let given = opened
            .map_err(|error| Failure::new(ExitCode::Assert, "comparing a WAL file").because(error))?
            .map_err(|error| {
                Failure::new(ExitCode::Checksum, "a WAL file cannot be opened to be compared").because(error)
            })?;
        let length = usize::try_from(FILE_PART_LENGTH).unwrap_or(usize::MAX);
        for from in (0..given.len()).step_by(length) {
            let piece = given.slice(from..from.saturating_add(length).min(given.len()));
            comparison.add(&self.reads, &piece).await?;
        }
        Ok(comparison.same())
    }
}

/// A comparison with the archived file of the same name; none where no such file is archived.
fn comparison(
    view: &View,
    database: &Database,
    push: &PushSegment,
    file: &WalFileName,
) -> Result<Option<Comparison>, Failure> {
    let object = segment_ref(push, database, file);
    let segment = file.segment().map(|segment| (segment, database.segment_size));
    Ok(refs::known(view, &object)?.map(|known| Comparison::new(object, known, segment)))
}

/// A file that is set aside must begin as the archived file of its name does, up to where the timeline of its server
/// left (invariant 3).
pub(super) struct Condition {
    pub(super) comparison: Comparison,
    /// So many bytes must be alike.
    pub(super) shared: u64,
    known: Digest,
}

/// The record of an archived file. If the catalog knows only its name, the file is archived anew.
fn archived(
    view: &View,
    stanza: &StanzaName,
    database: &Database,
    file: &WalFileName,
) -> Result<Option<SegmentRecord>, Failure> {
    let record = view.segment(stanza, database.id, file)?;
    Ok(record.filter(|record| !record.object.is_unknown()))
}

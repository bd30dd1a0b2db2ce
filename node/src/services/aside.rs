//! Which files of a push go into the archive, and which are set aside (invariants 3 and 12; decision 29).

use super::archive::segment_ref;
use super::refused_push::position;
use crate::protocol::PushSegment;
use crate::refs;
use crate::{Failure, Node, code};
use pgmesh_postgres::wal::switched_at;
use pgmesh_postgres::{SegmentName, WalFileName};
use pgmesh_raft::{Database, Judgement, Known, Refusal, SegmentRecord, StanzaRecord, View, command};
use pgmesh_storage::{Payload, StanzaName};

/// Where a pushed file goes.
pub(super) struct Filed {
    /// Its name in the archive.
    pub(super) file: WalFileName,
    /// Why it is set aside, if it is.
    pub(super) aside: Option<command::Aside>,
    /// What is archived under that name.
    pub(super) known: Option<SegmentRecord>,
}

impl Node {
    /// The name under which a file is archived, or set aside. Said before anything is written, so that a copy leaves no
    /// objects behind; decided again by the catalog.
    pub(super) async fn file_under(
        &self,
        view: &View,
        stanza: &StanzaRecord,
        database: &Database,
        push: &PushSegment,
        file: &WalFileName,
        payload: &Payload,
    ) -> Result<Filed, Failure> {
        let known = archived(view, &push.stanza, database, file)?;
        let digest = known.as_ref().map(|record| record.object.digest);
        // The same bytes are no harm: a server that was promoted archives some of what its primary has archived.
        let archived_here = |known| Filed {
            file: *file,
            aside: None,
            known,
        };
        if digest == Some(payload.digest) {
            return Ok(archived_here(known));
        }
        let last_push = view.last_push(&push.stanza, database.id, file.timeline())?;
        let seen = Known {
            content: digest,
            last_push: last_push.as_ref(),
            now: crate::now_unix(),
        };
        let judged = match stanza.judge(&push.stanza, *file, &push.server, seen, payload.digest) {
            Ok(judged) => judged,
            Err(refusal) => {
                let parting = match refusal {
                    Refusal::Duplicate { .. } => self.parting(view, database, push, file, payload).await.ok(),
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
        if let Some(known) = digest.filter(|_| shared > 0) {
            // Invariant 3: it begins as what is archived under its name does, up to where the server's timeline left.
            let same = self.parting(view, database, push, file, payload).await?;
            if same < shared {
                let refusal = Refusal::Duplicate {
                    stanza: push.stanza.clone(),
                    file: *file,
                    known,
                    given: payload.digest,
                };
                let parting = position(*file, database, same);
                return Err(self.explained(view, database, push, refusal, parting));
            }
        }
        tracing::info!(stanza = %push.stanza, %file, "set aside: no recovery along the archive's history needs it");
        let aside = command::Aside {
            of: *file,
            compared: digest,
        };
        let digest = payload.digest.0.first_chunk().copied().unwrap_or_default();
        let file = WalFileName::Aside { segment, digest };
        Ok(Filed {
            file,
            aside: Some(aside),
            known: archived(view, &push.stanza, database, &file)?,
        })
    }

    /// So many bytes of a file are as those that are archived under its name. All of them, where both go on alike up to a
    /// switch of segments: behind it there are no records.
    async fn parting(
        &self,
        view: &View,
        database: &Database,
        push: &PushSegment,
        file: &WalFileName,
        payload: &Payload,
    ) -> Result<u64, Failure> {
        let object = segment_ref(push, database, file);
        let Some(known) = refs::known(view, &object)? else {
            return Ok(u64::MAX);
        };
        let source = self.read_known(&object, &known, &[]).await.map_err(Failure::again)?;
        let (suite, given, archived) = (self.suite(), payload.clone(), source.payload);
        let (segment, size) = (file.segment(), database.segment_size);
        let same = tokio::task::spawn_blocking(move || {
            let (given, archived) = (given.open(suite).ok()?, archived.open(suite).ok()?);
            let pairs = given.iter().zip(archived.iter());
            let same = pairs.take_while(|(given, archived)| given == archived).count() as u64;
            let is_behind = |segment: SegmentName| {
                let switch = switched_at(segment, &archived);
                switch.is_some_and(|switch| segment.start(size).0.saturating_add(same) >= switch.0)
            };
            match segment.is_some_and(is_behind) {
                true => Some(u64::MAX),
                false => Some(same),
            }
        });
        let same = same
            .await
            .map_err(|error| Failure::new(code::ASSERT, "comparing a WAL file").because(error))?;
        same.ok_or_else(|| {
            Failure::new(
                code::CHECKSUM,
                format!("what is archived as {file} cannot be read to be compared"),
            )
            .again()
        })
    }
}

/// What is archived under a name, and known by more than its name: that is archived anew.
fn archived(
    view: &View,
    stanza: &StanzaName,
    database: &Database,
    file: &WalFileName,
) -> Result<Option<SegmentRecord>, Failure> {
    let record = view.segment(stanza, database.id, file)?;
    Ok(record.filter(|record| !record.object.is_unknown()))
}

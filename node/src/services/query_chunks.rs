//! Which chunks a backup need not send.

use crate::authorize::Reader;
use crate::backups::Backups;
use pgmesh_protocol::{ExitCode, Failure, QUERY_LIMIT, QueryChunks};
use pgmesh_raft::apply::Base;
use pgmesh_raft::command::ShareRights;
use pgmesh_raft::{Command, LogIndex, ReadError, SessionId, View};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Digest, StanzaName};
use std::collections::BTreeMap;

/// The answer to a query, as far as the catalog has it.
#[derive(Default)]
struct Answer {
    /// Whether each chunk need not be sent.
    known: Vec<bool>,
    /// Chunks among them that only another stanza of the certificate has the right to, by that stanza.
    shared: BTreeMap<StanzaName, Vec<Digest>>,
}

impl Backups {
    /// Whether each chunk need not be sent, since enough repositories hold it and the asker's stanzas have the right to
    /// it. The backup's own stanza has all these rights when this returns. A condemned chunk counts as absent.
    pub(crate) async fn query_chunks(
        &self,
        actor: &str,
        reader: Reader<'_>,
        query: &QueryChunks,
    ) -> Result<Vec<bool>, Failure> {
        if query.digests.len() > QUERY_LIMIT {
            let what = format!("more than {QUERY_LIMIT} chunks in one query");
            return Err(Failure::new(ExitCode::Protocol, what));
        }
        let session = SessionId(LogIndex(query.session));
        let ack = self.clients.ack(session)?;
        let view = self.catalog.view();
        let record = view.session(session)?;
        if record.is_none_or(|record| record.stanza.as_ref() != Some(&query.stanza)) {
            return Err(self.clients.over(session));
        }
        let from: Vec<StanzaName> = match reader {
            // A backup by an administrator shows what its stanza does not have, as any other.
            Reader::Everything => Vec::new(),
            Reader::Of(stanzas) => stanzas.iter().filter(|of| **of != query.stanza).cloned().collect(),
        };
        // Thousands of digests may be asked for, by a certificate of many stanzas.
        let query = query.clone();
        let answering = tasks::blocking("looking chunks up", move || {
            answer(&view.snapshot(), &query, &from, ack)
        });
        let answered = answering.await;
        let answered = answered.map_err(|error| Failure::new(ExitCode::Assert, "looking chunks up").because(error))?;
        let Answer { known, shared } = answered?;
        for (from, chunks) in shared {
            let share = ShareRights { session, from, chunks };
            self.catalog
                .propose(actor, Command::ShareRights(Box::new(share)))
                .await?;
        }
        Ok(known)
    }
}

/// The same is read of each chunk that is not the backup's own, whether it is there or not.
fn answer<B: Base>(
    view: &View<B>,
    query: &QueryChunks,
    others: &[StanzaName],
    ack: usize,
) -> Result<Answer, ReadError> {
    let (own, others) = (view.rights([&query.stanza])?, view.rights(others)?);
    let mut answer = Answer::default();
    for (digest, chunk) in query.digests.iter().zip(view.chunks(&query.digests)?) {
        let is_there = chunk.is_some_and(|record| record.replicas.len() >= ack);
        let is_own = own.has(digest)?;
        let sharer = if is_own { None } else { others.holder(digest)? };
        if is_there && let Some(sharer) = sharer {
            answer.shared.entry(sharer.clone()).or_default().push(*digest);
        }
        answer.known.push(is_there && (is_own || sharer.is_some()));
    }
    Ok(answer)
}

//! Sessions.

use pgmesh_storage::StanzaName;

use super::{Base, Outcome, Step};
use crate::key;
use crate::model::{NodeName, SessionId, SessionKind, SessionRecord, StanzaRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn open<B: Base>(
    step: &mut Step<'_, '_, B>,
    kind: SessionKind,
    stanza: Option<StanzaName>,
    holder: String,
    node: NodeName,
) -> Outcome {
    if step.txn.get(Table::Nodes, &key::node(&node))?.is_none() {
        return Err(Refusal::UnknownNode(node).into());
    }
    let session = SessionId(step.index);
    let record = SessionRecord {
        kind,
        stanza,
        holder,
        node,
        opened_at: step.at,
    };
    step.txn.put(Table::Sessions, key::session(session), &record);
    Ok(Reply::Session(session))
}

pub(super) fn close<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId) -> Outcome {
    end(step, session)?;
    Ok(Reply::Done)
}

pub(super) fn expire<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId, reason: &str) -> Outcome {
    if let Some(record) = end(step, session)? {
        let holder = record.holder;
        step.audit(format!("session {session} of {holder} ended: {reason}"));
    }
    Ok(Reply::Done)
}

/// Ends a session, and with it the backup lock that it may hold.
fn end<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId) -> Outcome<Option<SessionRecord>> {
    let key = key::session(session);
    let Some(record) = step.txn.record::<SessionRecord>(Table::Sessions, &key)? else {
        return Ok(None);
    };
    step.txn.delete(Table::Sessions, key);
    if let Some(name) = &record.stanza {
        let key = key::stanza(name);
        if let Some(mut stanza) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key)?
            && stanza.backup.as_ref().is_some_and(|backup| backup.session == session)
        {
            stanza.backup = None;
            step.txn.put(Table::Stanzas, key, &stanza);
        }
    }
    Ok(Some(record))
}

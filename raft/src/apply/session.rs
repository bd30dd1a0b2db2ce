//! Sessions.

use super::node::need_member;
use super::objects::need_session;
use super::{Base, Outcome, Step, use_judge};
use crate::key;
use crate::model::{LogIndex, NodeName, SessionId, SessionRecord, StanzaRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn open<B: Base>(step: &mut Step<'_, '_, B>, record: &SessionRecord) -> Outcome {
    need_member(step, &record.node)?;
    let session = SessionId(step.index);
    step.txn.put(Table::Sessions, key::session(session), record);
    Ok(Reply::Session(session))
}

pub(super) fn adopt<B: Base>(
    step: &mut Step<'_, '_, B>,
    session: SessionId,
    turn: u64,
    node: NodeName,
    resume_key: [u8; 16],
) -> Outcome {
    let mut record = need_session(step, session)?;
    if record.resume_key != Some(resume_key) {
        return Err(Refusal::SessionKeyDiffers(session).into());
    }
    // Only the holder knows where it is. Its request to n2 may arrive when it has long gone on to n3: n2, which does
    // not hold the session, would end it.
    if turn <= record.turn {
        return Err(Refusal::SessionMoved(session).into());
    }
    need_member(step, &node)?;
    if record.node != node {
        let holder = &record.holder;
        step.audit(format!("session {session} of {holder} goes on by way of node {node}"));
        record.node = node;
    }
    // A new lease also for the same node: if it has proposed to end the session before, that command has no effect from
    // here on.
    record.lease = step.index;
    record.turn = turn;
    step.txn.put(Table::Sessions, key::session(session), &record);
    Ok(Reply::Adopted { lease: step.index })
}

pub(super) fn close<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId) -> Outcome {
    end(step, session)?;
    Ok(Reply::Done)
}

pub(super) fn expire<B: Base>(
    step: &mut Step<'_, '_, B>,
    session: SessionId,
    lease: Option<LogIndex>,
    reason: &str,
) -> Outcome {
    if let Some(lease) = lease {
        let known = step
            .txn
            .record::<SessionRecord>(Table::Sessions, &key::session(session))?;
        // The session was adopted since: the proposer knows only the life that it had before.
        if known.is_some_and(|known| known.lease != lease) {
            return Ok(Reply::Done);
        }
    }
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
            if let Some(running) = stanza.backup.take().filter(|running| running.is_staged) {
                use_judge::abandon(step, name, &running.label);
            }
            step.txn.put(Table::Stanzas, key, &stanza);
        }
    }
    Ok(Some(record))
}

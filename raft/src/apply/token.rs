//! Join tokens. Each is used up by one request, and its record remembers that request and its answer. So a repeated
//! request needs no other memory, and another request is refused for as long as the record is kept. A token without a
//! record is refused as well: records may be forgotten at any time without a danger.

use super::{Base, Outcome, Step, certificate};
use crate::command::HandOutToken;
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{NodeName, NodeRecord, Redeemed, Redemption, TokenId, TokenRecord, TokenRole};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use std::collections::BTreeSet;

pub(super) fn create<B: Base>(
    step: &mut Step<'_, '_, B>,
    id: TokenId,
    secret_hash: [u8; 32],
    role: TokenRole,
    expires: i64,
) -> Outcome {
    let key = key::token(id);
    let record = TokenRecord {
        secret_hash,
        role,
        expires,
        redeemed: None,
    };
    match step.txn.record::<TokenRecord>(Table::Tokens, &key)? {
        Some(known) if known == record => Ok(Reply::Done),
        Some(_) => Err(Refusal::TokenTaken(id).into()),
        None => {
            if matches!(record.role, TokenRole::Member { .. }) {
                certificate::need_level(step, certificate::CERTIFICATES)?;
            }
            if let TokenRole::Node { name, replaces } = &record.role {
                check_place(step, name, *replaces)?;
            }
            make_room(step)?;
            step.audit(format!("token {id} handed out for {}", role_text(&record.role)));
            step.txn.put(Table::Tokens, key, &record);
            Ok(Reply::Done)
        }
    }
}

/// Makes a token of which no maker is known. From level 3 on an administrator's token names its maker.
pub(super) fn create_unmade<B: Base>(
    step: &mut Step<'_, '_, B>,
    id: TokenId,
    secret_hash: [u8; 32],
    role: TokenRole,
    expires: i64,
) -> Outcome {
    if certificate::current_level(step)? >= certificate::AUTHORITIES {
        // A node has proposed it that has not heard of the level.
        return Err(Refusal::Recheck { since: step.index }.into());
    }
    create(step, id, secret_hash, role, expires)
}

/// Hands out a token of an administrator, who is remembered.
pub(super) fn hand_out<B: Base>(step: &mut Step<'_, '_, B>, given: HandOutToken) -> Outcome {
    certificate::need_level(step, certificate::CERTIFICATES)?;
    certificate::refuse_revoked(step, &given.maker)?;
    let HandOutToken {
        id,
        secret_hash,
        role,
        expires,
        maker,
    } = given;
    let reply = create(step, id, secret_hash, role, expires)?;
    step.txn.put(Table::TokenMakers, key::token(id), &maker);
    Ok(reply)
}

/// Forgets records when there are as many as may be: the records of expired tokens; if there are none, the record of
/// the token that was used first. Tokens that are still good are not forgotten.
fn make_room<B: Base>(step: &mut Step<'_, '_, B>) -> Outcome<()> {
    let rows = step.txn.scan(Table::Tokens, &[], &[]);
    let count = rows.map(|row| row.map(drop)).collect::<Result<Vec<()>, _>>()?.len();
    if count < limits::TOKENS {
        return Ok(());
    }
    let mut expired = Vec::new();
    let mut first_used = None;
    for row in step.txn.records::<TokenRecord>(Table::Tokens, &[]) {
        let (key, token) = row?;
        if token.expires <= step.at {
            expired.push(key);
        } else if let Some(used) = token.redeemed
            && first_used.as_ref().is_none_or(|(at, _)| used.at < *at)
        {
            first_used = Some((used.at, key));
        }
    }
    if expired.is_empty() {
        expired.extend(first_used.map(|(_, key)| key));
    }
    if expired.is_empty() {
        return Err(Refusal::BeyondLimit {
            what: "the join tokens that are good at once".to_owned(),
            given: count as u64 + 1,
            limit: limits::TOKENS as u64,
        }
        .into());
    }
    for key in expired {
        forget(step, key);
    }
    Ok(())
}

fn forget<B: Base>(step: &mut Step<'_, '_, B>, key: Vec<u8>) {
    step.txn.delete(Table::TokenMakers, key.clone());
    step.txn.delete(Table::Tokens, key);
}

/// The token of a client or an administrator.
pub(super) fn redeem<B: Base>(step: &mut Step<'_, '_, B>, redemption: Redemption, name: String) -> Outcome {
    let token = find(step, &redemption)?;
    match token.role {
        TokenRole::Admin | TokenRole::Client { .. } => {}
        TokenRole::Node { .. } => return Err(Refusal::TokenOfOtherRole { is_for_node: true }.into()),
        // A program of an earlier level has proposed it, which does not note the certificate.
        TokenRole::Member { .. } => return Err(Refusal::Recheck { since: step.index }.into()),
    }
    if let Some(used) = used_before(&token, &redemption, &name)? {
        return Ok(Reply::Joined {
            certificate: used.certificate.clone(),
            node_id: None,
        });
    }
    use_up(step, token, redemption, name, None)
}

/// The record of the token that a redemption names. A wrong secret is answered like an unknown token: it says nothing
/// about which tokens there are.
pub(super) fn find<B: Base>(step: &Step<'_, '_, B>, redemption: &Redemption) -> Outcome<TokenRecord> {
    let known = step
        .txn
        .record::<TokenRecord>(Table::Tokens, &key::token(redemption.token))?;
    let fitting = known.filter(|token| token.secret_hash == redemption.secret_hash);
    Ok(fitting.ok_or(Refusal::TokenUnknown)?)
}

/// The use of the token, if this request has used it. Refuses every other request.
pub(super) fn used_before<'t>(
    token: &'t TokenRecord,
    redemption: &Redemption,
    name: &str,
) -> Result<Option<&'t Redeemed>, Refusal> {
    match &token.redeemed {
        None => Ok(None),
        Some(used) if used.request == redemption.request && used.name == name => Ok(Some(used)),
        Some(used) => Err(Refusal::TokenUsed {
            at: used.at,
            name: used.name.clone(),
        }),
    }
}

/// Uses up a token that was not used before.
pub(super) fn use_up<B: Base>(
    step: &mut Step<'_, '_, B>,
    mut token: TokenRecord,
    redemption: Redemption,
    name: String,
    node_id: Option<u64>,
) -> Outcome {
    if step.at >= token.expires {
        return Err(Refusal::TokenExpired { expires: token.expires }.into());
    }
    let number = node_id.map(|node_id| format!(", number {node_id}")).unwrap_or_default();
    step.audit(format!(
        "token {} used: {name} joined as {}{number}",
        redemption.token,
        role_text(&token.role)
    ));
    let Redemption {
        token: id,
        request,
        certificate,
        ..
    } = redemption;
    token.redeemed = Some(Redeemed {
        at: step.at,
        name,
        request,
        certificate: certificate.clone(),
        node_id,
    });
    step.txn.put(Table::Tokens, key::token(id), &token);
    Ok(Reply::Joined { certificate, node_id })
}

/// Takes back the tokens for a node that is removed, so that it does not come back by a token that was left over.
pub(super) fn take_back<B: Base>(step: &mut Step<'_, '_, B>, name: &NodeName) -> Result<(), ReadError> {
    let mut left_over = Vec::new();
    for row in step.txn.records::<TokenRecord>(Table::Tokens, &[]) {
        let (key, token) = row?;
        if token.redeemed.is_none() && matches!(&token.role, TokenRole::Node { name: of, .. } if of == name) {
            left_over.push(key);
        }
    }
    for key in left_over {
        forget(step, key);
    }
    Ok(())
}

/// Takes back the unused tokens that the holders of these keys have made. Returns how many there were.
pub(super) fn take_back_made_by<B: Base>(
    step: &mut Step<'_, '_, B>,
    makers: &BTreeSet<[u8; 32]>,
) -> Result<usize, ReadError> {
    let mut left_over = Vec::new();
    for row in step.txn.records::<[u8; 32]>(Table::TokenMakers, &[]) {
        let (key, maker) = row?;
        if !makers.contains(&maker) {
            continue;
        }
        let token: Option<TokenRecord> = step.txn.record(Table::Tokens, &key)?;
        if token.is_some_and(|token| token.redeemed.is_none()) {
            left_over.push(key);
        }
    }
    let count = left_over.len();
    for key in left_over {
        forget(step, key);
    }
    Ok(count)
}

/// Takes back the unused tokens of which no maker is known. Returns how many there were.
pub(super) fn take_back_unmade<B: Base>(step: &mut Step<'_, '_, B>) -> Result<usize, ReadError> {
    let mut left_over = Vec::new();
    for row in step.txn.records::<TokenRecord>(Table::Tokens, &[]) {
        let (key, token) = row?;
        let maker: Option<[u8; 32]> = step.txn.record(Table::TokenMakers, &key)?;
        if token.redeemed.is_none() && maker.is_none() {
            left_over.push(key);
        }
    }
    let count = left_over.len();
    for key in left_over {
        forget(step, key);
    }
    Ok(count)
}

/// Whether the place that a node's token is for is free, or is the place of the node that it was made to replace.
pub(super) fn check_place<B: Base>(step: &Step<'_, '_, B>, name: &NodeName, replaces: Option<u64>) -> Outcome<()> {
    let known = step.txn.record::<NodeRecord>(Table::Nodes, &key::node(name))?;
    let member = known.filter(NodeRecord::is_member).map(|known| known.node_id);
    if member == replaces {
        return Ok(());
    }
    Err(match member {
        Some(node_id) => Refusal::NodeExists {
            node: name.clone(),
            node_id,
        },
        None => Refusal::UnknownNode(name.clone()),
    }
    .into())
}

fn role_text(role: &TokenRole) -> String {
    match role {
        TokenRole::Node { name, replaces: None } => format!("node {name}"),
        TokenRole::Node {
            name,
            replaces: Some(number),
        } => format!("node {name} in place of number {number}"),
        TokenRole::Admin => "an administrator".to_owned(),
        TokenRole::Client { stanzas } => {
            let names: Vec<_> = stanzas.iter().map(ToString::to_string).collect();
            format!("a client of {}", names.join(", "))
        }
        TokenRole::Member { role, replaces: None } => role.to_string(),
        TokenRole::Member {
            role,
            replaces: Some(name),
        } => format!("{role}, in place of {name}"),
    }
}

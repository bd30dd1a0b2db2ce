//! Join tokens.

use super::{Base, Outcome, Step};
use crate::key;
use crate::model::{NodeRecord, Redeemed, TokenId, TokenRecord, TokenRole};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

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
            check_place(step, &record.role)?;
            step.audit(format!("token {id} handed out for {}", role_text(&record.role)));
            step.txn.put(Table::Tokens, key, &record);
            Ok(Reply::Done)
        }
    }
}

pub(super) fn redeem<B: Base>(step: &mut Step<'_, '_, B>, id: TokenId, secret_hash: [u8; 32], name: String) -> Outcome {
    let key = key::token(id);
    let known = step.txn.record::<TokenRecord>(Table::Tokens, &key)?;
    // A wrong secret is answered like an unknown token: it says nothing about which tokens there are.
    let mut token = known
        .filter(|token| token.secret_hash == secret_hash)
        .ok_or(Refusal::TokenUnknown)?;
    if let Some(redeemed) = token.redeemed {
        return Err(Refusal::TokenUsed {
            at: redeemed.at,
            name: redeemed.name,
        }
        .into());
    }
    if step.at >= token.expires {
        return Err(Refusal::TokenExpired { expires: token.expires }.into());
    }
    let role = token.role.clone();
    if let TokenRole::Node { name: invited, .. } = &role
        && invited.as_str() != name.as_str()
    {
        let invited = invited.clone();
        return Err(Refusal::TokenOfAnother { invited, given: name }.into());
    }
    check_place(step, &role)?;
    step.audit(format!("token {id} used: {name} joined as {}", role_text(&role)));
    token.redeemed = Some(Redeemed { at: step.at, name });
    step.txn.put(Table::Tokens, key, &token);
    Ok(Reply::Token(role))
}

/// Whether the place in the mesh that a node's token is for is free, or is the one that was meant to be replaced.
fn check_place<B: Base>(step: &Step<'_, '_, B>, role: &TokenRole) -> Outcome<()> {
    let TokenRole::Node { name, replaces } = role else {
        return Ok(());
    };
    let known = step.txn.record::<NodeRecord>(Table::Nodes, &key::node(name))?;
    let member = known.filter(NodeRecord::is_member).map(|known| known.node_id);
    if member == *replaces {
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
    }
}

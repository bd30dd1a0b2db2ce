//! The words of refusals that depend on their values.

use pgmesh_postgres::Lsn;
use pgmesh_storage::RepoKey;

pub(super) fn wrong_token(is_for_node: bool) -> &'static str {
    if is_for_node {
        "this join token is for a node, and was not used with 'pgmesh node join'"
    } else {
        "this join token is for a client or an administrator, not for a node"
    }
}

pub(super) fn others_owe(repo: RepoKey, other: RepoKey, debts: Option<u64>) -> String {
    let owed = match debts {
        Some(debts) => {
            format!("owes {debts} objects, too many to check whether repo{repo} has the only replica of one of them")
        }
        None => "is new, and its debts are not recorded in full yet".to_owned(),
    };
    format!(
        "repo{repo} may have the only replica of some objects: repo{other}, the most complete of the others, {owed}"
    )
}

pub(super) fn and_others(others: u32) -> String {
    match others {
        0 => String::new(),
        others => format!(", and {others} more"),
    }
}

pub(super) fn shown(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("(not set)")
}

pub(super) fn has(level: Option<u32>) -> String {
    match level {
        Some(level) => format!("levels up to {level}"),
        None => "not announced its levels yet".to_owned(),
    }
}

pub(super) fn switch(switch: Option<Lsn>) -> String {
    match switch {
        Some(lsn) => format!("left at {lsn}"),
        None => "no such line".to_owned(),
    }
}

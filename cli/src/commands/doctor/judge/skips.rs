//! Log entries that nodes have left out. All nodes must have left out the same entries, or their catalogs differ.

use super::super::check::Check;
use pgmesh_protocol::{EntryId, ExitCode, MeshStatus, NodeStatus};
use std::collections::BTreeSet;

/// One check for each entry that any node has left out.
pub(super) fn check(status: &MeshStatus) -> Vec<Check> {
    let own: Vec<&NodeStatus> = status.nodes.iter().filter_map(|(_, own)| own.as_ref().ok()).collect();
    let entries: BTreeSet<EntryId> = own.iter().flat_map(|own| own.skipped.iter().copied()).collect();
    entries.into_iter().map(|entry| one(&own, entry)).collect()
}

fn one(nodes: &[&NodeStatus], entry: EntryId) -> Check {
    let subject = format!("entry {entry}");
    let has = |own: &&&NodeStatus| own.skipped.contains(&entry);
    let passed = |own: &&&NodeStatus| own.last_applied.is_some_and(|applied| applied >= entry.index);
    let skipped = names(nodes.iter().filter(has));
    let applied = names(nodes.iter().filter(|own| !has(own) && passed(own)));
    let behind = names(nodes.iter().filter(|own| !has(own) && !passed(own)));
    if !applied.is_empty() {
        let found = format!(
            "skipped by {skipped}, applied by {applied}: the catalogs of these nodes differ, and the two sides do not \
             work together"
        );
        let remedy = "decide which side is right; remove each node of the other one ('pgmesh node remove NAME --force'), empty its \
                      node-path, and let it join again";
        return Check::fail(subject, ExitCode::Config, found, remedy);
    }
    if !behind.is_empty() {
        let found = format!("skipped by {skipped}, not reached yet by {behind}");
        let remedy =
            format!("start the nodes that have not reached it with 'pgmesh node start --skip-entry={entry}', too");
        return Check::warn(subject, found, remedy);
    }
    Check::ok(subject, format!("skipped by all nodes: {skipped}"))
}

fn names<'a>(nodes: impl Iterator<Item = &'a &'a NodeStatus>) -> String {
    let names: Vec<&str> = nodes.map(|own| own.name.as_str()).collect();
    names.join(", ")
}

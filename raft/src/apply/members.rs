//! The nodes that are members of the mesh.

use std::collections::BTreeMap;

use super::{Base, Outcome, Step};
use crate::model::{NodeName, NodeRecord};
use crate::table::Table;

/// The members' names by their numbers.
pub(super) fn numbers<B: Base>(step: &Step<'_, '_, B>) -> Outcome<BTreeMap<u64, NodeName>> {
    let mut numbers = BTreeMap::new();
    for row in step.txn.records::<NodeRecord>(Table::Nodes, &[]) {
        let (key, record) = row?;
        let name = String::from_utf8_lossy(&key).parse();
        if let (true, Ok(name)) = (record.is_member(), name) {
            numbers.insert(record.node_id, name);
        }
    }
    Ok(numbers)
}

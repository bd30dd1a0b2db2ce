//! Two nodes that have applied the same entries and do not have the same catalog.

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::table::Table;
use crate::{key, value};

/// Its disk has changed a number by which the next command is decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_catalog_is_another_one_stands_still_and_the_others_go_on() {
    for is_leader in [false, true] {
        let mesh = Mesh::new(3, options()).await;
        note(&mesh.leader().await, "before".to_owned()).await;
        mesh.compare().await;
        let changed = if is_leader {
            mesh.leader().await
        } else {
            mesh.follower().await
        };
        let number = value::encode(&40_u64);
        changed.state.current().poison(Table::Mesh, key::LAST_NODE_ID, &number);
        // A reader of the number sees no damage; the next node gets another number there.
        mesh.admit("n4", 4).await;
        let others: Vec<_> = mesh
            .nodes
            .iter()
            .filter(|node| node.node_id() != changed.node_id())
            .cloned()
            .collect();
        wait_until("the others to go on alone", || {
            let mut leads = others.iter().filter(|node| node.is_leader());
            leads.next().is_some() && !changed.is_leader()
        })
        .await;
        let leader = others.iter().find(|node| node.is_leader()).unwrap().clone();
        note(&leader, "after".to_owned()).await;
        for node in &others {
            wait_until("it has it", || notes(node).contains("after")).await;
        }
        // It says so, and applies nothing any more.
        wait_until("it says so", || {
            let trouble = changed.status().trouble();
            trouble.is_some_and(|trouble| trouble.contains("differ after entry"))
        })
        .await;
        // It stays so when the others are so far ahead that there is nothing to compare any more.
        for number in 0..400 {
            note(&leader, format!("later {number}")).await;
        }
        assert!(!notes(&changed).contains("later 100"));
        assert!(changed.status().trouble().is_some());
    }
}

//! Alarms of a node: workers that have ended, and hosts whose WAL is refused.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A background worker of a node that has ended unexpectedly since the node's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAlarm {
    /// The node.
    pub node: String,
    /// The worker.
    pub worker: String,
    /// How often it has ended.
    pub ends: u64,
    /// When it ended last, Unix seconds.
    pub last: i64,
    /// How it ended: the text of a panic.
    pub why: String,
    /// Whether it was started again.
    pub is_running: bool,
}

/// A host whose WAL is refused: nothing newer leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckArchiver {
    /// The stanza.
    pub stanza: String,
    /// The client that pushes: `client pg1`.
    pub host: String,
    /// The address that the client comes from.
    pub address: String,
    /// The fingerprint of the data directory.
    pub instance: String,
    /// The fingerprint of the machine.
    pub machine: String,
    /// The catalog's position at the first refusal.
    pub position: u64,
    /// The file that the client offers again and again.
    pub file: String,
    /// When the first refusal was, Unix seconds.
    pub since: i64,
    /// When the client offered the file last.
    pub last: i64,
    /// The exit code.
    pub code: crate::ExitCode,
    /// The cause.
    pub why: String,
    /// The remedy.
    pub remedy: Option<String>,
}

/// One line for each data directory, where several nodes have refused it.
pub fn merged<'a>(lists: impl IntoIterator<Item = &'a StuckArchiver>) -> Vec<StuckArchiver> {
    let mut merged: BTreeMap<[&str; 4], StuckArchiver> = BTreeMap::new();
    for stuck in lists {
        let key = [&*stuck.stanza, &*stuck.host, &*stuck.instance, &*stuck.machine];
        match merged.get_mut(&key) {
            Some(known) => {
                let (since, position) = (known.since.min(stuck.since), known.position.min(stuck.position));
                let newest = if known.last >= stuck.last {
                    known.clone()
                } else {
                    stuck.clone()
                };
                *known = StuckArchiver {
                    since,
                    position,
                    ..newest
                };
            }
            None => drop(merged.insert(key, stuck.clone())),
        }
    }
    merged.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_nodes_say_of_a_host_is_one_line() {
        let stuck = |host: &str, since, last| StuckArchiver {
            stanza: "main".to_owned(),
            host: host.to_owned(),
            address: "10.0.0.1".to_owned(),
            instance: "i".to_owned(),
            machine: String::new(),
            position: 0,
            file: "x".to_owned(),
            since,
            last,
            code: crate::ExitCode::ArchiveMismatch,
            why: format!("at {last}"),
            remedy: None,
        };
        let merged = merged(&[stuck("a", 5, 9), stuck("b", 1, 1), stuck("a", 3, 12)]);
        assert_eq!(merged, [stuck("a", 3, 12), stuck("b", 1, 1)]);
    }
}

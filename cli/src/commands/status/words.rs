//! Words of `status`, `node list` and `doctor`.

use pgmesh_protocol::{HealthInfo, MeshStatus, NodeRole, NodeState};
use pgmesh_storage::RepoKey;
use std::time::Duration;

/// Repositories that nodes declare and the mesh does not know, since no node has been able to open them: number, node,
/// reason.
pub fn unopened(status: &MeshStatus) -> Vec<(RepoKey, &str, &str)> {
    let is_known = |key: RepoKey| status.repositories.iter().any(|known| known.key == key);
    let declared = status
        .nodes
        .iter()
        .filter_map(|(info, own)| Some((info, own.as_ref().ok()?)));
    declared
        .flat_map(|(info, own)| {
            own.repositories
                .iter()
                .map(|(key, health)| (*key, info.name.as_str(), health))
        })
        .filter(|(key, _, _)| !is_known(*key))
        .filter_map(|(key, node, health)| match health {
            HealthInfo::Up => None,
            HealthInfo::Down { why, .. } | HealthInfo::Refused { why } => Some((key, node, why.as_str())),
        })
        .collect()
}

/// A node's part in consensus.
pub fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Leader => "leader",
        NodeRole::Voter => "voter",
        NodeRole::Learner => "learner",
        NodeRole::Joining => "joining",
    }
}

/// Whether a node takes clients.
pub fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::InService => "in service",
        NodeState::Draining => "draining",
    }
}

/// The health of a repository, in a word.
pub fn health(health: &HealthInfo) -> &'static str {
    match health {
        HealthInfo::Up => "up",
        HealthInfo::Down { .. } => "down",
        HealthInfo::Refused { .. } => "refused",
    }
}

/// `repo1, repo2`.
pub fn repositories(keys: &[RepoKey]) -> String {
    let names: Vec<String> = keys.iter().map(|key| format!("repo{key}")).collect();
    names.join(", ")
}

/// `0.4 ms`.
pub fn round_trip(span: Duration) -> String {
    let tenths = span.as_micros() / 100;
    match tenths {
        0..1000 => format!("{}.{} ms", tenths / 10, tenths % 10),
        _ => format!("{} ms", span.as_millis()),
    }
}

/// `3d 4h`, `12m 5s`: the two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_round_trips() {
        assert_eq!([5, 725, 3660, 273_600].map(span), ["5s", "12m 5s", "1h 1m", "3d 4h"]);
        let trips = [0, 412, 5_000, 99_950, 140_700].map(|micros| round_trip(Duration::from_micros(micros)));
        assert_eq!(trips, ["0.0 ms", "0.4 ms", "5.0 ms", "99.9 ms", "140 ms"]);
    }
}

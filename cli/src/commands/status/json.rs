//! `status --output=json`: the keys that `pgmesh help status` names.

use super::super::authority;
use super::super::info::{debt, health, holes_json, kept, lost, stuck, worker};
use super::super::membership;
use super::text::term;
use super::words::unopened;
use pgmesh_protocol::{
    AmountInfo, MeshStatus, NodeInfo, NodeStatus, OrphanInfo, ReachInfo, ReleaseStatus, RepositoryStatus, SessionStatus,
};
use pgmesh_storage::RepoKey;
use serde_json::{Value, json};

/// The whole object.
pub fn render(status: &MeshStatus) -> Value {
    let nodes = status.nodes.iter().enumerate();
    json!({
        "mesh": status.mesh_id,
        "node": status.node,
        "leader": status.leader,
        "term": term(status),
        "quorum": {
            "reached": status.quorum.is_ok(),
            "error": status.quorum.as_ref().err(),
        },
        "catalog-format": status.catalog_format,
        "apply-level": status.level,
        "joint": status.next_voters.is_some(),
        "next-voters": status.next_voters,
        "nodes": nodes
            .map(|(at, (info, own))| node(info, own, status.round_trips.get(at).copied().flatten()))
            .collect::<Value>(),
        "repositories": status.repositories.iter().map(repository).collect::<Value>(),
        "lost": lost(&status.lost),
        "wal-holes": holes_json(&status.holes),
        "expired": expired(&status.release),
        "rotation": status.rotation.as_ref().map(authority::json),
        "sessions-open": status.sessions_open,
        "sessions": status.sessions.iter().map(session).collect::<Value>(),
        "unopened": unopened(status)
            .iter()
            .map(|(key, node, why)| json!({"key": key.get(), "node": node, "why": why}))
            .collect::<Value>(),
    })
}

/// What has expired and is not deleted yet.
fn expired(release: &ReleaseStatus) -> Value {
    let repository = |(key, backups): &(RepoKey, u64)| json!({"key": key.get(), "backups": backups});
    json!({
        "repositories": release.backups.iter().map(repository).collect::<Value>(),
        "unlisted": release.unlisted,
        "since": release.stuck.as_ref().map(|stuck| stuck.since),
        "why": release.stuck.as_ref().map(|stuck| &stuck.why),
    })
}

fn session(session: &SessionStatus) -> Value {
    json!({
        "id": session.session,
        "kind": session.kind,
        "stanza": session.stanza,
        "holder": session.holder,
        "node": session.node,
        "opened": session.opened_at,
        "quiet": session.quiet,
    })
}

/// A node's record in the catalog, and its own answer; the answer's keys are null if it gave none.
fn node(info: &NodeInfo, own: &Result<NodeStatus, String>, round_trip: Option<u64>) -> Value {
    let told = own.as_ref().ok();
    let mut node = membership::json(info);
    node["program"] = json!(told.map_or(&info.program, |own| &own.program));
    node["reachable"] = json!(own.is_ok());
    node["error"] = json!(own.as_ref().err());
    node["round-trip-us"] = json!(round_trip);
    node["uptime"] = json!(told.map(|own| own.uptime));
    node["clock"] = json!(told.map(|own| own.clock));
    node["term"] = json!(told.map(|own| own.term));
    node["leader-id"] = json!(told.and_then(|own| own.leader));
    node["last-log"] = json!(told.and_then(|own| own.last_log));
    node["last-applied"] = json!(told.and_then(|own| own.last_applied));
    node["snapshot"] = json!(told.and_then(|own| own.snapshot));
    node["certificate-expires"] = json!(told.map(|own| own.certificate_expires));
    node["disk-free"] = json!(told.and_then(|own| own.disk_free));
    let stuck = told.map(|own| own.stuck.iter().map(stuck).collect::<Value>());
    node["stuck"] = json!(stuck);
    node["workers"] = json!(told.map(|own| own.workers.iter().map(worker).collect::<Value>()));
    node["trouble"] = json!(told.and_then(|own| own.trouble.as_ref()));
    node["began-anew"] = json!(told.and_then(|own| own.began_anew.as_ref()));
    let skipped = told.map(|own| own.skipped.iter().map(ToString::to_string).collect::<Vec<_>>());
    node["skipped-entries"] = json!(skipped);
    node["failure"] = json!(told.and_then(|own| own.failure.as_ref()));
    node
}

fn repository(repository: &RepositoryStatus) -> Value {
    json!({
        "key": repository.key.get(),
        "type": repository.kind,
        "host": repository.host,
        "place": repository.place,
        "nodes": repository.nodes.iter().map(way).collect::<Value>(),
        "health": health(&repository.health),
        "objects": repository.objects,
        "bytes": repository.bytes,
        "debt": debt(repository.debt),
        "kept": kept(&repository.kept),
        "orphans": orphans(&repository.orphans),
    })
}

/// Objects in a repository that the catalog does not know.
fn orphans(orphans: &OrphanInfo) -> Value {
    let amount = |AmountInfo { objects, bytes }| json!({"objects": objects, "bytes": bytes});
    json!({
        "scanned": orphans.scanned,
        "scanning": orphans.scanning,
        "seen": amount(orphans.seen),
        "earlier": amount(orphans.earlier),
        "unreadable": orphans.unreadable,
        "foreign": orphans.foreign,
        "waiting": amount(orphans.waiting),
        "deleted": amount(orphans.deleted),
    })
}

/// The way of one node to a shared repository.
fn way(way: &ReachInfo) -> Value {
    json!({"name": way.node, "reaches": way.reaches, "health": health(&way.health)})
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::config::Command;

    #[test]
    fn what_is_not_known_is_null_and_every_key_is_documented() {
        let status = render(&samples::mesh());
        assert_eq!(status["quorum"], json!({"reached": true, "error": null}));
        assert_eq!(status["term"], 7);
        assert_eq!(status["nodes"][0]["last-applied"], 119);
        assert_eq!(status["nodes"][2]["reachable"], false);
        assert_eq!(status["nodes"][2]["error"], "connection lost");
        assert_eq!(status["nodes"][2]["last-log"], Value::Null);
        assert_eq!(status["repositories"][1]["health"]["state"], "down");
        assert_eq!(status["repositories"][1]["debt"]["objects"], 12);
        let shared = repository(&samples::shared());
        assert_eq!(shared["host"], Value::Null);
        assert_eq!(shared["place"], "s3://walls/mesh");
        assert_eq!(shared["nodes"][1]["health"]["state"], "down");
        assert_eq!(shared["nodes"][2]["reaches"], false);
        assert_eq!(shared["kept"], json!({"objects": 7, "why": "object lock"}));
        let seen = json!({"objects": 5, "bytes": 5 << 20});
        assert_eq!(
            (&shared["orphans"]["seen"], &shared["orphans"]["scanned"]),
            (&seen, &json!(samples::NOW))
        );
        let about = Command::Status.spec().about;
        for object in [
            &status,
            &status["nodes"][0],
            &status["repositories"][0],
            &shared["nodes"][0],
            &shared["orphans"],
            &status["expired"],
        ] {
            for key in object.as_object().unwrap().keys() {
                assert!(about.contains(&format!("`{key}`")), "{key} is not documented");
            }
        }
    }
}

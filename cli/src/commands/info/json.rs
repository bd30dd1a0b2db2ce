//! `info --output=json`: pgBackRest's keys, which monitoring reads, and pgmesh's own beside them.

use super::references::References;
use super::status::{Status, chosen, troubles};
use super::{Shown, listed};
use pgmesh_protocol::{
    BackupInfo, CatalogLost, DebtInfo, HealthInfo, HoleInfo, HolesReport, KeptInfo, LostReport, RepositoryInfo,
    StanzaHoles, StanzaInfo, StanzaLosses, StuckArchiver, WorkerAlarm,
};
use pgmesh_storage::{BackupLabel, MANIFEST_FORMAT, ManifestRoot};
use serde_json::{Map, Value, json};

/// The number of references named for each of many backups; with `--set`, all are named.
const REFERENCES: usize = 64;

/// The whole output: an array with one element for each stanza.
pub fn render(shown: &Shown<'_>) -> Value {
    shown
        .stanzas()
        .into_iter()
        .map(|(name, stanza)| element(shown, name, stanza))
        .collect()
}

fn element(shown: &Shown<'_>, name: &str, stanza: Option<&StanzaInfo>) -> Value {
    let repositories = chosen(&shown.info.repositories, shown.only);
    let each: Vec<Status> = repositories
        .iter()
        .map(|repo| Status::in_repository(repo, stanza, shown.label()))
        .collect();
    let overall = shown.overall(name, &each, stanza);
    let held_by = stanza.and_then(|stanza| stanza.backup_held_by.as_deref());
    let references = References::among(stanza.map(|stanza| stanza.backups.as_slice()).unwrap_or_default());
    json!({
        "name": name,
        "cipher": shown.cipher(),
        "status": {
            "code": overall.code(),
            "message": overall.message(),
            "lock": {"backup": lock(held_by), "restore": lock(None)},
        },
        "lost": shown.losses(name).map(losses),
        "catalog-lost": shown.info.lost.catalog.as_ref().map(catalog),
        "wal-holes": shown.holes(name).map(stanza_holes),
        "stuck": shown.info.stuck.iter().filter(|stuck| stuck.stanza == name).map(stuck).collect::<Value>(),
        "stopped": stanza.and_then(|stanza| stanza.stopped.as_deref()),
        "repo": repositories.iter().zip(&each).map(|(repo, status)| repository(repo, *status)).collect::<Value>(),
        "db": databases(&repositories, stanza),
        "archive": archives(&repositories, stanza),
        "backup": shown
            .backups(stanza)
            .map(|shown_backup| backup(shown, &references, shown_backup))
            .collect::<Value>(),
    })
}

fn lock(holder: Option<&str>) -> Value {
    match holder {
        None => json!({"held": false}),
        Some(holder) => json!({"held": true, "holder": holder}),
    }
}

fn repository(repository: &RepositoryInfo, status: Status) -> Value {
    let message = match status {
        Status::Other => troubles(repository).join("; "),
        other => other.message().to_owned(),
    };
    json!({
        "key": repository.key.get(),
        "cipher": repository.cipher,
        "status": {"code": status.code(), "message": message},
        "type": repository.kind,
        "host": repository.host,
        "health": health(&repository.health),
        "debt": debt(repository.debt),
        "kept": kept(&repository.kept),
    })
}

/// The losses of a stanza: a key of pgmesh's own.
fn losses(losses: &StanzaLosses) -> Value {
    json!({
        "backup": losses.backups.iter().map(|label| label.as_str()).collect::<Value>(),
        "wal": losses.wal,
        "wal-files": losses.wal_files,
        "description": losses.description,
    })
}

/// A host whose WAL is refused: a key of pgmesh's own.
pub fn stuck(stuck: &StuckArchiver) -> Value {
    json!({
        "stanza": stuck.stanza,
        "host": stuck.host,
        "address": stuck.address,
        "data-directory": stuck.instance,
        "file": stuck.file,
        "since": stuck.since,
        "last": stuck.last,
        "code": stuck.code,
        "why": stuck.why,
        "remedy": stuck.remedy,
    })
}

/// A background worker of a node that has ended unexpectedly: a key of pgmesh's own.
pub fn worker(alarm: &WorkerAlarm) -> Value {
    json!({
        "node": alarm.node,
        "worker": alarm.worker,
        "ends": alarm.ends,
        "last": alarm.last,
        "why": alarm.why,
        "running": alarm.is_running,
    })
}

/// The end of the catalog that is lost.
fn catalog(catalog: &CatalogLost) -> Value {
    json!({
        "repo": catalog.repo.get(),
        "position": catalog.position,
        "written": catalog.written,
        "found-at": catalog.found_at,
        "taken-over": catalog.taken_over,
        "told-by": catalog.told_by,
    })
}

/// All losses: a key of pgmesh's own.
pub fn lost(lost: &LostReport) -> Value {
    let stanzas = lost
        .stanzas
        .iter()
        .map(|stanza| (stanza.stanza.clone(), losses(stanza)));
    json!({
        "objects": lost.objects,
        "more": lost.more,
        "chunks": lost.chunks,
        "since": lost.since,
        "searching": lost.searching,
        "catalog": lost.catalog.as_ref().map(catalog),
        "uncompared": lost.uncompared,
        "stanzas": stanzas.collect::<Map<String, Value>>(),
    })
}

/// The WAL that is missing from a stanza: a key of pgmesh's own.
pub fn stanza_holes(holes: &StanzaHoles) -> Value {
    json!({
        "hole": holes.holes.iter().map(hole).collect::<Value>(),
        "more": holes.more,
        "unreached-timeline": holes.unreached,
    })
}

/// One hole, and the recovery targets that it costs.
fn hole(hole: &HoleInfo) -> Value {
    let labels = |labels: &[BackupLabel]| labels.iter().map(|label| label.as_str()).collect::<Value>();
    json!({
        "archive": hole.archive,
        "first": hole.first,
        "last": hole.last,
        "count": hole.count,
        "reason": hole.proof.to_string(),
        "beyond": {"lsn": hole.beyond.to_string(), "timestamp": hole.until, "timeline": hole.timelines},
        "backup": labels(&hole.backups),
        "backup-more": hole.backups_more,
        "broken-backup": labels(&hole.broken),
        "broken-backup-more": hole.broken_more,
    })
}

/// The holes of all stanzas: a key of pgmesh's own.
pub fn holes(report: &HolesReport) -> Value {
    let stanzas = report.stanzas.iter();
    let stanzas = stanzas.map(|stanza| (stanza.stanza.clone(), stanza_holes(stanza)));
    Value::Object(stanzas.collect::<Map<String, Value>>())
}

/// The health of a repository: a key of pgmesh's own.
pub fn health(health: &HealthInfo) -> Value {
    match health {
        HealthInfo::Up => json!({"state": "up"}),
        HealthInfo::Down { since, why } => json!({"state": "down", "since": since, "why": why}),
        HealthInfo::Refused { why } => json!({"state": "refused", "why": why}),
    }
}

/// The debt of a repository: a key of pgmesh's own.
pub fn debt(debt: DebtInfo) -> Value {
    json!({"objects": debt.objects, "bytes": debt.bytes, "since": debt.since})
}

/// Objects that a repository refuses to delete: a key of pgmesh's own.
pub fn kept(kept: &KeptInfo) -> Value {
    let why = (kept.objects > 0).then_some(&kept.why);
    json!({"objects": kept.objects, "why": why})
}

/// The databases of a stanza, repeated for each repository: programs that read pgBackRest's output expect a list for
/// each repository, while the catalog has one list for all.
fn databases(repositories: &[&RepositoryInfo], stanza: Option<&StanzaInfo>) -> Value {
    let databases = stanza.map(|stanza| stanza.databases.as_slice()).unwrap_or_default();
    let of = |repository: &RepositoryInfo| {
        let key = repository.key.get();
        databases.iter().map(move |database| {
            json!({
                "id": database.id,
                "repo-key": key,
                "system-id": database.system_id.0,
                "version": database.version,
            })
        })
    };
    repositories.iter().flat_map(|repository| of(repository)).collect()
}

fn archives(repositories: &[&RepositoryInfo], stanza: Option<&StanzaInfo>) -> Value {
    let archives = stanza.map(|stanza| stanza.archives.as_slice()).unwrap_or_default();
    let of = |repository: &RepositoryInfo| {
        let key = repository.key.get();
        archives.iter().map(move |archive| {
            json!({
                "database": {"id": archive.database, "repo-key": key},
                "id": archive.id,
                "min": archive.min,
                "max": archive.max,
            })
        })
    };
    repositories.iter().flat_map(|repository| of(repository)).collect()
}

/// One element for each backup. pgBackRest has one for each repository, since there each backup is in one repository;
/// here `repo-key` is the first repository that holds the backup, and `repository` names all.
fn backup(shown: &Shown<'_>, among: &References<'_>, backup: &BackupInfo) -> Value {
    let places = Shown::places(backup, shown.only);
    let holder = places
        .iter()
        .find(|(_, complete)| *complete)
        .or(places.first())
        .map(|(key, _)| key.get());
    let limit = match shown.label() {
        Some(_) => usize::MAX,
        None => REFERENCES,
    };
    let counts = among.counts(&backup.label);
    let references = (counts.sum() > 0).then(|| among.of(&backup.label, limit));
    let mut element = json!({
        "label": backup.label,
        "type": backup.kind,
        "prior": backup.prior,
        "reference": references,
        "reference-total": counts.sum(),
        "error": backup.error,
        "archive": {"start": backup.wal_start, "stop": backup.wal_stop},
        "backrest": {"format": MANIFEST_FORMAT, "version": backup.program},
        "database": {"id": backup.database, "repo-key": holder},
        "info": {
            "size": backup.size,
            "delta": backup.delta,
            "repository": {"size": backup.stored_size, "delta": backup.stored_delta},
        },
        "lsn": {"start": backup.lsn_start.to_string(), "stop": backup.lsn_stop.to_string()},
        "timestamp": {"start": backup.time_start, "stop": backup.time_stop},
        "timeline": backup.timeline,
        "repository": places
            .iter()
            .map(|(key, complete)| json!({"key": key.get(), "complete": complete}))
            .collect::<Value>(),
    });
    if let Value::Object(fields) = &mut element {
        if !backup.annotations.is_empty() {
            fields.insert("annotation".to_owned(), json!(backup.annotations));
        }
        if let Some(hold) = &backup.hold {
            let hold = json!({"since": hold.since, "until": hold.until, "by": hold.by, "why": hold.why});
            fields.insert("hold".to_owned(), hold);
        }
        if let Some(root) = shown.details(&backup.label) {
            add_details(fields, root);
        }
    }
    element
}

/// The fields that only `--set` shows.
fn add_details(fields: &mut Map<String, Value>, root: &ManifestRoot) {
    let databases = listed(root).map(|database| json!({"name": database.name, "oid": database.oid}));
    // As in pgBackRest: an empty list is null, except for databases.
    let list = |values: Vec<Value>| if values.is_empty() { Value::Null } else { values.into() };
    let links = root
        .links
        .iter()
        .map(|link| json!({"name": link.path, "destination": link.destination}));
    let tablespaces = root
        .tablespaces
        .iter()
        .map(|space| json!({"name": space.name, "oid": space.oid, "destination": space.destination}));
    let errors: Vec<&str> = root.errors.iter().map(|error| error.path.as_str()).collect();
    fields.insert("database-ref".to_owned(), databases.collect());
    fields.insert("link".to_owned(), list(links.collect()));
    fields.insert("tablespace".to_owned(), list(tablespaces.collect()));
    fields.insert("error-list".to_owned(), json!((!errors.is_empty()).then_some(errors)));
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use pgmesh_protocol::MeshInfo;

    #[test]
    fn the_keys_that_monitoring_reads() {
        let info = samples::mesh();
        let json = render(&Shown {
            info: &info,
            asked: None,
            only: None,
            set: None,
        });
        let stanza = &json[0];
        assert_eq!(stanza["name"], "main");
        assert_eq!(stanza["cipher"], "aes-256-cbc");
        assert_eq!(stanza["status"]["code"], 4);
        assert_eq!(stanza["status"]["lock"]["backup"]["held"], false);
        assert_eq!(stanza["repo"][0]["status"], json!({"code": 0, "message": "ok"}));
        assert_eq!(stanza["repo"][1]["status"]["code"], 99);
        assert_eq!(stanza["repo"][1]["health"]["state"], "down");
        assert_eq!(
            stanza["repo"][1]["debt"],
            json!({"objects": 12, "bytes": 25_270_682, "since": 1_795_400_001})
        );
        assert_eq!(
            stanza["db"].as_array().unwrap().len(),
            4,
            "two databases in two repositories"
        );
        assert_eq!(
            stanza["db"][3],
            json!({"id": 2, "repo-key": 2, "system-id": samples::SYSTEM_ID, "version": "15"})
        );
        assert_eq!(stanza["archive"][1]["database"], json!({"id": 2, "repo-key": 1}));
        assert_eq!(stanza["archive"][1]["id"], "15-2");
    }

    #[test]
    fn a_backup_is_one_element() {
        let mut info = samples::mesh();
        info.stanzas[0].backup_held_by = Some("process 7 on db1".into());
        let json = render(&Shown {
            info: &info,
            asked: Some("main"),
            only: None,
            set: None,
        });
        assert_eq!(
            json[0]["status"]["lock"]["backup"],
            json!({"held": true, "holder": "process 7 on db1"})
        );
        let backups = json[0]["backup"].as_array().unwrap();
        assert_eq!(backups.len(), 2);
        let expected = json!({
            "annotation": {"why": "before the upgrade"},
            "archive": {"start": "000000000000000000000010", "stop": "000000000000000000000011"},
            "backrest": {"format": 2, "version": "0.1.0"},
            "database": {"id": 2, "repo-key": 1},
            "error": true,
            "info": {"delta": 8192, "repository": {"delta": 4096, "size": 44_917_000_000_u64}, "size": 152_830_000_000_u64},
            "label": "20260102-000000F_20260103-000000D",
            "lsn": {"start": "0/10000028", "stop": "0/11000100"},
            "prior": "20260102-000000F",
            "reference": ["20260102-000000F"],
            "reference-total": 1,
            "repository": [{"complete": true, "key": 1}, {"complete": false, "key": 2}],
            "timeline": 1,
            "timestamp": {"start": 1_795_404_000, "stop": 1_795_404_060},
            "type": "diff",
        });
        assert_eq!(backups[1], expected);
        assert_eq!(backups[0]["prior"], Value::Null);
        assert_eq!(backups[0]["reference"], Value::Null);
        assert!(backups[0].get("annotation").is_none() && backups[0].get("tablespace").is_none());
    }

    #[test]
    fn wal_that_is_missing_is_an_error_where_nothing_reaches_the_present() {
        let mut info = samples::with_hole();
        info.repositories.truncate(1);
        let rendered = |info: &MeshInfo| {
            render(&Shown {
                info,
                asked: None,
                only: None,
                set: None,
            })
        };
        let json = rendered(&info);
        assert_eq!(json[0]["status"]["code"], 99);
        assert_eq!(json[0]["wal-holes"]["unreached-timeline"], json!([2]));
        let expected = json!({
            "archive": "15-2",
            "first": "000000010000000000000005",
            "last": "000000010000000000000007",
            "count": 3,
            "reason": "timeline 2 left its timeline later, at 0/8000100",
            "beyond": {"lsn": "0/5000000", "timestamp": 1_795_408_000, "timeline": [2]},
            "backup": ["20260102-000000F"],
            "backup-more": 0,
            "broken-backup": [],
            "broken-backup-more": 0,
        });
        assert_eq!(json[0]["wal-holes"]["hole"][0], expected);
        info.holes.stanzas[0].unreached.clear();
        assert_eq!(rendered(&info)[0]["status"]["code"], 0, "a newer backup reaches it");
        info.holes.stanzas.clear();
        assert_eq!(rendered(&info)[0]["wal-holes"], Value::Null);
    }

    #[test]
    fn a_set_is_shown_with_its_details() {
        let info = samples::mesh();
        let label: BackupLabel = "20260102-000000F".parse().unwrap();
        let root = samples::root();
        let shown = Shown {
            info: &info,
            asked: Some("main"),
            only: None,
            set: Some((&label, Some(&root))),
        };
        let json = render(&shown);
        let backups = json[0]["backup"].as_array().unwrap();
        assert_eq!(backups.len(), 1);
        assert_eq!(backups[0]["database-ref"], json!([{"name": "postgres", "oid": 5}]));
        assert_eq!(
            backups[0]["tablespace"],
            json!([{"name": "fast", "oid": 16384, "destination": "/mnt/fast"}])
        );
        assert_eq!(backups[0]["link"], json!([{"name": "pg_wal", "destination": "/wal"}]));
        assert_eq!(backups[0]["error-list"], json!(["base/1/2"]));
    }

    #[test]
    fn a_stanza_or_a_backup_that_is_missing_has_its_code() {
        let mut info = samples::mesh();
        let label: BackupLabel = "20200101-000000F".parse().unwrap();
        let shown = Shown {
            info: &info,
            asked: Some("main"),
            only: None,
            set: Some((&label, None)),
        };
        assert_eq!(render(&shown)[0]["status"]["code"], 6);
        info.stanzas.clear();
        let json = render(&Shown {
            info: &info,
            asked: Some("other"),
            only: None,
            set: None,
        });
        assert_eq!(json[0]["name"], "other");
        assert_eq!(json[0]["status"]["code"], 1);
        assert_eq!(json[0]["status"]["message"], "missing stanza path");
        for empty in ["archive", "backup", "db"] {
            assert_eq!(json[0][empty], json!([]), "{empty}");
        }
        assert_eq!(
            render(&Shown {
                info: &info,
                asked: None,
                only: None,
                set: None
            }),
            json!([])
        );
    }

    #[test]
    fn repo_leaves_one_repository() {
        let info = samples::mesh();
        let json = render(&Shown {
            info: &info,
            asked: None,
            only: Some(samples::key(1)),
            set: None,
        });
        assert_eq!(json[0]["status"]["code"], 0);
        assert_eq!(json[0]["repo"].as_array().unwrap().len(), 1);
        assert_eq!(json[0]["archive"].as_array().unwrap().len(), 2);
        let json = render(&Shown {
            info: &info,
            asked: None,
            only: Some(samples::key(2)),
            set: None,
        });
        let backups = json[0]["backup"].as_array().unwrap();
        assert_eq!(backups[0]["database"]["repo-key"], 2);
        assert_eq!(backups[1]["repository"], json!([{"complete": false, "key": 2}]));
    }
}

//! Losses, in sentences. Pure.

use crate::output::timestamp;
use pgmesh_protocol::{CatalogLost, LostReport, StanzaLosses, StuckArchiver, WorkerAlarm};

/// The number of backups that a sentence names.
const NAMED: usize = 5;

/// The advice for lost objects.
const REMEDY: &str = "repair or bring back a repository that had a good copy: the mesh then copies the objects from \
                      there by itself; push WAL again that is still in pg_wal ('pgmesh archive-push'); take a new \
                      full backup, and remove the backups named here when it is done";

/// The advice for a catalog that has lost its end, else for lost objects.
pub fn remedy(lost: &LostReport) -> String {
    match &lost.catalog {
        Some(catalog) if catalog.taken_over.is_some() => format!(
            "if the other catalog is the right one: stop these nodes, empty their node-paths and let them join that \
             mesh ('pgmesh invite --role=node NAME' there). If this catalog is the right one: stop the nodes of the \
             other catalog, then run 'pgmesh catalog-accept-loss {}' here",
            catalog.position
        ),
        Some(catalog) => format!(
            "stop all nodes and put newer copies of their node-paths back; or found the mesh anew with 'pgmesh \
             catalog-rebuild' from a repository; or give up the lost entries: 'pgmesh catalog-accept-loss {}'",
            catalog.position
        ),
        None => REMEDY.to_owned(),
    }
}

/// All losses: the number of objects, and their cost for each stanza. Empty if nothing is lost.
pub fn describe_lost(lost: &LostReport) -> Vec<String> {
    let mut lines: Vec<String> = lost.catalog.iter().map(describe_catalog).collect();
    lines.extend(describe_uncompared(lost));
    if lost.objects == 0 {
        return lines;
    }
    let more = if lost.more { "more than " } else { "" };
    let objects = if lost.objects == 1 { "object" } else { "objects" };
    lines.push(format!(
        "{more}{} {objects} have no good copy in any repository: the repair has nothing to copy them from",
        lost.objects
    ));
    for stanza in &lost.stanzas {
        let costs = describe_losses(stanza);
        lines.extend(
            costs
                .into_iter()
                .map(|cost| format!("stanza {}: {cost}", stanza.stanza)),
        );
    }
    if lost.searching {
        lines.push("the backups that need the lost chunks are still being looked up: run the command again".to_owned());
    } else if lost.chunks > 0 && lost.stanzas.iter().all(|stanza| stanza.backups.is_empty()) {
        lines.push(format!("no backup needs the {} lost chunks", lost.chunks));
    }
    lines
}

/// Repositories that have not been compared with the catalog yet.
pub fn describe_uncompared(lost: &LostReport) -> Option<String> {
    let names: Vec<String> = lost.uncompared.iter().map(|repo| format!("repo{repo}")).collect();
    (!names.is_empty()).then(|| {
        format!(
            "repositories that are not compared yet with the catalog, which has lost its last entries: {}; until they \
             are, no backup is taken and nothing is deleted",
            names.join(", ")
        )
    })
}

/// A host whose WAL is refused.
pub fn describe_stuck(stuck: &StuckArchiver) -> String {
    format!(
        "WAL of stanza {} from {} at {} is refused since {}: file {}, and no newer WAL leaves the host: {}",
        stuck.stanza,
        stuck.host,
        stuck.address,
        timestamp(stuck.since),
        stuck.file,
        stuck.why
    )
}

/// A background worker of a node that has ended unexpectedly.
pub fn describe_worker(alarm: &WorkerAlarm) -> String {
    let times = match alarm.ends {
        1 => "once".to_owned(),
        ends => format!("{ends} times"),
    };
    let why = match alarm.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    let now = if alarm.is_running {
        "it was started again"
    } else {
        "it does not run"
    };
    format!(
        "worker '{}' has ended unexpectedly {times} since the node's start, last at {}{why}; {now}",
        alarm.worker,
        timestamp(alarm.last)
    )
}

/// The loss of the catalog's end, or another catalog that has taken over.
pub fn describe_catalog(catalog: &CatalogLost) -> String {
    if let Some(era) = catalog.taken_over {
        return format!(
            "another catalog of this mesh has taken over in era {era}, as {} has shown since {}: a node was rescued, \
             or the catalog was rebuilt; this mesh serves nothing until an administrator decides which catalog is \
             right; 'pgmesh doctor' names the choices",
            match &catalog.told_by {
                Some(node) => format!("node {node}"),
                None => format!("repo{}", catalog.repo),
            },
            timestamp(catalog.written)
        );
    }
    format!(
        "the catalog ends at position {}, but had reached {} at {}, as repo{} shows: all nodes have older copies of \
         the catalog, and the mesh serves nothing until an administrator decides how to go on; 'pgmesh doctor' names \
         the choices",
        catalog.found_at,
        catalog.position,
        timestamp(catalog.written),
        catalog.repo
    )
}

/// The losses of a stanza, a sentence each.
pub fn describe_losses(losses: &StanzaLosses) -> Vec<String> {
    let mut lines = Vec::new();
    if !losses.backups.is_empty() {
        let named: Vec<&str> = losses.backups.iter().take(NAMED).map(|label| label.as_str()).collect();
        let more = match losses.backups.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(format!("cannot be restored in full: {}{more}", named.join(", ")));
    }
    if losses.wal_files > 0 {
        let first = losses.wal.first().map_or("", String::as_str);
        let files = if losses.wal_files == 1 { "file is" } else { "files are" };
        lines.push(format!(
            "{} WAL {files} lost: a recovery that needs {first} stops before it",
            losses.wal_files
        ));
    }
    if losses.description {
        lines.push(
            "the description of its cluster is lost: without the catalog (--repo-direct, catalog-rebuild) the stanza \
             cannot be read"
                .to_owned(),
        );
    }
    lines
}

/// Whether an administrator should act on the losses: the catalog has lost its end, or a stanza needs a lost object.
pub fn costs(lost: &LostReport) -> bool {
    lost.catalog.is_some() || lost.objects > 0 && (lost.searching || !lost.stanzas.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::RepoKey;

    #[test]
    fn losses_are_told_with_what_they_cost() {
        let mut lost = LostReport::default();
        assert!(describe_lost(&lost).is_empty() && !costs(&lost));
        lost.catalog = Some(CatalogLost {
            repo: RepoKey::new(2).unwrap(),
            position: 44,
            written: 0,
            found_at: 31,
            taken_over: None,
            told_by: None,
        });
        assert!(costs(&lost), "no object is lost, and everything may be");
        assert!(describe_lost(&lost).join("\n").contains("had reached 44"));
        assert!(remedy(&lost).contains("'pgmesh catalog-accept-loss 44'"));
        if let Some(catalog) = &mut lost.catalog {
            catalog.taken_over = Some(2);
        }
        assert!(describe_lost(&lost).join("\n").contains("has taken over in era 2"));
        assert!(remedy(&lost).contains("let them join that mesh"));
        lost.catalog = None;
        assert_eq!(remedy(&lost), REMEDY);
        lost.uncompared = vec![1, 3];
        assert!(
            describe_lost(&lost)
                .join("\n")
                .contains("has lost its last entries: repo1, repo3; until they are, no backup")
        );
        assert!(!costs(&lost));
        lost.uncompared.clear();
        lost.objects = 3;
        lost.chunks = 2;
        let said = describe_lost(&lost).join("\n");
        assert!(said.contains("no backup needs the 2 lost chunks"), "{said}");
        assert!(!costs(&lost), "what nothing needs is swept");
        lost.stanzas = vec![StanzaLosses {
            stanza: "main".to_owned(),
            backups: (1..=7)
                .map(|day| format!("2025021{day}-020001F").parse().unwrap())
                .collect(),
            wal: vec!["000000010000000000000005".to_owned()],
            wal_files: 1,
            description: false,
        }];
        assert!(costs(&lost));
        let said = describe_lost(&lost).join("\n");
        for part in [
            "3 objects have no good copy",
            "stanza main: cannot be restored in full: 20250211-020001F, ",
            " and 2 more",
            "1 WAL file is lost: a recovery that needs 000000010000000000000005 stops before it",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
    }
}

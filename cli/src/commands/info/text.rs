//! `info` for people, in pgBackRest's words and order.

use super::losses::{describe_catalog, describe_losses, describe_stuck};
use super::references::{Counts, References};
use super::status::{Status, chosen, describe_kept, troubles};
use super::{Shown, listed};
use crate::output::{size, timestamp};
use pgmesh_protocol::{BackupInfo, DatabaseInfo, HoldInfo, RepositoryInfo, StanzaInfo};
use pgmesh_storage::{BackupLabel, BackupType, BlockRange, ManifestRoot};

/// The whole output.
pub fn render(shown: &Shown<'_>) -> String {
    let stanzas = shown.stanzas();
    if stanzas.is_empty() {
        let mut text = Lines::default();
        text.add(0, "No stanzas exist in the repository.");
        for repository in chosen(&shown.info.repositories, shown.only) {
            text.troubles(0, repository);
        }
        return text.0;
    }
    let each = stanzas.into_iter().map(|(name, stanza)| element(shown, name, stanza));
    each.collect::<Vec<_>>().join("\n")
}

/// Text under construction: lines, indented by levels of four spaces.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, level: usize, line: impl AsRef<str>) {
        self.0.push_str(&"    ".repeat(level));
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    fn blank(&mut self) {
        self.0.push('\n');
    }

    fn troubles(&mut self, level: usize, repository: &RepositoryInfo) {
        for line in troubles(repository).into_iter().chain(describe_kept(&repository.kept)) {
            self.add(level, format!("repo{}: {line}", repository.key));
        }
    }
}

fn element(shown: &Shown<'_>, name: &str, stanza: Option<&StanzaInfo>) -> String {
    let mut text = Lines::default();
    text.add(0, format!("stanza: {name}"));
    let overall = status(&mut text, shown, name, stanza);
    cipher(&mut text, shown);
    let Some(stanza) = stanza.filter(|_| overall != Status::BackupNotFound) else {
        return text.0;
    };
    let among = References::among(&stanza.backups);
    // The newest database comes first: it is the current one, which the user looks for.
    for (at, database) in stanza.databases.iter().rev().enumerate() {
        let backups: Vec<&BackupInfo> = shown
            .backups(Some(stanza))
            .filter(|backup| backup.database == database.id)
            .collect();
        if shown.label().is_some() && backups.is_empty() {
            continue;
        }
        text.blank();
        text.add(1, if at == 0 { "db (current)" } else { "db (prior)" });
        archive(&mut text, stanza, database);
        for backup in backups {
            text.blank();
            self::backup(&mut text, shown, &among, backup);
        }
    }
    text.0
}

fn status(text: &mut Lines, shown: &Shown<'_>, name: &str, stanza: Option<&StanzaInfo>) -> Status {
    let repositories = chosen(&shown.info.repositories, shown.only);
    let each: Vec<Status> = repositories
        .iter()
        .map(|repo| Status::in_repository(repo, stanza, shown.label()))
        .collect();
    let overall = shown.overall(name, &each, stanza);
    let running = stanza.and_then(|stanza| stanza.backup_held_by.as_deref());
    let running = running
        .map(|holder| format!(" (backup running: {holder})"))
        .unwrap_or_default();
    text.add(1, format!("status: {}{running}", overall.text()));
    if let Some(reason) = stanza.and_then(|stanza| stanza.stopped.as_deref()) {
        text.add(2, format!("stopped: {reason}"));
    }
    for line in shown.info.lost.catalog.iter().map(describe_catalog) {
        text.add(2, line);
    }
    for stuck in shown.info.stuck.iter().filter(|stuck| stuck.stanza == name) {
        text.add(2, describe_stuck(stuck));
    }
    for line in shown.losses(name).map(describe_losses).unwrap_or_default() {
        text.add(2, line);
    }
    let holes = shown.holes(name).map(|holes| holes.sentences(timestamp));
    for line in holes.unwrap_or_default() {
        text.add(2, line);
    }
    for (repository, status) in repositories.iter().zip(&each) {
        // For a repository that is away, the trouble says more than "other" would.
        if overall == Status::Mixed && *status != Status::Other {
            text.add(2, format!("repo{}: {}", repository.key, status.text()));
        }
        text.troubles(2, repository);
    }
    overall
}

fn cipher(text: &mut Lines, shown: &Shown<'_>) {
    let cipher = shown.cipher();
    text.add(1, format!("cipher: {cipher}"));
    if cipher == "mixed" {
        for repository in chosen(&shown.info.repositories, shown.only) {
            text.add(2, format!("repo{}: {}", repository.key, repository.cipher));
        }
    }
}

fn archive(text: &mut Lines, stanza: &StanzaInfo, database: &DatabaseInfo) {
    let range = match stanza.archives.iter().find(|archive| archive.database == database.id) {
        None => "none present".to_owned(),
        Some(archive) => format!("{}/{}", archive.min, archive.max),
    };
    text.add(2, format!("wal archive min/max ({}): {range}", database.version));
}

fn backup(text: &mut Lines, shown: &Shown<'_>, among: &References<'_>, backup: &BackupInfo) {
    let root = shown.details(&backup.label);
    text.add(2, format!("{} backup: {}", backup.kind, backup.label));
    text.add(
        3,
        format!(
            "timestamp start/stop: {} / {}",
            timestamp(backup.time_start),
            timestamp(backup.time_stop)
        ),
    );
    text.add(3, format!("wal start/stop: {} / {}", backup.wal_start, backup.wal_stop));
    if root.is_some() {
        text.add(3, format!("lsn start/stop: {} / {}", backup.lsn_start, backup.lsn_stop));
    }
    text.add(
        3,
        format!(
            "database size: {}, database backup size: {}",
            size(backup.size),
            size(backup.delta)
        ),
    );
    for (key, complete) in Shown::places(backup, shown.only) {
        let incomplete = if complete {
            ""
        } else {
            " (not complete yet: objects are owed)"
        };
        text.add(
            3,
            format!("repo{key}: backup size: {}{incomplete}", size(backup.stored_delta)),
        );
    }
    if let Some(hold) = &backup.hold {
        text.add(3, describe_hold(hold));
    }
    let counts = among.counts(&backup.label);
    if counts.sum() > 0 {
        text.add(3, references(among, backup, counts, root.is_some()));
    }
    match root {
        Some(root) => details(text, root),
        None if backup.error => text.add(3, "error(s) detected during backup"),
        None => {}
    }
    if root.is_some() && !backup.annotations.is_empty() {
        text.add(3, "annotation(s)");
        for (key, value) in &backup.annotations {
            text.add(4, format!("{key}: {value}"));
        }
    }
}

/// `held since … until …, by …: why`.
fn describe_hold(hold: &HoldInfo) -> String {
    let until = hold.until.map_or("until released".to_owned(), |until| {
        format!("until {}", timestamp(until))
    });
    let why = if hold.why.is_empty() {
        String::new()
    } else {
        format!(": {}", hold.why)
    };
    format!("held since {} {until}, by {}{why}", timestamp(hold.since), hold.by)
}

/// The number of backups of each type; with `--set`, their labels.
fn references(among: &References<'_>, backup: &BackupInfo, counts: Counts, all: bool) -> String {
    if all {
        let labels = among.of(&backup.label, usize::MAX);
        let labels: Vec<&str> = labels.into_iter().map(BackupLabel::as_str).collect();
        return format!("backup reference list: {}", labels.join(", "));
    }
    let counts: Vec<String> = [
        (counts.full, BackupType::Full),
        (counts.diff, BackupType::Diff),
        (counts.incr, BackupType::Incr),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, kind)| format!("{count} {kind}"))
    .collect();
    format!("backup reference total: {}", counts.join(", "))
}

/// The lines that only `--set` shows.
fn details(text: &mut Lines, root: &ManifestRoot) {
    let databases: Vec<String> = listed(root)
        .map(|database| format!("{} ({})", database.name, database.oid))
        .collect();
    let databases = if databases.is_empty() {
        "none".to_owned()
    } else {
        databases.join(", ")
    };
    text.add(3, format!("database list: {databases}"));
    if !root.links.is_empty() {
        text.add(3, "symlinks:");
        for link in &root.links {
            text.add(4, format!("{} => {}", link.path, link.destination));
        }
    }
    if !root.tablespaces.is_empty() {
        text.add(3, "tablespaces:");
        for space in &root.tablespaces {
            text.add(4, format!("{} ({}) => {}", space.name, space.oid, space.destination));
        }
    }
    if !root.errors.is_empty() {
        let errors: Vec<String> = root
            .errors
            .iter()
            .map(|error| format!("{} (blocks {})", error.path, blocks(&error.blocks)))
            .collect();
        text.add(3, format!("error list: {}", errors.join(", ")));
    }
}

/// `3, 8-9`.
fn blocks(ranges: &[BlockRange]) -> String {
    let range = |range: &BlockRange| match range.count {
        0 | 1 => range.first.to_string(),
        count => format!("{}-{}", range.first, range.first.saturating_add(count - 1)),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    /// Whether the parts follow each other in the text.
    #[track_caller]
    fn in_order(text: &str, parts: &[&str]) {
        let mut rest = text;
        for part in parts {
            let at = rest
                .find(part)
                .unwrap_or_else(|| panic!("no {part:?} in its place in\n{text}"));
            rest = &rest[at + part.len()..];
        }
    }

    #[test]
    fn the_order_of_pgbackrest() {
        let mut info = samples::mesh();
        info.stanzas[0].stopped = Some("maintenance".into());
        let text = render(&Shown {
            info: &info,
            asked: None,
            only: None,
            set: None,
        });
        in_order(
            &text,
            &[
                "stanza: main\n",
                "    status: mixed\n",
                "        stopped: maintenance\n",
                "        repo1: ok\n",
                "        repo2: down since 20",
                ": no such directory\n",
                "        repo2: owes 12 objects (24.1MB) since 20",
                "    cipher: aes-256-cbc\n",
                "\n    db (current)\n",
                "        wal archive min/max (15): 000000000000000000000010/00000000000000000000001F\n",
                "\n        full backup: 20260102-000000F\n",
                "            timestamp start/stop: 20",
                "            wal start/stop: 000000000000000000000010 / 000000000000000000000011\n",
                "            database size: 142.3GB, database backup size: 8KB\n",
                "            repo1: backup size: 4KB\n            repo2: backup size: 4KB\n",
                "\n        diff backup: 20260102-000000F_20260103-000000D\n",
                "            repo1: backup size: 4KB\n            \
                 repo2: backup size: 4KB (not complete yet: objects are owed)\n",
                "            backup reference total: 1 full\n",
                "            error(s) detected during backup\n",
                "\n    db (prior)\n        wal archive min/max (14): ",
            ],
        );
        assert!(!text.contains("lsn start/stop"));
    }

    #[test]
    fn a_debt_alone_is_named_and_no_error() {
        let mut info = samples::mesh();
        info.repositories[1].health = pgmesh_protocol::HealthInfo::Up;
        let text = render(&Shown {
            info: &info,
            asked: None,
            only: None,
            set: None,
        });
        in_order(&text, &["    status: ok\n        repo2: owes 12 objects", "    cipher"]);
    }

    #[test]
    fn a_set_is_shown_alone_and_at_length() {
        let info = samples::mesh();
        let label: BackupLabel = "20260102-000000F_20260103-000000D".parse().unwrap();
        let root = samples::root();
        let shown = Shown {
            info: &info,
            asked: Some("main"),
            only: None,
            set: Some((&label, Some(&root))),
        };
        let text = render(&shown);
        in_order(
            &text,
            &[
                "diff backup: 20260102-000000F_20260103-000000D\n",
                "            lsn start/stop: 0/10000028 / 0/11000100\n",
                "            backup reference list: 20260102-000000F\n",
                "            database list: postgres (5)\n",
                "            symlinks:\n                pg_wal => /wal\n",
                "            tablespaces:\n                fast (16384) => /mnt/fast\n",
                "            error list: base/1/2 (blocks 3, 8-9)\n",
                "            annotation(s)\n                why: before the upgrade\n",
            ],
        );
        assert!(!text.contains("full backup") && !text.contains("db (prior)"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut info = samples::mesh();
        let label: BackupLabel = "20200101-000000F".parse().unwrap();
        let shown = Shown {
            info: &info,
            asked: Some("main"),
            only: None,
            set: Some((&label, None)),
        };
        let text = render(&shown);
        in_order(
            &text,
            &[
                "status: error (requested backup not found)",
                "repo2: down",
                "cipher: aes-256-cbc\n",
            ],
        );
        assert!(!text.contains("db (current)"));
        info.stanzas.clear();
        let text = render(&Shown {
            info: &info,
            asked: Some("other"),
            only: None,
            set: None,
        });
        in_order(&text, &["stanza: other\n    status: error (missing stanza path)\n"]);
        let text = render(&Shown {
            info: &info,
            asked: None,
            only: None,
            set: None,
        });
        in_order(&text, &["No stanzas exist in the repository.\n", "repo2: down since"]);
    }

    #[test]
    fn a_hold_is_shown() {
        let mut info = samples::mesh();
        info.stanzas[0].backups[0].hold = Some(HoldInfo {
            since: 1_795_404_000,
            until: None,
            by: "alice".into(),
            why: "audit".into(),
        });
        let shown = Shown {
            info: &info,
            asked: None,
            only: None,
            set: None,
        };
        in_order(
            &render(&shown),
            &[
                "full backup: 20260102-000000F\n",
                "held since 20",
                " until released, by alice: audit\n",
            ],
        );
        let json = crate::commands::info::json::render(&shown);
        assert_eq!(json[0]["backup"][0]["hold"]["by"], "alice");
        assert!(json[0]["backup"][1]["hold"].is_null());
    }

    #[test]
    fn an_empty_stanza_and_two_ciphers() {
        let mut info = samples::mesh();
        info.repositories[1].cipher = "none".into();
        info.repositories[1].health = pgmesh_protocol::HealthInfo::Up;
        info.stanzas[0].backups.clear();
        info.stanzas[0].archives.clear();
        let text = render(&Shown {
            info: &info,
            asked: None,
            only: None,
            set: None,
        });
        in_order(
            &text,
            &[
                "    status: error (no valid backups)\n",
                "    cipher: mixed\n        repo1: aes-256-cbc\n        repo2: none\n",
                "wal archive min/max (15): none present\n",
            ],
        );
    }
}

//! One tree of two directories: the standby's replicated files, and the primary's other files.

use super::replicated::{REPLICATED, is_replicated};
use super::{PrimaryFiles, Standby, remote};
use crate::backup::plan::walk_failure;
use crate::pg::{OpenCluster, database_failure};
use pgmesh_postgres::{ClusterTree, Entries, Entry, EntryKind, PgVersion, WalkOptions, walk};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::tasks;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TABLESPACES: &str = "pg_tblspc/";

/// Walks both directories.
pub async fn tree(standby: &Standby, primary: &OpenCluster, exclude: &[String]) -> Result<ClusterTree, Failure> {
    let version = primary.control.version;
    let locations = primary
        .client
        .tablespace_locations()
        .await
        .map_err(|error| database_failure(&error))?;
    let own = walk_standby(standby.pgdata.clone(), version, exclude.to_vec()).await?;
    let theirs = match &standby.primary {
        PrimaryFiles::Here(pgdata) => walk_primary(pgdata.clone(), version, exclude.to_vec()).await?,
        PrimaryFiles::Remote(spool) => remote::tree(spool, &primary.client, own.root.clone(), exclude).await?,
    };
    Ok(join(own, theirs, &locations.into_iter().collect()))
}

/// Without the standby's own names, so that nothing among them can fail the walk.
async fn walk_standby(pgdata: PathBuf, version: PgVersion, mut exclude: Vec<String>) -> Result<ClusterTree, Failure> {
    in_background(move || {
        let names = std::fs::read_dir(&pgdata).map_err(|error| {
            Failure::new(
                ExitCode::Runtime,
                format!("the standby's directory {} cannot be read", pgdata.display()),
            )
            .because(error)
            .remedy("run pgmesh as the user that PostgreSQL runs as")
        })?;
        for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if !REPLICATED.contains(&name.as_str()) {
                exclude.push(name);
            }
        }
        walked(&pgdata, version, exclude)
    })
    .await
}

/// Without the entries that come from the standby, but with the links that lead to them.
async fn walk_primary(pgdata: PathBuf, version: PgVersion, mut exclude: Vec<String>) -> Result<ClusterTree, Failure> {
    // In global lies pg_control.
    let others = REPLICATED.iter().filter(|name| **name != "global");
    exclude.extend(others.map(|name| format!("{name}/")));
    in_background(move || walked(&pgdata, version, exclude)).await
}

fn walked(pgdata: &Path, version: PgVersion, exclude: Vec<String>) -> Result<ClusterTree, Failure> {
    let mut options = WalkOptions::new(version);
    options.exclude = exclude;
    walk(pgdata, &options).map_err(|error| walk_failure(&error))
}

async fn in_background(
    work: impl FnOnce() -> Result<ClusterTree, Failure> + Send + 'static,
) -> Result<ClusterTree, Failure> {
    tasks::blocking("reading a file", work)
        .await
        .map_err(|error| Failure::new(ExitCode::Assert, "the walk ended abnormally").because(error))?
}

/// The standby's replicated files, and everything else of the primary: its links too, since a restore makes them again.
/// `locations` says where the primary's tablespaces are.
fn join(own: ClusterTree, primary: ClusterTree, locations: &BTreeMap<u32, String>) -> ClusterTree {
    let is_link = |entry: &Entry| matches!(entry.kind, EntryKind::Link { .. });
    let is_tablespace = |entry: &Entry| entry.path.starts_with(TABLESPACES);
    let kept = primary
        .entries
        .into_iter()
        .filter(|entry| !is_replicated(&entry.path) || (is_link(entry) && !is_tablespace(entry)));
    let replicated = own
        .entries
        .into_iter()
        .filter(|entry| is_replicated(&entry.path) && (!is_link(entry) || is_tablespace(entry)))
        .map(|entry| at_primary(entry, locations));
    let entries = merge(kept, replicated);

    let mut tablespaces = own.tablespaces;
    for tablespace in &mut tablespaces {
        if let Some(location) = locations.get(&tablespace.oid).filter(|location| !location.is_empty()) {
            tablespace.destination = location.into();
        }
    }
    let mut skipped = primary.skipped;
    skipped.retain(|skipped| !is_replicated(&skipped.path));
    skipped.extend(own.skipped.into_iter().filter(|skipped| is_replicated(&skipped.path)));
    skipped.sort();
    ClusterTree {
        root: primary.root,
        entries,
        tablespaces,
        links: primary.links,
        skipped,
    }
}

/// Merges two lists that are sorted by path. A link of the first comes before the directory of that path in the second.
fn merge(first: impl Iterator<Item = Entry>, second: impl Iterator<Item = Entry>) -> Entries {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    let mut merged = Entries::new();
    let mut last = String::new();
    while let Some(entry) = match (first.peek(), second.peek()) {
        (Some(one), Some(other)) if other.path < one.path => second.next(),
        (Some(_), _) => first.next(),
        (None, _) => second.next(),
    } {
        debug_assert!(last <= entry.path, "{} comes behind {last}", entry.path);
        last.clone_from(&entry.path);
        merged.push(entry);
    }
    merged
}

/// A tablespace's link with the primary's destination. If the primary created the tablespace after its locations were
/// read, the link keeps the standby's destination.
fn at_primary(mut entry: Entry, locations: &BTreeMap<u32, String>) -> Entry {
    if let EntryKind::Link { destination } = &mut entry.kind {
        let oid = entry.path.strip_prefix(TABLESPACES).and_then(|oid| oid.parse().ok());
        let location = oid.and_then(|oid: u32| locations.get(&oid));
        if let Some(location) = location.filter(|location| !location.is_empty()) {
            destination.clone_from(location);
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_postgres::{Link, Tablespace};

    fn entry(path: &str, whose: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.to_owned(),
            root: Path::new(whose).into(),
            kind,
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    fn tree(whose: &str, paths: &[(&str, &str)]) -> ClusterTree {
        let kind = |path: &str, kind: &str| match kind {
            "file" => EntryKind::File { size: 1 },
            "directory" => EntryKind::Directory,
            destination => EntryKind::Link {
                destination: format!("{destination}{path}"),
            },
        };
        ClusterTree {
            root: entry("", whose, EntryKind::Directory),
            entries: paths
                .iter()
                .map(|(path, what)| entry(path, whose, kind(path, what)))
                .collect(),
            tablespaces: Vec::new(),
            links: Vec::new(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn what_is_replicated_is_the_standbys_and_the_rest_the_primarys() {
        let mut own = tree(
            "standby",
            &[
                ("base", "/elsewhere/"),
                ("base", "directory"),
                ("base/5", "directory"),
                ("base/5/1", "file"),
                ("global", "directory"),
                ("global/1260", "file"),
                ("global/pg_control", "file"),
                ("pg_tblspc", "directory"),
                ("pg_tblspc/16500", "/standby/"),
                ("pg_tblspc/16500", "directory"),
                ("pg_tblspc/16500/PG_15_202209061/5/2", "file"),
                ("pg_xact", "directory"),
                ("pg_xact/0000", "file"),
                ("postgresql.auto.conf", "file"),
            ],
        );
        own.tablespaces.push(Tablespace {
            oid: 16500,
            destination: "/standby/fast".into(),
        });
        let mut primary = tree(
            "primary",
            &[
                ("base", "directory"),
                ("base-old", "file"),
                ("global", "directory"),
                ("global/1260", "file"),
                ("global/pg_control", "file"),
                ("pg_tblspc", "directory"),
                ("pg_wal", "/wal/"),
                ("pg_wal", "directory"),
                ("pg_xact", "/xact/"),
                ("pg_xact", "directory"),
                ("postgresql.auto.conf", "file"),
            ],
        );
        primary.links.push(Link {
            path: "pg_wal".to_owned(),
            destination: "/wal/pg_wal".to_owned(),
        });
        let joined = join(own, primary, &BTreeMap::from([(16500, "/primary/fast".to_owned())]));
        let shown: Vec<String> = joined
            .entries
            .iter()
            .map(|entry| match &entry.kind {
                EntryKind::Link { destination } => format!("{} -> {destination}", entry.path),
                _ => entry.disk_path().display().to_string(),
            })
            .collect();
        let expected = [
            "standby/base",
            "primary/base-old",
            "standby/base/5",
            "standby/base/5/1",
            "standby/global",
            "standby/global/1260",
            "primary/global/pg_control",
            "standby/pg_tblspc",
            "pg_tblspc/16500 -> /primary/fast",
            "standby/pg_tblspc/16500",
            "standby/pg_tblspc/16500/PG_15_202209061/5/2",
            "pg_wal -> /wal/pg_wal",
            "primary/pg_wal",
            "pg_xact -> /xact/pg_xact",
            "standby/pg_xact",
            "standby/pg_xact/0000",
            "primary/postgresql.auto.conf",
        ];
        assert_eq!(shown, expected);
        assert_eq!(joined.tablespaces[0].destination, Path::new("/primary/fast"));
        assert_eq!(joined.links.len(), 1);
    }
}

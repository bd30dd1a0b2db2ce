//! Where tablespaces and links of the backup go: a pure decision.
//!
//! Tablespaces are links to where they were, unless mapped elsewhere. Other links become plain files and directories of
//! the data directory, unless `--link-all` or `--link-map` says otherwise.

use super::options::PlaceOptions;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::TablespaceRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// A link that the restore makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLink {
    /// Where it points, absolute and without `..`.
    pub destination: PathBuf,
    /// It leads to a directory; else to a file.
    pub to_directory: bool,
    /// The oid, where it is a tablespace's.
    pub tablespace: Option<u32>,
}

/// All links that the restore makes, by path relative to PGDATA.
pub type PlannedLinks = BTreeMap<String, PlannedLink>;

/// The links and directories in a manifest.
#[derive(Debug, Clone, Default)]
pub struct FoundLinks {
    /// The link's path relative to PGDATA, and its text.
    pub links: BTreeMap<String, String>,
    /// The paths of all directories.
    pub directories: BTreeSet<String>,
}

/// Decides which links the restore makes.
///
/// # Errors
/// 76 and 78 for mappings of tablespaces and links that the backup does not have, and for destinations that cannot be:
/// inside of PGDATA, around it, or overlapping each other.
pub fn plan(
    pgdata: &Path,
    found: &FoundLinks,
    tablespaces: &[TablespaceRecord],
    options: &PlaceOptions,
) -> Result<PlannedLinks, Failure> {
    check_maps(found, tablespaces, options)?;
    let mut planned = PlannedLinks::new();
    for (path, said) in &found.links {
        let tablespace = tablespace_oid(path);
        let destination = match tablespace {
            Some(oid) => Some(tablespace_destination(oid, said, tablespaces, options)),
            None => link_destination(path, said, options),
        };
        let Some(destination) = destination else { continue };
        let destination = resolve(pgdata, path, &destination);
        let to_directory = tablespace.is_some() || found.directories.contains(path);
        let link = PlannedLink {
            destination,
            to_directory,
            tablespace,
        };
        check_destination(pgdata, path, &link, &planned)?;
        planned.insert(path.clone(), link);
    }
    Ok(planned)
}

fn tablespace_destination(oid: u32, said: &str, tablespaces: &[TablespaceRecord], options: &PlaceOptions) -> PathBuf {
    let name = tablespaces
        .iter()
        .find(|tablespace| tablespace.oid == oid)
        .map(|tablespace| tablespace.name.as_str());
    let is_meant = |key: &str| name == Some(key) || key == oid.to_string();
    if let Some((_, mapped)) = options.tablespace_map.iter().find(|(key, _)| is_meant(key)) {
        return mapped.clone();
    }
    match &options.tablespace_map_all {
        // PostgreSQL takes any name. A name that is no folder's, for example `../../x`, would lead out of the
        // directory.
        Some(all) => match name.filter(|name| is_folder_name(name)) {
            Some(name) => all.join(name),
            None => all.join(oid.to_string()),
        },
        None => PathBuf::from(said),
    }
}

fn is_folder_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

fn link_destination(path: &str, said: &str, options: &PlaceOptions) -> Option<PathBuf> {
    let mapped = options.link_map.iter().find(|(key, _)| key.trim_matches('/') == path);
    match mapped {
        Some((_, destination)) => Some(destination.clone()),
        None => options.link_all.then(|| PathBuf::from(said)),
    }
}

fn check_maps(found: &FoundLinks, tablespaces: &[TablespaceRecord], options: &PlaceOptions) -> Result<(), Failure> {
    for (key, _) in &options.tablespace_map {
        let is_known = tablespaces.iter().any(|tablespace| tablespace.name == *key)
            || found
                .links
                .keys()
                .any(|path| tablespace_oid(path).is_some_and(|oid| oid.to_string() == *key));
        if !is_known {
            let names: Vec<&str> = tablespaces.iter().map(|tablespace| tablespace.name.as_str()).collect();
            return Err(Failure::new(
                ExitCode::TablespaceMap,
                format!("tablespace-map: the backup has no tablespace '{key}'"),
            )
            .remedy(format!("it has: {}", names.join(", "))));
        }
    }
    for (key, _) in &options.link_map {
        let path = key.trim_matches('/');
        if !found.links.contains_key(path) || tablespace_oid(path).is_some() {
            let is_other = |path: &&String| tablespace_oid(path).is_none();
            let links: Vec<&str> = found.links.keys().filter(is_other).map(String::as_str).collect();
            return Err(
                Failure::new(ExitCode::LinkMap, format!("link-map: the backup has no link '{key}'"))
                    .remedy(format!("it has: {}", links.join(", "))),
            );
        }
    }
    Ok(())
}

fn check_destination(pgdata: &Path, path: &str, link: &PlannedLink, others: &PlannedLinks) -> Result<(), Failure> {
    let destination = &link.destination;
    let code = if link.tablespace.is_some() {
        ExitCode::TablespaceMap
    } else {
        ExitCode::LinkMap
    };
    let shown = destination.display();
    let refused = |why: String| {
        Failure::new(code, format!("{path} cannot lead to {shown}"))
            .because(why)
            .remedy("map it elsewhere with tablespace-map or link-map")
    };
    if destination.starts_with(pgdata) || (link.to_directory && pgdata.starts_with(destination)) {
        return Err(refused(format!(
            "that lies in or around the data directory {}",
            pgdata.display()
        )));
    }
    let overlaps = |other: &PlannedLink| match (link.to_directory, other.to_directory) {
        (false, false) => other.destination == *destination,
        (false, true) => destination.starts_with(&other.destination),
        (true, false) => other.destination.starts_with(destination),
        (true, true) => destination.starts_with(&other.destination) || other.destination.starts_with(destination),
    };
    match others.iter().find(|(_, other)| overlaps(other)) {
        Some((other, _)) => Err(refused(format!("{other} leads there, too"))),
        None => Ok(()),
    }
}

/// The destination of a link as an absolute path without `.` and `..`.
fn resolve(pgdata: &Path, path: &str, destination: &Path) -> PathBuf {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let mut resolved = PathBuf::new();
    for component in pgdata.join(parent).join(destination).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            other => resolved.push(other),
        }
    }
    resolved
}

/// The oid of the tablespace whose link a path is.
pub fn tablespace_oid(path: &str) -> Option<u32> {
    path.strip_prefix("pg_tblspc/").and_then(|oid| oid.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> FoundLinks {
        let links = [
            ("pg_tblspc/16385", "/mnt/fast"),
            ("pg_wal", "../wal"),
            ("log/today", "/var/log/today"),
        ];
        FoundLinks {
            links: links
                .into_iter()
                .map(|(path, said)| (path.to_owned(), said.to_owned()))
                .collect(),
            directories: ["pg_tblspc/16385", "pg_wal", "log"]
                .into_iter()
                .map(str::to_owned)
                .collect(),
        }
    }

    fn planned(options: &PlaceOptions) -> Result<Vec<(String, String)>, ExitCode> {
        let fast = TablespaceRecord {
            oid: 16_385,
            name: "fast".to_owned(),
            destination: "/mnt/fast".to_owned(),
        };
        plan(Path::new("/pg/data"), &found(), &[fast], options)
            .map(|links| {
                let shown = |link: PlannedLink| link.destination.display().to_string();
                links.into_iter().map(|(path, link)| (path, shown(link))).collect()
            })
            .map_err(|failure| failure.code)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, PathBuf)> {
        pairs
            .iter()
            .map(|(key, path)| ((*key).to_owned(), PathBuf::from(path)))
            .collect()
    }

    fn links(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(path, destination)| ((*path).to_owned(), (*destination).to_owned()))
            .collect()
    }

    #[test]
    fn tablespaces_stay_links_and_other_links_become_plain() {
        assert_eq!(
            planned(&PlaceOptions::default()),
            Ok(links(&[("pg_tblspc/16385", "/mnt/fast")]))
        );
    }

    #[test]
    fn links_come_back_when_asked_for() {
        let all = PlaceOptions {
            link_all: true,
            ..PlaceOptions::default()
        };
        let expected = links(&[
            ("log/today", "/var/log/today"),
            ("pg_tblspc/16385", "/mnt/fast"),
            ("pg_wal", "/pg/wal"),
        ]);
        assert_eq!(planned(&all), Ok(expected));
        let mapped = PlaceOptions {
            link_map: pairs(&[("pg_wal", "/new/wal")]),
            ..PlaceOptions::default()
        };
        let expected = links(&[("pg_tblspc/16385", "/mnt/fast"), ("pg_wal", "/new/wal")]);
        assert_eq!(planned(&mapped), Ok(expected));
    }

    #[test]
    fn tablespaces_are_mapped_by_name_by_oid_or_all() {
        for key in ["fast", "16385"] {
            let options = PlaceOptions {
                tablespace_map: pairs(&[(key, "/new/ts")]),
                tablespace_map_all: Some(PathBuf::from("/all")),
                ..PlaceOptions::default()
            };
            assert_eq!(planned(&options), Ok(links(&[("pg_tblspc/16385", "/new/ts")])));
        }
        let all = PlaceOptions {
            tablespace_map_all: Some(PathBuf::from("/all")),
            ..PlaceOptions::default()
        };
        assert_eq!(planned(&all), Ok(links(&[("pg_tblspc/16385", "/all/fast")])));
    }

    #[test]
    fn no_name_of_a_tablespace_leads_out_of_the_directory_for_all() {
        for (name, folder) in [
            ("fast", "fast"),
            ("../../x", "16385"),
            ("/x", "16385"),
            ("a/b", "16385"),
            ("..", "16385"),
            ("a/", "16385"),
        ] {
            let tablespace = TablespaceRecord {
                oid: 16_385,
                name: name.to_owned(),
                destination: "/mnt/fast".to_owned(),
            };
            let options = PlaceOptions {
                tablespace_map_all: Some(PathBuf::from("/all")),
                ..PlaceOptions::default()
            };
            let links = plan(Path::new("/pg/data"), &found(), &[tablespace], &options).unwrap();
            assert_eq!(
                links["pg_tblspc/16385"].destination,
                Path::new("/all").join(folder),
                "{name}"
            );
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let tablespace = |key: &str, path: &str| {
            planned(&PlaceOptions {
                tablespace_map: pairs(&[(key, path)]),
                ..PlaceOptions::default()
            })
        };
        assert_eq!(tablespace("slow", "/x"), Err(ExitCode::TablespaceMap));
        assert_eq!(tablespace("fast", "/pg/data/x"), Err(ExitCode::TablespaceMap));
        assert_eq!(tablespace("fast", "/pg"), Err(ExitCode::TablespaceMap));
        let link = |key: &str, path: &str| {
            planned(&PlaceOptions {
                link_map: pairs(&[(key, path)]),
                ..PlaceOptions::default()
            })
        };
        assert_eq!(link("base", "/x"), Err(ExitCode::LinkMap));
        assert_eq!(link("pg_tblspc/16385", "/x"), Err(ExitCode::LinkMap));
        assert_eq!(
            link("pg_wal", "/mnt/fast/wal"),
            Err(ExitCode::LinkMap),
            "inside of a tablespace"
        );
        assert_eq!(link("log/today", "/var/today").map(|links| links.len()), Ok(2));
    }
}

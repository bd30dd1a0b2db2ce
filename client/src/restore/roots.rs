//! The directory that a path of the backup lies below: PGDATA, or the destination of a link that the restore has made.

use super::below::Below;
use super::places::PlannedLink;
use pgmesh_protocol::Failure;
use std::path::Path;
use std::sync::Arc;

/// The directories that a restore writes below, each open.
#[derive(Debug)]
pub struct Roots {
    pgdata: Arc<Below>,
    links: Vec<Root>,
}

/// The destination of a link.
#[derive(Debug)]
struct Root {
    /// The link, relative to PGDATA.
    link: String,
    below: Below,
    /// Of a link to a file: its name in the directory.
    file: Option<String>,
}

impl Roots {
    /// PGDATA alone so far.
    pub fn of(pgdata: Arc<Below>) -> Self {
        Self {
            pgdata,
            links: Vec::new(),
        }
    }

    /// Opens the destination of a link, which is there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn add(&mut self, path: &str, link: &PlannedLink) -> Result<(), Failure> {
        let destination = link.destination.as_path();
        let (directory, file) = if link.to_directory {
            (destination, None)
        } else {
            let name = destination.file_name().map(|name| name.to_string_lossy().into_owned());
            (destination.parent().unwrap_or(Path::new("/")), name)
        };
        self.links.push(Root {
            link: path.to_owned(),
            below: Below::open(directory)?,
            file,
        });
        Ok(())
    }

    /// PGDATA.
    pub fn pgdata(&self) -> &Below {
        &self.pgdata
    }

    /// The directory that a path of the backup lies below, and its path there; empty for the directory itself.
    pub fn find<'a>(&'a self, path: &'a str) -> (&'a Below, &'a str) {
        let behind = |root: &'a Root| {
            let rest = path.strip_prefix(root.link.as_str())?;
            match (rest.strip_prefix('/'), &root.file) {
                (Some(rest), None) => Some((root, rest)),
                (None, file) if rest.is_empty() => Some((root, file.as_deref().unwrap_or(""))),
                _ => None,
            }
        };
        let links = self.links.iter().filter_map(behind);
        links
            .max_by_key(|(root, _)| root.link.len())
            .map_or((&self.pgdata, path), |(root, rest)| (&root.below, rest))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Below> {
        std::iter::once(&*self.pgdata).chain(self.links.iter().map(|root| &root.below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_below_the_nearest_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["data", "fast", "wal"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let link = |name: &str, to_directory| PlannedLink {
            destination: at(name),
            to_directory,
            tablespace: None,
        };
        let mut roots = Roots::of(Arc::new(Below::open(&at("data")).unwrap()));
        for (path, link) in [
            ("pg_tblspc/16385", link("fast", true)),
            ("pg_wal", link("wal", true)),
            ("hba.conf", link("other.conf", false)),
        ] {
            roots.add(path, &link).unwrap();
        }
        let found = |path: &'static str| {
            let (below, rest) = roots.find(path);
            (below.shown(rest), rest.to_owned())
        };
        assert_eq!(found("base/5/1"), (at("data/base/5/1"), "base/5/1".to_owned()));
        assert_eq!(
            found("pg_tblspc/16385/PG_15/5"),
            (at("fast/PG_15/5"), "PG_15/5".to_owned())
        );
        assert_eq!(found("pg_tblspc/16385"), (at("fast"), String::new()));
        assert_eq!(found("pg_tblspc/163850").0, at("data/pg_tblspc/163850"));
        assert_eq!(found("pg_wal/archive_status").0, at("wal/archive_status"));
        assert_eq!(found("hba.conf"), (at("other.conf"), "other.conf".to_owned()));
        assert_eq!(roots.all().count(), 4);
    }
}

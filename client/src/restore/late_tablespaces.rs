//! Tablespaces that were made after the backup: their files are no part of it, and may lie where they will be made
//! again.
//!
//! The redo of CREATE TABLESPACE makes the link and keeps the files that it finds. These files are newer than the
//! replayed WAL, or another server's: docs/decisions/0024-tablespaces-after-the-backup.md.

use super::below::Below;
use super::disk::{self, failed};
use super::servers;
use super::survey::Survey;
use pgmesh_postgres::wal::{CreatedTablespace, CreatedTablespaces, TablespaceSearch};
use pgmesh_postgres::{SegmentName, SegmentSize};
use pgmesh_protocol::{ExitCode, Failure};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// So much of a segment is read at once.
const PIECE: usize = 1 << 20;

/// The files of a tablespace to which a data directory leads, and that the backup does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateTablespace {
    /// The link, relative to PGDATA.
    pub link: String,
    /// The cluster's directory in it.
    pub content: PathBuf,
}

/// Looks behind the links of a data directory that are not in the backup.
///
/// # Errors
/// One cannot be read.
pub fn find(pgdata: &Path, survey: &Survey, version_directory: &str) -> Result<Vec<LateTablespace>, Failure> {
    let folder = pgdata.join("pg_tblspc");
    let names = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(failed("reading the directory", &folder))?,
    };
    let mut found = Vec::new();
    for name in names {
        let at = name.map_err(failed("reading the directory", &folder))?.path();
        let (Ok(leads), Some(name)) = (fs::read_link(&at), at.file_name()) else {
            continue;
        };
        let link = format!("pg_tblspc/{}", name.to_string_lossy());
        let content = folder.join(leads).join(version_directory);
        if !survey.found.links.contains_key(&link) && !disk::is_empty(&content)? {
            found.push(LateTablespace { link, content });
        }
    }
    Ok(found)
}

/// Whether the files of these tablespaces may be removed before the restore begins.
///
/// # Errors
/// 40 when the user has not asked for that, or when the files are not this cluster's alone.
pub fn check(tablespaces: &[LateTablespace], pgdata: &Path, force: bool) -> Result<(), Failure> {
    let owner = |path: &Path| fs::metadata(path).map(|found| found.uid()).ok();
    for LateTablespace { link, content } in tablespaces {
        let shown = content.display();
        let refused = |what: String| Failure::new(ExitCode::PathNotEmpty, what);
        let location = content.parent().unwrap_or(content);
        if let Some(server) = servers::user_of_tablespace(location, pgdata) {
            let what = format!(
                "{shown}, to which {link} leads, is in use by the server on {}",
                server.display()
            );
            return Err(refused(what).remedy(format!("remove the link {}", pgdata.join(link).display())));
        }
        if owner(content) != owner(pgdata) {
            let what = format!(
                "{shown}, to which {link} leads, has another owner than {}",
                pgdata.display()
            );
            return Err(refused(what).remedy("remove the link, or empty that directory"));
        }
        if !force {
            let what = format!("{shown} holds files of a tablespace that is not in the backup: {link} leads there");
            return Err(refused(what)
                .because(
                    "a recovery that creates the tablespace again would keep these files, with rows newer than its \
                     target",
                )
                .remedy("empty that directory, or let the restore do it with --force (also beside --delta)"));
        }
    }
    Ok(())
}

/// Files at the place where a segment of WAL makes a tablespace. They are not of the cluster that replays the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFiles {
    created: CreatedTablespace,
    content: PathBuf,
    server: Option<PathBuf>,
}

/// Whether the redo of a segment would make a tablespace around files that are not this cluster's. `before` finds the
/// segment before it, of which a record may reach into this one.
pub fn foreign_files(
    pgdata: &Path,
    read: &CreatedTablespaces,
    before: impl FnOnce() -> Option<CreatedTablespaces>,
) -> Option<ForeignFiles> {
    let begun = || read.joined(&before()?);
    let first = read.may_begin_with_one().then(begun).flatten();
    let version_directory = read.version.tablespace_directory();
    let mut created = first.into_iter().chain(read.whole.iter().cloned());
    created.find_map(|created| foreign(pgdata, created, &version_directory))
}

fn foreign(pgdata: &Path, created: CreatedTablespace, version_directory: &str) -> Option<ForeignFiles> {
    // A tablespace without a location lies in the data directory.
    if created.location.is_empty() {
        return None;
    }
    let location = PathBuf::from(&created.location);
    let content = location.join(version_directory);
    // If the place cannot be read, PostgreSQL cannot use it either, and stops by itself.
    let holds_files = || disk::is_empty(&content).is_ok_and(|is_empty| !is_empty);
    // The redo of DROP TABLESPACE removes the files, then the link, perhaps between two looks: so the files are looked
    // for once more.
    if !holds_files() || has_link_to(pgdata, &location) || !holds_files() {
        return None;
    }
    let server = servers::user_of_tablespace(&location, pgdata);
    Some(ForeignFiles {
        created,
        content,
        server,
    })
}

/// Whether any tablespace of a data directory lies there: then the files are its own. The cluster has replayed this
/// record before, or it will drop the tablespace of these files before it replays this record.
fn has_link_to(pgdata: &Path, location: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let location = id(location);
    let mut links = fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    location.is_some() && links.any(|link| id(&link.path()) == location)
}

impl ForeignFiles {
    /// Why the segment is not handed out.
    pub fn refusal(&self, name: SegmentName) -> Failure {
        let content = self.content.display();
        let what = format!(
            "WAL file {name} creates tablespace {} in {}, where files lie that are not this cluster's: {content}",
            self.created.oid, self.created.location
        );
        let failure = Failure::new(ExitCode::PathNotEmpty, what);
        match &self.server {
            Some(server) => failure
                .because(format!(
                    "the server on {} uses these files, and the recovering server would write to them, too",
                    server.display()
                ))
                .remedy(
                    "take a backup of that server, which has the tablespace, and restore that backup with \
                     tablespace-map; or recover to a target before the tablespace was made; or start the recovering \
                     server on a host of its own",
                ),
            None => failure
                .because("the recovery would keep these files, newer than its target or of another cluster, and use \
                          them as its own")
                .remedy(format!(
                    "if no server uses them, empty {content} and start PostgreSQL again. For a copy beside the original: take a \
                     backup, which has the tablespace, and restore that with tablespace-map"
                )),
        }
    }
}

/// The tablespaces that the segment before this one creates. Any timeline's segment in this `pg_wal` will do.
pub fn created_before(pg_wal: &Path, name: SegmentName, size: SegmentSize) -> Option<CreatedTablespaces> {
    let names = fs::read_dir(pg_wal).ok()?.flatten();
    let mut segments = names.filter_map(|entry| entry.file_name().to_str()?.parse::<SegmentName>().ok());
    let is_before = |other: &SegmentName| {
        other.is_possible(size) && other.start(size) + u64::from(size.bytes()) == name.start(size)
    };
    let before = segments.find(|other| is_before(other))?;
    let mut file = fs::File::open(pg_wal.join(before.to_string())).ok()?;
    let mut search = TablespaceSearch::new(before);
    let mut piece = vec![0; PIECE];
    loop {
        let length = file.read(&mut piece).ok()?;
        if length == 0 {
            return search.finish();
        }
        search.feed(piece.get(..length)?);
    }
}

/// Checks a segment that a restore puts into `pg_wal` itself: no archive-get will.
///
/// # Errors
/// 40 when its redo would make a tablespace around files that are not this cluster's.
pub fn check_segment(pgdata: &Path, name: SegmentName, created: Option<&CreatedTablespaces>) -> Result<(), Failure> {
    let Some(created) = created else { return Ok(()) };
    let before = || created_before(&pgdata.join("pg_wal"), name, created.size);
    match foreign_files(pgdata, created, before) {
        Some(foreign) => Err(foreign.refusal(name)),
        None => Ok(()),
    }
}

/// Whether a server on this data directory recovers from the archive: without a signal file it replays nothing from
/// there.
pub fn is_recovering(pgdata: &Path) -> bool {
    ["recovery.signal", "standby.signal"]
        .iter()
        .any(|signal| pgdata.join(signal).exists())
}

/// Whether the recovery on this data directory ends at a point, as pgmesh or a user wrote it beside the signal file.
pub fn ends_at_a_point(pgdata: &Path) -> bool {
    let is_standby = pgdata.join("standby.signal").exists();
    let settings = fs::read_to_string(pgdata.join("postgresql.auto.conf"));
    !is_standby && settings.is_ok_and(|settings| pgmesh_postgres::has_recovery_target(&settings))
}

/// Removes the files of a tablespace.
///
/// # Errors
/// One cannot be removed.
pub fn clear(tablespaces: &[LateTablespace]) -> Result<u64, Failure> {
    for LateTablespace { link, content } in tablespaces {
        tracing::info!(
            "emptied {}, to which {link} leads: it is not in the backup",
            content.display()
        );
        if let (Some(location), Some(version)) = (content.parent(), content.file_name()) {
            Below::open(location)?.clear_directory(version)?;
        }
    }
    Ok(tablespaces.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_at_the_place_of_a_new_tablespace_are_foreign_unless_a_link_leads_there() {
        const VERSION: &str = "PG_15_202209061";
        let directory = tempfile::tempdir().unwrap();
        let (pgdata, place) = (directory.path().join("data"), directory.path().join("space"));
        fs::create_dir_all(pgdata.join("pg_tblspc")).unwrap();
        let created = || CreatedTablespace {
            at: pgmesh_postgres::Lsn(1),
            oid: 16_400,
            location: place.display().to_string(),
        };
        let is_foreign = || foreign(&pgdata, created(), VERSION).is_some();
        assert!(!is_foreign(), "nothing is there");
        fs::create_dir_all(place.join("PG_14_202107181/5")).unwrap();
        fs::create_dir_all(place.join(VERSION)).unwrap();
        assert!(!is_foreign(), "another version's, and an empty directory");
        fs::create_dir(place.join(VERSION).join("5")).unwrap();
        assert!(is_foreign());
        // Replayed before, or under another number that will be dropped.
        let link = pgdata.join("pg_tblspc/16385");
        std::os::unix::fs::symlink(&place, &link).unwrap();
        assert!(!is_foreign());
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(is_foreign(), "a mapped tablespace leads elsewhere");
        let in_place = CreatedTablespace {
            location: String::new(),
            ..created()
        };
        assert_eq!(foreign(&pgdata, in_place, VERSION), None);
    }

    #[test]
    fn only_a_recovery_with_a_target_ends_at_a_point() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        assert!(!is_recovering(pgdata) && !ends_at_a_point(pgdata));
        fs::write(pgdata.join("recovery.signal"), "").unwrap();
        fs::write(pgdata.join("postgresql.auto.conf"), "restore_command = 'x'\n").unwrap();
        assert!(is_recovering(pgdata) && !ends_at_a_point(pgdata));
        fs::write(pgdata.join("postgresql.auto.conf"), "recovery_target_name = 'x'\n").unwrap();
        assert!(ends_at_a_point(pgdata));
        fs::write(
            pgdata.join("postgresql.auto.conf"),
            "recovery_target_name = 'x'\nrecovery_target_name = ''",
        )
        .unwrap();
        assert!(!ends_at_a_point(pgdata));
    }
}

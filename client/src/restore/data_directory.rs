//! The directory that a restore writes into: whether the restore may write there, and that only one restore does.

use super::below::Below;
use super::disk::{self, failed};
use super::options::Existing;
use super::planning::{PG_CONTROL, PG_CONTROL_STAGED};
use super::servers::{self, Seen};
use pgmesh_postgres::{PostmasterPid, PostmasterPidError};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use rustix::fs::{FileType, FlockOperation};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Lies in PGDATA while a restore is under way or was interrupted, and is locked by it.
pub const MARKER: &str = "pgmesh.restore";

/// The remedy when a server runs on the data directory.
pub const STOP_IT: &str = "stop it before the restore: pg_ctl stop";

/// Whether a restore may write here at all. Changes nothing.
///
/// # Errors
/// 38 when a server runs on the directory, 40 when it is not empty and may not be touched, or is no data directory.
pub fn examine(pgdata: &Path, existing: Existing) -> Result<(), Failure> {
    refuse_running(pgdata, STOP_IT)?;
    match std::fs::metadata(pgdata) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Failure::new(
                ExitCode::FileInvalid,
                format!("{} is no directory", pgdata.display()),
            ));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("examining", pgdata)(error));
        }
        _ => {}
    }
    if disk::is_empty(pgdata)? {
        return Ok(());
    }
    let not_empty = |what: &str| {
        Failure::new(
            ExitCode::PathNotEmpty,
            format!("{} is not empty{what}", pgdata.display()),
        )
    };
    if existing == Existing::Refuse {
        return Err(not_empty("").remedy(
            "restore into an empty directory, or with --delta to keep files that are right already, or with --force \
             to remove everything first",
        ));
    }
    let is_data_directory = pgdata.join("PG_VERSION").exists() || pgdata.join(MARKER).exists();
    if !is_data_directory {
        return Err(not_empty(", and no data directory of PostgreSQL: it has no PG_VERSION")
            .remedy("check pg1-path; nothing was removed"));
    }
    Ok(())
}

/// Refuses a command while a server runs on a data directory, in any namespace or container of this host. Where that
/// cannot be known, a `postmaster.pid` counts: its process may be out of sight.
///
/// # Errors
/// 38 when a server runs, or when there is a `postmaster.pid` and its server may run.
pub fn refuse_running(pgdata: &Path, remedy: &str) -> Result<(), Failure> {
    let running = |how: &str| Failure::new(ExitCode::PgRunning, format!("PostgreSQL {how} {}", pgdata.display()));
    let left_behind = format!(
        "{remedy}; if no server runs there, in no container and on no other host, remove {}",
        pgdata.join(PostmasterPid::FILE).display()
    );
    let found = PostmasterPid::read(pgdata);
    let named = found.as_ref().ok().and_then(Option::as_ref).map(|found| found.pid);
    let seen = match servers::look(pgdata, named) {
        Seen::Server(process) => {
            let what = format!("process {process} is a server on this data directory");
            return Err(running("runs on").because(what).remedy(remedy));
        }
        seen => seen,
    };
    match (found, seen) {
        // A crash has left the file behind, or there is none.
        (Ok(None), _) | (Ok(Some(_)), Seen::Nothing) => Ok(()),
        (Ok(Some(found)), Seen::Perhaps(why)) => {
            let what = format!(
                "postmaster.pid says that a server runs as process {}, and {why}",
                found.pid
            );
            Err(running("may be running on").because(what).remedy(left_behind))
        }
        (Err(error @ PostmasterPidError::Malformed { .. }), _) => {
            Err(running("may be running on").because(chain(&error)).remedy(left_behind))
        }
        (Err(error), _) => Err(
            Failure::new(ExitCode::Runtime, "pgmesh cannot find out whether PostgreSQL runs").because(chain(&error)),
        ),
        (Ok(Some(_)), Seen::Server(_)) => Err(running("runs on").remedy(remedy)),
    }
}

/// The data directory while a restore has it for itself.
#[derive(Debug)]
pub struct DataDirectory {
    below: Arc<Below>,
    /// Whether an earlier restore into it did not come to its end: then sizes and times of its files prove nothing.
    /// They are set when a file is written, and a power cut may have taken the file's content.
    pub was_interrupted: bool,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory where it is missing and takes it for this restore, durably.
    ///
    /// # Errors
    /// 50 when another restore is at it.
    pub fn take(pgdata: &Path) -> Result<Self, Failure> {
        disk::make_directories(pgdata)?;
        let below = Below::open(pgdata)?;
        let was_interrupted = below.metadata(MARKER)?.is_some();
        let lock = below.write_all(MARKER, b"A restore of pgmesh is under way here, or was interrupted.\n")?;
        let marker = below.shown(MARKER);
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::new(
                    ExitCode::LockAcquire,
                    format!("another restore writes into {}", pgdata.display()),
                ));
            }
            Err(error) => return Err(failed("locking", &marker)(error.into())),
        }
        lock.sync_all().map_err(failed("syncing", &marker))?;
        below.sync("")?;
        Ok(Self {
            below: Arc::new(below),
            was_interrupted,
            _lock: lock,
        })
    }

    /// PGDATA.
    pub fn path(&self) -> &Path {
        self.below.path()
    }

    /// PGDATA, open.
    pub fn below(&self) -> &Arc<Below> {
        &self.below
    }

    /// Gives the directory up, before the restore has changed it.
    ///
    /// # Errors
    /// The marker cannot be removed.
    pub fn leave(self) -> Result<(), Failure> {
        match self.was_interrupted {
            true => Ok(()),
            false => self.below.remove(MARKER),
        }
    }

    /// Durably removes pg_control, before anything else is changed: if the restore stops from here on, no server can
    /// start on half restored files.
    pub fn disable(&self) -> Result<(), Failure> {
        for name in [PG_CONTROL, PG_CONTROL_STAGED] {
            self.below.remove(name)?;
        }
        match self.below.metadata("global")? {
            Some(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => self.below.sync("global"),
            _ => Ok(()),
        }
    }

    /// Puts pg_control in its place, durably, and takes the marker away. Everything else is durable already.
    pub fn enable(self) -> Result<(), Failure> {
        self.below.rename(PG_CONTROL_STAGED, PG_CONTROL)?;
        self.below.sync("global")?;
        self.below.remove(MARKER)?;
        self.below.sync("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn code_of(pgdata: &Path, existing: Existing) -> Option<ExitCode> {
        examine(pgdata, existing).err().map(|failure| failure.code)
    }

    #[test]
    fn only_an_empty_directory_or_an_old_cluster_is_written_into() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        assert_eq!(code_of(&pgdata.join("missing"), Existing::Refuse), None);
        fs::create_dir(pgdata.join(disk::LOST_FOUND)).unwrap();
        assert_eq!(code_of(pgdata, Existing::Refuse), None);
        fs::write(pgdata.join("precious"), "x").unwrap();
        for existing in [Existing::Refuse, Existing::Remove, Existing::Compare] {
            assert_eq!(code_of(pgdata, existing), Some(ExitCode::PathNotEmpty), "{existing:?}");
        }
        for sign in ["PG_VERSION", MARKER] {
            fs::write(pgdata.join(sign), "15\n").unwrap();
            assert_eq!(code_of(pgdata, Existing::Refuse), Some(ExitCode::PathNotEmpty));
            assert_eq!(code_of(pgdata, Existing::Remove), None);
            fs::remove_file(pgdata.join(sign)).unwrap();
        }
    }

    #[test]
    fn a_postmaster_pid_counts_unless_its_server_would_be_seen() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        fs::write(pgdata.join("PG_VERSION"), "15\n").unwrap();
        let pid_file = |text: &str| fs::write(pgdata.join("postmaster.pid"), text).unwrap();
        // The number of a process that is no server of this data directory: it was given anew since.
        pid_file(&format!("{}\n/x\n1\n", std::process::id()));
        let expected = match servers::look(pgdata, None) {
            Seen::Nothing => None,
            _ => Some(ExitCode::PgRunning),
        };
        assert_eq!(code_of(pgdata, Existing::Remove), expected);
        pid_file("");
        assert_eq!(code_of(pgdata, Existing::Remove), Some(ExitCode::PgRunning));
        fs::remove_file(pgdata.join("postmaster.pid")).unwrap();
        assert_eq!(code_of(pgdata, Existing::Remove), None);
    }

    #[test]
    fn two_restores_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDirectory::take(directory.path()).unwrap();
        assert_eq!(
            DataDirectory::take(directory.path()).unwrap_err().code,
            ExitCode::LockAcquire
        );
        assert!(!first.was_interrupted);
        drop(first);
        assert!(DataDirectory::take(directory.path()).unwrap().was_interrupted);
    }

    #[test]
    fn pg_control_comes_last_and_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        fs::create_dir(pgdata.join("global")).unwrap();
        fs::write(pgdata.join(PG_CONTROL), "old").unwrap();
        let taken = DataDirectory::take(pgdata).unwrap();
        taken.disable().unwrap();
        assert!(!pgdata.join(PG_CONTROL).exists());
        fs::write(pgdata.join(PG_CONTROL_STAGED), "new").unwrap();
        taken.enable().unwrap();
        assert_eq!(fs::read(pgdata.join(PG_CONTROL)).unwrap(), b"new");
        assert!(!pgdata.join(MARKER).exists() && !pgdata.join(PG_CONTROL_STAGED).exists());
    }
}

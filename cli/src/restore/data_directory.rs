//! The directory that a restore writes into: what may be done with it, and that only one restore does it.

use super::disk::{self, failed};
use super::options::Existing;
use super::planning::{PG_CONTROL, PG_CONTROL_STAGED};
use pgmesh_node::failure::chain;
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{PostmasterPid, PostmasterPidError};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::{Path, PathBuf};

/// PostgreSQL's code for a directory that should be empty (pgBackRest's number).
const PATH_NOT_EMPTY: u8 = 40;
/// Lies in PGDATA while a restore is under way or was interrupted, and is locked by it.
pub const MARKER: &str = "pgmesh.restore";

/// Whether a restore may write here at all. Changes nothing.
///
/// # Errors
/// 38 when a server runs on the directory, 40 when it is not empty and may not be touched, or is no data directory.
pub fn examine(pgdata: &Path, existing: Existing) -> Result<(), Failure> {
    refuse_running(pgdata, "stop it before the restore: pg_ctl stop")?;
    match std::fs::metadata(pgdata) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Failure::new(
                code::FILE_INVALID,
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
    let not_empty = |what: &str| Failure::new(PATH_NOT_EMPTY, format!("{} is not empty{what}", pgdata.display()));
    if existing == Existing::Refuse {
        return Err(not_empty("").remedy(
            "restore into an empty directory, or with --delta to keep what is right already, or with --force to remove \
             everything first",
        ));
    }
    let is_data_directory = pgdata.join("PG_VERSION").exists() || pgdata.join(MARKER).exists();
    if !is_data_directory {
        return Err(not_empty(", and no data directory of PostgreSQL: it has no PG_VERSION")
            .remedy("check pg1-path; nothing was removed"));
    }
    Ok(())
}

/// Refuses what must not be done while a server runs on a data directory of this host.
///
/// # Errors
/// 38 when one runs; when that cannot be known.
pub fn refuse_running(pgdata: &Path, remedy: &str) -> Result<(), Failure> {
    let running = |who: String| {
        Failure::new(
            code::PG_RUNNING,
            format!("PostgreSQL runs on {}{who}", pgdata.display()),
        )
        .remedy(remedy)
    };
    match PostmasterPid::read(pgdata) {
        Ok(Some(found)) if is_alive(found.pid) => Err(running(format!(" as process {}", found.pid))),
        // A crash has left the file behind, or there is none.
        Ok(_) => Ok(()),
        Err(error @ PostmasterPidError::Malformed { .. }) => {
            Err(running(", perhaps".to_owned()).because(chain(&error)))
        }
        Err(error) => {
            Err(Failure::new(code::RUNTIME, "whether PostgreSQL runs cannot be known").because(chain(&error)))
        }
    }
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| {
        // Anything but "no such process" says that there is one, perhaps of another user.
        !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
    })
}

/// The data directory while a restore has it for itself.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory where it is missing and takes it for this restore.
    ///
    /// # Errors
    /// 50 when another restore is at it.
    pub fn take(pgdata: &Path) -> Result<Self, Failure> {
        disk::make_directories(pgdata)?;
        let marker = pgdata.join(MARKER);
        let lock = disk::write_file(&marker, b"A restore of pgmesh is under way here, or was interrupted.\n")?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: pgdata.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                code::LOCK_ACQUIRE,
                format!("another restore writes into {}", pgdata.display()),
            )),
            Err(error) => Err(failed("locking", &marker)(error.into())),
        }
    }

    /// PGDATA.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Durably takes away what a server needs to start, before anything else is changed: whatever happens from here on, it
    /// cannot start on something half restored.
    pub fn disable(&self) -> Result<(), Failure> {
        for name in [PG_CONTROL, PG_CONTROL_STAGED] {
            disk::remove(&self.path.join(name))?;
        }
        let global = self.path.join("global");
        if global.is_dir() {
            disk::sync_directory(&global)
        } else {
            Ok(())
        }
    }

    /// Puts pg_control in its place, durably, and takes the marker away. Everything else is durable already.
    pub fn enable(self) -> Result<(), Failure> {
        let (staged, control) = (self.path.join(PG_CONTROL_STAGED), self.path.join(PG_CONTROL));
        std::fs::rename(&staged, &control).map_err(failed("renaming", &staged))?;
        disk::sync_directory(&self.path.join("global"))?;
        disk::remove(&self.path.join(MARKER))?;
        disk::sync_directory(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn code_of(pgdata: &Path, existing: Existing) -> Option<u8> {
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
            assert_eq!(code_of(pgdata, existing), Some(PATH_NOT_EMPTY), "{existing:?}");
        }
        for sign in ["PG_VERSION", MARKER] {
            fs::write(pgdata.join(sign), "15\n").unwrap();
            assert_eq!(code_of(pgdata, Existing::Refuse), Some(PATH_NOT_EMPTY));
            assert_eq!(code_of(pgdata, Existing::Remove), None);
            fs::remove_file(pgdata.join(sign)).unwrap();
        }
    }

    #[test]
    fn a_running_server_is_left_alone_and_a_crashed_one_is_not_running() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        fs::write(pgdata.join("PG_VERSION"), "15\n").unwrap();
        let pid_file = |pid: u32| fs::write(pgdata.join("postmaster.pid"), format!("{pid}\n/x\n1\n")).unwrap();
        pid_file(std::process::id());
        assert_eq!(code_of(pgdata, Existing::Remove), Some(code::PG_RUNNING));
        // Above the highest process number that Linux gives.
        pid_file(1 << 23);
        assert_eq!(code_of(pgdata, Existing::Remove), None);
        fs::write(pgdata.join("postmaster.pid"), "").unwrap();
        assert_eq!(code_of(pgdata, Existing::Remove), Some(code::PG_RUNNING));
    }

    #[test]
    fn two_restores_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDirectory::take(directory.path()).unwrap();
        assert_eq!(
            DataDirectory::take(directory.path()).unwrap_err().code,
            code::LOCK_ACQUIRE
        );
        drop(first);
        DataDirectory::take(directory.path()).unwrap();
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

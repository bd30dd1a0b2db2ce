//! Which servers run on a data directory, by the kernel's list of processes.
//!
//! A `postmaster.pid` names a process by its number, and not the namespace in which that number counts: in a
//! container's, or of another host, it says nothing here. So its server counts as ended only where it would have been
//! seen: from the first PID namespace, in which every process of this kernel is listed, and on a file system that no
//! other host can write to. A server has its data directory as its working directory, always.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The inode of the first PID namespace (`PROC_PID_INIT_INO` in the kernel's proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// File systems of one host alone: ext, xfs, btrfs, tmpfs, overlay, zfs, f2fs, bcachefs (magic.h).
const LOCAL_FILE_SYSTEMS: &[u64] = &[
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0x0102_1994,
    0x794C_7630,
    0x2FC1_2FC1,
    0xF2F5_2010,
    0xCA45_1A4E,
];

/// The servers that were seen on a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A server runs: this process.
    Server(u32),
    /// No server runs: it would have been seen.
    Nothing,
    /// No server was seen, but one may run out of sight, for this reason.
    Perhaps(String),
}

/// Looks for a server on a data directory. `named`: the process in its `postmaster.pid`, which counts as a server under
/// any program name.
pub fn look(pgdata: &Path, named: Option<u32>) -> Seen {
    let Ok(metadata) = fs::metadata(pgdata) else {
        return Seen::Perhaps("the data directory cannot be examined".to_owned());
    };
    let mut hidden = blind_spot(pgdata, metadata.uid());
    for process in processes() {
        match process.works_in(&metadata) {
            Some(true) if named == Some(process.number) || process.is_postgres() => {
                return Seen::Server(process.number);
            }
            Some(_) => {}
            // A server runs as the owner of its data directory, or does not start.
            None if process.user().is_some_and(|user| user != metadata.uid()) => {}
            None => hidden = hidden.or_else(|| Some(format!("process {} cannot be examined", process.number))),
        }
    }
    hidden.map_or(Seen::Nothing, Seen::Perhaps)
}

/// Why a server might run and not be seen.
fn blind_spot(pgdata: &Path, owner: u32) -> Option<String> {
    let namespace = fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino());
    let sees_itself = fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&std::process::id().to_string()));
    if namespace.ok() != Some(FIRST_PID_NAMESPACE) || !sees_itself {
        return Some(
            "pgmesh runs inside of a PID namespace (a container) and does not see processes outside of it".to_owned(),
        );
    }
    let is_local = rustix::fs::statfs(pgdata)
        .ok()
        .and_then(|found| u64::try_from(found.f_type).ok())
        .is_some_and(|kind| LOCAL_FILE_SYSTEMS.contains(&kind));
    if !is_local {
        return Some("other hosts may share its file system".to_owned());
    }
    let user = rustix::process::geteuid();
    (!user.is_root() && user.as_raw() != owner).then(|| "it belongs to another user".to_owned())
}

/// The data directory of another running server that has a tablespace at this place.
pub fn user_of_tablespace(location: &Path, but: &Path) -> Option<PathBuf> {
    let id = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let (location, own) = (id(location)?, id(but));
    let mut servers = processes().into_iter().filter(Process::is_postgres);
    servers.find_map(|server| {
        let data = server.working_directory();
        if id(&data) == own {
            return None;
        }
        let mut links = fs::read_dir(data.join("pg_tblspc")).ok()?.flatten();
        let is_there = links.any(|link| id(&link.path()) == Some(location));
        is_there.then(|| fs::read_link(&data).unwrap_or(data))
    })
}

/// A process, as /proc has it.
struct Process {
    number: u32,
}

fn processes() -> Vec<Process> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |name: fs::DirEntry| name.file_name().to_str()?.parse().ok();
    names.filter_map(number).map(|number| Process { number }).collect()
}

impl Process {
    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.number))
    }

    /// A path that leads to its working directory, also in another mount namespace.
    fn working_directory(&self) -> PathBuf {
        self.file("cwd")
    }

    /// Whether it has this directory as its working directory; `None` when that cannot be known. A process that has
    /// ended works nowhere.
    fn works_in(&self, directory: &fs::Metadata) -> Option<bool> {
        match fs::metadata(self.working_directory()) {
            Ok(found) => Some((found.dev(), found.ino()) == (directory.dev(), directory.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
            Err(_) => Some(false),
        }
    }

    /// Whether it is a server or a part of one: a user's shell may stand in a data directory, too.
    fn is_postgres(&self) -> bool {
        let is = |name: &str| name.contains("postgres") || name.contains("postmaster");
        let program = fs::read_link(self.file("exe")).ok();
        let program = program.as_deref().and_then(Path::file_name);
        program.is_some_and(|program| is(&program.to_string_lossy()))
            || fs::read_to_string(self.file("comm")).is_ok_and(|name| is(&name))
    }

    /// The user that it runs as.
    fn user(&self) -> Option<u32> {
        let status = fs::read_to_string(self.file("status")).ok()?;
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        users.split_whitespace().nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_working_directory_and_only_a_server_counts() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("postgres");
        fs::copy("/bin/sleep", &program).unwrap();
        let pgdata = directory.path().join("data");
        fs::create_dir(&pgdata).unwrap();
        let spawn = |program: &Path| {
            let mut command = std::process::Command::new(program);
            command.arg("60").current_dir(&pgdata).spawn().unwrap()
        };
        let mut other = spawn(Path::new("/bin/sleep"));
        assert!(!matches!(look(&pgdata, None), Seen::Server(_)));
        assert_eq!(look(&pgdata, Some(other.id())), Seen::Server(other.id()));
        let mut server = spawn(&program);
        assert_eq!(look(&pgdata, None), Seen::Server(server.id()));

        // Its tablespaces are known to be in use.
        let (used, free) = (directory.path().join("used"), directory.path().join("free"));
        fs::create_dir(&used).unwrap();
        fs::create_dir(&free).unwrap();
        fs::create_dir(pgdata.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(&used, pgdata.join("pg_tblspc/16385")).unwrap();
        let elsewhere = Path::new("/nonexistent");
        assert_eq!(user_of_tablespace(&used, elsewhere), Some(pgdata.clone()));
        assert_eq!(user_of_tablespace(&used, &pgdata), None, "its own");
        assert_eq!(user_of_tablespace(&free, elsewhere), None);

        for process in [&mut other, &mut server] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert!(!matches!(look(&pgdata, None), Seen::Server(_)));
    }
}

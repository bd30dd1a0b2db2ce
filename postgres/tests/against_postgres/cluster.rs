//! Clusters made by the installed PostgreSQL, the oracle of this crate's formats.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::majors::programs_of;

/// A cluster in a directory of its own. It belongs to the user postgres, since the server does not run as root. Its
/// server, if it was started, is stopped when this is dropped.
pub struct Cluster {
    directory: TempDir,
    programs: PathBuf,
    is_running: bool,
}

impl Cluster {
    /// Makes a cluster with `initdb` of the PostgreSQL on the path.
    pub fn new(options: &[&str]) -> Self {
        Self::with_programs(bindir().to_owned(), options)
    }

    /// Makes a cluster of one major version with `initdb`.
    pub fn of_major(major: u32, options: &[&str]) -> Self {
        Self::with_programs(programs_of(major), options)
    }

    fn with_programs(programs: PathBuf, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            let (user, group) = postgres_ids();
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let cluster = Self {
            directory,
            programs,
            is_running: false,
        };
        let mut arguments = vec![
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--locale=C",
            "--encoding=UTF8",
            "-D",
        ];
        let pgdata = cluster.pgdata();
        arguments.push(pgdata.to_str().unwrap());
        arguments.extend(options);
        cluster.run("initdb", &arguments);
        cluster
    }

    pub fn pgdata(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A place beside the cluster, that the user postgres may write to.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a directory beside the cluster that belongs to the user postgres.
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.beside(name);
        fs::create_dir(&path).unwrap();
        let owner = fs::metadata(self.directory.path()).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        path
    }

    /// Starts the server with settings like `work_mem=8MB`, reachable by a socket beside the cluster only.
    pub fn start(&mut self, settings: &[&str]) {
        let mut options = format!(
            "-c listen_addresses='' -c fsync=off -k {}",
            self.directory.path().display()
        );
        for setting in settings {
            options.push_str(&format!(" -c \"{setting}\""));
        }
        let log = self.beside("log");
        self.is_running = true;
        self.run(
            "pg_ctl",
            &[
                OsStr::new("start"),
                "-w".as_ref(),
                "-D".as_ref(),
                self.pgdata().as_os_str(),
                "-l".as_ref(),
                log.as_os_str(),
                "-o".as_ref(),
                options.as_ref(),
            ],
        );
    }

    /// Stops the server cleanly.
    pub fn stop(&mut self) {
        self.is_running = false;
        self.run(
            "pg_ctl",
            &[
                OsStr::new("stop"),
                "-w".as_ref(),
                "-m".as_ref(),
                "fast".as_ref(),
                "-D".as_ref(),
                self.pgdata().as_os_str(),
            ],
        );
    }

    /// Runs statements, each in a transaction of its own, and gives back their output.
    pub fn sql(&self, statements: &[&str]) -> String {
        self.run("psql", &self.psql_arguments(statements))
    }

    fn psql_arguments<'a>(&'a self, statements: &[&'a str]) -> Vec<&'a str> {
        let host = self.directory.path().to_str().unwrap();
        let mut arguments = vec!["-h", host, "-U", "postgres", "-XqAt", "-v", "ON_ERROR_STOP=1"];
        arguments.extend(statements.iter().flat_map(|statement| ["-c", statement]));
        arguments
    }

    /// Runs statements as [`sql`](Self::sql) does; whether they succeeded.
    pub fn try_sql(&self, statements: &[&str]) -> bool {
        self.attempt("psql", &self.psql_arguments(statements)).status.success()
    }

    /// The server dies: nothing is flushed.
    pub fn crash(&mut self) {
        self.is_running = false;
        let pgdata = self.pgdata();
        let arguments = ["stop", "-w", "-m", "immediate", "-D"].map(OsStr::new);
        let arguments: Vec<&OsStr> = arguments.into_iter().chain([pgdata.as_os_str()]).collect();
        self.run("pg_ctl", &arguments);
    }

    /// Runs a program of PostgreSQL's as the user postgres, and gives its output. Panics if it fails.
    pub fn run(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> String {
        let output = self.attempt(program, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{program}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a program of PostgreSQL's as the user postgres.
    pub fn attempt(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        command.output().unwrap()
    }

    /// The value that a program printed after `label:`.
    pub fn field(output: &str, label: &str) -> String {
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {label:?} in {output}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_running {
            // Not `stop`: a second panic here would hide the first one.
            let pgdata = self.pgdata();
            let arguments: [&OsStr; 5] = [
                "stop".as_ref(),
                "-m".as_ref(),
                "immediate".as_ref(),
                "-D".as_ref(),
                pgdata.as_ref(),
            ];
            let _ = self.attempt("pg_ctl", &arguments);
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn postgres_ids() -> (u32, u32) {
    let user = uzers::get_user_by_name("postgres").unwrap();
    (user.uid(), user.primary_group_id())
}

/// Where the server's programs are: Debian keeps them out of PATH.
fn bindir() -> &'static Path {
    static BINDIR: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BINDIR.get_or_init(|| {
        let output = Command::new("pg_config").arg("--bindir").output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

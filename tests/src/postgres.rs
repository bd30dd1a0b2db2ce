//! PostgreSQL clusters.

mod builder;
mod lives;
mod load;
mod majors;
mod standby;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};

pub use builder::PostgresBuilder;
pub use load::Load;
pub use majors::{majors, programs_of};

use crate::account::Account;
use crate::outcome::{run, run_with_input};
use crate::port::Port;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait::wait_for;

/// How long a server may take to start (recovery included) or to stop.
const LIMIT: Duration = Duration::from_secs(90);

/// The version of clusters whose test names none: Debian 12's.
const DEFAULT_MAJOR: u32 = 15;

/// The port that names the socket file. All clusters have the same, since each has a socket folder of its own, and a
/// cluster that listens on an address has that for itself.
const PORT: u16 = 5432;

/// A cluster, and its server while that runs.
#[derive(Debug)]
pub struct Postgres {
    account: Account,
    name: String,
    home: PathBuf,
    data: PathBuf,
    process: Option<Process>,
    /// The address on which it listens besides its socket; empty for none.
    address: String,
    reserved: Option<Port>,
}

impl Postgres {
    /// Describes a new cluster.
    #[must_use]
    pub fn builder<'a>(scratch: &'a Scratch, name: &str) -> PostgresBuilder<'a> {
        PostgresBuilder::new(scratch, name)
    }

    /// A cluster for `pgmesh restore`: its data directory is empty.
    #[must_use]
    pub fn empty(scratch: &Scratch, name: &str) -> Self {
        let postgres = Self::at(scratch, name);
        postgres.account.create_folder(&postgres.data);
        postgres
    }

    /// A second name for an existing data directory, such as a copy made behind PostgreSQL's back.
    #[must_use]
    pub fn at(scratch: &Scratch, name: &str) -> Self {
        let account = scratch.account();
        let home = scratch.folder(name);
        let data = home.join("data");
        Self {
            account,
            name: name.to_owned(),
            home,
            data,
            process: None,
            address: String::new(),
            reserved: None,
        }
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.home
    }

    /// The port that names its socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The account that runs it.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account
    }

    /// The major version of its data directory; for an empty one, the default version.
    #[must_use]
    pub fn major(&self) -> u32 {
        let version = fs::read_to_string(self.data.join("PG_VERSION")).unwrap_or_default();
        version.trim().parse().unwrap_or(DEFAULT_MAJOR)
    }

    /// One of PostgreSQL's programs, to be run as the owner of the cluster and connecting to it.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.bare_program(name);
        command
            .env("PGHOST", &self.home)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// One of PostgreSQL's programs, without the settings for a connection.
    fn bare_program(&self, name: &str) -> Command {
        let mut command = self.account.command(programs_of(self.major()).join(name), &self.home);
        if let Some(libraries) = libraries_of(self.major()) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Starts the server and waits until it takes queries, in recovery or not.
    ///
    /// # Panics
    /// If the server ends instead.
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("{} did not start:\n{log}", self.name);
        }
    }

    /// Starts the server and waits until it takes queries.
    ///
    /// # Errors
    /// The log of the server that ended.
    pub fn try_start(&mut self) -> Result<(), String> {
        let mut command = self.bare_program("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-k")
            .arg(&self.home)
            .arg("-p")
            .arg(PORT.to_string());
        // On the command line, it overrides the original's address in a restored postgresql.conf.
        command.arg("-c").arg(format!("listen_addresses={}", self.address));
        command.args(["-c", "logging_collector=off"]);
        let mut process = Process::start(&self.name, command, &self.home.join("server.log"));
        let mut ended = false;
        wait_for(&format!("{} to take queries", self.name), LIMIT, || {
            ended = process.ended().is_some();
            ended || run(self.program("pg_isready")).code() == Some(0)
        });
        if ended {
            return Err(process.log());
        }
        self.process = Some(process);
        Ok(())
    }

    /// Starts the server on a restored directory and waits until recovery has ended and it takes writes.
    pub fn start_promoted(&mut self) {
        self.start();
        wait_for(&format!("{} to end recovery", self.name), LIMIT, || {
            let process = self.process.as_mut().expect("it was started");
            assert!(
                process.ended().is_none(),
                "{} ended in recovery:\n{}",
                self.name,
                process.log()
            );
            self.takes_writes()
        });
    }

    /// Whether its server runs and is not in recovery.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        run(self.psql("select pg_is_in_recovery()")).text() == "f"
    }

    /// Fast shutdown, with a checkpoint.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let status = process.end(Signal::INT, LIMIT);
            assert!(
                status.success(),
                "{} stopped with {status}:\n{}",
                self.name,
                process.log()
            );
        }
    }

    /// Waits for a server that ends by itself, as after a recovery with the action `shutdown`.
    pub fn wait_for_end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait(LIMIT);
        }
    }

    /// SIGKILL, as a crash: unwritten data stays unwritten.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        // Its children end as soon as they notice its death, and the cluster may not be started before.
        wait_for(&format!("the children of {} to end", self.name), LIMIT, || {
            self.processes().is_empty()
        });
    }

    /// All processes of its server, or of another program that works in its data directory.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").expect("reading /proc").flatten();
        let own = entries.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == self.data));
        own.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// Stops and starts it.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// The process id of its server, while that runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The last part of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        crate::outcome::tail(&fs::read_to_string(self.home.join("server.log")).unwrap_or_default()).to_owned()
    }

    /// The answer to a query: one line for each row, with `|` between columns.
    ///
    /// # Panics
    /// If the query fails.
    pub fn query(&self, sql: &str) -> String {
        run(self.psql(sql)).ok().text().to_owned()
    }

    /// Runs a script of SQL and psql's own commands, and returns the answers of its queries.
    pub fn script(&self, script: &str) -> String {
        let mut command = self.quiet_psql();
        command.args(["-f", "-"]);
        run_with_input(command, script).ok().text().to_owned()
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = self.quiet_psql();
        command.args(["-c", sql]);
        command
    }

    fn quiet_psql(&self) -> Command {
        let mut command = self.program("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        command
    }

    /// The whole cluster as SQL, which a restore must reproduce. Left out are the places of tablespaces, and the random
    /// keys that newer minor versions put around a dump.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut command = self.program("pg_dumpall");
        command.arg("--no-sync");
        let dump = run(command).ok().stdout;
        let differs = |line: &&str| {
            ["\\restrict ", "\\unrestrict ", "CREATE TABLESPACE "]
                .iter()
                .any(|start| line.starts_with(start))
        };
        dump.lines()
            .filter(|line| !differs(line))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Changes a setting and has the server read it.
    pub fn set(&self, name: &str, value: &str) {
        let value = value.replace('\'', "''");
        self.query(&format!("alter system set {name} = '{value}'"));
        self.query("select pg_reload_conf()");
    }

    /// The segment that is being written.
    #[must_use]
    pub fn current_segment(&self) -> String {
        self.query("select pg_walfile_name(pg_current_wal_lsn())")
    }

    /// Ends the current segment, waits until it and all earlier segments are archived, and returns its name.
    pub fn archive_everything(&self) -> String {
        // Without a record in the segment, the switch would do nothing. The restore point is that record, and it also
        // tells the segment: the records before may still end with the previous one.
        let segment = self.query("select pg_walfile_name(pg_create_restore_point('archive everything'))");
        self.query("select pg_switch_wal()");
        wait_for(&format!("{segment} to be archived by {}", self.name), LIMIT, || {
            self.query("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= segment
        });
        segment
    }

    /// Adds a tablespace in a folder beside the data directory, and returns the folder.
    pub fn add_tablespace(&self, name: &str) -> PathBuf {
        let folder = self.home.join(name);
        self.account.create_folder(&folder);
        self.query(&format!("create tablespace {name} location '{}'", folder.display()));
        folder
    }

    /// The value under a heading of pg_controldata, such as `Database system identifier`.
    #[must_use]
    pub fn control(&self, heading: &str) -> String {
        let mut command = self.program("pg_controldata");
        command.arg(&self.data);
        let outcome = run(command).ok();
        outcome
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(heading)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("no {heading:?} in {outcome}"))
            .trim()
            .to_owned()
    }

    /// The system identifier.
    #[must_use]
    pub fn system_id(&self) -> String {
        self.control("Database system identifier")
    }

    /// Has pg_amcheck look at every table and index of every database.
    pub fn check_all(&self) {
        let mut command = self.program("pg_amcheck");
        command.args(["--all", "--install-missing", "--heapallindexed"]);
        run(command).succeeds();
    }

    /// Has pg_verifybackup compare the data directory with the `backup_manifest` in it.
    pub fn verify_backup(&self) {
        let mut command = self.program("pg_verifybackup");
        // The WAL comes from the archive, so pg_wal is empty and has nothing to be parsed.
        command.arg("--no-parse-wal").arg(&self.data);
        run(command).succeeds();
    }

    /// Leaves the server running when this value is dropped.
    pub fn keep(&mut self) {
        if let Some(process) = &mut self.process {
            process.keep();
        }
    }
}

/// The libraries beside these programs; none if the system has the programs. Without this, a library that the server
/// loads while it runs, such as the one of the WAL receiver, would take the system's libpq, which may be older.
fn libraries_of(major: u32) -> Option<PathBuf> {
    let libraries = programs_of(major).parent()?.join("lib");
    libraries.join("libpq.so.5").is_file().then_some(libraries)
}

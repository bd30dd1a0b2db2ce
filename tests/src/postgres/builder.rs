//! New clusters, most of them copies of a cluster that initdb made once.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::outcome::run;
use crate::postgres::{DEFAULT_MAJOR, Postgres, programs_of};
use crate::program::shared_folder;
use crate::scratch::Scratch;

/// The common settings of all clusters in tests. Their data survives a killed server without fsync, since the machine
/// lives on.
const SETTINGS: &str = "
# --- settings of the tests
fsync = off
shared_buffers = 16MB
max_connections = 20
max_wal_size = 256MB
checkpoint_timeout = 1h
wal_level = replica
max_wal_senders = 3
archive_mode = on
archive_command = ''
track_commit_timestamp = on
jit = off
log_min_messages = info
";

/// A cluster to be created.
#[derive(Debug)]
pub struct PostgresBuilder<'a> {
    scratch: &'a Scratch,
    name: String,
    major: u32,
    segment_mebibytes: u32,
    own_identity: bool,
    settings: String,
}

impl<'a> PostgresBuilder<'a> {
    pub(crate) fn new(scratch: &'a Scratch, name: &str) -> Self {
        Self {
            scratch,
            name: name.to_owned(),
            major: DEFAULT_MAJOR,
            segment_mebibytes: 16,
            own_identity: false,
            settings: SETTINGS.to_owned(),
        }
    }

    /// Sets the major version of PostgreSQL, 15 by default.
    #[must_use]
    pub fn major(mut self, major: u32) -> Self {
        self.major = major;
        self
    }

    /// Sets the size of its WAL segments, 16 by default.
    #[must_use]
    pub fn segment_mebibytes(mut self, size: u32) -> Self {
        self.segment_mebibytes = size;
        self
    }

    /// Gives it a system identifier that no other cluster of the test has.
    #[must_use]
    pub fn own_identity(mut self) -> Self {
        self.own_identity = true;
        self
    }

    /// Adds a line to its postgresql.conf.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        writeln!(self.settings, "{name} = '{value}'").expect("writing to a string");
        self
    }

    /// Creates the cluster, with page checksums; its server does not run yet.
    #[must_use]
    pub fn create(self) -> Postgres {
        let postgres = Postgres::at(self.scratch, &self.name);
        let account = self.scratch.account();
        if self.own_identity {
            initdb(account, self.major, &postgres.data, self.segment_mebibytes);
        } else {
            let template = template(account, self.major, self.segment_mebibytes);
            let mut command = account.command("/bin/cp", self.scratch.path());
            command.arg("--archive").arg(&template).arg(&postgres.data);
            run(command).succeeds();
        }
        let file = postgres.data.join("postgresql.conf");
        let settings = fs::read_to_string(&file).expect("reading postgresql.conf") + &self.settings;
        account.write(&file, settings);
        postgres
    }

    /// Creates the cluster and starts its server.
    #[must_use]
    pub fn start(self) -> Postgres {
        let mut postgres = self.create();
        postgres.start();
        postgres
    }
}

/// A cluster to copy, made by the first test that needs it.
fn template(account: Account, major: u32, segment_mebibytes: u32) -> PathBuf {
    let folder = shared_folder();
    let name = format!("cluster-{}-{segment_mebibytes}", version(major));
    let path = folder.join(&name);
    if !path.exists() {
        let lock = File::create(folder.join(format!("{name}.lock"))).expect("creating a lock");
        lock.lock().expect("taking a lock");
        if !path.exists() {
            let unfinished = folder.join(format!("{name}.new"));
            fs::remove_dir_all(&unfinished).ok();
            initdb(account, major, &unfinished, segment_mebibytes);
            fs::rename(&unfinished, &path).expect("renaming a finished cluster");
        }
    }
    path
}

/// The version of initdb, such as `15.18`, as a part of a file name: each version has a template of its own.
fn version(major: u32) -> String {
    let mut command = std::process::Command::new(programs_of(major).join("initdb"));
    command.arg("--version");
    let said = run(command).ok();
    said.text()
        .split_whitespace()
        .nth(2)
        .unwrap_or_else(|| panic!("no version in {said}"))
        .to_owned()
}

fn initdb(account: Account, major: u32, data: &Path, segment_mebibytes: u32) {
    account.create_folder(data);
    let mut command = account.command(programs_of(major).join("initdb"), data);
    command
        .args(["--data-checksums", "--no-sync", "--auth=trust", "--username=postgres"])
        .args(["--encoding=UTF8", "--locale=C.UTF-8"])
        .arg(format!("--wal-segsize={segment_mebibytes}"))
        .arg("--pgdata")
        .arg(data);
    run(command).succeeds();
}

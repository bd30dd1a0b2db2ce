//! Events in the lives of servers: they are promoted, re-pointed, rewound, started again as a standby.

use std::fs;
use std::process::Command;

use crate::outcome::run;
use crate::postgres::{LIMIT, Postgres};
use crate::scratch::Scratch;
use crate::wait::{wait_for, wait_for_some};

impl Postgres {
    /// The connection string with which a standby on this machine reaches it.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!("host={} port={}", self.socket().display(), self.port())
    }

    /// Has a standby that runs stream from another server.
    pub fn follow(&self, primary: &Self) {
        self.set("primary_conninfo", &primary.conninfo());
    }

    /// Starts the server as a standby of another one, as a cluster manager starts a primary that was shut down.
    pub fn start_as_standby_of(&mut self, primary: &Self) {
        let auto = self.data().join("postgresql.auto.conf");
        let settings = fs::read_to_string(&auto).expect("reading postgresql.auto.conf");
        let conninfo = primary.conninfo();
        let settings = format!("{settings}\nprimary_conninfo = '{conninfo}'\n");
        self.account().write(&auto, settings);
        self.account().write(&self.data().join("standby.signal"), "");
        self.start();
    }

    /// Has pg_rewind turn a crashed server into a standby of another one, and starts it.
    pub fn rewind_and_follow(&mut self, source: &Self) {
        // pg_rewind needs a server that was shut down.
        self.start();
        self.stop();
        let auto = self.data().join("postgresql.auto.conf");
        let own = fs::read_to_string(&auto).expect("reading postgresql.auto.conf");
        let mut command = self.program("pg_rewind");
        command.arg("--target-pgdata").arg(self.data());
        command.arg(format!("--source-server={} dbname=postgres", source.conninfo()));
        run(command).succeeds();
        // pg_rewind copies the source's configuration; each server archives through its own host.
        self.account().write(&auto, own);
        self.start_as_standby_of(source);
    }

    /// A copy of its data directory, as `cp --archive` makes it while no server runs there.
    #[must_use]
    pub fn copy(&self, scratch: &Scratch, name: &str) -> Self {
        let copy = Self::empty(scratch, name);
        self.copy_into(&copy);
        copy
    }

    /// Copies its data directory into an empty one, in which a file system may be mounted.
    pub fn copy_into(&self, other: &Self) {
        let mut command = Command::new("cp");
        command.arg("--archive").arg(self.data().join(".")).arg(other.data());
        run(command).succeeds();
    }

    /// Waits until a standby has replayed all WAL of this server.
    pub fn wait_until_replayed_by(&self, standby: &Self) {
        let written = self.query("select pg_current_wal_flush_lsn()");
        wait_for(&format!("{} to have it all", standby.name), LIMIT, || {
            standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
        });
    }

    /// Promotes a standby, and waits until it takes writes.
    pub fn promote(&self) {
        self.query("select pg_promote()");
        wait_for(&format!("the promotion of {}", self.name), LIMIT, || {
            self.takes_writes()
        });
    }

    /// The files that wait for the server's archiver, lowest first.
    #[must_use]
    pub fn waiting_to_be_archived(&self) -> Vec<String> {
        let status = self.data().join("pg_wal/archive_status");
        let entries = fs::read_dir(&status).expect("reading archive_status").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut waiting: Vec<String> = names
            .filter_map(|name| name.strip_suffix(".ready").map(ToOwned::to_owned))
            .collect();
        waiting.sort();
        waiting
    }

    /// Asserts that the server's archiver goes on by itself until no file waits for it.
    pub fn assert_not_stuck(&self) {
        // An archiver that has failed sleeps for a minute; a reload wakes it up earlier, as the next segment would.
        self.query("select pg_reload_conf()");
        wait_for_some(&format!("an empty queue of {}", self.name), LIMIT * 2, || {
            match self.waiting_to_be_archived().as_slice() {
                [] => Ok(()),
                waiting => Err(format!("{waiting:?}\n{}", self.log())),
            }
        });
    }
}

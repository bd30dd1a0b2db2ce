//! PG hosts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::account::Account;
use crate::node::Node;
use crate::outcome::{Outcome, run};
use crate::postgres::Postgres;
use crate::program::pgmesh;
use crate::scratch::Scratch;

/// A machine with a PostgreSQL that has joined a mesh as the client of one stanza: its configuration and identity.
#[derive(Debug)]
pub struct Host {
    account: Account,
    program: PathBuf,
    home: PathBuf,
    configuration: PathBuf,
    settings: String,
    stanza: String,
}

impl Host {
    /// Writes the configuration of a host of `stanza` that knows one node; the host has not joined yet.
    #[must_use]
    pub fn new(scratch: &Scratch, name: &str, node: &Node, postgres: &Postgres, stanza: &str) -> Self {
        let way = format!("mesh-node={}\n", node.address());
        Self::with_way(scratch, name, &way, postgres, stanza)
    }

    /// Writes the configuration of a host of `stanza`; `way` are the lines with the addresses of nodes.
    #[must_use]
    pub fn with_way(scratch: &Scratch, name: &str, way: &str, postgres: &Postgres, stanza: &str) -> Self {
        let account = scratch.account();
        let home = scratch.folder(name);
        let settings = format!(
            "[global]\n{way}identity-path={}\nlock-path={}\n\n\
             [{stanza}]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            home.join("identity").display(),
            home.join("lock").display(),
            postgres.data().display(),
            postgres.port(),
            postgres.socket().display(),
        );
        let configuration = home.join("pgmesh.conf");
        account.write(&configuration, &settings);
        Self {
            account,
            program: pgmesh(scratch.path()),
            home,
            configuration,
            settings,
            stanza: stanza.to_owned(),
        }
    }

    /// A host that has joined the mesh of `node` by its invitation.
    #[must_use]
    pub fn join(scratch: &Scratch, name: &str, node: &Node, postgres: &Postgres, stanza: &str) -> Self {
        let host = Self::new(scratch, name, node, postgres, stanza);
        host.redeem(&node.invite(stanza)).succeeds();
        host
    }

    /// Redeems a token under a name of its own: all hosts of a test are on one machine.
    #[must_use]
    pub fn redeem(&self, token: &str) -> Outcome {
        self.plain(&["join", token, self.name()])
    }

    /// Its name in the mesh.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.home.file_name().and_then(std::ffi::OsStr::to_str);
        name.unwrap_or("host")
    }

    /// A host that has joined, with its stanza created and its PostgreSQL archiving through pgmesh.
    #[must_use]
    pub fn set_up(scratch: &Scratch, node: &Node, postgres: &Postgres, stanza: &str) -> Self {
        let host = Self::join(scratch, &format!("host-{stanza}"), node, postgres, stanza);
        host.run(&["stanza-create"]).succeeds();
        postgres.set("archive_command", &host.archive_command());
        host
    }

    /// Its folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its configuration file.
    #[must_use]
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Replaces text in its configuration file.
    ///
    /// # Panics
    /// If the file does not have the text.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        assert!(self.settings.contains(from), "no {from:?} in the host's configuration");
        self.settings = self.settings.replace(from, to);
        self.account.write(&self.configuration, &self.settings);
    }

    /// The `archive_command` for its PostgreSQL.
    #[must_use]
    pub fn archive_command(&self) -> String {
        format!(
            "{} --config={} --stanza={} archive-push \"%p\"",
            self.program.display(),
            self.configuration.display(),
            self.stanza
        )
    }

    /// The `restore_command` for a standby.
    #[must_use]
    pub fn restore_command_line(&self) -> String {
        format!(
            "{} --config={} --stanza={} archive-get %f \"%p\"",
            self.program.display(),
            self.configuration.display(),
            self.stanza
        )
    }

    /// A `pgmesh` command for its stanza.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.plain_command(&[&format!("--stanza={}", self.stanza)]);
        command.args(arguments);
        command
    }

    fn plain_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.account.command(&self.program, &self.home);
        command
            .arg(format!("--config={}", self.configuration.display()))
            .args(arguments);
        command
    }

    /// Runs a `pgmesh` command for its stanza.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(self.command(arguments))
    }

    /// Runs the last `pgmesh` command that a message advises, in quotation marks.
    ///
    /// # Panics
    /// If the message has none.
    #[must_use]
    pub fn obey(&self, message: &str) -> Outcome {
        let (_, told) = message.rsplit_once("'pgmesh ").expect("a command in the message");
        let (told, _) = told.split_once('\'').expect("the end of the command");
        self.plain(&told.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a `pgmesh` command without naming a stanza.
    #[must_use]
    pub fn plain(&self, arguments: &[&str]) -> Outcome {
        run(self.plain_command(arguments))
    }

    /// Pushes a WAL file.
    #[must_use]
    pub fn push(&self, file: &Path) -> Outcome {
        self.run(&["archive-push", &file.display().to_string()])
    }

    /// Fetches a WAL file to a path.
    #[must_use]
    pub fn get(&self, name: &str, to: &Path) -> Outcome {
        self.run(&["archive-get", name, &to.display().to_string()])
    }

    /// Takes a full backup, and returns its label.
    pub fn backup(&self) -> String {
        self.run(&["backup", "--type=full", "--start-fast"]).succeeds();
        self.last_backup()["label"]
            .as_str()
            .expect("a label in info")
            .to_owned()
    }

    /// Takes a backup with these arguments, and returns the program's summary.
    pub fn backup_with(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["backup", "--start-fast", "--output=json"];
        all.extend_from_slice(arguments);
        self.run(&all).ok().json()
    }

    /// The newest backup, as `info --output=json` has it.
    ///
    /// # Panics
    /// If there is no backup.
    #[must_use]
    pub fn last_backup(&self) -> serde_json::Value {
        let info = self.info();
        info["backup"]
            .as_array()
            .and_then(|backups| backups.last())
            .expect("a backup in info")
            .clone()
    }

    /// The stanza, as `info --output=json` has it.
    #[must_use]
    pub fn info(&self) -> serde_json::Value {
        let answer = self.run(&["info", "--output=json"]).ok().json();
        answer
            .as_array()
            .and_then(|stanzas| stanzas.iter().find(|stanza| stanza["name"] == self.stanza.as_str()))
            .unwrap_or_else(|| panic!("no stanza {} in info: {answer}", self.stanza))
            .clone()
    }

    /// A restore command into the data directory of another cluster, which will not archive its WAL.
    #[must_use]
    pub fn restore_command(&self, target: &Postgres, arguments: &[&str]) -> Command {
        let path = format!("--pg1-path={}", target.data().display());
        let mut command = self.command(&["restore", &path, "--archive-mode=off"]);
        command.args(arguments);
        command
    }

    /// Restores into a new data directory, without starting a server.
    #[must_use]
    pub fn restore(&self, scratch: &Scratch, name: &str, arguments: &[&str]) -> Postgres {
        let target = Postgres::empty(scratch, name);
        run(self.restore_command(&target, arguments)).succeeds();
        target
    }

    /// Asserts that the archive restores all data of a server, after the server has archived its WAL.
    pub fn assert_restores(&self, scratch: &Scratch, server: &Postgres, arguments: &[&str]) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        server.archive_everything();
        let mut restored = self.restore(scratch, &format!("restored-{number}"), arguments);
        restored.start_promoted();
        assert_eq!(restored.dump(), server.dump());
        restored.stop();
        std::fs::remove_dir_all(restored.data()).expect("removing a restored cluster");
    }
}

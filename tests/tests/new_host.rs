//! Restores beside the original, which goes on running: as a new server, and as a copy that must not archive.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Outcome, Postgres, Site, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const NEW_PORT: &str = "6544";

/// A server that is started as a user would start it, with only its data directory.
struct Server<'a> {
    postgres: &'a Postgres,
    port: &'a str,
}

impl<'a> Server<'a> {
    fn try_start(postgres: &'a Postgres, port: &'a str) -> Result<Self, String> {
        let log = postgres.socket().join("own.log");
        let mut command = postgres.program("pg_ctl");
        command
            .args(["-s", "-w", "-t", "60", "start", "-D"])
            .arg(postgres.data());
        command.arg("-l").arg(&log);
        if run(command).status.success() {
            Ok(Self { postgres, port })
        } else {
            Err(fs::read_to_string(log).unwrap_or_default())
        }
    }

    fn start(postgres: &'a Postgres, port: &'a str) -> Self {
        Self::try_start(postgres, port).unwrap_or_else(|log| panic!("it did not start:\n{log}"))
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.postgres.program(name);
        command.env("PGPORT", self.port);
        command
    }

    fn query(&self, sql: &str) -> String {
        let mut command = self.program("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        run(command).ok().text().to_owned()
    }

    fn promoted(self) -> Self {
        wait_for("recovery to end", LIMIT, || {
            self.query("select pg_is_in_recovery()") == "f"
        });
        self
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let mut command = self.program("pg_ctl");
        command
            .args(["-s", "-m", "immediate", "stop", "-D"])
            .arg(self.postgres.data());
        let _ = run(command);
    }
}

/// A site whose cluster has its port and socket in its own postgresql.conf, as a packaged cluster has.
fn site(name: &str) -> Site {
    let site = Site::new(name, 1);
    let file = site.postgres.data().join("postgresql.conf");
    let settings = fs::read_to_string(&file).expect("reading postgresql.conf");
    let socket = site.postgres.socket().display();
    let own = format!("{settings}\nport = 5432\nlisten_addresses = ''\nunix_socket_directories = '{socket}'\n");
    site.postgres.account().write(&file, own);
    site
}

fn restore(host: &Host, copy: &Postgres, arguments: &[&str]) -> Outcome {
    let path = format!("--pg1-path={}", copy.data().display());
    let mut command = host.command(&["restore", &path]);
    command.args(arguments);
    run(command)
}

/// The name of the newest segment in the archive.
fn newest(site: &Site) -> String {
    let info = site.host.info();
    let archives = info["archive"].as_array().expect("archives");
    archives[0]["max"].as_str().expect("a segment").to_owned()
}

#[test]
fn a_copy_runs_beside_the_original() {
    let site = site("beside");
    site.postgres.add_tablespace("fast");
    site.postgres
        .query("create table elsewhere tablespace fast as select generate_series(1, 5000) as number");
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 5);
    site.postgres.archive_everything();

    // The original's tablespace is in use: without a map the restore is refused.
    let copy = Postgres::empty(&site.scratch, "copy");
    let refused = restore(&site.host, &copy, &["--archive-mode=off"]);
    refused.fails(
        &[40],
        &[
            &site.postgres.socket().join("fast").display().to_string(),
            "tablespace-map",
        ],
    );

    // The map leads to a folder that does not exist yet.
    let spaces = site.scratch.folder("mnt").join("not/there/yet");
    let map = format!("--tablespace-map-all={}", spaces.display());
    restore(&site.host, &copy, &["--archive-mode=off", &map]).succeeds();
    // Its postgresql.conf is the original's, port and socket included.
    let log = Server::try_start(&copy, "5432").err().expect("the port is taken");
    assert!(
        log.contains("is another postmaster already running") || log.contains("lock file"),
        "{log}"
    );

    let socket = format!("--recovery-option=unix_socket_directories={}", copy.socket().display());
    let port = format!("--recovery-option=port={NEW_PORT}");
    restore(
        &site.host,
        &copy,
        &["--delta", "--archive-mode=off", &map, &port, &socket],
    )
    .succeeds();
    let before = newest(&site);
    let server = Server::start(&copy, NEW_PORT).promoted();
    assert_eq!(server.query("select max(number) from ledger"), last.number.to_string());
    assert_eq!(server.query("select count(*) from elsewhere"), "5000");
    assert_eq!(
        server.query("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'"),
        spaces.join("fast").display().to_string()
    );
    assert_eq!(server.query("show archive_mode"), "off");
    server.query("create table own as select generate_series(1, 1000)");
    server.query("select pg_switch_wal()");
    server.query("checkpoint");
    assert_eq!(
        server.query("select archived_count, failed_count from pg_stat_archiver"),
        "0|0"
    );
    assert_eq!(newest(&site), before, "nothing of the copy is in the archive");
    let mut check = server.program("pg_amcheck");
    check.args(["--all", "--install-missing", "--heapallindexed"]);
    run(check).succeeds();

    // The original goes on undisturbed.
    assert_eq!(
        site.postgres
            .query("select count(*) from pg_tables where tablename = 'own'"),
        "0"
    );
    assert!(site.postgres.archive_everything() > before);
    site.host.backup();
}

/// Waits until the copy's archiver has failed, and returns the message of `pgmesh` in the server's log.
fn refusal(copy: &Postgres, server: &Server<'_>) -> String {
    server.query("select pg_switch_wal()");
    wait_for("the copy's archiver to fail", LIMIT, || {
        server.query("select failed_count > 0 from pg_stat_archiver") == "t"
    });
    assert_eq!(server.query("select archived_count from pg_stat_archiver"), "0");
    fs::read_to_string(copy.socket().join("own.log")).expect("reading the log")
}

#[test]
fn a_copy_that_would_archive_is_refused() {
    let site = site("refused");
    site.postgres
        .query("create table numbers as select generate_series(1, 1000) as number");
    site.host.backup();
    site.postgres.archive_everything();
    let before = newest(&site);
    let copy = Postgres::empty(&site.scratch, "copy");
    let socket = format!("--recovery-option=unix_socket_directories={}", copy.socket().display());
    let port = format!("--recovery-option=port={NEW_PORT}");

    // With the original's archive_command, which names the original's configuration.
    let cautious = Postgres::empty(&site.scratch, "cautious");
    let outcome = restore(&site.host, &cautious, &[]);
    outcome.clone().succeeds();
    outcome.says(&[
        "another data directory",
        "archive_mode=off is written",
        "--archive-mode=preserve",
    ]);
    let settings = fs::read_to_string(cautious.data().join("postgresql.auto.conf")).expect("reading the settings");
    assert!(settings.contains("archive_mode = 'off'"), "{settings}");
    restore(&site.host, &copy, &["--archive-mode=preserve", &port, &socket]).succeeds();
    let server = Server::start(&copy, NEW_PORT).promoted();
    let log = refusal(&copy, &server);
    assert!(log.contains("[058]") || log.contains("belongs to"), "{log}");
    drop(server);
    assert_eq!(newest(&site), before);

    // With a configuration of its own, on the original's timeline.
    let host = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    let command = format!("--recovery-option=archive_command={}", host.archive_command());
    let arguments = [
        "--delta",
        "--type=none",
        "--archive-mode=preserve",
        &port,
        &socket,
        &command,
    ];
    restore(&host, &copy, &arguments).succeeds();
    fs::remove_file(copy.socket().join("own.log")).expect("removing the log");
    let server = Server::start(&copy, NEW_PORT).promoted();
    server.query("insert into numbers select generate_series(1, 1000)");
    let log = refusal(&copy, &server);
    assert!(log.contains("is written by data directory"), "{log}");
    assert_eq!(newest(&site), before);
    assert!(site.postgres.archive_everything() > before, "the original goes on");

    // A backup of the copy would rest on the original's WAL.
    let address = [format!("--pg1-port={NEW_PORT}"), "--start-fast".to_owned()];
    let mut backup = host.command(&["backup", "--type=full", "--archive-timeout=5s"]);
    backup.args(&address);
    run(backup).fails(&[44], &["is written by data directory"]);
}

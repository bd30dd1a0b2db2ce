//! Restores onto existing files: a live server, tablespaces that were made after the backup, prepared directories.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use pgmesh_tests::{Host, Ledger, Postgres, Process, Site, programs_of, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs the command in a new PID namespace, in which no process outside is visible.
fn in_namespace(command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        inside.args(["--user", "--map-current-user"]);
    }
    inside.args(["--pid", "--mount-proc", "--fork", "--kill-child", "--"]);
    inside.arg(command.get_program()).args(command.get_args());
    inside
}

/// Kills all processes that work in a directory.
fn kill_all_in(folder: &Path) {
    for entry in fs::read_dir("/proc").expect("reading /proc").flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(process) = number.and_then(Pid::from_raw)
            && fs::read_link(entry.path().join("cwd")).is_ok_and(|works_in| works_in == folder)
        {
            kill_process(process, Signal::KILL).ok();
        }
    }
}

fn is_in_first_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new("pid:[4026531836]"))
}

#[test]
fn a_live_server_is_never_restored_over_whatever_namespace_sees_it() {
    let mut site = Site::new("namespace", 1);
    site.postgres
        .query("create table kept as select generate_series(1, 100) as number");
    site.host.backup();
    site.postgres.query("insert into kept select generate_series(101, 300)");

    // First the restore runs in a namespace of its own, then the server.
    let restore = || site.host.command(&["restore", "--delta"]);
    let refusal = &["remove", "postmaster.pid"];
    run(in_namespace(&restore())).fails(&[38], refusal);
    run(restore()).fails(&[38], &["pg_ctl stop"]);
    assert_eq!(site.postgres.query("select count(*) from kept"), "300");
    site.postgres.stop();
    let data = site.postgres.data().to_owned();
    let hidden = {
        let mut command = Command::new("setpriv");
        let account = fs::metadata(&data).expect("a data directory");
        if rustix::process::geteuid().is_root() {
            command.args([
                format!("--reuid={}", account.uid()),
                format!("--regid={}", account.gid()),
            ]);
            command.arg("--clear-groups");
        }
        command.arg(programs_of(site.postgres.major()).join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(site.postgres.socket());
        command.args(["-p", &site.postgres.port().to_string(), "-c", "listen_addresses="]);
        in_namespace(&command)
    };
    let mut server = Process::start("hidden", hidden, &site.scratch.folder("hidden").join("server.log"));
    wait_for("the server in the namespace to take queries", LIMIT, || {
        run(site.postgres.program("pg_isready")).code() == Some(0)
    });
    run(site.host.command(&["restore", "--delta"])).fails(&[38], &["postgresql"]);
    run(site.host.command(&["restore", "--force"])).fails(&[38], &["postgresql"]);
    assert_eq!(site.postgres.query("select count(*) from kept"), "300");
    // If the first process of a namespace dies, all others die with it.
    kill_all_in(&data);
    server.kill();
    wait_for("the server to be gone", LIMIT, || {
        run(site.postgres.program("pg_isready")).code() == Some(2)
    });
    assert!(data.join("postmaster.pid").exists(), "it was killed");

    // No server runs any more. If the restore can see that, it ignores the file.
    let again = run(site.host.command(&["restore", "--delta"]));
    if is_in_first_namespace() {
        again.succeeds();
    } else {
        again.fails(&[38], refusal);
        fs::remove_file(data.join("postmaster.pid")).expect("the file");
        run(site.host.command(&["restore", "--delta"])).succeeds();
    }
    site.postgres.start_promoted();
    assert_eq!(site.postgres.query("select count(*) from kept"), "300");
}

/// A backup, then a tablespace with a table of 1,000 rows, and more rows after the wanted moment.
struct LateSpace {
    site: Site,
    folder: PathBuf,
    moment: String,
}

impl LateSpace {
    fn new(name: &str) -> Self {
        let site = Site::new(name, 1);
        let postgres = &site.postgres;
        postgres.query("create table early as select generate_series(1, 10) as number");
        site.host.backup();
        let folder = postgres.add_tablespace("late");
        postgres.query("create table item (id int primary key, note text) tablespace late");
        postgres.query("insert into item select g, repeat('x', 100) from generate_series(1, 1000) g");
        let moment = postgres.query("select pg_create_restore_point('wanted')");
        postgres.query("insert into item select g, repeat('y', 100) from generate_series(1001, 20000) g");
        postgres.query("update item set note = 'z' where id % 3 = 0");
        postgres.archive_everything();
        Self { site, folder, moment }
    }

    fn restore(&self, arguments: &[&str]) -> Command {
        let mut command = self.site.host.command(&["restore", "--type=name", "--target=wanted"]);
        command.arg("--target-action=promote").args(arguments);
        command
    }

    fn content(&self) -> PathBuf {
        version_directory(&self.folder)
    }
}

/// The directory of the only version in a tablespace.
fn version_directory(folder: &Path) -> PathBuf {
    let entry = fs::read_dir(folder).expect("a tablespace").flatten().next();
    entry.expect("a version's directory").path()
}

fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).expect("reading the folder").flatten() {
        fs::remove_dir_all(entry.path())
            .or_else(|_| fs::remove_file(entry.path()))
            .expect("it goes");
    }
}

fn assert_wanted(postgres: &Postgres) {
    assert_eq!(
        postgres.query("select count(*), max(id), sum((note ~ '^x')::int) from item"),
        "1000|1000|1000"
    );
    postgres.check_all();
}

#[test]
fn a_tablespace_made_after_the_backup_is_not_left_with_its_newer_files() {
    let mut late = LateSpace::new("late-space");
    assert!(!late.moment.is_empty());
    late.site.postgres.stop();

    // The link says that the tablespace belongs to this cluster. With --force it is emptied; without, the restore is
    // refused before it changes any file.
    let content = late.content();
    run(late.restore(&["--delta"])).fails(
        &[40],
        &["pg_tblspc/", "tablespace", &content.display().to_string(), "--force"],
    );
    assert!(
        late.site.postgres.data().join("global/pg_control").exists(),
        "nothing was changed"
    );
    run(late.restore(&["--delta", "--force"])).succeeds();
    late.site.postgres.start_promoted();
    assert_wanted(&late.site.postgres);
    late.site.postgres.stop();

    run(late.restore(&["--force", "--target-timeline=1"])).succeeds();
    late.site.postgres.start_promoted();
    assert_wanted(&late.site.postgres);
}

#[test]
fn the_surviving_disk_of_a_tablespace_stops_the_recovery_until_it_is_emptied() {
    let mut late = LateSpace::new("late-disk");
    late.site.postgres.stop();
    empty(late.site.postgres.data());
    run(late.restore(&[])).succeeds();
    let started = late.site.postgres.try_start();
    if started.is_ok() {
        late.site.postgres.wait_for_end();
    }
    let log = late.site.postgres.log();
    let content = late.content();
    assert!(
        log.contains("creates tablespace") && log.contains(&content.display().to_string()),
        "{log}"
    );
    assert_eq!(
        late.site.postgres.control("Database cluster state"),
        "in archive recovery",
        "{log}"
    );

    fs::remove_dir_all(&content).expect("it is emptied");
    late.site.postgres.start_promoted();
    assert_wanted(&late.site.postgres);
}

#[test]
fn a_copy_beside_the_original_leaves_the_originals_tablespace_alone() {
    let mut late = LateSpace::new("late-copy");
    let copy = |name: &str, arguments: &[&str]| {
        let spaces = late.site.scratch.folder(format!("spaces-{name}"));
        late.site.postgres.account().create_folder(&spaces);
        let map = format!("--tablespace-map-all={}", spaces.display());
        late.site.restore(name, &[&[map.as_str()], arguments].concat())
    };
    let original = || late.site.postgres.query("select count(*), sum(length(note)) from item");
    let before = original();
    let mut late_copy = copy("copy", &[]);
    if late_copy.try_start().is_ok() {
        late_copy.wait_for_end();
    }
    let log = late_copy.log();
    assert!(
        log.contains("creates tablespace") && log.contains("take a backup"),
        "{log}"
    );
    assert_eq!(late_copy.control("Database cluster state"), "in archive recovery");
    // The original's writes reach its own files.
    late.site.postgres.query("checkpoint");
    assert_eq!(original(), before);
    late.site.postgres.query("insert into item values (0, 'after')");

    // A target before the tablespace is reached.
    let mut early = copy("early", &["--type=immediate", "--target-action=promote"]);
    early.start_promoted();
    assert_eq!(early.query("select count(*) from early"), "10");
    early.stop();
    // A backup with the tablespace can be mapped.
    late.site.host.backup();
    late.site.postgres.query("insert into item values (-1, 'more')");
    late.site.postgres.archive_everything();
    let mut mapped = copy("mapped", &[]);
    mapped.start_promoted();
    assert_eq!(mapped.query("select count(*) from item"), "20002");
    mapped.query("truncate item");
    mapped.stop();
    // A copy made with cp has a link to the original's tablespace, which is in the backup.
    let cloned = Postgres::empty(&late.site.scratch, "cloned");
    append(&cloned, "PG_VERSION", "15\n");
    fs::create_dir(cloned.data().join("pg_tblspc")).expect("a folder");
    let link = fs::read_dir(late.site.postgres.data().join("pg_tblspc"))
        .expect("links")
        .flatten()
        .next();
    let number = link.expect("a link").file_name();
    std::os::unix::fs::symlink(&late.folder, cloned.data().join("pg_tblspc").join(number)).expect("a link");
    for arguments in [["--delta"], ["--force"]] {
        run(late.site.host.restore_command(&cloned, &arguments)).fails(&[40], &["is in use", "tablespace-map"]);
    }
    late.site.postgres.restart();
    assert_eq!(late.site.postgres.query("select count(*) from item"), "20002");
    late.site.postgres.check_all();
}

/// A standby that replays CREATE TABLESPACE into an empty directory, crashes and replays it again finds its own files.
#[test]
fn a_standby_that_replays_the_making_of_its_own_tablespace_goes_on() {
    let mut site = Site::new("late-standby", 1);
    site.postgres
        .query("create table early as select generate_series(1, 10) as number");
    let mut standby = site.postgres.standby(&site.scratch, "standby");
    let host = Host::join(&site.scratch, "host-standby", &site.node, &standby, "main");
    let folder = site.postgres.add_tablespace("late");
    site.postgres
        .query("create table item tablespace late as select generate_series(1, 1000) as number");
    let command = format!(
        "restore_command = '{} --config={} --stanza=main archive-get %f \"%p\"'\nprimary_conninfo = ''\n",
        pgmesh_tests::pgmesh(site.scratch.path()).display(),
        host.configuration().display()
    );
    let settings = standby.data().join("postgresql.auto.conf");
    let old = fs::read_to_string(&settings).expect("settings");
    standby.account().write(&settings, old + &command);
    site.postgres.archive_everything();

    // On the host of the primary the directory is the primary's, and the standby waits.
    standby.start();
    wait_for("the standby to say why it waits", LIMIT, || {
        standby.log().contains("creates tablespace")
    });
    assert_eq!(site.postgres.query("select count(*) from item"), "1000");
    assert_eq!(
        standby.query("select count(*) from pg_tablespace"),
        "2",
        "it is not replayed"
    );

    // As on a host of its own.
    site.postgres.stop();
    let away = folder.with_extension("primary");
    fs::rename(&folder, &away).expect("the primary's tablespace goes elsewhere");
    standby.account().create_folder(&folder);
    let rows = |standby: &Postgres| run(query(standby, "select count(*) from item")).text().to_owned();
    wait_for("the standby to replay it", LIMIT, || rows(&standby) == "1000");
    standby.kill();
    standby.start();
    wait_for("the standby to replay it again", LIMIT, || rows(&standby) == "1000");
}

fn query(postgres: &Postgres, sql: &str) -> Command {
    let mut command = postgres.program("psql");
    command.args(["-X", "-A", "-t", "-q", "-c", sql]);
    command
}

fn append(postgres: &Postgres, file: &str, text: &str) {
    let path = postgres.data().join(file);
    let old = fs::read_to_string(&path).unwrap_or_default();
    postgres.account().write(&path, old + text);
}

#[test]
fn a_recovery_target_left_in_the_configuration_ends_no_recovery_early() {
    let site = Site::new("left-target", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let first = ledger.add_some(&site.postgres, 2);
    let moment = ledger.moment_after(&site.postgres, &ledger.rows()[0].clone());
    append(&site.postgres, "postgresql.conf", "include_dir 'conf.d'\n");
    fs::create_dir(site.postgres.data().join("conf.d")).expect("a folder");
    site.postgres.account().own(&site.postgres.data().join("conf.d"));
    append(
        &site.postgres,
        "conf.d/left.conf",
        &format!("# of last week\nrecovery_target_time = '{moment}'\n"),
    );
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 30);
    assert!(last.number > first.number);
    site.postgres.archive_everything();

    let target = Postgres::empty(&site.scratch, "refused");
    run(site.host.restore_command(&target, &[])).fails(&[31], &["recovery_target_time", "conf.d/left.conf line 2"]);
    assert!(
        fs::read_dir(target.data()).expect("a folder").next().is_none(),
        "nothing was written"
    );
    let mut overruled = site.restore("overruled", &["--recovery-option=recovery_target_time="]);
    overruled.start_promoted();
    Ledger::assert_ends_with(&overruled, last.number, "the end");
}

#[test]
fn a_target_without_an_offset_needs_one_where_server_and_host_differ() {
    let site = Site::with_postgres("zones", 1, |postgres| postgres.setting("timezone", "America/New_York"));
    site.host.backup();
    let restore = |name: &str, zone: &str, target: &str| {
        let folder = Postgres::empty(&site.scratch, name);
        let mut command = site
            .host
            .restore_command(&folder, &["--type=time", &format!("--target={target}")]);
        command.env("TZ", zone);
        run(command)
    };
    let said = &["America/New_York", "2038-01-01 00:00:00+00:00"];
    restore("differs", "UTC", "2038-01-01 00:00:00").fails(&[31], said);
    restore("offset", "UTC", "2038-01-01 00:00:00+00").succeeds();
    restore("same", "America/New_York", "2038-01-01 00:00:00").succeeds();
}

#[test]
fn a_restore_that_is_interrupted_says_that_the_directory_is_incomplete() {
    let site = Site::new("interrupted", 1);
    site.postgres
        .query("create table item as select g, repeat(md5(g::text), 20) from generate_series(1, 100000) g");
    site.host.backup();
    let target = Postgres::empty(&site.scratch, "target");
    let log = site.scratch.path().join("restore.log");
    let command = site.host.restore_command(&target, &["--process-max=1"]);
    let mut restore = Process::start("restore", command, &log);
    wait_for("the restore to write", LIMIT, || {
        assert!(restore.ended().is_none(), "it ended early: {}", restore.log());
        target.data().join("base/5").exists()
    });
    let status = restore.end(Signal::INT, LIMIT);
    let said = restore.log();
    assert!(!status.success(), "{said}");
    for words in [
        "stopped by SIGINT",
        "is not complete and cannot be started",
        "--delta or --force",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert!(!target.data().join("global/pg_control").exists());
    run(site.host.restore_command(&target, &["--delta"])).succeeds();
}

/// A file system that is mounted within the data directory is another one, whose writes must be durable before
/// pg_control.
#[test]
fn what_is_mounted_in_the_data_directory_is_synced_too() {
    let site = Site::new("mounted", 1);
    site.host.backup();
    let restored = site.restore("restored", &["--type=none"]);
    let base = restored.data().join("base");
    let restore = site
        .host
        .restore_command(&restored, &["--delta", "--type=none", "--log-level-console=debug"]);
    let mut inside = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        inside.args(["--user", "--map-root-user"]);
    }
    inside.args([
        "--mount",
        "--",
        "sh",
        "-c",
        "mount -t tmpfs tmpfs \"$0\" && exec \"$@\"",
    ]);
    inside.arg(&base).arg(restore.get_program()).args(restore.get_args());
    let outcome = run(inside).ok();
    outcome.says(&[&format!("synced the file system of {}", base.display())]);
}

/// Root restores into the directory of another user, who has planted a link and waits.
#[test]
fn a_restore_as_root_overwrites_nothing_behind_links_and_gives_files_to_their_owner() {
    let site = Site::new("planted", 1);
    site.host.backup();
    let target = Postgres::empty(&site.scratch, "target");
    let secret = site.scratch.path().join("secret");
    fs::write(&secret, "secret").expect("a file");
    let marker = target.data().join("pgmesh.restore");
    std::os::unix::fs::symlink(&secret, &marker).expect("a link");
    // As the user who runs this test.
    let restore = |arguments: &[&str]| {
        let restore = site.host.restore_command(&target, arguments);
        let mut command = Command::new(restore.get_program());
        command.args(restore.get_args());
        run(command)
    };
    restore(&["--delta"]).refuses(&["symbolic link"]);
    assert_eq!(fs::read_to_string(&secret).expect("the file"), "secret");
    fs::remove_file(&marker).expect("the link");
    restore(&[]).succeeds();
    let owner = fs::metadata(target.data()).expect("the directory").uid();
    for path in pgmesh_tests::files_below(target.data()) {
        assert_eq!(fs::metadata(&path).expect("a file").uid(), owner, "{}", path.display());
    }
}

//! `make demo`: three nodes in three regions are one mesh. A real PostgreSQL under load archives and is backed up
//! through it while its leader is killed. Then rows are lost by mistake, and restored to the moment before with a
//! repository away, another one damaged, and the node in use killed half-way. Each line says what the demo does, and
//! what it saw.
//!
//! With `--s3` the second repository is a bucket that all nodes share, and its endpoint falls silent for a while. With
//! `--keep` the demo leaves all servers running and says how to look around. It fails loudly, and then keeps its files.
#![allow(clippy::expect_used, reason = "a panic is how the demo fails, loudly")]

mod archiver;
mod second;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use archiver::counters;
use pgmesh_tests::stores::S3Server;
use pgmesh_tests::{Host, Kind, Load, Mesh, Postgres, Process, Scratch, wait_for};
use second::{Harmed, Second};

/// The node in the region of the PG host. It must not be the first node of the mesh, which leads and is killed first.
const NEAR_NODE: &str = "beta";

/// The second repository, which is on that node unless it is a bucket, and a repository on another node.
const NEAR: usize = 2;
const FAR: usize = 3;

/// How long a restore may take.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let asked = |option: &str| std::env::args().any(|argument| argument == option);
    let (keep, with_s3) = (asked("--keep"), asked("--s3"));
    let began = Instant::now();
    let mut demo = Demo::set_up(with_s3);
    let pause = demo.kill_the_leader();
    demo.silence_the_bucket();
    let label = demo.back_up();
    let (moment, before) = demo.lose_rows();
    let harmed = demo.harm();
    let mut restored = demo.restore_to(&moment, &before);
    demo.heal(&harmed);
    demo.show(&label);
    demo.judge(pause);
    done();
    println!("\nall of it held, in {:.0} s", began.elapsed().as_secs_f64());
    go_on();
    if keep {
        demo.leave_running(restored);
    } else {
        // The clusters stop first, while the mesh still runs, so that no archive_command is left behind that looks for
        // a mesh.
        restored.stop();
        demo.postgres.stop();
    }
}

/// Prints how to go on with the user's own cluster.
fn go_on() {
    println!("\nyour own cluster:");
    println!(
        "  1. install: `make install` (a release build; PREFIX=/usr/local), then README.md, \"How it is used\": a node in five lines"
    );
    println!(
        "  2. on the PG host: `pgmesh join TOKEN`, `pgmesh --stanza=main stanza-create`, set archive_command, `pgmesh --stanza=main check`"
    );
    println!(
        "  3. you have pgbackrest today? docs/migrating-from-pgbackrest.md: what stays the same, and the order of the steps"
    );
}

/// The actors. Dropped in this order: the servers end before their folder is removed.
struct Demo {
    load: Option<Load>,
    host: Host,
    postgres: Postgres,
    mesh: Mesh,
    second: Second,
    scratch: Scratch,
}

/// The start of the step that is shown; none before the first.
static STEP: Mutex<Option<Instant>> = Mutex::new(None);

/// Shows the time of the step that ends here.
fn done() {
    let mut step = STEP.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(began) = step.take() {
        println!("  [{}]", seconds(began));
    }
}

/// Shows the next step.
fn doing(what: &str) {
    done();
    println!("* {what}");
    *STEP.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

fn saw(what: &str) {
    println!("  {what}");
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

impl Demo {
    fn set_up(with_s3: bool) -> Self {
        let scratch = Scratch::new("demo");
        doing("start three nodes: alpha in region eu, beta in us, gamma in ap, and three encrypted repositories");
        let second = Second::start(with_s3);
        let mut mesh = second.declare(Mesh::builder(&scratch)).start();
        saw(&format!(
            "repo1 is a directory of alpha, repo{NEAR} {}, repo{FAR} a directory of gamma",
            second.what()
        ));
        for node in mesh.nodes() {
            saw(&format!("{} listens on {}", node.name(), node.address()));
        }
        saw(&format!(
            "two of them joined by tokens of the first, all three vote, {} leads; their files are in {}",
            mesh.leader(),
            scratch.path().display()
        ));

        doing("start a PostgreSQL and fill it");
        let postgres = Postgres::builder(&scratch, "primary").start();
        postgres.make_accounts(4);
        postgres.make_noise(60);
        postgres.query(
            "create table invoice as select number, (number * 37 % 1000)::numeric as amount, now() as issued \
             from generate_series(1, 10000) as number",
        );
        let size = postgres.query("select pg_size_pretty(sum(pg_database_size(oid))) from pg_database");
        let version = postgres.query("show server_version");
        saw(&format!(
            "PostgreSQL {version}, {size}, page checksums {}",
            postgres.query("show data_checksums")
        ));

        doing("invite its host, in region us, join with the token, create the stanza, archive through pgmesh");
        let host = mesh.host(&scratch, "host", ("us", &["alpha"]), &postgres, "main");
        host.run(&["stanza-create"]).succeeds();
        postgres.set("archive_command", &host.archive_command());
        saw(&format!(
            "it was told of alpha alone, has learnt the others from it, and prefers {NEAR_NODE}, in its own region"
        ));
        saw(&format!("archive_command = '{}'", host.archive_command()));
        let load = postgres.load(2, 100);
        host.run(&["check"]).succeeds();
        saw("`check` switched the WAL, and its segment arrived in all three repositories; pgbench runs all the while");
        Self {
            load: Some(load),
            host,
            postgres,
            mesh,
            second,
            scratch,
        }
    }

    /// With a bucket: its endpoint answers no request for a while.
    fn silence_the_bucket(&mut self) {
        if self.second.server().is_none() {
            return;
        }
        doing(&format!(
            "stop the S3 server of repo{NEAR} (SIGSTOP: it takes requests and says nothing), while PostgreSQL archives"
        ));
        self.second.server().into_iter().for_each(S3Server::pause);
        let pause = archiver::archive(&self.postgres, 5);
        saw(&format!(
            "nobody waits for it: the longest pause was {:.1} s; what it did not take is owed",
            pause.as_secs_f64()
        ));
        self.second.server().into_iter().for_each(S3Server::resume);
        self.settle("let it go on (SIGCONT)", |_| {});
    }

    /// Kills the leader while PostgreSQL archives, and starts it again. Returns the longest pause of the archiver.
    fn kill_the_leader(&mut self) -> Duration {
        let leader = self.mesh.leader();
        doing(&format!(
            "kill the leader, {leader}, while PostgreSQL archives segment after segment"
        ));
        let usual = archiver::archive(&self.postgres, 5);
        let failed = counters(&self.postgres).failed;
        archiver::switch(&self.postgres);
        self.mesh.node_mut(&leader).kill();
        let pause = archiver::archive(&self.postgres, 10);
        saw(&format!(
            "{} leads now. PostgreSQL archived on: its longest pause was {:.1} s (before: {:.1} s), failed_count grew by {}",
            self.mesh.leader(),
            pause.as_secs_f64(),
            usual.as_secs_f64(),
            counters(&self.postgres).failed - failed
        ));
        self.settle(&format!("start {leader} again"), |mesh| mesh.start_node(&leader));
        pause
    }

    /// Runs `act`, after which debts can be paid, and waits until they are.
    fn settle(&mut self, what: &str, act: impl FnOnce(&mut Mesh)) {
        let owing = self.mesh.wait_for_status("a leader", |status| status.leader.is_some());
        let owing: Vec<String> = owing
            .repositories
            .iter()
            .filter(|repository| repository.debt > 0)
            .map(|repository| format!("repo{} owes {} objects", repository.number, repository.debt))
            .collect();
        doing(what);
        let began = Instant::now();
        act(&mut self.mesh);
        self.mesh.wait_until_whole();
        self.mesh.wait_until_settled();
        saw(&format!(
            "{}; {} later all nodes vote, all repositories are up and none owes anything",
            if owing.is_empty() {
                "nothing was owed".to_owned()
            } else {
                owing.join(", ")
            },
            seconds(began)
        ));
    }

    fn back_up(&self) -> String {
        doing("take a full backup of the running cluster");
        let began = Instant::now();
        let label = self.host.backup();
        let took = seconds(began);
        self.mesh.wait_until_settled();
        let [first, third] = [1, FAR].map(|number| self.mesh.objects(number).all(Kind::Chunk).len());
        let second = self.second.chunks(&self.mesh);
        saw(&format!(
            "{label} in {took}: {first} chunks in repo1, {second} in repo2, {third} in repo3"
        ));
        self.back_up_changes()
    }

    /// Takes an incremental backup on top of the full one; the restore will choose it.
    fn back_up_changes(&self) -> String {
        doing("take an incremental backup: the WAL tells which pages changed, and it restores alone");
        let began = Instant::now();
        let summary = self.host.backup_with(&["--type=incr"]);
        let took = seconds(began);
        assert_eq!(
            summary["chosen_by"], "maps",
            "the mesh has maps of the archived WAL: {summary}"
        );
        let mebibytes = |key: &str| summary[key].as_f64().unwrap_or_default() / f64::from(1 << 20);
        let label = summary["label"].as_str().unwrap_or_default().to_owned();
        saw(&format!(
            "{label} in {took}: {:.1} MiB of {:.1} read, {} pages changed",
            mebibytes("read"),
            mebibytes("size"),
            summary["pages_changed"]
        ));
        label
    }

    /// Writes on, then deletes rows by mistake. Returns the moment before, and the table's rows at that moment.
    fn lose_rows(&mut self) -> (String, String) {
        doing("write on after the backup, then delete rows by mistake");
        self.postgres
            .query("insert into invoice select number, 1, now() from generate_series(10001, 12000) as number");
        // A restore to a time chooses a backup that ended in an earlier second: so the moment must be in a later one.
        let ended = self.host.last_backup()["timestamp"]["stop"].to_string();
        let later = format!("select clock_timestamp() > to_timestamp({ended} + 2)");
        wait_for("a later second than the backup's last", Duration::from_secs(10), || {
            self.postgres.query(&later) == "t"
        });
        let before = invoices(&self.postgres);
        let moment = self.postgres.query("set time zone 'UTC'; select clock_timestamp()");
        self.postgres.query("delete from invoice where number % 3 = 0");
        let after = invoices(&self.postgres);
        assert_ne!(before, after, "the mistake deleted nothing");
        saw(&format!("at {moment}: {before}; after the mistake: {after}"));
        // pgbench goes on to the end of the story; the segment with the mistake goes to the archive now.
        self.postgres.archive_everything();
        (moment, before)
    }

    /// Takes one repository away and damages the second. Returns the damaged objects.
    fn harm(&self) -> Harmed {
        doing(&format!(
            "take repo{FAR} away (its directory is moved), and damage bytes of repo{NEAR}"
        ));
        self.mesh.objects(FAR).take_away();
        let harmed = self.second.harm(&self.mesh);
        saw(&format!(
            "{} chunks of repo{NEAR} have a flipped bit, or are cut short, too long, empty or gone",
            harmed.len()
        ));
        harmed
    }

    /// Restores, and kills the node in use meanwhile.
    fn restore_to(&mut self, moment: &str, before: &str) -> Postgres {
        doing("restore to the moment before the mistake, beside the running cluster");
        let began = Instant::now();
        let mut restored = Postgres::empty(&self.scratch, "restored");
        let arguments = [
            "--type=time",
            "--target",
            moment,
            "--target-action=promote",
            "--write-manifest",
            "--log-level-console=info",
        ];
        let command = self.host.restore_command(&restored, &arguments);
        let log = self.scratch.join("restore.log");
        let mut restore = Process::start("the restore", command, &log);
        let half = bytes_in(self.postgres.data().join("base").as_path()) / 2;
        wait_for("half of the files to be restored", LIMIT, || {
            assert!(restore.ended().is_none(), "it ended too soon:\n{}", restore.log());
            bytes_in(restored.data()) > half
        });
        saw(&format!(
            "after {} half of it is there; kill {NEAR_NODE}, the node in use",
            seconds(began)
        ));
        self.mesh.node_mut(NEAR_NODE).kill();
        let status = restore.wait(LIMIT);
        assert!(status.success(), "the restore ended with {status}:\n{}", restore.log());
        let log = fs::read_to_string(&log).unwrap_or_default();
        let interrupted = format!("is tried again node={NEAR_NODE}");
        let interrupted = log.lines().find(|line| line.contains(&interrupted));
        saw(interrupted.unwrap_or_else(|| panic!("the restore did not go through {NEAR_NODE}:\n{log}")));
        saw(&format!(
            "the same restore went on through another node, and ended well after {}",
            seconds(began)
        ));
        doing(&format!("start {NEAR_NODE} again, and look at what was restored"));
        self.mesh.start_node(NEAR_NODE);
        restored.verify_backup();
        saw("pg_verifybackup finds each file as it was backed up");
        restored.start_promoted();
        let found = invoices(&restored);
        assert_eq!(
            found, before,
            "the restored cluster does not hold what the original held before the mistake"
        );
        saw(&format!(
            "it started, recovered to {moment}, and every row is back: {found}"
        ));
        restored.check_all();
        saw("pg_amcheck --all is content");
        restored
    }

    /// Undoes the harm to the mesh, and runs `verify` until it finds no damage.
    fn heal(&mut self, harmed: &Harmed) {
        // The original cluster goes on archiving all the while, into the repositories that are up.
        archiver::archive(&self.postgres, 3);
        self.settle(&format!("bring repo{FAR} back"), |mesh| mesh.objects(FAR).bring_back());
        doing("read and check every object of all repositories (verify)");
        let first = self.host.run(&["verify"]);
        let found: Vec<&str> = first
            .stdout
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        found.iter().take(1).for_each(|line| saw(line));
        saw(&format!(
            "{} errors; the other harmed chunks the restore had met. What is bad is made anew from another repository",
            found.len()
        ));
        let mut last = String::new();
        wait_for("all damage to be healed", LIMIT, || {
            let verify = self.host.run(&["verify"]);
            last = verify.text().lines().last().unwrap_or_default().to_owned();
            verify.code() == Some(0)
        });
        saw(&format!(
            "verify again: {last}; {} of {} harmed chunks have a new generation in repo{NEAR}",
            self.second.renewed(&self.mesh, harmed),
            harmed.len()
        ));
    }

    fn show(&self, label: &str) {
        doing("show how the mesh does (status)");
        self.mesh.run(&["status"]).ok().text().lines().for_each(saw);
        doing("show what there is (info)");
        let info = self.host.run(&["info"]).ok();
        assert!(info.stdout.contains(label), "info does not show {label}");
        info.text().lines().for_each(saw);
    }

    /// The view of a DBA on all this.
    fn judge(&mut self, pause: Duration) {
        doing("what would a DBA have noticed?");
        if let Some(load) = self.load.take() {
            load.stop();
            saw("pgbench ran until now without an error");
        }
        let archiver::Counters { archived, failed } = counters(&self.postgres);
        saw(&format!(
            "pg_stat_archiver: {archived} segments archived, failed_count {failed}, longest pause {:.1} s",
            pause.as_secs_f64()
        ));
        assert!(failed <= 2, "two nodes were killed: one push was under way at each");
        saw(match failed {
            0 => "so: nothing",
            _ => "so: as many lines in PostgreSQL's log, and that it had tried again; nothing else",
        });
    }

    fn leave_running(mut self, mut restored: Postgres) {
        let pgmesh = pgmesh_tests::pgmesh(self.scratch.path());
        let host = format!(
            "{} --config={} --stanza=main",
            pgmesh.display(),
            self.host.configuration().display()
        );
        let node = self.mesh.node(NEAR_NODE).configuration();
        let administrator = format!("{} --config={}", pgmesh.display(), node.display());
        println!("\nleft running. Look around:");
        println!("  {host} info");
        println!("  {host} backup --type=full");
        println!("  {administrator} status");
        println!("  {administrator} doctor");
        println!(
            "  psql -h {} -U postgres postgres      # the original",
            self.postgres.socket().display()
        );
        println!(
            "  psql -h {} -U postgres postgres      # the restored one",
            restored.socket().display()
        );
        let mut nodes = String::new();
        for node in self.mesh.nodes() {
            println!(
                "  kill -9 {}      # {}, and see what happens",
                node.process().id(),
                node.name()
            );
            nodes += &format!(" {}", node.process().id());
        }
        let clusters = [&self.postgres, &restored].map(|cluster| cluster.process_id().expect("it runs"));
        let [original, copy] = clusters;
        nodes.extend(self.second.keep().map(|process| format!(" {process}")));
        println!(
            "End it: kill -INT {original} {copy}; kill{nodes}; rm -rf {}",
            self.scratch.path().display()
        );
        self.mesh.keep();
        self.postgres.keep();
        restored.keep();
        self.scratch.keep();
    }
}

fn invoices(postgres: &Postgres) -> String {
    postgres.query("select count(*) || ' invoices over ' || sum(amount) from invoice")
}

/// The bytes of all files in and below a folder.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| {
            if metadata.is_dir() {
                bytes_in(&path)
            } else {
                metadata.len()
            }
        })
        .sum()
}

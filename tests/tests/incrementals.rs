//! Incremental backups in a row, with every kind of change between them, on each major version of PostgreSQL: each of
//! them restores the cluster as it was.
//!
//! Every run has a few rounds, in which several kinds of change come together. `PGMESH_INCREMENTALS=100` makes as many
//! backups of each version, with one kind of change between any two.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pgmesh_tests::{Postgres, Random, Site, majors, number_from_environment, run, wait_for};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// The number of rows in the table that every round changes.
const ROWS: u32 = 20_000;
/// One in so many backups checks the change map by reading all files.
const TESTED: u32 = 4;
/// One in so many backups is compared with the full backup.
const DIFF: u32 = 7;

#[test]
fn on_14() {
    tell(14, 4);
}

/// The version of most users of Debian goes through all kinds of changes one by one in every run.
#[test]
fn on_15() {
    tell(15, KINDS.len());
}

#[test]
fn on_16() {
    tell(16, 4);
}

#[test]
fn on_17() {
    tell(17, 4);
}

#[test]
fn on_18() {
    tell(18, 4);
}

/// Tells the story of a version with at least so many backups, if that version is tested.
fn tell(major: u32, backups: usize) {
    if majors().contains(&major) {
        let backups = u32::try_from(backups).expect("few");
        Story::new(major).tell(number_from_environment("PGMESH_INCREMENTALS", backups));
    }
}

/// A way to change a cluster; the number of the round makes names unique.
type Change = fn(&mut Story, u32);

const KINDS: &[(&str, Change)] = &[
    ("copy", copy),
    ("vacuum full", |story, _| story.sql("vacuum full item")),
    ("tablespace of a table", move_table),
    ("create database", create_database),
    ("truncate", truncate),
    ("load while the backup runs", |story, _| story.under_load = true),
    ("crash", crash),
    ("reindex and cluster", |story, _| {
        story.sql("reindex table item");
        story.sql("reindex system postgres");
        story.sql("cluster item using item_pkey");
    }),
    ("large objects", large_objects),
    ("tablespace of a database", move_database),
    ("promotion", promote),
    ("unlogged becomes logged", unlogged),
    ("shrink and grow", shrink),
    ("drop database", drop_database),
    ("new and dropped tablespace", drop_tablespace),
    ("nothing", |_, _| ()),
];

/// A backup, and the cluster's content at that time.
struct Taken {
    label: String,
    /// The end of the WAL to replay.
    lsn: String,
    dump: PathBuf,
}

struct Story {
    site: Site,
    major: u32,
    random: Random,
    under_load: bool,
    /// Whether the server is PostgreSQL 17 or later and summarizes WAL; without summaries, the mesh makes maps.
    summarizes: bool,
    /// Whether the backup cannot know the changes since the one before, which was of another timeline.
    promoted: bool,
    taken: Vec<Taken>,
}

impl Story {
    fn new(major: u32) -> Self {
        let site = Site::with_postgres(&format!("incr-{major}"), 2, |builder| {
            let builder = builder.major(major).setting("autovacuum_naptime", "1s");
            if major >= 17 {
                builder.setting("summarize_wal", "on")
            } else {
                builder
            }
        });
        Self {
            site,
            major,
            random: Random::new(u64::from(major)),
            under_load: false,
            summarizes: major >= 17,
            promoted: false,
            taken: Vec::new(),
        }
    }

    fn sql(&self, sql: &str) {
        self.site.postgres.query(sql);
    }

    /// The whole story, with so many backups.
    fn tell(mut self, backups: u32) {
        self.site.postgres.make_accounts(1);
        self.site.postgres.add_tablespace("space");
        self.sql(&format!(
            "create table item as select g as id, md5(g::text) || md5((g * 7)::text) as note, repeat(md5((-g)::text), 3) \
             as body from generate_series(1, {ROWS}) g"
        ));
        self.sql("alter table item add primary key (id)");
        self.sql("create index on item (note)");
        self.sql("create table other as select * from item limit 3000");
        self.backup(0);
        let kinds = u32::try_from(KINDS.len()).expect("few");
        let together = kinds.div_ceil(backups);
        let mut done = 0;
        for round in 1..=backups {
            if self.summarizes && round > backups / 2 {
                self.site.postgres.set("summarize_wal", "off");
                self.summarizes = false;
            }
            for _ in 0..together {
                let (name, change) = KINDS[(done % kinds) as usize];
                eprintln!("{round}: {name}");
                change(&mut self, done);
                done += 1;
            }
            self.update_some();
            self.backup(round);
        }
        assert!(done >= kinds, "{done} of {kinds} kinds of change were made");
        for taken in &self.taken {
            self.restores(taken);
        }
        self.site.host.run(&["verify"]).succeeds();
    }

    fn update_some(&mut self) {
        let rows = 1 + self.random.below(300);
        self.sql(&format!(
            "update item set note = md5(note) where id in (select (random() * {ROWS})::int from generate_series(1, {rows}))"
        ));
    }

    fn backup(&mut self, round: u32) {
        let load = self.under_load.then(|| self.site.postgres.load(2, 200));
        let tested = round % TESTED == TESTED - 1;
        let mut arguments = match round {
            0 => vec!["--type=full"],
            _ if round.is_multiple_of(DIFF) => vec!["--type=diff"],
            _ => vec!["--type=incr"],
        };
        if tested {
            arguments.push("--delta-verify=0");
        }
        let summary = self.site.host.backup_with(&arguments);
        if let Some(load) = load {
            load.stop();
        }
        self.under_load = false;
        let unknown = std::mem::take(&mut self.promoted) && round > 0;
        let after_promotion = summary["chosen_by"] == "nothing" && round.is_multiple_of(DIFF);
        if round > 0 && !after_promotion {
            let told = if self.summarizes { "summaries" } else { "maps" };
            let expected = if tested || unknown { "nothing" } else { told };
            assert_eq!(summary["chosen_by"], expected, "backup {round}: {summary}");
        }
        assert_eq!(summary["pages_missed"], 0, "backup {round}: {summary}");
        self.taken.push(self.remember(&summary));
    }

    /// Writes down the present content of the cluster.
    fn remember(&self, summary: &Value) -> Taken {
        let label = summary["label"].as_str().expect("a label").to_owned();
        let postgres = &self.site.postgres;
        let dump = self.site.scratch.join(format!("{label}.sql"));
        fs::write(&dump, postgres.dump()).expect("writing a dump");
        let lsn = postgres.query("select pg_current_wal_lsn()");
        postgres.archive_everything();
        Taken { label, lsn, dump }
    }

    /// Restores a backup, lets PostgreSQL check it, and compares all content.
    fn restores(&self, taken: &Taken) {
        let label = &taken.label;
        let name = format!("restored-{label}");
        let spaces = self.site.scratch.folder(format!("spaces-{label}"));
        self.site.scratch.account().create_folder(&spaces);
        let mut restored = self.site.restore(
            &name,
            &[
                "--set",
                label,
                "--type=lsn",
                &format!("--target={}", taken.lsn),
                "--target-action=promote",
                "--write-manifest",
                &format!("--tablespace-map-all={}", spaces.display()),
            ],
        );
        restored.verify_backup();
        restored.start_promoted();
        let expected = fs::read_to_string(&taken.dump).expect("reading a dump");
        let dump = restored.dump();
        if dump != expected {
            let other = self.site.scratch.join(format!("{label}.other.sql"));
            fs::write(&other, dump).expect("writing a dump");
            panic!("{label} restores to {}, not {}", other.display(), taken.dump.display());
        }
        restored.check_all();
        restored.stop();
        fs::remove_dir_all(restored.data()).expect("the restored cluster is removed");
        fs::remove_dir_all(spaces).expect("its tablespaces are removed");
        fs::remove_file(&taken.dump).expect("the dump is removed");
    }

    /// The databases beside those that initdb makes.
    fn databases(&self) -> Vec<String> {
        let names = "select datname from pg_database where datname like 'more%' order by oid";
        self.site.postgres.query(names).lines().map(str::to_owned).collect()
    }
}

fn copy(story: &mut Story, time: u32) {
    let mut script = format!("create table copied{time} (a int, b text);\ncopy copied{time} from stdin;\n");
    for number in 0..2000 {
        script += &format!("{number}\tsome text {}\n", number * 7 % 1000);
    }
    script += "\\.\n";
    story.site.postgres.script(&script);
}

fn truncate(story: &mut Story, time: u32) {
    story.sql("truncate other");
    story.sql(&format!(
        "insert into other select * from item where id % 7 = {} limit 2000",
        time % 7
    ));
}

fn move_table(story: &mut Story, _: u32) {
    let at = story
        .site
        .postgres
        .query("select reltablespace = 0 from pg_class where relname = 'item'");
    let space = if at == "t" { "space" } else { "pg_default" };
    story.sql(&format!("alter table item set tablespace {space}"));
    story.sql(&format!("alter index item_pkey set tablespace {space}"));
}

/// A database of each strategy, the second with a table of its own.
fn create_database(story: &mut Story, time: u32) {
    let strategies: &[&str] = if story.major >= 15 {
        &["strategy wal_log", "strategy file_copy"]
    } else {
        &[""]
    };
    for (number, strategy) in strategies.iter().enumerate() {
        let name = format!("more{time}_{number}");
        story.sql(&format!("create database {name} {strategy}"));
        story.site.postgres.script(&format!(
            "\\connect {name}\ncreate table inside as select g as id, md5(g::text) as text from generate_series(1, 1000) g;\n"
        ));
    }
}

fn move_database(story: &mut Story, _: u32) {
    if let Some(name) = story.databases().first() {
        story.sql(&format!("alter database {name} set tablespace space"));
    }
}

fn drop_database(story: &mut Story, _: u32) {
    if let Some(name) = story.databases().first() {
        story.sql(&format!("drop database {name}"));
    }
}

fn large_objects(story: &mut Story, time: u32) {
    story.sql(&format!(
        "select lo_from_bytea(0, decode(repeat(md5('{time}' || g), 300), 'hex')) from generate_series(1, 20) g"
    ));
    story.sql("select lo_unlink(min(oid)) from pg_largeobject_metadata");
}

/// Kills the server with open transactions, and with relations that were made and dropped since the last checkpoint.
fn crash(story: &mut Story, time: u32) {
    story.sql(&format!("create table before{time} as select * from item limit 500"));
    story.sql(&format!("drop table before{time}"));
    let load = story.site.postgres.load(2, 500);
    story.update_some();
    load.stop();
    story.site.postgres.kill();
    story.site.postgres.start();
}

fn unlogged(story: &mut Story, time: u32) {
    story.sql(&format!(
        "create unlogged table quick{time} as select * from item limit 2000"
    ));
    story.sql(&format!("alter table quick{time} set logged"));
    story.sql(&format!(
        "create unlogged table lost{time} as select * from item limit 10"
    ));
    story.sql(&format!("drop table lost{time}"));
}

fn shrink(story: &mut Story, time: u32) {
    story.sql("delete from other where ctid >= '(10, 0)'");
    story.sql("vacuum (truncate) other");
    story.sql(&format!(
        "insert into other select * from item where id % 5 = {} limit 1500",
        time % 5
    ));
}

fn drop_tablespace(story: &mut Story, time: u32) {
    let name = format!("brief{time}");
    let folder = story.site.postgres.add_tablespace(&name);
    story.sql(&format!(
        "create table passing tablespace {name} as select * from item limit 100"
    ));
    story.sql("drop table passing");
    story.sql(&format!("drop tablespace {name}"));
    fs::remove_dir_all(folder).expect("the folder of the dropped tablespace");
    story.site.postgres.add_tablespace(&format!("stays{time}"));
    story.sql(&format!(
        "create table staying{time} tablespace stays{time} as select * from item limit 100"
    ));
}

/// A standby takes over, on a timeline and in a data directory of its own.
fn promote(story: &mut Story, time: u32) {
    let site = &mut story.site;
    let mut standby = site.postgres.standby(&site.scratch, &format!("pg-{time}"));
    standby.start();
    let written = site.postgres.query("select pg_current_wal_lsn()");
    wait_for("the standby to follow", LIMIT, || {
        standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
    site.postgres.archive_everything();
    site.postgres.stop();
    let line = |name: &str, postgres: &Postgres| match name {
        "pg1-path" => format!("{name}={}\n", postgres.data().display()),
        _ => format!("{name}={}\n", postgres.socket().display()),
    };
    for name in ["pg1-path", "pg1-socket-path"] {
        site.host
            .reconfigure(&line(name, &site.postgres), &line(name, &standby));
    }
    standby.query("select pg_promote()");
    fs::remove_dir_all(site.postgres.data()).expect("the old primary is removed");
    site.postgres = standby;
    run(site.host.command(&["check"])).succeeds();
    story.promoted = true;
}

//! `make demo`: a real PostgreSQL under load is backed up to two encrypted repositories, loses rows by mistake, and is
//! restored to the moment before. Each line says what is done, and what was seen.
//!
//! With `--keep` it leaves all of it running and says how to look around. It fails loudly, and then keeps its files.
#![allow(clippy::expect_used, reason = "a panic is how the demo fails, loudly")]

use std::time::{Duration, Instant};

use pgmesh_tests::{Host, Kind, Load, Node, Postgres, Scratch, wait_for};

fn main() {
    let keep = std::env::args().any(|argument| argument == "--keep");
    let began = Instant::now();
    let mut demo = Demo::set_up();
    let label = demo.back_up();
    let (moment, before) = demo.lose_rows();
    let restored = demo.restore_to(&moment, &before);
    demo.verify_and_show(&label);
    println!("\nall of it held, in {:.0} s", began.elapsed().as_secs_f64());
    if keep {
        demo.leave_running(restored);
    }
}

/// The actors. Dropped in this order: the servers end before their folder is removed.
struct Demo {
    load: Option<Load>,
    host: Host,
    postgres: Postgres,
    node: Node,
    scratch: Scratch,
}

fn doing(what: &str) {
    println!("* {what}");
}

fn saw(what: &str) {
    println!("  {what}");
}

impl Demo {
    fn set_up() -> Self {
        let scratch = Scratch::new("demo");
        doing("start a node with two encrypted repositories");
        let node = Node::builder(&scratch, "alpha").repository().repository().start();
        saw(&format!(
            "it listens on {} and keeps its files in {}",
            node.address(),
            node.home().display()
        ));

        doing("start a PostgreSQL and fill it");
        let postgres = Postgres::builder(&scratch, "primary").start();
        postgres.make_accounts(5);
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

        doing("invite the host of this PostgreSQL, join with the token, create the stanza, archive through pgmesh");
        let host = Host::set_up(&scratch, &node, &postgres, "main");
        saw(&format!("archive_command = '{}'", host.archive_command()));
        let load = postgres.load(2, 100);
        host.run(&["check"]).succeeds();
        saw(
            "`check` switched the WAL, and its segment arrived in both repositories, with pgbench running all the while",
        );
        Self {
            load: Some(load),
            host,
            postgres,
            node,
            scratch,
        }
    }

    fn back_up(&self) -> String {
        doing("take a full backup of the running cluster");
        let began = Instant::now();
        let label = self.host.backup();
        let chunks = [1, 2].map(|number| self.node.objects(number).all(Kind::Chunk).len());
        let seconds = began.elapsed().as_secs_f64();
        saw(&format!(
            "{label} in {seconds:.1} s: {} chunks in repo1, {} in repo2",
            chunks[0], chunks[1]
        ));
        label
    }

    /// Writes on, then deletes what should have stayed; the moment before, and what the table held then.
    fn lose_rows(&mut self) -> (String, String) {
        doing("write on after the backup, then delete rows by mistake");
        self.postgres
            .query("insert into invoice select number, 1, now() from generate_series(10001, 12000) as number");
        // A time chooses among the backups that ended before it, in whole seconds: so it must be a later one.
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

    fn restore_to(&self, moment: &str, before: &str) -> Postgres {
        doing("restore to the moment before the mistake, beside the running cluster");
        let began = Instant::now();
        let arguments = [
            "--type=time",
            "--target",
            moment,
            "--target-action=promote",
            "--write-manifest",
        ];
        let mut restored = self.host.restore(&self.scratch, "restored", &arguments);
        saw(&format!(
            "restored in {:.1} s; pg_verifybackup looks at it",
            began.elapsed().as_secs_f64()
        ));
        restored.verify_backup();
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

    fn verify_and_show(&mut self, label: &str) {
        if let Some(load) = self.load.take() {
            load.stop();
            saw("pgbench ran until now without an error");
        }
        doing("read and check every object of both repositories (verify)");
        let verify = self.host.run(&["verify"]).ok();
        saw(verify.text().lines().last().unwrap_or_default());
        doing("show what there is (info)");
        let info = self.host.run(&["info"]).ok();
        assert!(info.stdout.contains(label), "info does not show {label}");
        info.text().lines().for_each(saw);
    }

    fn leave_running(mut self, mut restored: Postgres) {
        let pgmesh = pgmesh_tests::pgmesh(self.scratch.path());
        let host = format!(
            "{} --config={} --stanza=main",
            pgmesh.display(),
            self.host.configuration().display()
        );
        let administrator = format!("{} --config={}", pgmesh.display(), self.node.configuration().display());
        println!("\nleft running. Look around:");
        println!("  {host} info");
        println!("  {host} backup --type=full");
        println!("  {administrator} info");
        println!(
            "  psql -h {} -U postgres postgres      # the original",
            self.postgres.socket().display()
        );
        println!(
            "  psql -h {} -U postgres postgres      # the restored one",
            restored.socket().display()
        );
        let processes = [
            self.node.process().id(),
            self.postgres.process_id().expect("it runs"),
            restored.process_id().expect("it runs"),
        ];
        let [node, original, copy] = processes;
        println!(
            "End it: kill -INT {original} {copy}; kill {node}; rm -rf {}",
            self.scratch.path().display()
        );
        self.node.keep();
        self.postgres.keep();
        restored.keep();
        self.scratch.keep();
    }
}

fn invoices(postgres: &Postgres) -> String {
    postgres.query("select count(*) || ' invoices over ' || sum(amount) from invoice")
}

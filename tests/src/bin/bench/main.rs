//! `make bench`: pgmesh beside Debian's pgbackrest, in one run on the same cluster: same codec and level, same cipher,
//! same number of workers, one posix repository each. Prints wall time, CPU, peak memory and stored bytes as ratios.
//!
//! Each round sets both up anew, with empty repositories; the two take turns in beginning. `BENCH_MIB` is the size of
//! the data (500), `BENCH_SEGMENTS` the number of WAL segments that are pushed one by one (16), `BENCH_WORKERS` the
//! numbers of workers (`1,2`), `BENCH_ROUNDS` the rounds of each (3). `make bench INCR=1` compares incremental backups
//! instead (`incremental.rs`), `make bench SCALE=1` measures the costs of a large mesh (`scale.rs`).
#![allow(clippy::expect_used, reason = "a panic is how a benchmark fails")]

mod contestant;
mod incremental;
mod measure;
mod pgbackrest;
mod pgmesh;
mod scale;
mod table;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use pgmesh_tests::{Postgres, Scratch, wait_for};

use contestant::Contestant;
use measure::Figures;
use pgbackrest::PgBackRest;
use pgmesh::PgMesh;
use table::Table;

/// The operations that each round measures.
const OPERATIONS: [&str; 3] = ["archive-push", "full backup", "full restore"];

/// Compresses between 2:1 and 3:1 with zst, as real tables do.
const DATASET: &str = include_str!("dataset.sql");

fn setting(name: &str, default: &str) -> Vec<u32> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let numbers = text.split(',').map(|number| number.trim().parse().ok());
    numbers
        .collect::<Option<_>>()
        .unwrap_or_else(|| panic!("{name}={text}: numbers with commas between are needed"))
}

fn main() {
    let number = |name, default| setting(name, default).into_iter().next().unwrap_or_default();
    if std::env::args().any(|argument| argument == "--scale") {
        return scale::run();
    }
    let scratch = Scratch::new("bench");
    if std::env::args().any(|argument| argument == "--incr") {
        incremental::run(&scratch);
        return;
    }
    let (mebibytes, rounds) = (number("BENCH_MIB", "500"), number("BENCH_ROUNDS", "3"));
    let postgres = make_cluster(&scratch, mebibytes, "");
    let segments = finished_segments(&postgres, number("BENCH_SEGMENTS", "16"));
    println!(
        "{mebibytes} MiB of tables, {} WAL segments, zst level 3, aes-256-cbc, {rounds} rounds\n",
        segments.len()
    );
    let mut table = Table::default();
    for workers in setting("BENCH_WORKERS", "1,2") {
        for round in 0..rounds {
            let name = format!("{workers}-{round}");
            let pairs = compete(&scratch, &postgres, &segments, &name, workers, round % 2 == 1);
            for (operation, pair) in OPERATIONS.iter().zip(pairs) {
                table.add(format!("{workers:<3} {operation}"), pair);
            }
        }
    }
    table.print();
}

/// One round: for each operation the figures of pgmesh and of pgbackrest.
fn compete(
    scratch: &Scratch,
    postgres: &Postgres,
    segments: &[PathBuf],
    name: &str,
    workers: u32,
    second_begins: bool,
) -> [[Figures; 2]; 3] {
    let contestants: [Box<dyn Contestant>; 2] = [
        Box::new(PgMesh::set_up(scratch, postgres, name, workers)),
        Box::new(PgBackRest::set_up(scratch, postgres, name, workers)),
    ];
    let in_turn = |operation: &mut dyn FnMut(usize, &dyn Contestant) -> Figures| {
        let mut pair = [Figures::default(); 2];
        let order = if second_begins { [1, 0] } else { [0, 1] };
        for index in order {
            pair[index] = operation(index, contestants[index].as_ref());
        }
        pair
    };
    let mut pushes = [Vec::new(), Vec::new()];
    for segment in segments {
        let pair = in_turn(&mut |_, contestant| contestant.push(segment));
        for (all, one) in pushes.iter_mut().zip(pair) {
            all.push(one);
        }
    }
    let pushes = pushes.map(|figures| figures.into_iter().sum::<Figures>());
    let pushes = [0, 1].map(|index| pushes[index].storing(contestants[index].repository().stored_bytes()));
    let backups = in_turn(&mut |_, contestant| {
        archive_through(postgres, &contestant.archive_command());
        let figures = backup(contestant, "full");
        postgres.archive_everything();
        postgres.set("archive_command", "");
        figures
    });
    let restores = in_turn(&mut |index, contestant| restore(scratch, postgres, contestant, &format!("{name}-{index}")));
    drop(contestants);
    // Not earlier: for some seconds after files were removed, ext4 is slow at making new ones.
    for folder in ["node", "pgbackrest"] {
        fs::remove_dir_all(scratch.join(format!("{folder}-{name}"))).ok();
    }
    for index in 0..2 {
        fs::remove_dir_all(Postgres::at(scratch, &format!("restored-{name}-{index}")).data()).ok();
    }
    [pushes, backups, restores]
}

/// Takes a backup; the figures include the bytes that it added to the repository.
fn backup(contestant: &dyn Contestant, kind: &str) -> Figures {
    let before = contestant.repository().stored_bytes();
    let figures = contestant.backup(kind);
    figures.storing(contestant.repository().stored_bytes() - before)
}

/// Restores from a repository that must be read from its disk, and checks that the restored rows are the original ones.
fn restore(scratch: &Scratch, postgres: &Postgres, contestant: &dyn Contestant, name: &str) -> Figures {
    let mut restored = Postgres::empty(scratch, &format!("restored-{name}"));
    contestant.repository().leave_page_cache();
    let figures = contestant.restore(&restored);
    restored.start_promoted();
    let count = |postgres: &Postgres| postgres.query("select count(*), sum(amount) from event");
    assert_eq!(
        count(&restored),
        count(postgres),
        "what was restored is not what was there"
    );
    restored.stop();
    figures
}

/// A cluster with the data set, whose WAL is kept for the pushes.
fn make_cluster(scratch: &Scratch, mebibytes: u32, archive_command: &str) -> Postgres {
    let postgres = Postgres::builder(scratch, "pg")
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "4GB")
        .setting("wal_keep_size", "4GB")
        .setting("maintenance_work_mem", "1GB")
        .setting("autovacuum", "off")
        .setting("archive_command", archive_command)
        .start();
    // Vacuumed now, so that no vacuum falls into a measurement.
    patiently(&postgres, &format!("\\set mib {mebibytes}\n{DATASET}\nvacuum event;\n"));
    postgres.query("checkpoint");
    postgres
}

/// Runs a script, however long it takes.
fn patiently(postgres: &Postgres, script: &str) {
    let mut command = postgres.program("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starting psql");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(script.as_bytes()).expect("writing to psql");
    drop(input);
    let status = child.wait().expect("waiting for psql");
    assert!(status.success(), "psql ended with {status}");
}

/// The oldest segments that are finished, copied so that PostgreSQL does not remove them.
fn finished_segments(postgres: &Postgres, count: u32) -> Vec<PathBuf> {
    let current = postgres.current_segment();
    let mut names: Vec<String> = fs::read_dir(postgres.data().join("pg_wal"))
        .expect("reading pg_wal")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.len() == 24 && *name < current)
        .collect();
    names.sort();
    names.truncate(count as usize);
    let folder = postgres.socket().join("segments");
    postgres.account().create_folder(&folder);
    let copy = |name: &String| {
        let content = fs::read(postgres.data().join("pg_wal").join(name)).expect("reading a segment");
        let path = folder.join(name);
        postgres.account().write(&path, content);
        path
    };
    names.iter().map(copy).collect()
}

/// Has PostgreSQL archive with a command, and waits until the archiver has caught up, so that the backup is measured
/// without the archiving of earlier segments.
fn archive_through(postgres: &Postgres, command: &str) {
    postgres.set("archive_command", command);
    postgres.query("select pg_switch_wal()");
    wait_for("the archive to catch up", std::time::Duration::from_secs(1200), || {
        let waiting = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
        postgres.query(waiting) == "0"
    });
}

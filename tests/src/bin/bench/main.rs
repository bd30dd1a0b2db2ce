//! `make bench`: pgmesh beside Debian's pgbackrest, in one run on the same cluster: same codec and level, same cipher,
//! same number of workers, one posix repository each. Prints wall time, CPU, peak memory and stored bytes as ratios.
//!
//! `BENCH_MIB` is the size of the data (500), `BENCH_SEGMENTS` how many WAL segments are pushed one by one (24),
//! `BENCH_WORKERS` the workers (2).
#![allow(clippy::expect_used, reason = "a panic is how a benchmark fails")]

mod contestant;
mod measure;
mod pgbackrest;
mod pgmesh;

use std::fs;
use std::path::PathBuf;

use pgmesh_tests::{Postgres, Scratch, run_with_input, wait_for};

use contestant::Contestant;
use measure::{Figures, Table};
use pgbackrest::PgBackRest;
use pgmesh::PgMesh;

/// Compresses between 2:1 and 3:1 with zst, as real tables do.
const DATASET: &str = include_str!("dataset.sql");

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn main() {
    let (mebibytes, workers) = (setting("BENCH_MIB", 500), setting("BENCH_WORKERS", 2));
    let scratch = Scratch::new("bench");
    let postgres = make_cluster(&scratch, mebibytes);
    let segments = finished_segments(&postgres, setting("BENCH_SEGMENTS", 24));
    println!(
        "{mebibytes} MiB of tables, {} WAL segments, zst level 3, aes-256-cbc, process-max {workers}\n",
        segments.len()
    );

    let contestants: [Box<dyn Contestant>; 2] = [
        Box::new(PgMesh::set_up(&scratch, &postgres, workers)),
        Box::new(PgBackRest::set_up(&scratch, &postgres, workers)),
    ];
    let mut table = Table::default();
    for contestant in contestants {
        let pushes: Figures = segments.iter().map(|segment| contestant.push(segment)).sum();
        table.add(
            "archive-push",
            contestant.name(),
            pushes.storing(contestant.stored_bytes()),
        );

        archive_through(&postgres, contestant.as_ref());
        let before = contestant.stored_bytes();
        let backup = contestant.backup();
        table.add(
            "full backup",
            contestant.name(),
            backup.storing(contestant.stored_bytes() - before),
        );
        postgres.archive_everything();

        let mut restored = Postgres::empty(&scratch, &format!("restored-{}", contestant.name()));
        let figures = contestant.restore(&restored);
        table.add("full restore", contestant.name(), figures);
        restored.start_promoted();
        let count = |postgres: &Postgres| postgres.query("select count(*), sum(amount) from event");
        assert_eq!(
            count(&restored),
            count(&postgres),
            "what {} restored is not what was there",
            contestant.name()
        );
        restored.stop();
        fs::remove_dir_all(restored.data()).expect("removing a restored cluster");
        postgres.set("archive_command", "");
    }
    table.print();
}

/// A cluster with the data set, whose WAL is kept for the pushes.
fn make_cluster(scratch: &Scratch, mebibytes: u32) -> Postgres {
    let postgres = Postgres::builder(scratch, "pg")
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "4GB")
        .setting("wal_keep_size", "4GB")
        .start();
    let mut command = postgres.program("psql");
    command.args([
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        &format!("mib={mebibytes}"),
        "-f",
        "-",
    ]);
    run_with_input(command, DATASET).succeeds();
    postgres.query("checkpoint");
    postgres
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

/// Has PostgreSQL archive through a contestant, and waits until it has caught up: a backup is not measured together with
/// the archiving of what came before.
fn archive_through(postgres: &Postgres, contestant: &dyn Contestant) {
    postgres.set("archive_command", &contestant.archive_command());
    postgres.archive_everything();
    wait_for("the archive to catch up", std::time::Duration::from_secs(300), || {
        let waiting = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
        postgres.query(waiting) == "0"
    });
}

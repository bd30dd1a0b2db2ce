//! `make bench INCR=1`: incremental backups beside pgbackrest's block incremental, on one cluster that both have backed
//! up and archived from the beginning.
//!
//! Rows with random ids are updated: 6,000, 60,000 and 600,000 of them (`BENCH_ROWS`), `BENCH_ROUNDS` times each (1).
//! The amount to store is found by comparing all pages of all relations before and after, and compressing the changed
//! ones. At the end `BENCH_ROW` (20) small incrementals are taken in a row, and a restore of the last is compared with
//! a restore of a full backup.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use pgmesh_tests::{Postgres, Scratch, files_below};

use crate::contestant::Contestant;
use crate::measure::Figures;
use crate::pgbackrest::PgBackRest;
use crate::pgmesh::PgMesh;
use crate::table::Table;
use crate::{archive_through, backup, make_cluster, patiently, restore, setting};

const PAGE: usize = 8192;
const WORKERS: u32 = 2;

/// Runs the benchmark and prints the figures.
pub fn run(scratch: &Scratch) {
    let number = |name, default| setting(name, default).into_iter().next().unwrap_or_default();
    let mebibytes = number("BENCH_MIB", "5120");
    let rounds = number("BENCH_ROUNDS", "1");
    println!("{mebibytes} MiB of tables, zst level 3, aes-256-cbc, process-max={WORKERS}\n");
    let postgres = make_cluster(scratch, mebibytes, "/bin/true");
    let mesh = PgMesh::set_up(scratch, &postgres, "incr", WORKERS);
    let other = PgBackRest::set_up(scratch, &postgres, "incr", WORKERS).with_blocks();
    let both = format!("{} && {}", mesh.archive_command(), other.archive_command());
    archive_through(&postgres, &both);
    let mut table = Table::default();
    let label = |what: &str| format!("{WORKERS:<3} {what}");
    table.add(label("full"), [backup(&mesh, "full"), backup(&other, "full")]);

    let rows = postgres.query("select count(*) from event");
    let mut pages = Pages::of(&postgres);
    for count in setting("BENCH_ROWS", "6000,60000,600000") {
        for round in 0..rounds {
            update(&postgres, count, &rows);
            let now = Pages::of(&postgres);
            let changed = now.changed_since(&pages);
            pages = now;
            archive_through(&postgres, &mesh.archive_command());
            archive_through(&postgres, &both);
            let contestants: [&dyn Contestant; 2] = [&mesh, &other];
            let mut pair = [Figures::default(); 2];
            let order = if round % 2 == 1 { [1, 0] } else { [0, 1] };
            for index in order {
                pair[index] = backup(contestants[index], "incr");
            }
            let summary = mesh.last_summary();
            let read = summary["read"].as_u64().unwrap_or_default() / PAGE as u64;
            println!(
                "{count} rows: {} pages changed, {:.1} MiB when compressed; pages read {read} ({:.2} of those changed, by {}), \
                 stored {:.1} MiB ({:.2} of what they take)",
                changed.pages,
                mebi(changed.compressed),
                ratio(read, changed.pages),
                summary["chosen_by"],
                mebi(pair[0].stored.unwrap_or_default()),
                ratio(pair[0].stored.unwrap_or_default(), changed.compressed),
            );
            let of_both = |figure: fn(&Figures) -> Duration| pair.each_ref().map(figure);
            let wall = of_both(|figures| figures.wall);
            let cpu = of_both(|figures| figures.user + figures.system);
            println!(
                "    {:.2?} and {:.2?} of wall time, {:.2?} and {:.2?} of CPU",
                wall[0], wall[1], cpu[0], cpu[1]
            );
            table.add(label(&format!("incr {count}")), pair);
        }
    }
    archive_through(&postgres, &mesh.archive_command());
    in_a_row(&postgres, &mesh, &rows, number("BENCH_ROW", "20"));
    archive_through(&postgres, &both);
    backup(&other, "incr");
    let of_last = restore(scratch, &postgres, &mesh, "last");
    let [fetched, bytes] = ["fetched", "bytes"].map(|name| mesh.last_summary()[name].as_u64().unwrap_or_default());
    fs::remove_dir_all(Postgres::at(scratch, "restored-last").data()).ok();
    let theirs = restore(scratch, &postgres, &other, "theirs");
    fs::remove_dir_all(Postgres::at(scratch, "restored-theirs").data()).ok();
    backup(&mesh, "full");
    let of_full = restore(scratch, &postgres, &mesh, "full");
    table.add(label("restore incr"), [of_last, theirs]);
    table.print();
    println!(
        "\nrestore of the last incr {:.1} s, of a full backup of the same {:.1} s: {:.2}; it fetched {:.2} times its size",
        of_last.wall.as_secs_f64(),
        of_full.wall.as_secs_f64(),
        of_last.wall.as_secs_f64() / of_full.wall.as_secs_f64(),
        ratio(fetched, bytes),
    );
    postgres.set("archive_command", "");
}

/// Takes small backups in a row; pgbackrest takes only the last of them.
fn in_a_row(postgres: &Postgres, mesh: &PgMesh, rows: &str, count: u32) {
    for _ in 0..count {
        update(postgres, 2000, rows);
        archive_through(postgres, &mesh.archive_command());
        mesh.backup("incr");
    }
}

fn update(postgres: &Postgres, count: u32, rows: &str) {
    patiently(
        postgres,
        &format!(
            "update event set amount = amount + 1, note = reverse(note) where id in \
             (select 1 + (random() * ({rows} - 1))::bigint from generate_series(1, {count}));"
        ),
    );
    postgres.query("checkpoint");
}

/// A checksum of each page of each file of a relation.
struct Pages(BTreeMap<PathBuf, Vec<u32>>);

/// The pages that have changed.
struct Changed {
    pages: u64,
    compressed: u64,
}

impl Pages {
    fn of(postgres: &Postgres) -> Self {
        let mut pages = BTreeMap::new();
        for path in files_below(&postgres.data().join("base")) {
            let content = fs::read(&path).expect("reading a relation");
            let sums = content.chunks(PAGE).map(crc32c::crc32c).collect();
            pages.insert(path, sums);
        }
        Self(pages)
    }

    /// The pages that have changed since `before`. The cluster must lie still and have written all its pages.
    fn changed_since(&self, before: &Self) -> Changed {
        let mut encoder = zstd::Encoder::new(Counter(0), 3).expect("a compressor");
        let mut pages = 0;
        for (path, sums) in &self.0 {
            let old = before.0.get(path).map_or(&[][..], Vec::as_slice);
            let differs = |number: &usize| sums.get(*number) != old.get(*number);
            let differing: Vec<usize> = (0..sums.len()).filter(differs).collect();
            if differing.is_empty() {
                continue;
            }
            let content = fs::read(path).expect("reading a relation");
            for number in differing {
                pages += 1;
                let page = content.chunks(PAGE).nth(number).unwrap_or_default();
                encoder.write_all(page).expect("compressing a page");
            }
        }
        let compressed = encoder.finish().expect("compressing pages").0;
        Changed { pages, compressed }
    }
}

/// Counts the bytes that are written to it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people, of three digits")]
fn mebi(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people, of three digits")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other.max(1) as f64
}

//! `make bench SCALE=1`: the cost of each row, each push and each object in a mesh, and the needs of a large mesh that
//! follow from them.
//!
//! The unit costs are measured on catalogs that have rows of one kind only. The same commands then fill a catalog of a
//! hundredth of the large mesh, whose size is compared with the sum of the unit costs.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pgmesh_tests::{MeshSite, Site, WalForge};
use serde_json::Value;

use crate::setting;

const LIMIT: Duration = Duration::from_secs(600);

/// The number of rows of each kind in a catalog.
#[derive(Clone, Copy, Debug, Default)]
struct Rows {
    stanzas: u64,
    wal_files: u64,
    chunks: u64,
    backups: u64,
}

/// The large mesh: one segment a second in all, of which 30 days are kept, and 30 backups of each stanza.
const LARGE: Rows = Rows {
    stanzas: 10_000,
    wal_files: 30 * 86_400,
    chunks: 100_000_000,
    backups: 300_000,
};

impl Rows {
    fn divided(self, by: u64) -> Self {
        Self {
            stanzas: self.stanzas / by,
            wal_files: self.wal_files / by,
            chunks: self.chunks / by,
            backups: self.backups / by,
        }
    }
}

/// Bytes in the tables of the catalog, and in its log, for one row of each kind.
#[derive(Debug, Default)]
struct Costs {
    stanza: [f64; 2],
    wal_file: [f64; 2],
    chunk: [f64; 2],
    backup: [f64; 2],
}

impl Costs {
    /// The bytes in tables and log of a catalog with these rows.
    fn of(&self, rows: Rows) -> [f64; 2] {
        let cost = |which: usize| {
            self.stanza[which] * count(rows.stanzas)
                + self.wal_file[which] * count(rows.wal_files)
                + self.chunk[which] * count(rows.chunks)
                + self.backup[which] * count(rows.backups)
        };
        [cost(0), cost(1)]
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for readers")]
fn count(number: u64) -> f64 {
    number as f64
}

/// Runs the benchmark and prints the figures.
pub fn run() {
    let by = u64::from(setting("BENCH_SCALE", "100").first().copied().unwrap_or(100)).max(1);
    let costs = unit_costs(by);
    let plan = LARGE.divided(by);
    let (bytes, filled) = catalog_of(plan);
    let model = costs.of(plan);
    println!("\n1/{by} of the large mesh: {plan:?}");
    compare("catalog, MB", model[0] / 1e6, count(bytes[0]) / 1e6);
    compare("log, MB", model[1] / 1e6, count(bytes[1]) / 1e6);
    serve(filled);
    traffic();
    repair();
    let [tables, log] = costs.of(LARGE);
    println!("\nthe large mesh: {LARGE:?}");
    println!(
        "catalog of each node: {:.1} GB; its rows were {:.1} GB of log",
        tables / 1e9,
        log / 1e9
    );
}

fn compare(what: &str, model: f64, measured: f64) {
    println!(
        "{what}: {model:.1} by the unit costs, {measured:.1} measured ({:+.0} %)",
        100.0 * (model / measured - 1.0)
    );
}

/// The costs of one row of each kind: a catalog with rows of that kind, less an empty catalog.
fn unit_costs(by: u64) -> Costs {
    let (empty, _) = catalog_of(Rows::default());
    let rows = LARGE.divided(by);
    let mut costs = Costs::default();
    // A WAL file and a backup belong to a stanza, a chunk comes with a backup, and a backup needs a WAL file.
    let one = Rows {
        stanzas: 1,
        wal_files: 1,
        ..Rows::default()
    };
    let kinds: [(&str, Rows, u64, &mut [f64; 2]); 4] = [
        (
            "stanza",
            Rows {
                stanzas: rows.stanzas * 10,
                wal_files: 0,
                ..one
            },
            rows.stanzas * 10,
            &mut costs.stanza,
        ),
        (
            "WAL file and change map",
            Rows {
                wal_files: rows.wal_files,
                ..one
            },
            rows.wal_files,
            &mut costs.wal_file,
        ),
        (
            "chunk",
            Rows {
                chunks: rows.chunks / 4,
                backups: 1,
                ..one
            },
            rows.chunks / 4,
            &mut costs.chunk,
        ),
        (
            "backup",
            Rows {
                backups: rows.backups,
                ..one
            },
            rows.backups,
            &mut costs.backup,
        ),
    ];
    for (name, rows, of, cost) in kinds {
        let (bytes, _) = catalog_of(rows);
        *cost = [0, 1].map(|which| count(bytes[which].saturating_sub(empty[which])) / count(of.max(1)));
        println!("a {name}: {:.0} bytes of tables, {:.0} bytes of log", cost[0], cost[1]);
    }
    costs
}

/// Fills the catalog of a new node. Returns the bytes of its tables and of the commands in its log, and the site with
/// the node stopped.
fn catalog_of(rows: Rows) -> ([u64; 2], Site) {
    let mut site = Site::without_archiving("scale", 2, 16);
    site.node.stop();
    let catalog = site.node.data().join("catalog");
    let mut log = 0;
    if rows.stanzas > 0 {
        let began = Instant::now();
        let mut fill = Command::new(fill_catalog());
        fill.arg(&catalog);
        fill.args([rows.stanzas, rows.wal_files, rows.chunks, rows.backups].map(|number| number.to_string()));
        let output = fill.output().expect("running fill_catalog");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "fill_catalog: {said}");
        let said: Value = serde_json::from_slice(&output.stdout).expect("the JSON of fill_catalog");
        let commands = said["commands"].as_object().expect("commands");
        log = commands.values().filter_map(|command| command["bytes"].as_u64()).sum();
        println!("  filled {rows:?} in {:.0} s", began.elapsed().as_secs_f64());
    }
    // Opened and closed once more, so that the rows in memory get into table files.
    site.node.start();
    site.node.stop();
    ([folder_bytes(&catalog.join("state")), log], site)
}

/// The program of the example `fill_catalog`, which is built beside the other programs.
fn fill_catalog() -> PathBuf {
    let own = std::env::current_exe().expect("this program's path");
    own.parent().expect("its folder").join("examples/fill_catalog")
}

/// Bytes of the files in a folder. Snapshot and tables share files, which count once.
fn folder_bytes(folder: &Path) -> u64 {
    let mut files = std::collections::BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("reading a folder").flatten() {
            let meta = entry.metadata().expect("the size of a file");
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                files.insert(meta.ino(), meta.len());
            }
        }
    }
    files.values().sum()
}

/// Compares the needs of a node with the filled catalog with those of an empty one.
fn serve(mut filled: Site) {
    let began = Instant::now();
    filled.node.start();
    println!("start of the node: {:.2} s", began.elapsed().as_secs_f64());
    let empty = Site::without_archiving("empty", 2, 16);
    let sites = [&empty, &filled];
    let forges = sites.map(|site| WalForge::new(&site.postgres));
    let mut times = [Vec::new(), Vec::new()];
    for number in 1..=40 {
        for which in [number % 2, (number + 1) % 2] {
            let file = forges[which].make(u32::try_from(number).unwrap_or_default());
            let began = Instant::now();
            sites[which].host.push(&file).succeeds();
            times[which].push(began.elapsed());
            fs::remove_file(file).ok();
        }
    }
    let [empty_push, push] = times.map(median);
    println!(
        "push of a segment: {} ms, {} ms with an empty catalog ({:.2}x)",
        push.as_millis(),
        empty_push.as_millis(),
        push.as_secs_f64() / empty_push.as_secs_f64()
    );
    let info = |site: &Site, stanza: &str| {
        let times = (0..21).map(|_| {
            let began = Instant::now();
            let asked = site.node.run(&[&format!("--stanza={stanza}"), "--output=json", "info"]);
            asked.succeeds();
            began.elapsed()
        });
        median(times.collect()).as_millis()
    };
    println!(
        "info of one stanza: {} ms, {} ms with an empty catalog",
        info(&filled, "cluster-00001"),
        info(&empty, "main")
    );
    println!(
        "memory of the node at most: {} MiB",
        filled.node.process().peak_memory() >> 20
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Bytes that the loopback interface has carried.
fn carried() -> u64 {
    let text = fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes").expect("the counters of lo");
    text.trim().parse().expect("a number")
}

/// Measures the network traffic of consensus in a mesh of three: without any work, and for files with few bytes of
/// their own.
fn traffic() {
    const FILES: u32 = 100;
    let site = MeshSite::without_archiving("traffic", |mesh| mesh.nodes(3).repositories(2));
    site.mesh.wait_until_settled();
    let idle = {
        let (before, began) = (carried(), Instant::now());
        std::thread::sleep(Duration::from_secs(20));
        count(carried() - before) / began.elapsed().as_secs_f64()
    };
    println!("three nodes that have nothing to do: {:.1} kB/s in all", idle / 1e3);
    let forge = WalForge::new(&site.postgres);
    let (before, began) = (carried(), Instant::now());
    for number in 1..=FILES {
        let name = format!("00000001000000000000{number:04X}.00000028.backup");
        let file = forge.write(&name, b"START WAL LOCATION: 0/100028 (file 000000010000000000000001)\n");
        site.host.push(&file).succeeds();
    }
    let bytes = count(carried() - before) - idle * began.elapsed().as_secs_f64();
    println!(
        "a push in a mesh of three, without the file: {:.1} kB",
        bytes / f64::from(FILES) / 1e3
    );
}

/// Measures how fast a lost repository is filled again.
fn repair() {
    let site = Site::new("repair", 2);
    site.postgres.make_accounts(20);
    site.host.backup();
    site.wait_until_settled(LIMIT);
    let (bytes, objects) = (site.node.objects(2).stored_bytes(), objects(&site));
    fs::remove_dir_all(site.node.home().join("repo2")).expect("removing the repository");
    let began = Instant::now();
    site.node.run(&["--repo=2", "repo-replace"]).succeeds();
    site.node.run(&["--repo=2", "repo-sync"]).succeeds();
    site.wait_until_settled(LIMIT);
    let took = began.elapsed().as_secs_f64();
    let mut text = String::new();
    write!(
        text,
        "a lost repository: {objects} objects, {:.0} MB in {took:.1} s: ",
        count(bytes) / 1e6
    )
    .ok();
    write!(
        text,
        "{:.0} objects/s, {:.0} MB/s",
        count(objects) / took,
        count(bytes) / took / 1e6
    )
    .ok();
    println!("{text}");
}

fn objects(site: &Site) -> u64 {
    use pgmesh_tests::Kind;
    let repository = site.node.objects(2);
    let kinds = [Kind::Chunk, Kind::Manifest];
    let chunks: usize = kinds.into_iter().map(|kind| repository.all(kind).len()).sum();
    u64::try_from(chunks + repository.segments().len()).unwrap_or(u64::MAX)
}

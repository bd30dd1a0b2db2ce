//! diff and incr: they store the changes and no more, and each restores by itself.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pgmesh_tests::{Postgres, Site, files_below, run};
use serde_json::Value;

fn number(summary: &Value, key: &str) -> u64 {
    summary[key].as_u64().unwrap_or_else(|| panic!("no {key} in {summary}"))
}

fn label(summary: &Value) -> &str {
    summary["label"].as_str().expect("a label")
}

/// Restores a backup, lets PostgreSQL judge it, and compares all content.
fn restores_to(site: &Site, label: &str, dump: &str) {
    let mut restored = site.restore(
        &format!("restored-{label}"),
        &[
            "--set",
            label,
            "--type=immediate",
            "--target-action=promote",
            "--write-manifest",
        ],
    );
    restored.verify_backup();
    restored.start_promoted();
    assert!(restored.dump() == dump, "{label} restores to other content");
    restored.check_all();
    restored.stop();
    fs::remove_dir_all(restored.data()).expect("the restored cluster is removed");
}

/// A table with so many rows, each of about 100 bytes plus 32 bytes for each of `repeats`.
fn make_items(postgres: &Postgres, rows: u32, repeats: u32) {
    postgres.query(&format!(
        "create table item as select g as id, md5(g::text) || md5((g * 7)::text) as note, \
         repeat(md5((-g)::text), {repeats}) as body from generate_series(1, {rows}) g"
    ));
    postgres.query("alter table item add primary key (id)");
}

fn update_some(postgres: &Postgres, rows: u32) {
    postgres.query(&format!(
        "update item set note = note || 'x' where id in (select (random() * 40000)::int from generate_series(1, {rows}))"
    ));
}

#[test]
fn each_backup_stores_what_changed_and_restores_alone() {
    let site = Site::new("delta", 2);
    let postgres = &site.postgres;
    make_items(postgres, 4_0000, 12);
    postgres.query("vacuum analyze item");
    let full = site.host.backup_with(&[]);
    assert_eq!(full["type"], "full", "there is nothing to compare with");
    let mut dumps = vec![(label(&full).to_owned(), postgres.dump())];

    // No row has changed.
    let idle = site.host.backup_with(&["--type=incr"]);
    assert_eq!((&idle["type"], &idle["prior"]), (&"incr".into(), &full["label"]));
    assert!(number(&idle, "new_size") < 2 << 20, "{idle}");
    dumps.push((label(&idle).to_owned(), postgres.dump()));

    update_some(postgres, 20);
    postgres.query("checkpoint");
    let few = site.host.backup_with(&["--type=incr"]);
    let pages = number(&few, "pages_changed");
    assert!((20..300).contains(&pages), "{few}");
    assert!(number(&few, "new_size") < pages * 8192 + (1 << 20), "{few}");
    dumps.push((label(&few).to_owned(), postgres.dump()));

    // Rewritten, truncated, extended, new and dropped relations.
    postgres.query("create table other as select * from item limit 3000");
    postgres.query("delete from item where id > 30000");
    postgres.query("vacuum item");
    postgres.query("create database second");
    update_some(postgres, 2000);
    let diff = site.host.backup_with(&["--type=diff"]);
    assert_eq!((&diff["type"], &diff["prior"]), (&"diff".into(), &full["label"]));
    dumps.push((label(&diff).to_owned(), postgres.dump()));
    postgres.query("vacuum full item");
    postgres.query("truncate other");
    postgres.query("drop database second");
    let last = site.host.backup_with(&["--type=incr"]);
    assert_eq!(last["prior"], diff["label"]);
    dumps.push((label(&last).to_owned(), postgres.dump()));

    for (label, dump) in &dumps {
        restores_to(&site, label, dump);
    }
    let info = site.host.info();
    let backups = info["backup"].as_array().expect("backups");
    let kinds: Vec<&str> = backups.iter().filter_map(|backup| backup["type"].as_str()).collect();
    assert_eq!(kinds, ["full", "incr", "incr", "diff", "incr"]);
    assert_eq!(backups[4]["prior"], diff["label"]);
    site.host.run(&["verify"]).succeeds();
}

/// A change that leaves no trace in WAL, size and time is found by a restore with `--delta`, and by a backup with
/// `delta-verify`.
#[test]
fn other_content_of_the_same_size_and_time_is_found_when_asked_for() {
    // As if PostgreSQL had written a relation without logging it in the WAL.
    const FILE: &str = "base/5/77777";
    let site = Site::new("same-time", 1);
    let file = site.postgres.data().join(FILE);
    let old = SystemTime::now() - Duration::from_secs(3600);
    let write = |content: &str| {
        fs::write(&file, content).expect("a file in the data directory");
        let opened = fs::File::options().write(true).open(&file).expect("the file");
        opened.set_modified(old).expect("its time");
    };
    let restored = |name: &str| {
        let restored = site.restore(name, &[]);
        fs::read_to_string(restored.data().join(FILE)).expect("the file is restored")
    };
    write("one");
    site.host.backup_with(&["--type=full"]);
    write("two");
    site.host.backup_with(&["--type=incr"]);
    assert_eq!(restored("by-wal"), "one", "nothing says that it changed");
    site.host.backup_with(&["--type=incr", "--delta"]);
    assert_eq!(restored("by-content"), "two");
    write("six");
    site.host.backup_with(&["--type=incr", "--delta-verify=0"]);
    assert_eq!(restored("by-age"), "six");
}

/// `restore --delta`: good pages stay, and for the damaged ones no more than themselves is fetched.
#[test]
fn a_delta_restore_fetches_what_is_damaged_and_ends_identical() {
    let site = Site::new("delta-restore", 1);
    let postgres = &site.postgres;
    make_items(postgres, 1_00000, 30);
    site.host.backup_with(&["--type=full"]);
    update_some(postgres, 500);
    site.host.backup_with(&["--type=incr"]);

    let pristine = site.restore("pristine", &["--type=none"]);
    let damaged = site.restore("damaged", &["--type=none"]);
    let harmed = harm(damaged.data());
    let restore = |arguments: &[&str]| {
        let mut all = vec!["--delta", "--type=none", "--output=json"];
        all.extend_from_slice(arguments);
        run(site.host.restore_command(&damaged, &all)).ok().json()
    };
    let summary = restore(&[]);
    let fetched = number(&summary, "fetched");
    assert!(
        fetched <= harmed.bytes * 13 / 10,
        "{} bytes were harmed: {summary}",
        harmed.bytes
    );
    assert!(number(&summary, "removed") >= harmed.strangers, "{summary}");
    assert_same(pristine.data(), damaged.data());

    // Size and time prove that a file is unchanged only with --force.
    let file = largest_file(damaged.data());
    let time = fs::metadata(&file).and_then(|found| found.modified()).expect("a time");
    let content = fs::read(&file).expect("a file");
    let mut other = content.clone();
    other[100_000] ^= 1;
    fs::write(&file, &other).expect("the file is written");
    let opened = fs::File::options().write(true).open(&file).expect("the file");
    opened.set_modified(time).expect("its time");
    restore(&["--force"]);
    assert!(fs::read(&file).expect("the file") == other, "its time was believed");
    restore(&[]);
    assert!(
        fs::read(&file).expect("the file") == content,
        "its content was compared"
    );
}

/// The harm to a data directory.
struct Harm {
    bytes: u64,
    strangers: u64,
}

/// Damages one page in a hundred, cuts, lengthens and removes files, and adds strange files.
fn harm(data: &Path) -> Harm {
    let mut harm = Harm { bytes: 0, strangers: 0 };
    let mut files: Vec<PathBuf> = files_below(data);
    files.retain(|path| {
        path.starts_with(data.join("base")) && fs::metadata(path).is_ok_and(|found| found.len() >= 8192)
    });
    files.sort();
    for (number, path) in files.iter().enumerate() {
        let mut content = fs::read(path).expect("a file");
        match number {
            3 => {
                harm.bytes += content.len() as u64;
                fs::remove_file(path).expect("it is removed");
                continue;
            }
            5 => {
                harm.bytes += 8192;
                content.truncate(content.len() - 5000);
            }
            7 => content.extend_from_slice(&[7; 30_000]),
            _ => {}
        }
        for page in (number % 100..content.len() / 8192).step_by(100) {
            content[page * 8192 + number % 8000] ^= 0x40;
            harm.bytes += 8192;
        }
        fs::write(path, content).expect("it is written");
    }
    for stranger in ["base/1/99999", "stranger.txt", "pg_xact/FFFF"] {
        fs::write(data.join(stranger), "strange").expect("a stranger");
        harm.strangers += 1;
    }
    harm
}

fn largest_file(data: &Path) -> PathBuf {
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    files_below(data).into_iter().max_by_key(size).expect("files")
}

fn assert_same(one: &Path, other: &Path) {
    let relative = |root: &Path| {
        let strip = |path: PathBuf| path.strip_prefix(root).expect("below the root").to_owned();
        let files: BTreeSet<PathBuf> = files_below(root).into_iter().map(strip).collect();
        files
    };
    assert_eq!(relative(one), relative(other));
    for path in relative(one) {
        // The time of the restore is in a comment there.
        if path != Path::new("postgresql.auto.conf") {
            let same = fs::read(one.join(&path)).expect("a file") == fs::read(other.join(&path)).expect("a file");
            assert!(same, "{} differs", path.display());
        }
    }
}

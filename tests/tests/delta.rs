//! diff and incr: they store what changed and nothing more, and each restores by itself.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::{Duration, SystemTime};

use pgmesh_tests::{Postgres, Site};
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

fn update_some(postgres: &Postgres, rows: u32) {
    postgres.query(&format!(
        "update item set note = note || 'x' where id in (select (random() * 40000)::int from generate_series(1, {rows}))"
    ));
}

#[test]
fn each_backup_stores_what_changed_and_restores_alone() {
    let site = Site::new("delta", 2);
    let postgres = &site.postgres;
    postgres.query(
        "create table item as select g as id, md5(g::text) || md5((g * 7)::text) as note, repeat(md5((-g)::text), 12) as body \
         from generate_series(1, 40000) g",
    );
    postgres.query("alter table item add primary key (id)");
    postgres.query("vacuum analyze item");
    let full = site.host.backup_with(&[]);
    assert_eq!(full["type"], "full", "there is nothing to compare with");
    let mut dumps = vec![(label(&full).to_owned(), postgres.dump())];

    // Nothing happened.
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

/// What sizes and times do not tell, `--delta` finds, and so does a backup after `delta-verify`.
#[test]
fn other_content_of_the_same_size_and_time_is_found_when_asked_for() {
    let site = Site::new("same-time", 1);
    let file = site.postgres.data().join("note.txt");
    let old = SystemTime::now() - Duration::from_secs(3600);
    let write = |content: &str| {
        fs::write(&file, content).expect("a file in the data directory");
        let opened = fs::File::options().write(true).open(&file).expect("the file");
        opened.set_modified(old).expect("its time");
    };
    let restored = |name: &str| {
        let restored = site.restore(name, &[]);
        fs::read_to_string(restored.data().join("note.txt")).expect("the file is restored")
    };
    write("one");
    site.host.backup_with(&["--type=full"]);
    write("two");
    site.host.backup_with(&["--type=incr"]);
    assert_eq!(restored("by-time"), "one", "that is what sizes and times are worth");
    site.host.backup_with(&["--type=incr", "--delta"]);
    assert_eq!(restored("by-content"), "two");
    write("six");
    site.host.backup_with(&["--type=incr", "--delta-verify=0"]);
    assert_eq!(restored("by-age"), "six");
}

//! Incremental backups without an end: each is compared with the one before, no command makes a new full backup, and no
//! command that reads backups gets slower or larger for it.
//!
//! Every run takes a few; `PGMESH_CHAIN=600` takes as many.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use pgmesh_tests::{Site, number_from_environment};

/// The number of references that `info` names for each backup if it shows all backups.
const REFERENCES: usize = 64;

/// Prints the size and the duration of `info`.
fn tell_info(site: &Site, number: usize) {
    let began = Instant::now();
    let shown = site.host.run(&["info", "--output=json"]).ok();
    let took = began.elapsed();
    println!("after {number}: info has {} bytes, in {took:?}", shown.text().len());
}

#[test]
fn incrementals_in_a_row_stay_usable() {
    let count = usize::try_from(number_from_environment("PGMESH_CHAIN", 6)).expect("a number");
    let site = Site::with_postgres("chain", 1, |postgres| postgres.segment_mebibytes(1));
    let postgres = &site.postgres;
    postgres.query("create table step (number int primary key, text text)");
    let mut prior = site.host.backup_with(&["--type=full"])["label"].clone();
    let mut took = Vec::new();
    for number in 0..count {
        postgres.query(&format!("insert into step values ({number}, repeat('x', 500))"));
        let began = Instant::now();
        let backup = site.host.backup_with(&["--type=incr"]);
        took.push(began.elapsed());
        assert_eq!(
            (&backup["type"], &backup["prior"]),
            (&"incr".into(), &prior),
            "backup {number}"
        );
        prior = backup["label"].clone();
        if [100, 300].contains(&(number + 1)) {
            tell_info(&site, number + 1);
        }
    }
    tell_info(&site, count);

    // `info` shows all backups, and has as much to say about the last as about the first ones.
    let began = Instant::now();
    let info = site.host.info();
    let shown_in = began.elapsed();
    let backups = info["backup"].as_array().expect("backups");
    assert_eq!(backups.len(), count + 1);
    assert_eq!(info["status"]["code"], 0, "{}", info["status"]);
    let last = &backups[count];
    assert_eq!(last["label"], prior);
    assert_eq!(last["reference-total"], count);
    let named = last["reference"].as_array().expect("references");
    assert_eq!(named.len(), count.min(REFERENCES));
    assert_eq!(named.last(), Some(&backups[count - 1]["label"]));
    assert!(shown_in < Duration::from_secs(10), "info took {shown_in:?}");
    let set = format!("--set={}", prior.as_str().expect("a label"));
    let one = site.host.run(&["info", "--output=json", &set]).ok().json();
    assert_eq!(one[0]["backup"][0]["reference"].as_array().map(Vec::len), Some(count));
    let text = site.host.run(&["info"]).ok();
    let rest = if count > 1 {
        format!(", {} incr", count - 1)
    } else {
        String::new()
    };
    let line = format!("backup reference total: 1 full{rest}");
    let mut lines = text.text().lines();
    assert!(
        lines.any(|shown| shown.trim() == line),
        "no {line:?} in {}",
        text.text()
    );

    // A backup at the end of the row costs as much as a backup at its beginning.
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let part = (count / 4).max(1);
    let (early, late) = (median(&took[..part]), median(&took[count - part..]));
    println!("{count} incrementals: {early:?} each at first, {late:?} at the end; info in {shown_in:?}");
    assert!(
        late < early * 3 + Duration::from_secs(1),
        "{early:?} at first, {late:?} at the end"
    );

    // Commands that choose among the backups still work.
    site.host.run(&["check"]).succeeds();
    let doctor = site.node.run(&["doctor"]);
    assert!(doctor.text().contains(" 0 failed"), "{}", doctor.text());
    let diff = site.host.backup_with(&["--type=diff"]);
    assert_eq!(diff["prior"], backups[0]["label"]);
    assert_eq!(site.host.backup_with(&["--type=full"])["type"], "full");
    let dump = postgres.dump();
    let restored_by = |name: &str, arguments: &[&str]| {
        let mut restored = site.restore(name, arguments);
        restored.start_promoted();
        let content = restored.dump();
        restored.stop();
        content
    };
    postgres.archive_everything();
    assert!(
        restored_by("newest", &[]) == dump,
        "the newest restores to other content"
    );
    let middle = backups[count / 2]["label"].as_str().expect("a label");
    let set = format!("--set={middle}");
    let content = restored_by("middle", &[&set, "--type=immediate", "--target-action=promote"]);
    assert!(content.contains("step"), "{middle} restores to something else");
    site.host.run(&["verify"]).succeeds();
}

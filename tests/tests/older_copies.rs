//! A repository that comes back in an older state: the nodes notice it, and take it up when an administrator says so.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgmesh_tests::{Site, WalForge, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The number of the newest mark.
fn newest_mark(repository: &Path) -> Option<u64> {
    let marks = fs::read_dir(repository.join("pgmesh.mark")).ok()?;
    let names = marks.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let numbers = names.filter_map(|name| u64::from_str_radix(name.split('-').next()?, 16).ok());
    numbers.max()
}

fn wait_for_mark_after(repository: &Path, known: Option<u64>) -> u64 {
    wait_for("what was written to be marked", LIMIT, || {
        newest_mark(repository) > known
    });
    newest_mark(repository).expect("a mark")
}

/// Puts another folder in a repository's place. Returns the new place of the former folder.
fn put_in_place(repository: &Path, other: &Path) -> PathBuf {
    let free = |number: &u32| !repository.with_extension(format!("aside{number}")).exists();
    let number = (1..).find(free).expect("a free name");
    let aside = repository.with_extension(format!("aside{number}"));
    fs::rename(repository, &aside).expect("taking the repository away");
    fs::rename(other, repository).expect("putting another in its place");
    aside
}

fn wait_until_doctor_says(site: &Site, words: &str) {
    wait_for(&format!("the doctor to say {words:?}"), LIMIT, || {
        let doctor = site.node.run(&["doctor"]);
        doctor.code() != Some(0) && doctor.stdout.contains(words)
    });
}

#[test]
fn an_older_copy_is_not_served_until_it_is_taken_up() {
    let mut site = Site::without_archiving("older", 3, 1);
    let forge = WalForge::new(&site.postgres);
    let repository = site.node.repository(1).path.clone();
    site.host.push(&forge.make(1)).succeeds();
    site.wait_until_settled(LIMIT);
    let first = wait_for_mark_after(&repository, None);
    let copy = repository.with_extension("copy");
    let copied = Command::new("cp").arg("-a").args([&repository, &copy]).status();
    assert!(copied.expect("running cp").success());

    // After a restart the first write is marked at once; a restart alone raises no alarm.
    site.node.stop();
    site.node.start();
    site.wait_until_settled(LIMIT);
    site.host.push(&forge.make(2)).succeeds();
    wait_for_mark_after(&repository, Some(first));

    // The older copy is put in place while the node is down.
    site.node.stop();
    let newer = put_in_place(&repository, &copy);
    site.node.start();
    wait_until_doctor_says(&site, "an older copy of repo1");
    let doctor = site.node.run(&["doctor"]);
    assert!(doctor.stdout.contains("--repo=1 repo-replace"), "{doctor}");
    // The other repositories go on, and have the segments that this one lacks.
    site.host.push(&forge.make(3)).succeeds();
    let fetched = forge.path("fetched");
    site.host.get(&forge.name(2), &fetched).succeeds();
    assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(2));

    // The newer folder is put back while the node runs: it is used again without a command.
    let copy = put_in_place(&repository, &newer);
    site.wait_until_settled(LIMIT);
    site.host.run(&["verify"]).succeeds();

    // The older copy is put in place while the node runs.
    put_in_place(&repository, &copy);
    wait_until_doctor_says(&site, "an older copy of repo1");
    let taken = site.node.run(&["--repo=1", "repo-replace"]).ok();
    assert!(taken.stdout.contains("an older copy of repo1 is taken up"), "{taken}");
    site.wait_until_settled(LIMIT);
    for number in [1, 2, 3] {
        let _is_there = site.node.objects(1).segment(&forge.name(number));
    }
    site.host.run(&["verify"]).succeeds();
    site.node.stop();
    site.node.start();
    site.wait_until_settled(LIMIT);
}

#[test]
fn a_stanza_is_not_deleted_while_its_cluster_runs() {
    let mut site = Site::without_archiving("deleted", 1, 1);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    let pgdata = format!("--pg1-path={}", site.postgres.data().display());
    let delete = ["--stanza=main", "stanza-delete"];
    let delete_here = [delete[0], &pgdata, delete[1]];
    site.node.run(&delete).fails(&[38], &["may run", "pushed to"]);
    site.node.run(&delete_here).fails(&[38], &["PostgreSQL runs on"]);
    site.postgres.stop();
    site.node.run(&delete_here).fails(&[62], &["not stopped"]);
    // None of these refusals has stopped the node.
    site.host.push(&forge.make(2)).succeeds();
    site.node.run(&["--stanza=main", "stop"]).succeeds();
    site.node.run(&delete_here).succeeds();
}

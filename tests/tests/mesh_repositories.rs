//! Repositories of a mesh that are away, full, frozen or rotten: the others go on, and debts are paid.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::{
    Damage, Host, Kind, Ledger, Mesh, MeshSite, Postgres, Pushes, Scratch, SmallDisk, WalForge,
    number_from_environment, wait_for,
};

/// The time in which all debts must be paid.
const LIMIT: Duration = Duration::from_secs(90);

/// The number of objects that repository `number` owes, in `info`.
fn debt(host: &Host, number: u64) -> u64 {
    let info = host.info();
    let repositories = info["repo"].as_array().expect("repositories in info");
    let found = repositories.iter().find(|repo| repo["key"] == number);
    let found = found.unwrap_or_else(|| panic!("no repo{number} in {info}"));
    found["debt"]["objects"].as_u64().expect("a count of objects")
}

/// Waits until no repository owes an object, and asserts that each has the same objects as the first.
fn wait_until_all_have_all(site: &MeshSite) {
    for number in 1..=3 {
        wait_for(&format!("repo{number} to owe nothing"), LIMIT, || {
            debt(&site.host, number) == 0
        });
    }
    let segments = site.mesh.objects(1).segments();
    for number in [2, 3] {
        assert!(
            site.mesh.objects(number).segments() == segments,
            "repo{number} has other segments"
        );
    }
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_debt_goes_down_when_a_node_comes_back() {
    let mut site = MeshSite::without_archiving("debt", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.mesh.node_mut("gamma").kill();
    for number in 2..=11 {
        site.host.push(&forge.make(number)).succeeds();
    }
    wait_for("info to name ten debts of repo3", LIMIT, || debt(&site.host, 3) >= 10);
    assert_eq!(debt(&site.host, 1), 0);
    site.mesh.start_node("gamma");
    wait_until_all_have_all(&site);
}

#[test]
fn a_frozen_node_holds_nobody_up() {
    let pause = Duration::from_secs(number_from_environment("PGMESH_PAUSE_SECONDS", 8).into());
    let site = MeshSite::without_archiving("frozen", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    let mut span = None;
    let pushes = Pushes::during(&[&site.host, &site.host], &forge, |pushes| {
        pushes.wait_for_more(5);
        let frozen = Instant::now();
        site.mesh.node("gamma").pause();
        // The length of the pause is the subject of the test.
        thread::sleep(pause);
        let thawed = Instant::now();
        site.mesh.node("gamma").resume();
        pushes.wait_for_more(5);
        span = Some((frozen, thawed));
    });
    let (frozen, thawed) = span.expect("the story ran");
    let longest = pushes.longest_pause(frozen, thawed);
    println!(
        "frozen for {pause:?}: longest pause {longest:?}; pushes took {}",
        pushes.times(frozen, thawed)
    );
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    assert!(pushes.failed() <= 2, "{} pushes failed", pushes.failed());
    pushes.assert_all_are_there(&site.host, &forge);
    site.mesh.wait_until_whole();
    wait_until_all_have_all(&site);
}

#[test]
fn a_repository_that_vanishes_or_cannot_be_written_owes_until_it_is_back() {
    let site = MeshSite::without_archiving("vanished", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    let mut numbers = 1..;
    let mut push_some = |count: usize| {
        for number in numbers.by_ref().take(count) {
            site.host.push(&forge.make(number)).succeeds();
        }
    };
    push_some(2);
    let second = site.mesh.objects(2);
    second.take_away();
    push_some(5);
    wait_for("info to name the debts of repo2", LIMIT, || debt(&site.host, 2) >= 5);
    second.bring_back();
    wait_until_all_have_all(&site);

    // No folder of the repository takes a new name.
    let set_modes = |mode: u32| set_folder_modes(site.mesh.objects(3).path(), mode);
    set_modes(0o500);
    push_some(5);
    wait_for("info to name the debts of repo3", LIMIT, || debt(&site.host, 3) >= 5);
    set_modes(0o700);
    wait_until_all_have_all(&site);
}

/// Changes the permissions of a folder and all folders in it.
fn set_folder_modes(folder: &std::path::Path, mode: u32) {
    for entry in fs::read_dir(folder).expect("reading a folder").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            set_folder_modes(&entry.path(), mode);
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("changing the permissions of a folder");
}

#[test]
fn a_full_disk_on_one_node_stops_nobody() {
    let scratch = Scratch::new("full");
    let Some(_disk) = SmallDisk::mount(&scratch.join("small"), 8) else {
        println!("skipped: only root may mount a small file system");
        return;
    };
    let mut mesh = Mesh::builder(&scratch)
        .repository_at(2, scratch.join("small").join("repo2"))
        .start();
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    let host = mesh.host(&scratch, "host", ("eu", &["alpha"]), &postgres, "main");
    host.run(&["stanza-create"]).succeeds();
    let forge = WalForge::new(&postgres);
    for number in 1..=30 {
        host.push(&forge.make(number)).succeeds();
    }
    wait_for("info to name the debts of repo2", LIMIT, || debt(&host, 2) >= 5);
    let fetched = forge.path("fetched");
    for number in 1..=30 {
        host.get(&forge.name(number), &fetched).succeeds();
        assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(number));
    }
    host.run(&["check"]).refuses(&["repo2"]);
}

#[test]
fn what_rots_on_one_node_is_read_elsewhere_and_made_anew() {
    let site = MeshSite::new("rot", |mesh| mesh);
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    wait_until_all_have_all(&site);

    // On the node nearest to the host, whose repository is read first.
    let first = site.mesh.objects(1);
    let mut harmed = first.all(Kind::Chunk);
    harmed.truncate(Damage::ALL.len());
    harmed.extend(first.all(Kind::Segment).into_iter().take(1));
    for (damage, object) in Damage::ALL.iter().cycle().zip(&harmed) {
        damage.harm(object);
    }
    let mut restored = site.restore("again", &["--write-manifest"]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();

    // `verify` finds the damage that no restore has read, and all damaged objects are written anew, under new names.
    wait_for("the harmed replicas to be repaired", LIMIT, || {
        site.host.run(&["verify"]).code() == Some(0)
    });
    let whole = first.all(Kind::Chunk);
    for object in harmed.iter().filter(|object| object.kind() == Some(Kind::Chunk)) {
        assert!(
            whole
                .iter()
                .any(|other| other.name.starts_with(&object.name) && other.name != object.name),
            "{} has a new generation",
            object.name
        );
    }
}

//! Reads are spread over repositories by their throughput, and a repository without any is left out.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Faults, Ledger, MeshSite, Postgres, run};

const MEBIBYTE: u64 = 1 << 20;

/// The bytes so far from the repositories of alpha and beta to gamma, which asks them.
fn came(site: &mut MeshSite) -> [u64; 2] {
    let network = site.mesh.network();
    ["alpha", "beta"].map(|node| network.delivered_bytes(node, "gamma"))
}

/// Restores into a new cluster. Also returns the duration.
fn restore(site: &MeshSite, name: &str) -> (Postgres, Duration) {
    let target = Postgres::empty(&site.scratch, name);
    let arguments = ["--process-max=8", "--write-manifest"];
    let took = run(site.host.restore_command(&target, &arguments)).ok().elapsed;
    (target, took)
}

/// The same, with the bytes that came from each repository.
fn restore_counting(site: &mut MeshSite, name: &str) -> (Postgres, Duration, [u64; 2]) {
    let before = came(site);
    let (target, took) = restore(site, name);
    let after = came(site);
    let bytes = [after[0] - before[0], after[1] - before[1]];
    println!(
        "{name}: {:.1} s, {} MiB from repo1 (40 ms, 12 MiB/s), {} MiB from repo2 (5 ms, 6 MiB/s)",
        took.as_secs_f64(),
        bytes[0] / MEBIBYTE,
        bytes[1] / MEBIBYTE
    );
    (target, took, bytes)
}

/// The same with one repository taken away for good.
fn restore_without(site: &mut MeshSite, away: usize, name: &str) -> Duration {
    site.mesh.objects(away).take_away();
    let (_, took, bytes) = restore_counting(site, name);
    assert!(bytes[away - 1] < MEBIBYTE, "{bytes:?} bytes came");
    took
}

#[test]
fn a_restore_reads_from_a_far_and_a_near_repository_at_once() {
    // The host's node has no repository, so both repositories are behind links.
    let mut site = MeshSite::new("spread", |mesh| mesh.repositories(2).with_relays());
    site.mesh.network().partition(&["host"], &["alpha", "beta"]);
    site.postgres.make_noise(60);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add_some(&site.postgres, 3);
    site.host.backup();
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    let far = Faults::delayed(Duration::from_millis(20)).with_bandwidth(12 * MEBIBYTE);
    let near = Faults::delayed(Duration::from_micros(2500)).with_bandwidth(6 * MEBIBYTE);
    site.mesh.network().shape_both("gamma", "alpha", far);
    site.mesh.network().shape_both("gamma", "beta", near);
    let (mut both, together, [from_far, from_near]) = restore_counting(&mut site, "both");
    let near_alone = restore_without(&mut site, 1, "near");
    site.mesh.objects(1).bring_back();
    site.mesh.wait_until_settled();
    // The other repository is up, and the restore does not choose it.
    let before = came(&mut site);
    let target = Postgres::empty(&site.scratch, "far");
    let command = site.host.restore_command(&target, &["--process-max=8", "--repo=1"]);
    let far_alone = run(command).ok().elapsed;
    let after = came(&mut site);
    assert!(after[1] - before[1] < MEBIBYTE, "{before:?} and {after:?} bytes came");
    println!(
        "both took {:.2} of the better one alone",
        together.as_secs_f64() / far_alone.min(near_alone).as_secs_f64()
    );
    // A benchmark judges how much faster that is. The bytes prove that the restore used both repositories.
    let all = from_far + from_near;
    assert!(
        from_far > all / 8 && from_near > all / 8,
        "{from_far} and {from_near} bytes"
    );
    both.verify_backup();
    both.start_promoted();
    Ledger::assert_ends_with(&both, last.number, "the end");
    both.check_all();
}

#[test]
fn a_restore_hardly_feels_a_silent_repository() {
    let mut site = MeshSite::new("felt", |mesh| mesh.with_relays());
    site.postgres.make_noise(30);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add_some(&site.postgres, 3);
    site.host.backup();
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    let (_, before) = restore(&site, "before");
    // Not the leader, so that only the repository is missing.
    let silent = site.mesh.follower();
    let names = site.mesh.names();
    let mut others: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != silent)
        .collect();
    others.push("host");
    site.mesh.network().partition(&[&silent], &others);
    let (mut during, with_silence) = restore(&site, "during");
    println!(
        "a restore took {:.1} s, and {:.1} s with {silent} silent: {:.2} times as long",
        before.as_secs_f64(),
        with_silence.as_secs_f64(),
        with_silence.as_secs_f64() / before.as_secs_f64()
    );
    assert!(with_silence < before * 4 + Duration::from_secs(10), "{with_silence:?}");
    during.verify_backup();
    during.start_promoted();
    Ledger::assert_ends_with(&during, last.number, "the end");
    during.check_all();
}

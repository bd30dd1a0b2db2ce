//! A node dies in the middle of a backup or a restore: another takes its place, and the work goes on from there.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use pgmesh_tests::{Faults, Kind, Ledger, MeshSite, Postgres, Process, run, wait_for};

const MEBIBYTE: u64 = 1 << 20;

/// The amount of work that is done when the node dies.
const BEGUN: u64 = 6 * MEBIBYTE;

/// The amount of work that is done when a backup is killed whose chunks are to be known afterwards.
const MUCH: u64 = 28 * MEBIBYTE;

/// The bytes that may be sent again, beside the work that is lost with the node: handshakes, and chunks under way.
const SLACK: u64 = 16 * MEBIBYTE;

/// The time that the rest of the work may take.
const LIMIT: Duration = Duration::from_secs(100);

/// A cluster with tens of megabytes that do not compress well. Its host has 16 MiB a second to each node: time enough
/// to be interrupted.
fn site(name: &str) -> (MeshSite, Ledger) {
    let mut site = MeshSite::new(name, |mesh| mesh.with_relays().option("backup-ack", "2"));
    site.postgres.make_noise(45);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    let link = Faults::none().with_bandwidth(16 * MEBIBYTE);
    for node in site.mesh.names() {
        site.mesh.network().shape_both("host", &node, link);
    }
    (site, ledger)
}

/// The bytes that passed between the host and each node, `from_host` or to it.
fn passed(site: &mut MeshSite, from_host: bool) -> Vec<(String, u64)> {
    let names = site.mesh.names();
    let network = site.mesh.network();
    let between = |node: &str| {
        if from_host {
            network.delivered_bytes("host", node)
        } else {
            network.delivered_bytes(node, "host")
        }
    };
    names.iter().map(|name| (name.clone(), between(name))).collect()
}

/// Waits until the work has begun, kills the node that does most of it, and waits until the same process has ended.
/// Returns the node, and the bytes that passed in all.
fn kill_the_node_in_use(site: &mut MeshSite, work: &mut Process, from_host: bool) -> (String, u64) {
    let before = passed(site, from_host);
    let mut in_use = String::new();
    wait_for("the work to begin", LIMIT, || {
        assert!(
            work.ended().is_none(),
            "it was over before the node was killed:\n{}",
            work.log()
        );
        let now = passed(site, from_host);
        let busy = now
            .iter()
            .zip(&before)
            .find(|((_, now), (_, before))| now - before > BEGUN);
        busy.is_some_and(|((name, _), _)| {
            in_use.clone_from(name);
            true
        })
    });
    println!("{in_use} is in use, and is killed");
    site.mesh.node_mut(&in_use).kill();
    let status = work.wait(LIMIT);
    assert!(status.success(), "it ended with {status}:\n{}", work.log());
    let after = passed(site, from_host);
    let in_all = after
        .iter()
        .zip(&before)
        .map(|((_, now), (_, before))| now - before)
        .sum();
    (in_use, in_all)
}

#[test]
fn a_backup_goes_on_when_its_node_dies() {
    let (mut site, mut ledger) = site("backup");
    let command = site.host.command(&["backup", "--type=full", "--start-fast"]);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    let (dead, sent) = kill_the_node_in_use(&mut site, &mut backup, true);
    let number = 1 + site.mesh.names().iter().position(|name| *name == dead).expect("a node");
    let survivor = (1..=3).find(|other| *other != number).expect("two others");
    let stored = site.mesh.objects(survivor).stored_bytes();
    println!(
        "{} MiB were sent, {} MiB are stored",
        sent / MEBIBYTE,
        stored / MEBIBYTE
    );
    assert!(sent < stored + stored / 4 + SLACK, "what was there was sent again");

    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let mut restored = site.restore("again", &["--write-manifest"]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();

    // The dead node's repository gets the missing chunks.
    site.mesh.start_node(&dead);
    wait_for("the dead node's repository to be whole", LIMIT, || {
        let count = |number| site.mesh.objects(number).all(Kind::Chunk).len();
        count(number) == count(survivor)
    });
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

/// The chunks that a killed backup has stored are its stanza's, whichever node took them.
#[test]
fn a_killed_backup_is_finished_through_another_node() {
    let (mut site, mut ledger) = site("finish");
    let last = ledger.add(&site.postgres);
    let before = passed(&mut site, true);
    let sent = |site: &mut MeshSite| -> Vec<(String, u64)> {
        let now = passed(site, true).into_iter().zip(&before);
        now.map(|((name, now), (_, before))| (name, now - before)).collect()
    };
    let arguments = ["backup", "--type=full", "--start-fast"];
    let command = site.host.command(&arguments);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    let mut in_use = String::new();
    wait_for("much of the work to be done", LIMIT, || {
        assert!(backup.ended().is_none(), "it was over:\n{}", backup.log());
        let busy = sent(&mut site).into_iter().find(|(_, bytes)| *bytes > MUCH);
        busy.is_some_and(|(name, _)| {
            in_use = name;
            true
        })
    });
    backup.kill();
    println!("the backup through {in_use} is killed, and the node as well");
    site.mesh.node_mut(&in_use).kill();
    let sum = |site: &mut MeshSite| sent(site).iter().map(|(_, bytes)| bytes).sum::<u64>();
    let first = sum(&mut site);
    wait_for("the next backup to be let in", LIMIT, || {
        let next = site.host.run(&arguments);
        if next.code() != Some(50) {
            next.clone().succeeds();
        }
        next.code() == Some(0)
    });
    let second = sum(&mut site) - first;
    let number = 1 + site
        .mesh
        .names()
        .iter()
        .position(|name| *name == in_use)
        .expect("a node");
    let survivor = (1..=3).find(|other| *other != number).expect("two others");
    let stored = site.mesh.objects(survivor).stored_bytes();
    println!(
        "{} and {} MiB were sent, {} MiB are stored",
        first / MEBIBYTE,
        second / MEBIBYTE,
        stored / MEBIBYTE
    );
    // Chunks that were under way when it was killed are sent again: 16 at most.
    assert!(second + MUCH - 20 * MEBIBYTE < stored, "what was there was sent again");
    site.postgres.archive_everything();
    let mut restored = site.restore("again", &["--write-manifest"]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}

#[test]
fn a_restore_goes_on_when_its_node_dies() {
    let (mut site, mut ledger) = site("restore");
    site.host.backup();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let mut target = Postgres::empty(&site.scratch, "again");
    let command = site.host.restore_command(&target, &["--write-manifest"]);
    let mut restore = Process::start("a restore", command, &site.scratch.join("restore.log"));
    let (_, received) = kill_the_node_in_use(&mut site, &mut restore, false);
    let stored = site.mesh.objects(1).stored_bytes();
    println!("{} MiB came, {} MiB are stored", received / MEBIBYTE, stored / MEBIBYTE);
    assert!(
        received < stored + stored / 4 + SLACK,
        "what was there was fetched again"
    );
    target.verify_backup();
    target.start_promoted();
    Ledger::assert_ends_with(&target, last.number, "the end");
    target.check_all();
}

/// A backup that has stored all files and waits for its WAL. PostgreSQL archives the WAL when the returned file is
/// removed.
fn waiting_backup(site: &MeshSite, name: &str) -> (Process, PathBuf) {
    let gate = site.scratch.join("gate");
    let command = format!("test ! -e {} && {}", gate.display(), site.host.archive_command());
    site.postgres.set("archive_command", &command);
    site.postgres.archive_everything();
    fs::write(&gate, b"").expect("closing the gate");
    let arguments = ["backup", "--type=full", "--start-fast", "--archive-timeout=10m"];
    let mut command = site.host.command(&arguments);
    command.arg("--log-level-console=info");
    let backup = Process::start("a backup", command, &site.scratch.join(name));
    wait_for("the backup to wait for its WAL", LIMIT, || {
        backup.log().contains("waiting for WAL")
    });
    (backup, gate)
}

/// The open sessions of clients, in the mesh's status.
fn client_sessions(site: &MeshSite) -> Vec<u64> {
    let status = site.mesh.run(&["status", "--output=json"]).ok().json();
    let sessions = status["sessions"].as_array().expect("sessions in status");
    let clients = sessions
        .iter()
        .filter(|session| session["kind"] == "backup" || session["kind"] == "restore");
    clients.filter_map(|session| session["id"].as_u64()).collect()
}

#[test]
fn a_backup_that_waits_lives_through_restarts_of_all_nodes_and_a_silent_leader() {
    let mut site = MeshSite::new("waiting", |mesh| mesh);
    let (mut backup, gate) = waiting_backup(&site, "backup.log");
    let session = client_sessions(&site);
    assert_eq!(session.len(), 1);
    for name in site.mesh.names() {
        site.mesh.node_mut(&name).stop();
        // Longer than any node waits for the lost holder of a session.
        thread::sleep(Duration::from_secs(12));
        site.mesh.start_node(&name);
        site.mesh.wait_until_whole();
        assert_eq!(client_sessions(&site), session, "after the restart of {name}");
    }
    let leader = site.mesh.leader();
    site.mesh.node(&leader).pause();
    thread::sleep(Duration::from_secs(12));
    site.mesh.node(&leader).resume();
    site.mesh.wait_until_whole();
    assert_eq!(client_sessions(&site), session);
    fs::remove_file(&gate).expect("opening the gate");
    let status = backup.wait(LIMIT);
    assert!(status.success(), "it ended with {status}:\n{}", backup.log());
    assert!(client_sessions(&site).is_empty());
}

#[test]
fn a_client_that_is_stopped_loses_its_session_and_is_told() {
    let site = MeshSite::new("stopped", |mesh| mesh.nodes(1));
    let (mut backup, gate) = waiting_backup(&site, "backup.log");
    backup.signal(rustix::process::Signal::STOP);
    wait_for("its session to end", Duration::from_secs(60), || {
        client_sessions(&site).is_empty()
    });
    fs::remove_file(&gate).expect("opening the gate");
    backup.signal(rustix::process::Signal::CONT);
    let status = backup.wait(LIMIT);
    assert_eq!(status.code(), Some(50), "{}", backup.log());
    assert!(backup.log().contains("did not come back"), "{}", backup.log());
    site.host.backup();
}

#[test]
fn stop_with_force_and_session_end_end_what_runs() {
    let site = MeshSite::new("ended", |mesh| mesh.nodes(1));
    for (by_force, log) in [(true, "forced.log"), (false, "ended.log")] {
        let (mut backup, gate) = waiting_backup(&site, log);
        let session = client_sessions(&site);
        if by_force {
            site.host.run(&["stop", "--force"]).succeeds();
            site.host.run(&["start"]).succeeds();
        } else {
            let session = session.first().expect("the backup's session").to_string();
            site.mesh.run(&["session-end", &session]).succeeds();
        }
        assert!(client_sessions(&site).is_empty());
        fs::remove_file(&gate).expect("opening the gate");
        let status = backup.wait(LIMIT);
        assert_eq!(status.code(), Some(50), "{}", backup.log());
        assert!(backup.log().contains("was called"), "{}", backup.log());
    }
    site.mesh
        .run(&["session-end", "1"])
        .fails(&[31], &["no open session 1"]);
    let doctor = site.mesh.run(&["doctor"]).stdout;
    assert!(doctor.contains("sessions: none is open"), "{doctor}");
}

#[test]
fn a_restore_needs_no_majority_and_no_session() {
    let mut site = MeshSite::new("minority", |mesh| mesh);
    site.host.backup();
    site.mesh.wait_until_settled();
    let restored = site.host.restore(&site.scratch, "with-session", &[]);
    assert!(restored.data().join("global/pg_control").exists());
    assert!(client_sessions(&site).is_empty(), "it has ended its session");
    let names = site.mesh.names();
    for name in names.iter().skip(1) {
        site.mesh.node_mut(name).stop();
    }
    let target = Postgres::empty(&site.scratch, "without");
    let outcome = run(site.host.restore_command(&target, &[]));
    let said = outcome.stderr.clone() + &outcome.stdout;
    outcome.succeeds();
    assert!(said.contains("continues without a session"), "{said}");
    assert!(target.data().join("global/pg_control").exists());
}

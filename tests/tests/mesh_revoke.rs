//! Who holds a certificate, and how it is taken away: on all nodes, while the host works.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::{Faults, Host, MeshSite, Process, WalForge, wait_for};

const MEBIBYTE: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
/// So long a revoked host may still be served.
const CUT_OFF: Duration = Duration::from_secs(2);
/// Connecting again, and hearing why not.
const HANDSHAKES: u64 = MEBIBYTE / 2;

/// What has come from the host, at all nodes.
fn passed(site: &mut MeshSite) -> u64 {
    let names = site.mesh.names();
    let network = site.mesh.network();
    names.iter().map(|node| network.delivered_bytes("host", node)).sum()
}

fn slow(site: &mut MeshSite, rate: u64) {
    let link = Faults::none().with_bandwidth(rate);
    for node in site.mesh.names() {
        site.mesh.network().shape_both("host", &node, link);
    }
}

fn states(site: &MeshSite) -> Vec<(String, String)> {
    let listed = site.mesh.run(&["client", "list", "--output=json"]).ok().json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all = listed.as_array().expect("an array").iter();
    all.map(|one| (text(&one["name"]), text(&one["state"]))).collect()
}

fn pair(name: &str, state: &str) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

/// Revokes the host in the middle of its work: it ends with what to do, and nothing more comes from it.
fn revoke_in_the_middle(site: &mut MeshSite, work: &mut Process) {
    let before = passed(site);
    wait_for("the work to begin", LIMIT, || {
        assert!(work.ended().is_none(), "it was over before:\n{}", work.log());
        passed(site) - before > 2 * MEBIBYTE
    });
    let name = site.host.name().to_owned();
    site.mesh
        .run(&["client", "revoke", &name, "--reason=disk stolen"])
        .succeeds();
    let revoked = Instant::now();
    let status = work.wait(LIMIT);
    println!("it ended after {:?}", revoked.elapsed());
    assert_eq!(status.code(), Some(95), "{}", work.log());
    for said in ["disk stolen", "join again", "pgmesh invite"] {
        assert!(work.log().contains(said), "{said:?} in\n{}", work.log());
    }
    thread::sleep(CUT_OFF.saturating_sub(revoked.elapsed()));
    let then = passed(site);
    thread::sleep(CUT_OFF);
    let more = passed(site) - then;
    assert!(more < HANDSHAKES, "{more} bytes came after two seconds");
}

/// No node lets it in.
fn assert_shut_out(host: &Host) {
    host.run(&["info"]).fails(&[95], &["disk stolen", "join again"]);
}

#[test]
fn a_backup_of_a_revoked_host_stops_and_another_host_takes_one() {
    let mut site = MeshSite::new("revoke", |mesh| mesh.with_relays());
    site.postgres.make_noise(45);
    let follower = site.mesh.follower();
    let other = site.another_host("other", "eu", &follower);
    assert_eq!(states(&site), [pair("host", "valid"), pair("other", "valid")]);
    // A client sees nobody's certificate, and takes none away.
    site.host.plain(&["client", "list"]).refuses(&["administrator"]);
    site.host
        .plain(&["client", "revoke", "other"])
        .refuses(&["administrator"]);
    slow(&mut site, 4 * MEBIBYTE);
    let command = site.host.command(&["backup", "--type=full", "--start-fast"]);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    revoke_in_the_middle(&mut site, &mut backup);
    assert_shut_out(&site.host);
    assert_eq!(states(&site), [pair("host", "revoked"), pair("other", "valid")]);

    // The lock of its backup is free, and the cluster archives by the other host.
    site.postgres.set("archive_command", &other.archive_command());
    other.backup();

    // It comes back by a token of its own, under its old name.
    let leader = site.mesh.leader();
    let token = site.mesh.node(&leader).invite("main");
    site.host.plain(&["join", "--force", &token, "host"]).succeeds();
    site.host.run(&["info"]).succeeds();
    let taken = site.mesh.node(&leader).invite("main");
    site.host
        .plain(&["join", "--force", &taken, "other"])
        .refuses(&["client other already", "client revoke"]);
}

#[test]
fn a_push_of_a_revoked_host_stops_and_another_host_pushes() {
    let mut site = MeshSite::with_segments("revoke-push", 16, |mesh| mesh.with_relays());
    let follower = site.mesh.follower();
    let other = site.another_host("other", "eu", &follower);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    slow(&mut site, MEBIBYTE);
    let file = forge.make(2).display().to_string();
    let command = site.host.command(&["archive-push", &file]);
    let mut push = Process::start("a push", command, &site.scratch.join("push.log"));
    revoke_in_the_middle(&mut site, &mut push);
    assert_shut_out(&site.host);
    other.push(&forge.make(2)).succeeds();
}

#[test]
fn a_restoring_host_restores_and_a_monitor_looks_and_neither_writes() {
    let site = MeshSite::new("roles", |mesh| mesh);
    site.postgres.make_noise(2);
    site.host.backup();
    let alpha = site.mesh.node("alpha");
    let restoring = Host::new(&site.scratch, "restoring", alpha, &site.postgres, "main");
    let token = alpha.invite_with(&["--role=restore", "--stanza=main", "--expires=1h"]);
    restoring.redeem(&token).succeeds();
    let monitor = Host::new(&site.scratch, "monitor", alpha, &site.postgres, "main");
    let token = alpha.invite_with(&["--role=monitor", "--expires=1h"]);
    monitor.redeem(&token).succeeds();

    restoring.assert_restores(&site.scratch, &site.postgres, &[]);
    restoring.run(&["info"]).succeeds();
    restoring.plain(&["repo-ls", "--repo=1", "stanza/main"]).succeeds();
    restoring
        .run(&["backup"])
        .fails(&[39], &["restoring stanza main", "--role=client"]);
    let wal = site
        .postgres
        .data()
        .join("pg_wal")
        .join(site.postgres.current_segment());
    restoring
        .push(&wal)
        .fails(&[39], &["restoring stanza main", "--role=client"]);
    restoring.plain(&["status"]).fails(&[39], &["administrator"]);

    for command in ["status", "info"] {
        monitor.plain(&[command]).succeeds();
    }
    monitor.plain(&["node", "list"]).succeeds();
    let examined = monitor.plain(&["doctor", "--output=json"]);
    println!("{}", examined.stdout);
    assert!(!examined.stdout.contains("refused"), "{examined}");
    monitor.plain(&["client", "list"]).fails(&[39], &["monitor"]);
    monitor.run(&["backup"]).fails(&[39], &["monitor", "--role=client"]);
    site.mesh.run(&["client", "revoke", "monitor"]).succeeds();
    monitor.plain(&["status"]).fails(&[95], &["was revoked", "join again"]);
}

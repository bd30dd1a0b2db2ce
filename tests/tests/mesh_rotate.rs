//! The mesh gets another certificate authority: pushes and a backup go on, and the former authority is refused at the
//! end.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use pgmesh_tests::{Faults, Host, MeshSite, Process, wait_for};
use serde_json::Value;

const MEBIBYTE: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn rotation(site: &MeshSite) -> Value {
    site.mesh.run(&["mesh", "rotate-ca", "--output=json"]).ok().json()
}

fn names(of: &Value) -> Vec<String> {
    let all = of.as_array().expect("an array").iter();
    all.map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
}

/// PostgreSQL archives what it has written.
fn archive(site: &MeshSite) {
    site.postgres
        .query("create table if not exists seen (at timestamptz default now()); insert into seen default values");
    let archived = site.postgres.archive_everything();
    println!("{archived} is archived");
}

#[test]
fn another_authority_takes_over_while_everything_goes_on() {
    let mut site = MeshSite::new("rotate", |mesh| mesh.with_relays());
    site.postgres.make_noise(40);
    archive(&site);
    let follower = site.mesh.follower();
    let other = site.another_host("other", "eu", &follower);
    let early_token = site.mesh.node("alpha").invite("main");

    // A node that does not run is waited for: certificates stay as they are.
    site.mesh.node_mut(&follower).stop();
    let begun = rotation(&site);
    let (former, next) = (begun["former"].clone(), begun["next"].clone());
    assert_ne!(former, next);
    wait_for("the other nodes", LIMIT, || {
        names(&rotation(&site)["nodes"]) == [follower.clone()]
    });
    assert_eq!(rotation(&site)["state"], "spreading");
    archive(&site);
    site.mesh
        .run(&["mesh", "rotate-ca", "--finish"])
        .refuses(&[&format!("node {follower}")]);
    site.mesh.node_mut(&follower).start();

    // A backup is under way, by the certificate of before.
    let link = Faults::none().with_bandwidth(2 * MEBIBYTE);
    for node in site.mesh.names() {
        site.mesh.network().shape_both("host", &node, link);
    }
    let command = site.host.command(&["backup", "--type=full", "--start-fast"]);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    wait_for("the nodes' certificates", LIMIT, || {
        let now = rotation(&site);
        now["state"] == "renewing" && names(&now["nodes"]).is_empty()
    });
    assert_eq!(rotation(&site)["next"], next, "the same rotation");

    // A token of before is still good, and hosts renew with what they do.
    let late = Host::new(&site.scratch, "late", site.mesh.node("alpha"), &site.postgres, "main");
    late.redeem(&early_token).succeeds();
    late.run(&["info"]).succeeds();
    archive(&site);
    wait_for("the host's new certificate", LIMIT, || {
        site.host.plain(&["info"]).succeeds();
        names(&rotation(&site)["clients"]) == ["client other"]
    });
    site.mesh
        .run(&["mesh", "rotate-ca", "--finish"])
        .refuses(&["client other", "--force"]);
    assert!(backup.ended().is_none(), "it was over before:\n{}", backup.log());
    let finished = site
        .mesh
        .run(&["mesh", "rotate-ca", "--finish", "--force", "--output=json"]);
    let finished = finished.ok().json();
    assert_eq!(
        (&finished["state"], names(&finished["clients"])),
        (&"finished".into(), vec!["client other".to_owned()])
    );

    // The former authority is refused, and its key is gone.
    other.plain(&["info"]).fails(&[95], &["join again"]);
    for node in site.mesh.nodes() {
        let folder = node.data().join("ca");
        wait_for("the key to go", LIMIT, || !folder.join("ca.key").exists());
        assert_eq!(fs::read_dir(&folder).expect("ca").count(), 1, "the new one is there");
    }
    // Also where the nodes know its authority no more.
    other.plain(&["info"]).fails(&[49, 95], &["join again"]);
    // Everything else goes on, also after a start.
    archive(&site);
    let status = backup.wait(Duration::from_secs(180));
    assert!(status.success(), "{}", backup.log());
    site.mesh.stop_all();
    site.mesh.start_all();
    site.mesh.wait_until_settled();
    archive(&site);
    let token = site.mesh.node("alpha").invite("main");
    other.plain(&["join", "--force", &token, "other"]).succeeds();
    other.run(&["info"]).succeeds();
    let names = site.mesh.names();
    site.mesh.node(&names[0]).run(&["status"]).succeeds();
}

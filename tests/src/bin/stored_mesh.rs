//! Makes a small mesh of three nodes and stores the files of their disks: `make stored-mesh`.
#![allow(clippy::expect_used, reason = "a panic is how it fails")]

use std::path::PathBuf;

use pgmesh_tests::{Ledger, MeshSite, stored};

fn main() {
    let to = std::env::args_os().nth(1).map_or_else(stored::fixture, PathBuf::from);
    let mut site = MeshSite::new("stored-mesh", |mesh| {
        let mesh = mesh
            .repositories(1)
            .option("archive-ack", "1")
            .option("backup-ack", "1");
        // So that the nodes have a snapshot and a log behind it.
        mesh.option("node-snapshot-entries", "20")
    });
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup_with(&["--type=full"]);
    ledger.add_some(&site.postgres, 3);
    site.host.backup_with(&["--type=incr"]);
    let last = ledger.add_some(&site.postgres, 2);
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    let label = site.host.last_backup()["label"].as_str().expect("a label").to_owned();
    let annotation = format!("--annotation=last={}", last.number);
    site.host
        .run(&["annotate", &format!("--set={label}"), &annotation])
        .succeeds();
    // A token that stays unredeemed.
    drop(site.mesh.node("alpha").invite("another"));
    site.mesh.stop_all();
    stored::pack(&site.mesh, &site.scratch, &to);
    println!("{}", to.display());
}

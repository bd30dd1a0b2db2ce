//! The fence of an archive and the place of a data directory: a volume that another container mounts, and file systems
//! that keep no birth times (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Node, Postgres, Scratch, Site, Volume, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes the archive_command of a cluster whose server does not run.
fn write_archive_command(postgres: &Postgres, host: &Host) {
    let auto = postgres.data().join("postgresql.auto.conf");
    let settings = fs::read_to_string(&auto).unwrap_or_default();
    let command = host.archive_command();
    postgres
        .account()
        .write(&auto, format!("{settings}\narchive_command = '{command}'\n"));
}

/// A container is thrown away and made anew: the volume with the data directory is mounted at another path, and the new
/// container has joined the mesh under a name of its own.
#[test]
fn a_container_that_is_made_anew_on_the_same_volume_goes_on() {
    let mut site = Site::new("fence-container", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();
    // Killed, with a segment that waits for the archiver.
    site.postgres.set("archive_command", "/bin/false");
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");
    site.postgres.kill();

    let mut anew = Postgres::at(&site.scratch, "anew");
    fs::rename(site.postgres.data(), anew.data()).expect("moving the data directory within its file system");
    let host = Host::join(&site.scratch, "host-anew", &site.node, &anew, "main");
    write_archive_command(&anew, &host);
    anew.start();
    ledger.add(&anew);
    anew.archive_everything();
    anew.assert_not_stuck();
    site.node.assert_no_alarm();
    host.backup();
    ledger.add(&anew);
    site.assert_restores(&host, &anew, &[]);
}

/// The volume's file system keeps no birth times, and the data directory is its root: so a copy's volume looks like the
/// original's. The original goes on, also if its volume is mounted elsewhere. The copy is refused because of the WAL
/// that it has written.
#[test]
fn a_cluster_at_the_root_of_a_volume_without_birth_times_goes_on_and_its_copy_does_not() {
    let scratch = Scratch::new("fence-volume");
    let volume_of = |postgres: &Postgres| {
        let image = scratch.join(format!("{}.image", postgres.socket().display()));
        Volume::create(&image, postgres.data(), 200)
    };
    let mut postgres = Postgres::empty(&scratch, "pg");
    let Some(volume) = volume_of(&postgres) else {
        println!("skipped: only root may mount a file system");
        return;
    };
    let mut copy = Postgres::empty(&scratch, "copy");
    let copys_volume = volume_of(&copy).expect("a second volume");
    let template = Postgres::builder(&scratch, "template").segment_mebibytes(1).create();
    template.copy_into(&postgres);
    let node = Node::builder(&scratch, "alpha").repository().start();
    postgres.start();
    let host = Host::set_up(&scratch, &node, &postgres, "main");
    let mut site = Site {
        host,
        postgres,
        node,
        scratch,
    };
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();
    site.postgres.stop();
    site.postgres.copy_into(&copy);

    let mut anew = Postgres::empty(&site.scratch, "anew");
    // Unmounted before the folder of the test is removed.
    let _volumes = [volume.mount_again(anew.data()), copys_volume];
    let host = Host::join(&site.scratch, "host-anew", &site.node, &anew, "main");
    write_archive_command(&anew, &host);
    anew.start();
    ledger.add(&anew);
    anew.archive_everything();

    let host_of_copy = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    write_archive_command(&copy, &host_of_copy);
    copy.start();
    copy.query("create table of_the_copy as select 1");
    copy.query("select pg_switch_wal()");
    wait_for("the copy to be refused", LIMIT, || {
        copy.log().contains("is already archived with digest")
    });
    ledger.add(&anew);
    anew.archive_everything();
    anew.assert_not_stuck();
    host.backup();
    ledger.add(&anew);
    site.assert_restores(&host, &anew, &[]);
}

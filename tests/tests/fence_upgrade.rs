//! The fence of an archive after pg_upgrade (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Ledger, Postgres, Site, majors, programs_of, run, wait_for};

const LIMIT: Duration = Duration::from_secs(120);

/// Has pg_upgrade turn a cluster of an older version into `new`, with links to the old files. Neither server runs.
fn upgrade(old: &Postgres, new: &Postgres) {
    let mut command = new.program("pg_upgrade");
    command.args(["--link", "--username=postgres"]);
    command.arg("--old-bindir").arg(programs_of(old.major()));
    command.arg("--new-bindir").arg(programs_of(new.major()));
    command.arg("--old-datadir").arg(old.data());
    command.arg("--new-datadir").arg(new.data());
    run(command).succeeds();
}

/// One version up, with links to the old cluster's files. Until the stanza is upgraded too, no WAL is archived, and the
/// refusal says so.
fn upgraded_and_archiving(from: u32, to: u32) {
    let mut site = Site::with_postgres(&format!("fence-upgrade-{from}"), 1, |postgres| postgres.major(from));
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    let label = site.host.backup();
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let before = site.postgres.dump();
    site.postgres.stop();

    let mut new = Postgres::builder(&site.scratch, "new").major(to).create();
    upgrade(&site.postgres, &new);
    let (old_home, new_home) = (site.postgres.socket().display(), new.socket().display());
    site.host.reconfigure(&old_home.to_string(), &new_home.to_string());
    new.start();
    new.set("archive_command", &site.host.archive_command());
    ledger.add(&new);
    new.query("select pg_switch_wal()");
    wait_for("the refusal to name the command", LIMIT, || {
        new.log().contains("stanza-upgrade")
    });
    site.host.obey(&new.log()).succeeds();
    ledger.add(&new);
    new.archive_everything();
    new.assert_not_stuck();
    site.node.assert_no_alarm();
    site.host.backup();
    ledger.add(&new);
    site.assert_restores(&site.host, &new, &[]);

    // The old archive restores the cluster as it was before the upgrade.
    let mut restored = site.restore("before", &[&format!("--set={label}")]);
    assert_eq!(restored.major(), from);
    restored.start_promoted();
    assert_eq!(restored.dump(), before);
}

#[test]
fn a_cluster_goes_on_after_pg_upgrade_with_links_when_its_stanza_is_upgraded() {
    for pair in majors().windows(2) {
        if let [from, to] = *pair {
            upgraded_and_archiving(from, to);
        }
    }
}

//! A cluster that Patroni manages archives through switchovers, a killed leader, and pg_rewind (invariants 3 and 12).
//! In `make test-all`.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use pgmesh_tests::{Ledger, Node, Patroni, Scratch};

struct Story {
    patroni: Patroni,
    ledger: Ledger,
    node: Node,
    scratch: Scratch,
}

impl Story {
    fn begin(name: &str, archive_mode: &str) -> Self {
        let scratch = Scratch::new(name);
        let node = Node::builder(&scratch, "alpha").repository().start();
        let patroni = Patroni::start(&scratch, &node, archive_mode);
        let first = patroni.member("p1");
        let mut ledger = Ledger::create(&first.postgres);
        ledger.add(&first.postgres);
        let backup = ["backup", "--type=full", "--no-archive-mode-check"];
        first.host.run(&backup).succeeds();
        Self {
            patroni,
            ledger,
            node,
            scratch,
        }
    }

    /// Asserts that all acknowledged rows of the leader are archived and restore.
    fn goes_on(&mut self) {
        let leader = self.patroni.leader().expect("a leader");
        self.ledger.add(&leader.postgres);
        leader.postgres.archive_everything();
        leader.postgres.assert_not_stuck();
        self.ledger.add(&leader.postgres);
        leader.host.assert_restores(&self.scratch, &leader.postgres, &[]);
    }

    /// Asserts that no file waits on any member. Files that a standby archives from a timeline that it has left wait
    /// for its next restartpoint, which it makes every few minutes by itself.
    fn nobody_is_stuck(&self) {
        let leader = self.patroni.leader().expect("a leader");
        leader.postgres.query("checkpoint");
        for member in self.patroni.members() {
            if member.name() != leader.name() {
                leader.postgres.wait_until_replayed_by(&member.postgres);
            }
            member.postgres.query("checkpoint");
            member.postgres.assert_not_stuck();
        }
        self.node.assert_no_alarm();
        self.node.run(&["verify"]).succeeds();
    }
}

fn switchovers_and_a_killed_leader(name: &str, archive_mode: &str) {
    if !Patroni::is_wanted() {
        println!("skipped: PGMESH_PATRONI=1 runs it, `make test-all` does");
        return;
    }
    let mut story = Story::begin(name, archive_mode);
    story.goes_on();
    for to in ["p2", "p1"] {
        story.patroni.switch_over(to);
        story.goes_on();
        story.nobody_is_stuck();
    }

    let first = story.patroni.member("p1");
    first.stop_sending();
    first.postgres.query("create table only_p1_has_it as select 1");
    story.patroni.kill("p1");
    let leader = story.patroni.wait_for_failover_from("p1");
    assert_eq!(leader, "p2");
    story.goes_on();
    story.patroni.start_member("p1");
    story.patroni.wait_until_all_stream();
    let log = story.patroni.member("p1").log();
    assert!(log.contains("running pg_rewind"), "{log}");
    story.goes_on();

    // pg_rewind has brought p2's rest of timeline 2. PostgreSQL offers such a file just before it removes it, after 16
    // more segments of 1 MiB have been written.
    story.patroni.switch_over("p1");
    story.goes_on();
    for _ in 0..20 {
        let first = story.patroni.member("p1");
        story.ledger.add(&first.postgres);
        first.postgres.query("select pg_switch_wal()");
    }
    story.goes_on();
    story.nobody_is_stuck();
    let log = story.patroni.member("p1").log();
    let rest = |line: &str| line.contains("WAL file '00000002") && line.contains("was set aside");
    assert!(log.lines().any(rest), "{log}");
}

#[test]
fn a_cluster_of_patroni_archives_through_switchovers_and_a_killed_leader() {
    switchovers_and_a_killed_leader("patroni", "on");
}

#[test]
fn its_standbys_may_archive_what_they_receive() {
    switchovers_and_a_killed_leader("patroni-always", "always");
}

//! Retention on real nodes: each repository expires by its own options, and all that is kept restores.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use pgmesh_tests::{MeshSite, Outcome, Site, wait_for};
use serde_json::Value;

const INFO: &str = "--log-level-console=info";
const DETAIL: &str = "--log-level-console=detail";

/// A cluster with a table that has a row for each backup.
struct Story {
    site: Site,
    backups: u32,
}

impl Story {
    fn new(name: &str) -> Self {
        let site = Site::new(name, 2);
        site.postgres.query("create table taken (number int primary key)");
        Self { site, backups: 0 }
    }

    /// Sets options of the host, in its section [global].
    fn set(&mut self, options: &str) {
        self.site
            .host
            .reconfigure("[global]\n", &format!("[global]\n{options}\n"));
    }

    /// Adds a row and takes a backup; returns its label.
    fn backup(&mut self, arguments: &[&str]) -> String {
        self.backups += 1;
        self.site
            .postgres
            .query(&format!("insert into taken values ({})", self.backups));
        let mut all = vec!["backup", "--start-fast"];
        all.extend_from_slice(arguments);
        self.site.host.run(&all).succeeds();
        let last = self.site.host.last_backup();
        last["label"].as_str().expect("a label").to_owned()
    }

    fn full(&mut self) -> String {
        self.backup(&["--type=full"])
    }

    fn expire(&self, arguments: &[&str]) -> Outcome {
        let mut all = vec!["expire"];
        all.extend_from_slice(arguments);
        self.site.host.run(&all)
    }

    /// The repositories of each backup.
    fn kept(&self) -> BTreeMap<String, Vec<u64>> {
        let info = self.site.host.info();
        let backups = info["backup"].as_array().expect("backups in info");
        let of = |backup: &Value| {
            let repositories = backup["repository"].as_array().expect("repositories of a backup");
            let keys = repositories.iter().map(|repo| repo["key"].as_u64().expect("a number"));
            (backup["label"].as_str().expect("a label").to_owned(), keys.collect())
        };
        backups.iter().map(of).collect()
    }

    fn labels_in(&self, repo: u64) -> Vec<String> {
        let kept = self.kept();
        let there = kept
            .into_iter()
            .filter(|(_, repositories)| repositories.contains(&repo));
        there.map(|(label, _)| label).collect()
    }

    /// Restores a backup to where it is consistent, and asserts that it has so many rows.
    fn assert_restores(&self, label: &str, rows: u32) {
        let set = format!("--set={label}");
        let name = format!("restored-{rows}");
        let arguments = [&set, "--type=immediate", "--target-action=promote"];
        let mut restored = self.site.restore(&name, &arguments);
        restored.start_promoted();
        assert_eq!(
            restored.query("select count(*) from taken"),
            rows.to_string(),
            "{label}"
        );
        restored.stop();
    }
}

#[test]
fn each_repository_keeps_what_its_options_say() {
    let mut story = Story::new("expire-two");
    let first = story.full();
    let diff = story.backup(&["--type=diff"]);
    let incr = story.backup(&["--type=incr"]);
    let second = story.full();
    let third = story.full();
    let start = story.site.host.info()["backup"][0]["archive"]["start"]
        .as_str()
        .expect("a segment")
        .to_owned();
    story.set("repo1-retention-full=1\nrepo2-retention-full=2\nrepo2-retention-diff=3");
    let before = story.kept();

    let dry = story.expire(&["--dry-run", INFO]).ok();
    let set = format!("{first}, {diff}, {incr}");
    dry.says(&[
        &format!("INFO: [DRY-RUN] repo1: expire full backup set {set}"),
        &format!("INFO: [DRY-RUN] repo1: expire full backup {second}"),
        &format!("INFO: [DRY-RUN] repo1: remove expired backup {second}"),
        &format!("INFO: [DRY-RUN] repo2: expire full backup set {set}"),
        "[DRY-RUN] repo1: 1",
        "remove archive, start = ",
    ]);
    assert!(dry.stdout.contains("repo1-retention-full=1"), "{dry}");
    assert_eq!(story.kept(), before, "a dry run changes nothing");
    let json = story.expire(&["--dry-run", "--output=json"]).ok().json();
    assert_eq!(json["dry-run"], true);
    assert_eq!(json["repositories"][0]["backups"][0]["label"], first.as_str());
    assert_eq!(json["repositories"][0]["backups"][0]["expired"], true);
    assert!(
        json["repositories"][0]["archives"][0]["files"].as_u64() > Some(0),
        "{json}"
    );

    let done = story.expire(&[DETAIL, "--output=json"]).ok();
    done.says(&[
        &format!("INFO: repo1: expire full backup set {set}"),
        "archive retention on backup",
    ]);
    for repo in [0, 1] {
        let (promised, kept) = (&json["repositories"][repo], &done.json()["repositories"][repo]);
        assert_eq!(promised, kept, "the dry run has said it");
    }
    assert_eq!(story.labels_in(1), [third.as_str()]);
    assert_eq!(story.labels_in(2), [second.as_str(), third.as_str()]);
    let again = story.expire(&[INFO]).ok();
    again.says(&["repo1: 1", "no archive to remove"]);
    assert!(!again.stderr.contains("expire full"), "{again}");

    // The first backup is in no repository; its WAL is expired, which is not "never archived".
    let to = story.site.host.home().join("segment");
    let gone = story.site.host.get(&start, &to);
    assert!(gone.code().is_some_and(|code| code > 1), "{gone}");
    story.assert_restores(&second, 4);
    story.assert_restores(&third, 5);
    wait_for("verify to find nothing", Duration::from_secs(60), || {
        story.site.node.run(&["verify"]).code() == Some(0)
    });
}

#[test]
fn the_command_line_decides_before_the_options() {
    let mut story = Story::new("expire-set");
    let first = story.full();
    let incr = story.backup(&["--type=incr"]);
    story.set("repo1-retention-full=1\nrepo2-retention-full=9\nexpire-auto=n");
    let second = story.full();
    let third = story.full();
    let (set_first, set_third) = (format!("--set={first}"), format!("--set={third}"));

    story
        .expire(&["--set=BOGUS"])
        .fails(&[32], &["'BOGUS' is not a valid backup label format"]);
    story
        .expire(&[&set_first, "--oldest"])
        .fails(&[31], &["--oldest and --set cannot be used together"]);
    story
        .expire(&["--repo1-retention-full=0"])
        .fails(&[32], &["'0' is out of range for 'repo1-retention-full' option"]);
    story
        .expire(&["--archive-expire-before=x"])
        .fails(&[32], &["'x' is not valid"]);
    story.expire(&["--set=20200101-000000F"]).ok().says(&[
        "WARN: backup 20200101-000000F does not exist",
        "HINT: run the info command",
    ]);
    assert_eq!(story.labels_in(1).len(), 4, "--set leaves the counts alone");

    story
        .expire(&[&set_first, "--repo=1", INFO])
        .ok()
        .says(&[&format!("repo1: expire adhoc backup set {first}, {incr}")]);
    assert_eq!(story.labels_in(1), [second.as_str(), third.as_str()]);
    assert_eq!(story.labels_in(2).len(), 4);
    // What is in repository 2 alone is restored from there.
    story.assert_restores(&incr, 2);

    story
        .expire(&["--repo=1", "--oldest", INFO])
        .ok()
        .says(&[&format!("repo1: expire full backup {second}")]);
    story
        .expire(&["--repo=1", "--oldest"])
        .ok()
        .says(&["repo1: expire oldest requested but no eligible full backup to expire"]);
    let refused = story.expire(&[&set_third, INFO]);
    refused.fails(
        &[104],
        &[
            &format!("[075]: repo1: full backup {third} cannot be expired until another full backup has been created on this repo"),
            &format!("repo2: expiring latest backup {third}"),
            "expire command encountered 1 error(s), check the log file for details",
        ],
    );
    assert_eq!(story.labels_in(1), [third.as_str()]);
    assert_eq!(story.labels_in(2), [first.as_str(), incr.as_str(), second.as_str()]);

    story.site.node.run(&["--stanza=main", "stop"]).succeeds();
    story.expire(&[]).fails(&[62], &["stop file exists for stanza main"]);
}

#[test]
fn a_backup_expires_by_its_own_options() {
    let mut story = Story::new("expire-auto");
    story.set("repo1-retention-full=1\nrepo2-retention-full-type=time\nrepo2-retention-full=1");
    story
        .site
        .host
        .reconfigure("[main]", "[global:expire]\nrepo1-retention-full=9\n\n[main]");
    let first = story.full();
    let second = story.full();
    assert_eq!(story.labels_in(1), [second.as_str()]);
    assert_eq!(
        story.labels_in(2),
        [first.as_str(), second.as_str()],
        "they are younger than a day"
    );
    let third = story.backup(&["--type=full", "--no-expire-auto"]);
    assert_eq!(story.labels_in(1), [second.as_str(), third.as_str()]);
    story
        .expire(&["--repo=2", INFO])
        .ok()
        .says(&["repo2: time-based archive retention not met - archive logs will not be expired"]);
}

#[test]
fn a_held_backup_stays_with_what_it_depends_on() {
    let mut story = Story::new("expire-hold");
    let first = story.full();
    let incr = story.backup(&["--type=incr"]);
    let second = story.full();
    let third = story.full();
    story.set("repo1-retention-full=1\nrepo2-retention-full=1");
    let held = story.site.host.run(&["hold", &incr, "--why=audit", "--until=30d"]).ok();
    assert!(held.stdout.contains(&first), "{held}");
    story
        .site
        .host
        .run(&["hold", &incr, "--until=2001-01-01"])
        .fails(&[32], &["over already"]);
    let info = story.site.host.info();
    let backups = info["backup"].as_array().expect("backups");
    let hold = &backups
        .iter()
        .find(|backup| backup["label"] == incr.as_str())
        .expect("the held one")["hold"];
    assert_eq!(hold["why"], "audit");
    story.expire(&[]).succeeds();
    assert_eq!(story.labels_in(1), [first.as_str(), incr.as_str(), third.as_str()]);
    story
        .expire(&[&format!("--set={first}")])
        .fails(&[104], &["[075]: repo1:", "[075]: repo2:", "held"]);
    story.assert_restores(&incr, 2);

    // A PG host may not release; an administrator may.
    story.site.host.run(&["release", &incr]).refuses(&["admin"]);
    story.site.node.run(&["--stanza=main", "release", &incr]).succeeds();
    story.expire(&[]).succeeds();
    assert_eq!(story.labels_in(1), [third.as_str()]);
    assert_eq!(story.labels_in(2), [third.as_str()]);
    assert!(!story.kept().contains_key(&second));
}

#[test]
fn options_that_are_not_set_are_warned_about() {
    let mut story = Story::new("expire-warn");
    story.set("repo1-retention-full=1\nrepo2-retention-archive-type=incr");
    let said = story.expire(&[]).ok();
    said.says(&[
        "WARN: option 'repo2-retention-full' is not set for 'repo2-retention-full-type=count', the repository may run out of \
         space",
        "HINT: to retain full backups indefinitely (without warning), set option 'repo2-retention-full' to the maximum.",
        "WARN: WAL segments will not be expired: option 'repo2-retention-archive-type=incr' but option \
         'repo2-retention-archive' is not set",
    ]);
    assert!(!said.stderr.contains("repo1"), "{said}");
}

/// The repositories that keep a backup, whole or not.
fn keepers(site: &MeshSite, label: &str) -> Vec<u64> {
    let info = site.host.info();
    let backups = info["backup"].as_array().expect("backups in info");
    let found = backups.iter().find(|backup| backup["label"] == label);
    let repositories = found.and_then(|backup| backup["repository"].as_array());
    let keys = repositories
        .into_iter()
        .flatten()
        .filter_map(|repo| repo["key"].as_u64());
    keys.collect()
}

#[test]
fn a_repository_that_is_away_expires_too_and_counts_only_what_it_has() {
    let mut site = MeshSite::new("expire-away", |mesh| mesh);
    let first = site.host.backup();
    let second = site.host.backup();
    site.mesh.wait_until_settled();
    site.mesh.node_mut("gamma").kill();
    let third = site.host.backup();
    let options = "repo1-retention-full=1\nrepo2-retention-full=1\nrepo3-retention-full=1";
    site.host.reconfigure("[global]\n", &format!("[global]\n{options}\n"));
    site.host.run(&["expire"]).succeeds();
    assert_eq!(keepers(&site, &first), Vec::<u64>::new());
    assert_eq!(keepers(&site, &second), [3], "repo3 has nothing newer that is whole");
    assert_eq!(keepers(&site, &third), [1, 2, 3]);
    site.mesh.start_node("gamma");
    site.mesh.wait_until_settled();
    site.host.run(&["expire"]).succeeds();
    assert_eq!(keepers(&site, &second), Vec::<u64>::new());
    assert_eq!(keepers(&site, &third), [1, 2, 3]);
    site.host.assert_restores(&site.scratch, &site.postgres, &[]);
    wait_for("verify to find nothing", Duration::from_secs(60), || {
        site.host.run(&["verify"]).code() == Some(0)
    });
}

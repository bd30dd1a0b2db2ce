//! Change maps: the blocks that archived WAL has changed, kept beside each segment.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use pgmesh_tests::{Damage, Kind, Site, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The segments that have an object of this kind in a repository.
fn names(site: &Site, repository: usize, kind: Kind) -> BTreeSet<String> {
    let objects = site.node.objects(repository).all(kind);
    let named = |name: &str| {
        let file = name.rsplit('/').next()?.split('-').next()?;
        // Not `.backup` files, which are no segments.
        let segment = file.trim_end_matches(".map");
        (segment.len() == 24).then(|| segment.to_owned())
    };
    objects.iter().filter_map(|object| named(&object.name)).collect()
}

fn wait_for_all_maps(site: &Site, what: &str) {
    wait_for(what, LIMIT, || {
        (1..=2).all(|repository| {
            let maps = names(site, repository, Kind::ChangeMap);
            !maps.is_empty() && maps == names(site, repository, Kind::Segment)
        })
    });
}

#[test]
fn every_archived_segment_has_a_map_which_outlives_restarts_and_damage() {
    let mut site = Site::new("maps", 2);
    site.postgres.make_accounts(1);
    site.postgres.archive_everything();
    site.host.backup();
    wait_for_all_maps(&site, "a map of each segment");

    let listed = site
        .host
        .run(&["repo-ls", "--repo=1", "stanza/main/archive/15-1/0000000100000000"])
        .ok();
    let listed: Vec<&str> = listed.text().lines().filter(|line| line.contains(".map-")).collect();
    assert_eq!(listed.len(), names(&site, 1, Kind::ChangeMap).len(), "{listed:?}");

    // Neither a restart nor the WAL after it loses a map, and info counts only segments.
    site.node.stop();
    site.node.start();
    let last = site.postgres.archive_everything();
    wait_for_all_maps(&site, "maps after a restart");
    let info = site.host.run(&["info"]).ok();
    assert!(info.text().contains(&last) && !info.text().contains(".map"), "{info}");

    // A map that is lost in both repositories is made anew from its segment; a map that is damaged in one is copied
    // from the other.
    let maps = |repository| site.node.objects(repository).all(Kind::ChangeMap);
    let (first, second) = (maps(1), maps(2));
    Damage::Remove.harm(&first[0]);
    Damage::Remove.harm(&second[0]);
    Damage::FlipBody.harm(&first[1]);
    assert_ne!(site.node.run(&["verify"]).code(), Some(0), "verify finds what was done");
    wait_for_all_maps(&site, "lost maps to be made anew");
    site.wait_until_settled(LIMIT);
    wait_for("the damaged map to be gone", LIMIT, || {
        site.node.run(&["verify"]).code() == Some(0)
    });

    // The archive is unharmed: a restore recovers from it.
    let mut restored = site.restore("restored", &[]);
    restored.start_promoted();
    assert_eq!(restored.query("select count(*) from pgbench_accounts"), "100000");
}

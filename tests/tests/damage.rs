//! Stored objects that rot, are cut, or lie under another's name: clients never get wrong bytes, another repository
//! helps, and `verify` finds each of the objects.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;

use pgmesh_tests::{Damage, Kind, Ledger, Object, Outcome, Postgres, Scratch, Site, WalForge, run};

/// Has `verify` read all objects, and asserts that it fails and names all of `harmed`.
fn verify_finds(site: &Site, harmed: &[Object]) -> Outcome {
    let outcome = site.host.run(&["verify", "--output=json"]);
    assert!(
        outcome.code().is_some_and(|code| code != 0 && code != 101),
        "verify is content: {outcome}"
    );
    for object in harmed {
        assert!(
            outcome.stdout.contains(&object.name),
            "verify did not find {} in {outcome}",
            object.name
        );
    }
    outcome
}

/// Pushes a forged segment for each kind of damage and two more to be swapped; then harms them all in the first
/// repository. Segment 1 stays whole.
fn harm_segments(site: &Site, forge: &WalForge) -> Vec<(u32, Object)> {
    let count = u32::try_from(Damage::ALL.len()).expect("few damages") + 3;
    for number in 1..=count {
        site.host.push(&forge.make(number)).succeeds();
    }
    let repository = site.node.objects(1);
    let object = |number: u32| (number, repository.segment(&forge.name(number)));
    let mut harmed: Vec<(u32, Object)> = (2..)
        .zip(Damage::ALL)
        .map(|(number, damage)| {
            let (number, object) = object(number);
            damage.harm(&object);
            (number, object)
        })
        .collect();
    let pair = [object(count - 1), object(count)];
    pair[0].1.swap(&pair[1].1);
    harmed.extend(pair);
    harmed
}

#[test]
fn a_harmed_segment_is_never_delivered() {
    let site = Site::without_archiving("harm", 1, 1);
    let forge = WalForge::new(&site.postgres);
    let harmed = harm_segments(&site, &forge);
    let fetched = forge.path("fetched");
    for (number, object) in &harmed {
        let outcome = site.host.get(&forge.name(*number), &fetched);
        // Nor may it be 1: the segment was archived, and PostgreSQL must not take its loss for the end of the archive.
        assert!(
            outcome.code().is_some_and(|code| code > 125),
            "{} was harmed: {outcome}",
            object.name
        );
        assert!(
            !fetched.exists(),
            "{} was harmed, and something was delivered",
            object.name
        );
    }
    site.host.get(&forge.name(1), &fetched).succeeds();
    assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(1));
    let objects: Vec<Object> = harmed.into_iter().map(|(_, object)| object).collect();
    verify_finds(&site, &objects);
}

#[test]
fn the_other_repository_delivers_what_one_has_lost() {
    let site = Site::without_archiving("other", 2, 1);
    let forge = WalForge::new(&site.postgres);
    let harmed = harm_segments(&site, &forge);
    let objects: Vec<Object> = harmed.iter().map(|(_, object)| object.clone()).collect();
    verify_finds(&site, &objects);
    let fetched = forge.path("fetched");
    for (number, object) in &harmed {
        site.host.get(&forge.name(*number), &fetched).succeeds();
        assert!(
            fs::read(&fetched).expect("the fetched segment") == forge.content(*number),
            "{}",
            object.name
        );
    }
    // The replicas that verify and the reads reported are made anew from the other repository, under new names.
    pgmesh_tests::wait_for(
        "the harmed replicas to be repaired",
        std::time::Duration::from_secs(60),
        || site.host.run(&["verify"]).code() == Some(0),
    );
}

/// A backup whose chunks are harmed in the first repository: one chunk for each kind of damage, and a swapped pair.
fn harm_chunks(site: &Site) -> Vec<Object> {
    let chunks = site.node.objects(1).all(Kind::Chunk);
    assert!(
        chunks.len() >= Damage::ALL.len() + 2,
        "too few chunks to harm: {}",
        chunks.len()
    );
    let mut harmed: Vec<Object> = chunks.into_iter().take(Damage::ALL.len() + 2).collect();
    for (damage, object) in Damage::ALL.iter().zip(&harmed) {
        damage.harm(object);
    }
    harmed[Damage::ALL.len()].swap(&harmed[Damage::ALL.len() + 1]);
    harmed.sort();
    harmed
}

#[test]
fn a_restore_reads_around_harmed_chunks() {
    let site = Site::new("around", 2);
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add_some(&site.postgres, 3);
    site.host.backup();
    site.postgres.archive_everything();
    harm_chunks(&site);
    let mut restored = site.restore("again", &["--write-manifest"]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();
}

#[test]
fn a_backup_with_a_harmed_chunk_is_reported_and_not_restored() {
    let site = Site::new("lost", 1);
    site.postgres.make_accounts(1);
    let label = site.host.backup();
    site.postgres.archive_everything();
    let harmed = harm_chunks(&site);
    let outcome = verify_finds(&site, &harmed);
    assert!(
        outcome.stdout.contains(&label),
        "the backup that needs them is named in {outcome}"
    );

    // No repository can pay that debt: doctor and info report it as an error, with its cost.
    pgmesh_tests::wait_for(
        "the doctor to name the backup",
        std::time::Duration::from_secs(60),
        || {
            let doctor = site.node.run(&["doctor"]);
            doctor.code() == Some(55) && doctor.stdout.contains("no good copy") && doctor.stdout.contains(&label)
        },
    );
    let info = site.host.run(&["info"]).ok();
    for part in ["status: error", "cannot be restored in full", &label] {
        assert!(info.stdout.contains(part), "{part:?} is not in {info}");
    }
    let info = site.host.run(&["info", "--output=json"]).ok().json();
    assert_eq!(info[0]["status"]["code"], 99, "{info}");
    assert_eq!(info[0]["lost"]["backup"][0], label.as_str(), "{info}");
    let status = site.node.run(&["status"]).ok();
    let lost = |line: &str| line.starts_with("LOST: ") && line.contains(&label);
    assert!(status.stdout.lines().any(lost), "{status}");

    let target = Postgres::empty(&site.scratch, "again");
    let outcome = run(site.host.restore_command(&target, &[]));
    outcome.refuses(&["chunk"]);
    assert!(
        !target.data().join("global/pg_control").exists(),
        "what is not whole cannot be started"
    );
}

#[test]
fn a_harmed_manifest_is_found_and_read_elsewhere() {
    let site = Site::new("manifest", 2);
    // Each backup has one manifest: one kind of damage for each.
    let kinds = [
        Damage::FlipHeader,
        Damage::FlipBody,
        Damage::FlipTag,
        Damage::CutHalf,
        Damage::Empty,
    ];
    let mut harmed = Vec::new();
    let mut labels = Vec::new();
    for damage in kinds {
        let label = site.host.backup();
        let manifest = site
            .node
            .objects(1)
            .all(Kind::Manifest)
            .into_iter()
            .find(|object| object.name.contains(&label));
        let manifest = manifest.unwrap_or_else(|| panic!("no manifest of {label}"));
        damage.harm(&manifest);
        harmed.push(manifest);
        labels.push(label);
    }
    site.postgres.archive_everything();
    for (label, damage) in labels.iter().zip(kinds) {
        let mut restored = site.restore(
            &format!("{damage:?}"),
            &[&format!("--set={label}"), "--type=immediate", "--target-action=promote"],
        );
        restored.start_promoted();
        restored.check_all();
    }
}

#[test]
fn verify_finds_a_harmed_manifest_stanza_and_identity() {
    for kind in [Kind::Manifest, Kind::StanzaInfo, Kind::Key, Kind::Identity] {
        let site = Site::new("identity", 1);
        site.host.backup();
        let objects = site.node.objects(1).all(kind);
        let object = objects
            .first()
            .unwrap_or_else(|| panic!("no {kind:?} in the repository"));
        flip_in_the_middle(object);
        verify_finds(&site, std::slice::from_ref(object));
    }
}

/// One bit in the middle of an object of any format.
fn flip_in_the_middle(object: &Object) {
    let mut content = fs::read(&object.file).expect("reading an object");
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    fs::write(&object.file, content).expect("writing an object");
}

#[test]
fn a_repository_with_a_harmed_key_restores_nothing_by_itself() {
    let mut site = Site::new("key", 1);
    site.host.backup();
    site.postgres.archive_everything();
    site.node.stop();
    let repository = site.node.repository(1).clone();
    let key = site
        .node
        .objects(1)
        .all(Kind::Key)
        .into_iter()
        .next()
        .expect("a key object");
    let whole = fs::read(&key.file).expect("reading the key");
    for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let mut content = whole.clone();
        content[at] ^= 0x10;
        fs::write(&key.file, content).expect("writing the key");
        restore_directly(&site.scratch, &repository, &format!("flip-{at}")).refuses(&["key"]);
    }
    for length in [0, whole.len() / 2, whole.len() - 1] {
        fs::write(&key.file, &whole[..length]).expect("writing the key");
        restore_directly(&site.scratch, &repository, &format!("cut-{length}")).refuses(&["key"]);
    }
    fs::write(&key.file, &whole).expect("writing the key");
    restore_directly(&site.scratch, &repository, "whole").succeeds();
}

/// Restores from one repository alone, without a node.
fn restore_directly(scratch: &Scratch, repository: &pgmesh_tests::RepositoryFiles, name: &str) -> Outcome {
    let target = Postgres::empty(scratch, name);
    let mut command = scratch
        .account()
        .command(pgmesh_tests::pgmesh(scratch.path()), scratch.path());
    command
        .env(
            "PGMESH_REPO1_CIPHER_PASS",
            repository.passphrase.as_deref().unwrap_or_default(),
        )
        .args([
            "--config=/dev/null",
            "--stanza=main",
            "restore",
            "--repo-direct",
            "--repo1-cipher-type=aes-256-cbc",
        ])
        .arg(format!("--repo1-path={}", repository.path.display()))
        .arg(format!("--pg1-path={}", target.data().display()));
    run(command)
}

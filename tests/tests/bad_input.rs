//! Mistakes of users, and accidents of clusters and disks: a clear sentence, the right exit code, nothing lost.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Node, Postgres, Scratch, Site, SmallDisk, WalForge, run, wait_for};

#[test]
fn a_wrong_passphrase_is_named_and_opens_nothing() {
    let mut site = Site::without_archiving("passphrase", 1, 1);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.node.stop();
    site.node
        .reconfigure("passphrase of 1: correct horse", "another passphrase");
    match site.node.try_start() {
        Err((code, log)) => {
            assert_eq!(code, Some(95), "{log}");
            assert!(log.contains("repo1") && log.contains("passphrase"), "{log}");
            assert!(
                !log.contains("another passphrase"),
                "the passphrase itself is shown: {log}"
            );
        }
        // A node may also serve its other repositories; then it names the trouble to a client that needs this one.
        Ok(()) => site.host.push(&forge.make(2)).refuses(&["repo1", "passphrase"]),
    }
    site.node.stop();
    site.node
        .reconfigure("another passphrase", "passphrase of 1: correct horse");
    site.node.start();
    site.host.get(&forge.name(1), &forge.path("fetched")).succeeds();
}

#[test]
fn a_stanza_that_the_certificate_does_not_name_is_refused() {
    let site = Site::without_archiving("stanza", 1, 1);
    let forge = WalForge::new(&site.postgres);
    let file = forge.make(1).display().to_string();
    let pg1_path = format!("--pg1-path={}", site.postgres.data().display());
    let destination = forge.path("fetched").display().to_string();
    for command in [
        vec!["archive-push", file.as_str()],
        vec!["stanza-create"],
        vec!["archive-get", "000000010000000000000001", destination.as_str()],
    ] {
        let mut arguments = vec!["--stanza=other", &pg1_path];
        arguments.extend(command);
        site.host.plain(&arguments).refuses(&["other"]);
    }
    // Nor may a client do the work of an administrator.
    site.host
        .plain(&["invite", "--role=admin", "--expires=1h"])
        .refuses(&["admin"]);
}

#[test]
fn a_stanza_that_was_never_created_is_named() {
    let scratch = Scratch::new("never");
    let node = Node::builder(&scratch, "alpha").repository().start();
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    let host = Host::join(&scratch, "host", &node, &postgres, "main");
    let forge = WalForge::new(&postgres);
    host.push(&forge.make(1)).refuses(&["main", "stanza-create"]);
    host.run(&["backup", "--type=full"]).refuses(&["main", "stanza-create"]);
}

#[test]
fn another_cluster_cannot_write_into_a_stanza() {
    let site = Site::without_archiving("cluster", 1, 1);
    let other = Postgres::builder(&site.scratch, "other")
        .segment_mebibytes(1)
        .own_identity()
        .start();
    let host = Host::join(&site.scratch, "host-other", &site.node, &other, "main");
    let (known, given) = (site.postgres.system_id(), other.system_id());
    host.run(&["stanza-create"]).fails(&[28], &[&known, &given]);
    host.push(&WalForge::new(&other).make(1))
        .fails(&[44], &[&known, &given]);
    host.run(&["backup", "--type=full"]).fails(&[28, 51], &[&known, &given]);
    // Its segment 1 did not take the place of the stanza's own.
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
}

#[test]
fn a_copy_of_the_cluster_cannot_write_into_its_stanza() {
    let mut site = Site::without_archiving("clone", 1, 1);
    let forge = WalForge::new(&site.postgres);
    let archived = forge.make(1);
    site.host.push(&archived).succeeds();

    site.postgres.stop();
    let mut copy = Postgres::at(&site.scratch, "copy");
    let mut command = site.scratch.account().command("/bin/cp", site.scratch.path());
    command.arg("--archive").arg(site.postgres.data()).arg(copy.data());
    run(command).succeeds();
    site.postgres.start();
    copy.start();
    let host = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    // Same identifier, same timeline, other history.
    let forged = WalForge::new(&copy).make(2);
    host.push(&forged).refuses(&["main"]);
    // A promoted server pushes some segments that its primary has archived: the same bytes do no harm.
    host.push(&archived).succeeds();
    assert_eq!(
        site.host.get(&forge.name(2), &forge.path("fetched")).code(),
        Some(1),
        "nothing of it was archived"
    );
    site.host.push(&forge.make(2)).succeeds();
}

#[test]
fn a_copy_with_the_originals_configuration_cannot_push_the_originals_segments() {
    let mut site = Site::without_archiving("copied", 1, 1);
    site.postgres.stop();
    let copy = Postgres::at(&site.scratch, "copy");
    let mut command = site.scratch.account().command("/bin/cp", site.scratch.path());
    command.arg("--archive").arg(site.postgres.data()).arg(copy.data());
    run(command).succeeds();
    site.postgres.start();
    let segment = fs::read_dir(site.postgres.data().join("pg_wal"))
        .expect("the WAL folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.len() == 24)
        .expect("a segment that is being written");
    // As the copy's PostgreSQL would run it: %p is relative to the working directory, which is the copy's.
    let mut push = site.host.command(&["archive-push"]);
    push.arg(format!("pg_wal/{segment}")).current_dir(copy.data());
    run(push).fails(&[58], &["pg1-path"]);
    // The same with an absolute path.
    let path = copy.data().join("pg_wal").join(&segment).display().to_string();
    site.host.run(&["archive-push", &path]).fails(&[58], &["pg1-path"]);
    let fetched = site.scratch.join("fetched");
    assert_eq!(
        site.host.get(&segment, &fetched).code(),
        Some(1),
        "nothing was archived"
    );
}

#[test]
fn a_name_has_one_content_for_ever() {
    let site = Site::without_archiving("content", 2, 1);
    let forge = WalForge::new(&site.postgres);
    let name = forge.name(1);
    site.host.push(&forge.make(1)).succeeds();
    let mut other = forge.content(1);
    let middle = other.len() / 2;
    other[middle] ^= 1;
    site.host.push(&forge.write(&name, &other)).fails(&[45], &[&name]);
    let fetched = forge.path("fetched");
    site.host.get(&name, &fetched).succeeds();
    assert!(
        fs::read(&fetched).expect("the fetched segment") == forge.content(1),
        "the first content stays"
    );
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn what_is_no_segment_is_not_archived_as_one() {
    let site = Site::without_archiving("truncated", 1, 1);
    let forge = WalForge::new(&site.postgres);
    let (name, content) = (forge.name(1), forge.content(1));
    let half = &content[..content.len() / 2];
    let zeroed = vec![0; content.len()];
    for wrong in [half, &[], &content[..20], &zeroed, &forge.content(2)] {
        site.host.push(&forge.write(&name, wrong)).refuses(&[&name]);
    }
    let missing = forge.path("00000001000000000000000F");
    site.host.push(&missing).refuses(&["00000001000000000000000F"]);
    assert_eq!(site.host.get(&name, &forge.path("fetched")).code(), Some(1));
    site.host.push(&forge.write(&name, &content)).succeeds();
}

#[test]
fn a_full_disk_is_said_before_anything_is_acknowledged() {
    let scratch = Scratch::new("full");
    let Some(_disk) = SmallDisk::mount(&scratch.join("small"), 8) else {
        println!("skipped: only root may mount a small file system");
        return;
    };
    let path = scratch.join("small").join("repo2");
    let node = Node::builder(&scratch, "alpha")
        .repository()
        .repository_at(path, Some("small"))
        .start();
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    let host = Host::join(&scratch, "host", &node, &postgres, "main");
    host.run(&["stanza-create"]).succeeds();
    let forge = WalForge::new(&postgres);
    let mut acknowledged = Vec::new();
    let refused = (1..=40).find_map(|number| {
        let outcome = host.push(&forge.make(number));
        if outcome.code() == Some(0) {
            acknowledged.push(number);
            return None;
        }
        Some(outcome)
    });
    let refused = refused.expect("8 MiB cannot hold 40 segments of half a MiB");
    refused.fails(&[82], &["repo2"]);
    assert!(acknowledged.len() >= 4, "some fit: {acknowledged:?}");
    host.run(&["check"]).refuses(&["repo2"]);
    let fetched = forge.path("fetched");
    for number in acknowledged {
        host.get(&forge.name(number), &fetched).succeeds();
        assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(number));
    }
}

#[test]
fn one_full_repository_does_not_stop_the_other() {
    let scratch = Scratch::new("full-one");
    let Some(_disk) = SmallDisk::mount(&scratch.join("small"), 8) else {
        println!("skipped: only root may mount a small file system");
        return;
    };
    let path = scratch.join("small").join("repo2");
    let node = Node::builder(&scratch, "alpha")
        .repository()
        .repository_at(path, Some("small"))
        .option("archive-ack", "1")
        .start();
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    let host = Host::join(&scratch, "host", &node, &postgres, "main");
    host.run(&["stanza-create"]).succeeds();
    let forge = WalForge::new(&postgres);
    for number in 1..=40 {
        host.push(&forge.make(number)).succeeds();
    }
    let said = host.run(&["info"]).ok();
    assert!(
        said.stdout.contains("repo2"),
        "info names the repository that has a debt: {said}"
    );
}

#[test]
fn a_file_that_cannot_be_read_fails_the_backup() {
    let site = Site::new("unreadable", 1);
    let file = site
        .postgres
        .query("create table closed as select 1 as number; select pg_relation_filepath('closed')");
    site.postgres.query("checkpoint");
    let path = site.postgres.data().join(&file);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("closing a file");
    site.host
        .run(&["backup", "--type=full", "--start-fast"])
        .refuses(&[&file, "permission denied"]);
    assert!(
        site.host.info()["backup"].as_array().is_none_or(Vec::is_empty),
        "no backup was committed"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("opening a file");
    site.host.backup();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let scratch = Scratch::new("port");
    let mut node = Node::builder(&scratch, "alpha").repository().create();
    let taken = UdpSocket::bind(("127.0.0.1", node.port())).expect("taking the node's port");
    let (code, log) = node.try_start().expect_err("two programs cannot have one port");
    assert!(
        code.is_some_and(|code| code != 0 && code != 101),
        "exit code {code:?}: {log}"
    );
    assert!(log.contains(&node.port().to_string()), "{log}");
    drop(taken);
    node.start();
}

#[test]
fn a_second_node_on_the_same_folder_is_refused() {
    let scratch = Scratch::new("twice");
    let mut node = Node::builder(&scratch, "alpha").repository().start();
    run(node.command(&["node", "start"])).refuses(&[]);
    assert!(node.run(&["info"]).code() == Some(0), "the first goes on");
    node.run(&["node", "init"])
        .refuses(&[&node.data().display().to_string()]);
    node.stop();
}

#[test]
fn options_that_do_not_exist_are_named() {
    let site = Site::without_archiving("typo", 1, 1);
    // A mistyped option is an error on the command line and a warning in a file; an unknown command has an exit code of
    // its own.
    site.host
        .run(&["check", "--comprss-type=zst"])
        .fails(&[31], &["comprss-type"]);
    site.host.run(&["bakcup"]).fails(&[48], &["bakcup"]);
    site.host.run(&["backup", "--type=ful"]).refuses(&["type", "ful"]);
    site.host
        .run(&["backup", "--process-max=many"])
        .refuses(&["process-max", "many"]);
    let mut host = Host::join(&site.scratch, "host-typo", &site.node, &site.postgres, "main");
    host.reconfigure("[main]\n", "[main]\npg1-prot=5433\n");
    let outcome = host.run(&["info"]).ok();
    outcome.says(&["pg1-prot"]);
    host.reconfigure("pg1-prot=5433\n", "process-max=many\n");
    host.run(&["backup"]).refuses(&["process-max", "many"]);
    host.plain(&["check"]).fails(&[37], &["stanza"]);
}

#[test]
fn a_missing_configuration_file_is_named() {
    let site = Site::without_archiving("missing", 1, 1);
    let mut command = site
        .scratch
        .account()
        .command(pgmesh_tests::pgmesh(site.scratch.path()), site.scratch.path());
    command.args(["--config=/nowhere/pgmesh.conf", "--stanza=main", "check"]);
    run(command).refuses(&["/nowhere/pgmesh.conf"]);
}

#[test]
fn a_join_token_is_good_once_and_in_time() {
    let scratch = Scratch::new("token");
    let node = Node::builder(&scratch, "alpha").repository().start();
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).create();
    let host = |name: &str| Host::new(&scratch, name, &node, &postgres, "main");

    let token = node.invite("main");
    host("first").redeem(&token).succeeds();
    host("second").redeem(&token).refuses(&["used"]);

    let token = node.invite_with(&["--role=client", "--stanza=main", "--expires=1s"]);
    let invited = std::time::Instant::now();
    // Expiry is kept in whole seconds: after two seconds, a token of one second has expired.
    wait_for("the token to expire", Duration::from_secs(10), || {
        invited.elapsed() > Duration::from_millis(2100)
    });
    host("late").redeem(&token).refuses(&["expired"]);

    let token = node.invite("main");
    let cut = &token[..token.len() - 5];
    host("cut").redeem(cut).refuses(&["token"]);
    host("garbled")
        .plain(&["join", &token.to_uppercase()])
        .refuses(&["token"]);
    host("none").plain(&["join", "hello"]).refuses(&["token"]);
    // None of these refusals has used the token up.
    host("last").redeem(&token).succeeds();
}

#[test]
fn an_identity_of_another_mesh_opens_nothing() {
    let site = Site::without_archiving("mesh", 1, 1);
    let other = Node::builder(&site.scratch, "beta").repository().start();
    let mut stranger = Host::join(&site.scratch, "stranger", &other, &site.postgres, "main");
    stranger.reconfigure(
        &format!("mesh-node={}", other.address()),
        &format!("mesh-node={}", site.node.address()),
    );
    let forge = WalForge::new(&site.postgres);
    stranger.push(&forge.make(1)).refuses(&["mesh"]);
    stranger.run(&["info"]).refuses(&["mesh"]);

    // Nor does a host without an identity get in, or with a token of another mesh.
    let nobody = Host::new(&site.scratch, "nobody", &site.node, &site.postgres, "main");
    nobody.push(&forge.make(1)).refuses(&["join"]);
    assert_eq!(site.host.get(&forge.name(1), &forge.path("fetched")).code(), Some(1));
}

#[test]
fn a_node_that_is_not_there_is_named_soon() {
    let mut site = Site::without_archiving("absent", 1, 1);
    let forge = WalForge::new(&site.postgres);
    let file = forge.make(1);
    site.node.kill();
    let outcome = site.host.push(&file);
    outcome.fails(&[49, 82], &[&site.node.address()]);
    assert!(outcome.elapsed < Duration::from_secs(90), "{outcome}");
}

#[test]
fn a_repository_declared_differently_is_not_served() {
    let mut site = Site::without_archiving("declared", 2, 1);
    site.node.stop();
    let path = site.node.repository(2).path.display().to_string();
    site.node.reconfigure(&path, &format!("{path}-elsewhere"));
    match site.node.try_start() {
        Err((code, log)) => {
            assert!(
                code.is_some_and(|code| code != 0 && code != 101),
                "exit code {code:?}: {log}"
            );
            assert!(log.contains("repo2") && log.contains("path"), "{log}");
        }
        Ok(()) => {
            let log = site.node.process().log();
            assert!(
                log.contains("repo2") && log.contains("path"),
                "the option that differs is named: {log}"
            );
            site.host.run(&["check"]).refuses(&["repo2"]);
        }
    }
}

#[test]
fn a_backup_without_archiving_is_refused() {
    let site = Site::without_archiving("archiving", 1, 1);
    // archive_mode is on, and archive_command is not pgmesh: the WAL of a backup would never arrive.
    site.host.run(&["check"]).fails(&[68, 82, 87], &["archive_command"]);
    site.postgres.set("archive_command", &site.host.archive_command());
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.run(&["check"]).succeeds();
}

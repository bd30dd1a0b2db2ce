//! The options of a backup and a restore about their content, and their effects in `info --set`.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pgmesh_tests::{Outcome, Postgres, Site, run};
use serde_json::{Value, json};

/// A cluster with two databases of a user, a tablespace, and two links.
fn furnished(name: &str) -> Site {
    let mut site = Site::new(name, 1);
    site.postgres.add_tablespace("fast");
    for database in ["shop", "scratch"] {
        site.postgres.query(&format!("create database {database}"));
        site.postgres.script(&format!(
            "\\connect {database}\n\
             create table goods as select number, md5(number::text) from generate_series(1, 5000) as number;\n\
             create table quick tablespace fast as select number from generate_series(1, 5000) as number;\n"
        ));
    }
    site.postgres.stop();
    link_out(&site.postgres, "pg_wal");
    link_out(&site.postgres, "pg_ident.conf");
    site.postgres.start();
    site
}

/// Moves a file or directory out of the data directory, and leaves a link.
fn link_out(postgres: &Postgres, name: &str) {
    let (inside, outside) = (postgres.data().join(name), outside(postgres, name));
    fs::rename(&inside, &outside).expect("moving it");
    symlink(&outside, &inside).expect("a link");
}

fn outside(postgres: &Postgres, name: &str) -> PathBuf {
    postgres.socket().join(format!("outside-{name}"))
}

fn add_junk(postgres: &Postgres) {
    for folder in ["junk", "cache"] {
        let folder = postgres.data().join(folder);
        postgres.account().create_folder(&folder);
        postgres.account().write(&folder.join("file"), "nothing");
    }
    postgres.account().write(&postgres.data().join("notes"), "something");
}

/// Changes bytes in the middle of two pages of a table, without PostgreSQL's knowledge, and returns the table's path.
fn damage_pages(site: &mut Site) -> String {
    let path = site
        .postgres
        .script("\\connect shop\nselect pg_relation_filepath('goods');\n");
    site.postgres.stop();
    let file = site.postgres.data().join(&path);
    let mut bytes = fs::read(&file).expect("reading the table");
    for page in [3, 4, 7] {
        bytes[page * 8192 + 5000] ^= 0xFF;
    }
    fs::write(&file, bytes).expect("writing the table");
    site.postgres.start();
    path
}

fn label(site: &Site) -> String {
    site.host.last_backup()["label"].as_str().expect("a label").to_owned()
}

fn details(site: &Site, label: &str) -> (Value, String) {
    let set = format!("--set={label}");
    let json = site.host.run(&["info", &set, "--output=json"]).ok().json();
    let text = site.host.run(&["info", &set]).ok().stdout;
    (json[0]["backup"][0].clone(), text)
}

#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("no {part:?} in its place in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn info_tells_of_a_set_what_is_in_it() {
    let mut site = furnished("set");
    let table = damage_pages(&mut site);
    let outcome = site.host.run(&[
        "backup",
        "--type=full",
        "--start-fast",
        "--annotation=source=nightly job",
        "--annotation=keep=y",
    ]);
    outcome.clone().succeeds();
    outcome.says(&[&table, "pages 3-4, 7"]);
    let label = label(&site);

    let oid = |sql: &str| -> u64 { site.postgres.query(sql).parse().expect("an oid") };
    let shop = oid("select oid from pg_database where datname = 'shop'");
    let scratch = oid("select oid from pg_database where datname = 'scratch'");
    let fast = oid("select oid from pg_tablespace where spcname = 'fast'");
    let place = site.postgres.socket().join("fast").display().to_string();
    let [ident, wal] = ["pg_ident.conf", "pg_wal"].map(|name| outside(&site.postgres, name).display().to_string());
    let (backup, text) = details(&site, &label);
    assert_eq!(
        backup["database-ref"],
        json!([
            {"name": "postgres", "oid": 5},
            {"name": "shop", "oid": shop},
            {"name": "scratch", "oid": scratch},
        ])
    );
    assert_eq!(
        backup["tablespace"],
        json!([{"name": "fast", "oid": fast, "destination": place}])
    );
    assert_eq!(
        backup["link"],
        json!([{"name": "pg_ident.conf", "destination": ident}, {"name": "pg_wal", "destination": wal}])
    );
    assert_eq!(backup["error"], true);
    assert_eq!(backup["error-list"], json!([table]));
    assert_eq!(backup["annotation"], json!({"source": "nightly job", "keep": "y"}));
    assert_eq!(backup["reference"], Value::Null);
    in_order(
        &text,
        &[
            &format!("full backup: {label}\n"),
            "            lsn start/stop: ",
            "            repo1: backup size: ",
            &format!("            database list: postgres (5), shop ({shop}), scratch ({scratch})\n"),
            &format!(
                "            symlinks:\n                pg_ident.conf => {ident}\n                pg_wal => {wal}\n"
            ),
            &format!("            tablespaces:\n                fast ({fast}) => {place}\n"),
            &format!("            error list: {table} (blocks 3-4, 7)\n"),
            "            annotation(s)\n                keep: y\n                source: nightly job\n",
        ],
    );
    let all = site.host.run(&["info"]).ok().stdout;
    assert!(all.contains("            error(s) detected during backup\n"), "{all}");
    annotations_change(&site, &label);
    what_is_not_checked_is_not_reported(&site);
}

fn annotations_change(site: &Site, label: &str) {
    let set = format!("--set={label}");
    let annotate = |arguments: &[&str]| site.host.run(&[&["annotate"], arguments].concat());
    annotate(&[
        &set,
        "--annotation=keep=",
        "--annotation=source=by hand",
        "--annotation=by=me",
    ])
    .succeeds();
    let (backup, _) = details(site, label);
    assert_eq!(backup["annotation"], json!({"source": "by hand", "by": "me"}));
    annotate(&[&set]).fails(&[37], &["annotation"]);
    annotate(&["--annotation=a=b"]).fails(&[37], &["set"]);
    annotate(&["--set=20200101-000000F", "--annotation=a=b"]).fails(&[75], &["20200101-000000F"]);
    annotate(&[&set, "--annotation=nothing"]).fails(&[31], &["annotation"]);
}

fn what_is_not_checked_is_not_reported(site: &Site) {
    site.host
        .run(&["backup", "--type=full", "--start-fast", "--checksum-page=n"])
        .succeeds();
    let (backup, text) = details(site, &label(site));
    assert_eq!((&backup["error"], &backup["error-list"]), (&json!(false), &Value::Null));
    assert!(
        !text.contains("error list") && !text.contains("annotation(s)"),
        "{text}"
    );
}

#[test]
fn what_is_excluded_is_not_restored() {
    let site = Site::new("excluded", 1);
    add_junk(&site.postgres);
    let outcome = site.host.run(&[
        "backup",
        "--type=full",
        "--start-fast",
        "--exclude=junk",
        "--exclude=cache/",
        "--exclude=not-there",
    ]);
    outcome.succeeds();
    site.postgres.archive_everything();
    let mut restored = site.restore("restored", &["--write-manifest"]);
    restored.verify_backup();
    let data = restored.data().to_owned();
    assert!(!data.join("junk").exists() && data.join("notes").exists());
    assert!(data.join("cache").is_dir() && !data.join("cache/file").exists());
    restored.start_promoted();
    let (backup, text) = details(&site, &label(&site));
    assert_eq!((&backup["link"], &backup["tablespace"]), (&Value::Null, &Value::Null));
    assert!(text.contains("database list: postgres (5)\n"), "{text}");
}

fn count(postgres: &Postgres, database: &str) -> Outcome {
    let mut command = postgres.program("psql");
    command.args(["-X", "-A", "-t", "-q", "-d", database, "-c"]);
    command.arg("select (select count(*) from goods), (select count(*) from quick)");
    run(command)
}

/// Starts a restored cluster, and checks that one database is whole, and that the other is empty and can be dropped.
fn has_only(restored: &mut Postgres, whole: &str, empty: &str) {
    restored.start_promoted();
    assert_eq!(count(restored, whole).ok().text(), "5000|5000");
    assert!(!count(restored, empty).status.success(), "{empty} is not there");
    restored.query(&format!("drop database {empty}"));
    restored.check_all();
}

#[test]
fn single_databases_are_restored() {
    let site = furnished("single");
    site.host.backup();
    site.postgres.archive_everything();
    let spaces = |name: &str| format!("--tablespace-map-all={}", site.scratch.join(name).display());
    let mut included = site.restore("included", &["--db-include=shop", &spaces("one/deeper")]);
    assert!(site.scratch.join("one/deeper/fast").is_dir(), "made by the restore");
    has_only(&mut included, "shop", "scratch");
    let mut excluded = site.restore("excluded", &["--db-exclude=shop", &spaces("two")]);
    has_only(&mut excluded, "scratch", "shop");

    let target = Postgres::empty(&site.scratch, "none");
    let refuses = |arguments: &[&str], words: &[&str]| {
        run(site.host.restore_command(&target, arguments)).fails(&[31], words);
    };
    refuses(&["--db-include=nothing"], &["no database 'nothing'", "shop"]);
    refuses(&["--db-exclude=postgres"], &["system database"]);
    refuses(
        &["--db-include=shop", "--db-exclude=shop"],
        &["db-include", "db-exclude"],
    );
}

fn links_to(restored: &Postgres, name: &str) -> Option<PathBuf> {
    fs::read_link(restored.data().join(name)).ok()
}

#[test]
fn links_come_back_as_asked_for() {
    let mut site = furnished("linked");
    site.host.backup();
    site.postgres.archive_everything();
    let spaces = |name: &str| format!("--tablespace-map=fast={}", site.scratch.join(name).display());

    let mut plain = site.restore("plain", &[&spaces("plain-fast")]);
    assert_eq!(
        (links_to(&plain, "pg_wal"), links_to(&plain, "pg_ident.conf")),
        (None, None)
    );
    plain.start_promoted();
    plain.stop();

    let wal = site.scratch.join("new/wal");
    let map = format!("--link-map=pg_wal={}", wal.display());
    let mut mapped = site.restore("mapped", &[&spaces("mapped-fast"), &map]);
    assert_eq!(links_to(&mapped, "pg_wal").as_deref(), Some(wal.as_path()));
    assert_eq!(links_to(&mapped, "pg_ident.conf"), None);
    mapped.start_promoted();
    assert_eq!(count(&mapped, "shop").ok().text(), "5000|5000");
    mapped.stop();

    // The original's directories are in use, and are not written over.
    let target = Postgres::empty(&site.scratch, "all");
    let all = ["--link-all", &spaces("all-fast")];
    run(site.host.restore_command(&target, &all)).fails(&[40], &["outside-pg_"]);
    run(site.host.restore_command(&target, &["--link-map=pg_xact=/x"])).fails(&[78], &["no link 'pg_xact'"]);

    site.postgres.stop();
    let [ident, wal] = ["pg_ident.conf", "pg_wal"].map(|name| outside(&site.postgres, name));
    set_aside(&ident);
    set_aside(&wal);
    run(site.host.restore_command(&target, &all)).succeeds();
    let mut all = target;
    assert_eq!(links_to(&all, "pg_wal"), Some(wal));
    assert_eq!(links_to(&all, "pg_ident.conf"), Some(ident));
    all.start_promoted();
    assert_eq!(count(&all, "scratch").ok().text(), "5000|5000");
}

fn set_aside(path: &Path) {
    let aside = path.with_extension("aside");
    fs::rename(path, aside).expect("setting it aside");
}

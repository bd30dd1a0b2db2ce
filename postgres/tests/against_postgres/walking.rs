//! Walks over real data directories and over awkward ones.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::cluster::Cluster;
use pgmesh_postgres::{
    ClusterTree, ControlFile, EntryKind, Link, ManifestFile, ManifestWriter, PgVersion, SystemId, Tablespace,
    TimelineId, WalRange, WalkError, WalkOptions, walk,
};
use serde_json::Value;
use tempfile::TempDir;

fn files(tree: &ClusterTree) -> BTreeSet<String> {
    let files = tree
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind, EntryKind::File { .. }));
    files.map(|entry| entry.path.clone()).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

/// pg_basebackup's own manifest, written again from its parts.
fn rewrite(manifest: &Value, version: PgVersion, system_id: SystemId) -> String {
    let mut writer = ManifestWriter::new(Vec::new(), version, system_id).unwrap();
    let format =
        time::format_description::parse_borrowed::<2>("[year]-[month]-[day] [hour]:[minute]:[second] GMT").unwrap();
    for file in manifest["Files"].as_array().unwrap() {
        let modified = time::PrimitiveDateTime::parse(text(file, "Last-Modified"), &format).unwrap();
        let checksum = hex::decode(text(file, "Checksum")).unwrap();
        writer
            .file(ManifestFile {
                path: text(file, "Path").as_bytes(),
                size: file["Size"].as_u64().unwrap(),
                modified: modified.assume_utc().unix_timestamp(),
                crc32c: u32::from_le_bytes(checksum.try_into().unwrap()),
            })
            .unwrap();
    }
    let range = &manifest["WAL-Ranges"][0];
    let range = WalRange {
        timeline: TimelineId(1),
        start: text(range, "Start-LSN").parse().unwrap(),
        end: text(range, "End-LSN").parse().unwrap(),
    };
    String::from_utf8(writer.finish(&[range]).unwrap()).unwrap()
}

#[test]
fn a_walk_finds_what_pg_basebackup_copies() {
    let mut cluster = Cluster::new(&[]);
    let space = cluster.make_directory("space");
    cluster.start(&[]);
    cluster.sql(&[
        &format!("CREATE TABLESPACE space LOCATION '{}'", space.display()),
        "CREATE TABLE kept (i int) TABLESPACE space",
        "INSERT INTO kept SELECT generate_series(1, 10000)",
        "CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 1000) i",
        "CREATE UNLOGGED TABLE unlogged_there TABLESPACE space AS SELECT i FROM generate_series(1, 1000) i",
        "VACUUM",
        "CHECKPOINT",
    ]);
    let backup = cluster.beside("backup");
    let mapping = format!("{}={}", space.display(), cluster.beside("space_copy").display());
    let host = cluster.pgdata().parent().unwrap().to_str().unwrap().to_owned();
    cluster.run(
        "pg_basebackup",
        &[
            "-h",
            &host,
            "-U",
            "postgres",
            "-D",
            backup.to_str().unwrap(),
            "-X",
            "none",
            "-c",
            "fast",
            "--no-sync",
            "-T",
            &mapping,
        ],
    );
    let control = ControlFile::read(&cluster.pgdata()).unwrap();
    let tree = walk(&cluster.pgdata(), &WalkOptions::new(control.version)).unwrap();

    let written = fs::read_to_string(backup.join("backup_manifest")).unwrap();
    let manifest: Value = serde_json::from_str(&written).unwrap();
    let copied = manifest["Files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| text(file, "Path").to_owned());
    let copied: BTreeSet<String> = copied
        .filter(|path| path != "backup_label" && path != "tablespace_map")
        .collect();
    assert_eq!(files(&tree), copied);
    assert_eq!(rewrite(&manifest, control.version, control.system_id), written);

    let [tablespace] = tree.tablespaces.as_slice() else {
        panic!("{:?}", tree.tablespaces)
    };
    assert_eq!(tablespace.destination, space);
    let of_kind = |path: &str| {
        tree.entries
            .iter()
            .filter(|entry| entry.path == path)
            .map(|entry| entry.kind.clone())
            .collect::<Vec<_>>()
    };
    let destination = space.to_str().unwrap().to_owned();
    assert_eq!(
        of_kind(&format!("pg_tblspc/{}", tablespace.oid)),
        [EntryKind::Link { destination }, EntryKind::Directory]
    );
    for path in ["pg_wal", "pg_wal/archive_status", "pg_replslot", "pg_stat_tmp"] {
        assert_eq!(of_kind(path), [EntryKind::Directory], "{path}");
    }
    assert!(tree.entries.iter().is_sorted_by_key(|entry| entry.path));
    assert!(
        tree.entries
            .iter()
            .all(|entry| entry.user.as_deref() == Some("postgres"))
    );
    assert_eq!(tree.root.mode, 0o700);
}

#[test]
fn pg_verifybackup_accepts_a_copy_made_from_a_walk() {
    let cluster = Cluster::new(&["--data-checksums"]);
    let control = ControlFile::read(&cluster.pgdata()).unwrap();
    let tree = walk(&cluster.pgdata(), &WalkOptions::new(control.version)).unwrap();
    let copy = cluster.make_directory("copy");
    let mut writer = ManifestWriter::new(
        fs::File::create(copy.join("backup_manifest")).unwrap(),
        control.version,
        control.system_id,
    )
    .unwrap();
    for entry in &tree.entries {
        match entry.kind {
            EntryKind::Directory => fs::create_dir(copy.join(&entry.path)).unwrap(),
            EntryKind::Link { .. } => panic!("{} is a link", entry.path),
            EntryKind::File { size } => {
                let content = fs::read(entry.disk_path()).unwrap();
                assert_eq!(content.len() as u64, size);
                fs::write(copy.join(&entry.path), &content).unwrap();
                let crc32c = crc32c::crc32c(&content);
                writer
                    .file(ManifestFile {
                        path: entry.path.as_bytes(),
                        size,
                        modified: entry.modified,
                        crc32c,
                    })
                    .unwrap();
            }
        }
    }
    let range = WalRange {
        timeline: TimelineId(1),
        start: control.redo,
        end: control.redo + 1,
    };
    writer.finish(&[range]).unwrap();
    cluster.run("pg_verifybackup", &["-n".as_ref(), copy.as_os_str()]);

    let damaged = copy.join("global/pg_control");
    let mut content = fs::read(&damaged).unwrap();
    content[300] ^= 1;
    fs::write(&damaged, content).unwrap();
    assert!(
        !cluster
            .attempt("pg_verifybackup", &["-n".as_ref(), copy.as_os_str()])
            .status
            .success()
    );
}

/// A data directory `data`, with a file in it, and room beside it.
fn awkward() -> (TempDir, std::path::PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    fs::create_dir_all(data.join("base/5")).unwrap();
    fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
    fs::create_dir_all(data.join("pg_tblspc")).unwrap();
    write(&data, "base/5/16384", "x");
    (parent, data)
}

fn write(data: &Path, path: &str, content: &str) {
    fs::write(data.join(path), content).unwrap();
}

fn walk_15(data: &Path) -> Result<ClusterTree, WalkError> {
    walk(data, &WalkOptions::new(PgVersion::V15))
}

fn paths(tree: &ClusterTree) -> Vec<String> {
    tree.entries.iter().map(|entry| entry.path).collect()
}

#[test]
fn links_out_of_the_cluster_are_recorded_and_followed() {
    let (parent, data) = awkward();
    let outside = parent.path().join("outside");
    fs::create_dir_all(outside.join("wal/archive_status")).unwrap();
    fs::create_dir_all(outside.join("log")).unwrap();
    write(&outside, "wal/000000010000000000000001", "w");
    write(&outside, "log/today", "l");
    write(&outside, "postgresql.conf", "c");
    fs::remove_dir_all(data.join("pg_wal")).unwrap();
    symlink(outside.join("wal"), data.join("pg_wal")).unwrap();
    symlink("../outside/log", data.join("log")).unwrap();
    symlink(outside.join("postgresql.conf"), data.join("postgresql.conf")).unwrap();

    let tree = walk_15(&data).unwrap();
    assert_eq!(
        paths(&tree),
        [
            "base",
            "base/5",
            "base/5/16384",
            "log",
            "log",
            "log/today",
            "pg_tblspc",
            "pg_wal",
            "pg_wal",
            "pg_wal/archive_status",
            "postgresql.conf",
            "postgresql.conf"
        ]
    );
    let entries: Vec<_> = tree.entries.iter().collect();
    assert_eq!(
        entries[3].kind,
        EntryKind::Link {
            destination: "../outside/log".to_owned()
        }
    );
    assert_eq!(entries[4].kind, EntryKind::Directory);
    assert_eq!(entries[11].kind, EntryKind::File { size: 1 });
    assert_eq!(fs::read_to_string(entries[11].disk_path()).unwrap(), "c");
    assert_eq!(
        tree.links[0],
        Link {
            path: "log".to_owned(),
            destination: "../outside/log".to_owned()
        }
    );
    assert_eq!(tree.links.len(), 3);
}

#[test]
fn tablespaces_are_of_one_version_only() {
    let (parent, data) = awkward();
    let space = parent.path().join("space");
    for version in PgVersion::ALL {
        fs::create_dir_all(space.join(version.tablespace_directory()).join("5")).unwrap();
        write(&space, &format!("{}/5/16390", version.tablespace_directory()), "x");
    }
    fs::create_dir(space.join("lost+found")).unwrap();
    symlink(&space, data.join("pg_tblspc/16500")).unwrap();
    let tree = walk_15(&data).unwrap();
    assert_eq!(
        tree.tablespaces,
        [Tablespace {
            oid: 16500,
            destination: space
        }]
    );
    assert!(tree.links.is_empty());
    let there: Vec<_> = paths(&tree)
        .into_iter()
        .filter(|path| path.starts_with("pg_tblspc/16500/"))
        .collect();
    let expected = ["", "/5", "/5/16390"].map(|end| format!("pg_tblspc/16500/PG_15_202209061{end}"));
    assert_eq!(there, expected);
}

#[test]
fn links_that_cannot_be_followed_are_refused() {
    type Make = fn(&Path, &Path);
    let refused = |make: Make| {
        let (parent, data) = awkward();
        fs::create_dir_all(parent.path().join("outside/inner")).unwrap();
        make(parent.path(), &data);
        walk_15(&data).unwrap_err()
    };
    let into = |error: WalkError| assert!(matches!(error, WalkError::LinkIntoCluster { .. }), "{error}");
    into(refused(|_, data| symlink("base", data.join("again")).unwrap()));
    into(refused(|_, data| symlink("base/5/16384", data.join("again")).unwrap()));
    into(refused(|_, data| symlink(data, data.join("loop")).unwrap()));
    into(refused(|parent, data| symlink(parent, data.join("around")).unwrap()));
    into(refused(|_, data| {
        symlink(data.join("base"), data.join("pg_tblspc/16500")).unwrap()
    }));

    let overlap = |error: WalkError| assert!(matches!(error, WalkError::LinkOverlap { .. }), "{error}");
    overlap(refused(|parent, data| {
        symlink(parent.join("outside"), data.join("one")).unwrap();
        symlink(parent.join("outside/inner"), data.join("two")).unwrap();
    }));
    overlap(refused(|parent, data| {
        symlink(parent.join("outside"), data.join("one")).unwrap();
        symlink(parent.join("outside"), parent.join("outside/inner/loop")).unwrap();
    }));

    let dangling = refused(|_, data| symlink("/nonexistent/x", data.join("log")).unwrap());
    assert!(dangling.to_string().contains("/nonexistent/x"), "{dangling}");
    let circular = refused(|_, data| symlink("self", data.join("self")).unwrap());
    assert!(matches!(circular, WalkError::Examine { .. }), "{circular}");
}

#[test]
fn the_user_can_exclude_files_directories_and_contents() {
    let (_parent, data) = awkward();
    for directory in ["junk", "cache"] {
        fs::create_dir(data.join(directory)).unwrap();
        write(&data, &format!("{directory}/file"), "x");
    }
    symlink("/nonexistent", data.join("dangling")).unwrap();
    let exclude = ["junk", "cache/", "dangling"].map(str::to_owned).to_vec();
    let tree = walk(
        &data,
        &WalkOptions {
            version: PgVersion::V15,
            exclude,
        },
    )
    .unwrap();
    assert_eq!(
        paths(&tree),
        [
            "base",
            "base/5",
            "base/5/16384",
            "cache",
            "pg_tblspc",
            "pg_wal",
            "pg_wal/archive_status"
        ]
    );
}

#[test]
fn sockets_are_passed_over_and_recorded() {
    let (_parent, data) = awkward();
    let _listener = UnixListener::bind(data.join(".s.PGSQL.5432")).unwrap();
    let tree = walk_15(&data).unwrap();
    assert!(!paths(&tree).iter().any(|path| path == ".s.PGSQL.5432"));
    assert_eq!(
        (tree.skipped[0].path.as_str(), tree.skipped[0].what),
        (".s.PGSQL.5432", "a socket")
    );
}

#[test]
fn what_cannot_be_read_or_named_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let (_parent, data) = awkward();
    let odd = data.join(std::ffi::OsStr::from_bytes(b"odd\xFF"));
    fs::write(&odd, "").unwrap();
    assert!(matches!(walk_15(&data), Err(WalkError::NotUtf8 { path }) if path == odd));

    let missing = walk_15(Path::new("/nonexistent/data")).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/data"), "{missing}");
}

#[test]
fn modes_and_times_are_recorded() {
    let (_parent, data) = awkward();
    fs::set_permissions(data.join("base/5/16384"), fs::Permissions::from_mode(0o640)).unwrap();
    let tree = walk_15(&data).unwrap();
    let entry = tree.entries.iter().find(|entry| entry.path == "base/5/16384").unwrap();
    assert_eq!((entry.mode, &entry.kind), (0o640, &EntryKind::File { size: 1 }));
    assert!(entry.modified > 1_700_000_000);
    assert_eq!(tree.root.path, "");
}

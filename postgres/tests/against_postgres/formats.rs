//! Formats as the installed PostgreSQL writes and reads them.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::cluster::Cluster;
use crate::majors::majors;
use pgmesh_postgres::page::{self, PageCheck};
use pgmesh_postgres::{
    BackupLabel, ClusterState, ControlFile, EntryKind, PostmasterPid, RecoverySettings, RecoveryTarget, RelationFile,
    SegmentName, WalFileName, WalHeader, WalHeaderError, WalkOptions, walk,
};

#[test]
fn control_file_agrees_with_pg_controldata() {
    let cases = majors().into_iter().flat_map(|major| {
        // From 18 on a cluster has checksums unless it is told otherwise, and before there is no word for that.
        let without: &[&str] = if major >= 18 { &["--no-data-checksums"] } else { &[] };
        let with: &[&str] = &["--data-checksums", "--wal-segsize=4"];
        [(major, with, 1), (major, without, 0)]
    });
    for (major, options, checksums) in cases {
        let cluster = Cluster::of_major(major, options);
        let control = ControlFile::read(&cluster.pgdata()).unwrap();
        let told = cluster.run("pg_controldata", &[cluster.pgdata()]);
        let field = |label: &str| Cluster::field(&told, label);

        assert_eq!(control.system_id.to_string(), field("Database system identifier"));
        assert_eq!(control.control_version.to_string(), field("pg_control version number"));
        assert_eq!(control.catalog_version.to_string(), field("Catalog version number"));
        assert_eq!(control.state.to_string(), field("Database cluster state"));
        assert_eq!(control.checkpoint.to_string(), field("Latest checkpoint location"));
        assert_eq!(control.redo.to_string(), field("Latest checkpoint's REDO location"));
        assert_eq!(
            control.checkpoint_timeline.to_string(),
            field("Latest checkpoint's TimeLineID")
        );
        assert_eq!(
            control.min_recovery_point.to_string(),
            field("Minimum recovery ending location")
        );
        assert_eq!(
            control.min_recovery_timeline.to_string(),
            field("Min recovery ending loc's timeline")
        );
        assert_eq!(control.backup_start_point.to_string(), field("Backup start location"));
        assert_eq!(control.wal_level.to_string(), field("wal_level setting"));
        assert_eq!(
            control.data_checksum_version.to_string(),
            field("Data page checksum version")
        );
        assert_eq!(control.block_size.to_string(), field("Database block size"));
        assert_eq!(control.wal_block_size.to_string(), field("WAL block size"));
        assert_eq!(control.segment_size.bytes().to_string(), field("Bytes per WAL segment"));
        assert_eq!(control.data_checksum_version, checksums);
        assert_eq!(control.has_page_checksums(), checksums == 1);

        let redo = SegmentName::containing(control.checkpoint_timeline, control.redo, control.segment_size);
        assert_eq!(redo.to_string(), field("Latest checkpoint's REDO WAL file"));
        let version = fs::read_to_string(cluster.pgdata().join("PG_VERSION")).unwrap();
        assert_eq!(version.parse(), Ok(control.version));
    }
}

#[test]
fn a_segments_header_names_its_cluster() {
    for major in majors() {
        header_names_cluster(&Cluster::of_major(major, &["--wal-segsize=1"]));
    }
}

fn header_names_cluster(cluster: &Cluster) {
    let control = ControlFile::read(&cluster.pgdata()).unwrap();
    let current = SegmentName::containing(control.checkpoint_timeline, control.checkpoint, control.segment_size);
    let mut written = 0;
    for item in fs::read_dir(cluster.pgdata().join("pg_wal")).unwrap() {
        let item = item.unwrap();
        let Ok(WalFileName::Segment(name)) = item.file_name().to_str().unwrap().parse() else {
            continue;
        };
        let bytes = fs::read(item.path()).unwrap();
        let header = WalHeader::parse(&bytes).unwrap();
        assert_eq!(header.system_id, control.system_id);
        assert_eq!(header.version(), control.version);
        assert_eq!(header.segment_size, control.segment_size);
        let checked = header.check(name, bytes.len() as u64);
        if name <= current {
            assert_eq!(checked, Ok(()));
            written += 1;
        } else {
            // Recycled for later use: still another segment's content.
            assert!(matches!(checked, Err(WalHeaderError::Address { .. })), "{checked:?}");
        }
    }
    assert!(written > 0);
}

#[test]
fn page_checksums_agree_with_the_server() {
    let mut cluster = Cluster::new(&["--data-checksums"]);
    cluster.start(&[]);
    cluster.sql(&[
        "CREATE TABLE t AS SELECT i, repeat('x', 100) AS x FROM generate_series(1, 20000) i",
        "CREATE INDEX ON t (i)",
        "VACUUM t",
    ]);
    let table = cluster.sql(&["SELECT pg_relation_filepath('t')"]).trim().to_owned();
    cluster.stop();

    let control = ControlFile::read(&cluster.pgdata()).unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
    let tree = walk(&cluster.pgdata(), &WalkOptions::new(control.version)).unwrap();
    let mut valid = 0;
    for entry in &tree.entries {
        let (Some(file), EntryKind::File { .. }) = (RelationFile::parse(&entry.path), &entry.kind) else {
            continue;
        };
        let bytes = fs::read(entry.disk_path()).unwrap();
        assert_eq!(bytes.len() % page::PAGE_SIZE, 0, "{}", entry.path);
        for (page, block) in page::pages(&bytes).iter().zip(file.first_block()..) {
            match page::check(page, block) {
                PageCheck::Valid => valid += 1,
                PageCheck::AllZero => (),
                PageCheck::Mismatch { .. } => panic!("{} block {block}", entry.path),
            }
            assert!(file.fork != pgmesh_postgres::Fork::Main || page::lsn(page) <= control.checkpoint);
        }
    }
    assert!(valid > 1000, "only {valid} pages");
    cluster.run(
        "pg_checksums",
        &["--check".as_ref(), "-D".as_ref(), cluster.pgdata().as_os_str()],
    );

    // One flipped bit: both find it, at the same block.
    let path = cluster.pgdata().join(&table);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    let place = 7 * 8192 + 4000;
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    let bytes = fs::read(&path).unwrap();
    let bad: Vec<u32> = page::pages(&bytes)
        .iter()
        .zip(0..)
        .filter(|(page, block)| page::check(page, *block) != PageCheck::Valid)
        .map(|(_, block)| block)
        .collect();
    assert_eq!(bad, [7]);
    let judged = cluster.attempt(
        "pg_checksums",
        &["--check".as_ref(), "-D".as_ref(), cluster.pgdata().as_os_str()],
    );
    assert!(!judged.status.success());
    assert!(String::from_utf8_lossy(&judged.stderr).contains("block 7"));
}

#[test]
fn a_running_server_says_where_it_listens_and_labels_its_backups() {
    let mut cluster = Cluster::new(&[]);
    assert_eq!(PostmasterPid::read(&cluster.pgdata()).unwrap(), None);
    let archive = cluster.make_directory("archive");
    cluster.start(&[
        "archive_mode=on",
        &format!("archive_command=cp %p {}/%f", archive.display()),
    ]);
    let running = PostmasterPid::read(&cluster.pgdata()).unwrap().unwrap();
    assert_eq!(running.data_directory, cluster.pgdata().to_str().unwrap());
    assert_eq!(
        running.socket_directory.as_deref(),
        cluster.pgdata().parent().unwrap().to_str()
    );
    assert_eq!(running.port, Some(5432));

    // One session must begin and end the backup.
    let printed = cluster.sql(&[
        "SELECT pg_backup_start('nightly', true)",
        "SELECT labelfile FROM pg_backup_stop(true)",
    ]);
    let (start, label_text) = printed.split_once('\n').unwrap();
    let label = BackupLabel::parse(label_text).unwrap();
    let control = ControlFile::read(&cluster.pgdata()).unwrap();
    assert_eq!(label.start.to_string(), start);
    assert_eq!(label.start, control.redo);
    assert_eq!(label.checkpoint, control.checkpoint);
    assert_eq!(
        label.start_segment,
        SegmentName::containing(label.start_timeline, label.start, control.segment_size)
    );
    assert_eq!((label.label.as_str(), label.from.as_str()), ("nightly", "primary"));

    // The server waited until the backup's WAL and its history file were archived.
    let archived: Vec<WalFileName> = fs::read_dir(&archive)
        .unwrap()
        .map(|item| item.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    assert!(
        archived.contains(&WalFileName::Segment(label.start_segment)),
        "{archived:?}"
    );
    let offset = u32::try_from(label.start - label.start_segment.start(control.segment_size)).unwrap();
    assert!(
        archived.contains(&WalFileName::BackupHistory {
            segment: label.start_segment,
            offset
        }),
        "{archived:?}"
    );
}

#[test]
fn the_server_reads_the_settings_that_were_written() {
    let cluster = Cluster::new(&[]);
    let file = cluster.pgdata().join("postgresql.auto.conf");
    for command in [
        "pgmesh --stanza=main archive-get %f \"%p\"",
        "it's \\ here \\n '' \\' \\\\ \"",
        "two\nlines\r\tand # a comment = 'x'",
        "'",
        "\\",
        "grüße 日本",
    ] {
        let target = RecoveryTarget::Name(command.replace('\n', " ").chars().take(20).collect());
        let mut settings = RecoverySettings::new(target, 0);
        settings.restore_command = Some(command.to_owned());
        settings.add_option("cluster_name", "main").unwrap();
        let existing = fs::read_to_string(&file).unwrap();
        fs::write(&file, settings.render_auto_conf(&existing)).unwrap();
        let ask = |name: &str| cluster.run("postgres", &["-D", cluster.pgdata().to_str().unwrap(), "-C", name]);
        assert_eq!(ask("restore_command"), format!("{command}\n"));
        assert_eq!(ask("cluster_name"), "main\n");
    }
}

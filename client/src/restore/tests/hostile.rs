//! Traps of other users: links in the data directory, a backup in a repository that they can write to.

use super::*;
use std::os::unix::fs::symlink;

#[tokio::test]
async fn links_in_the_data_directory_are_removed_and_never_followed() {
    let fixture = Fixture::new(1).await;
    fixture.restore(&[]).await.unwrap();
    let pgdata = fixture.pgdata();
    let secret = fixture.path("secret");
    fs::write(&secret, "secret").unwrap();
    let outside = fixture.path("outside");
    fs::create_dir_all(outside.join("5")).unwrap();
    fs::write(outside.join("5/precious"), "precious").unwrap();

    // In the place of files, of a directory, of files that a restore writes itself, and behind a tablespace.
    for name in [
        "base/5/2001",
        "backup_label",
        "recovery.signal",
        "pg_wal/000000010000000000000002",
    ] {
        fs::remove_file(pgdata.join(name)).ok();
        symlink(&secret, pgdata.join(name)).unwrap();
    }
    fs::remove_dir_all(pgdata.join("base")).unwrap();
    symlink(&outside, pgdata.join("base")).unwrap();
    let database = fixture.path("fast/PG_15_202209061/16400");
    fs::remove_dir_all(&database).unwrap();
    symlink(&outside, &database).unwrap();
    for arguments in [["--delta", "--type=none"], ["--force", "--type=none"]] {
        fixture.restore(&arguments).await.unwrap();
        fixture.assert_restored();
        fs::remove_dir_all(pgdata.join("base")).unwrap();
        symlink(&outside, pgdata.join("base")).unwrap();
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("5/precious")).unwrap(), "precious");

    // In the place of the file by which a restore takes the directory: the restore ends before it changes a file.
    symlink(&secret, pgdata.join(data_directory::MARKER)).unwrap();
    let failure = fixture.restore(&["--force"]).await.unwrap_err();
    assert!(failure.remedy.unwrap().contains("symbolic link"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

#[tokio::test]
async fn a_backup_puts_nothing_beside_the_clusters_directory_of_a_tablespace() {
    let mut fixture = Fixture::empty(1).await;
    fixture.files.insert(
        "pg_tblspc/16385/cron.d/job".to_owned(),
        b"* * * * * root true\n".to_vec(),
    );
    fixture.back_up().await;
    let failure = fixture.restore(&[]).await.unwrap_err();
    assert_eq!(failure.code, ExitCode::Format);
    assert!(failure.cause.unwrap().contains("pg_tblspc/16385/cron.d/job"));
    assert!(
        !fixture.path("fast").exists() && !fixture.pgdata().exists(),
        "nothing was written"
    );
}

/// A power cut takes the content of a file, and not the times that were set: the next restore believes no times.
#[tokio::test]
async fn times_prove_nothing_after_a_restore_that_did_not_end() {
    let fixture = Fixture::new(1).await;
    fixture.restore(&[]).await.unwrap();
    let file = fixture.pgdata().join("base/5/exact");
    let lose = || {
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, vec![0; 2 * MIB]).unwrap();
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    lose();
    fixture.restore(&["--delta", "--force"]).await.unwrap();
    assert!(
        fs::read(&file).unwrap() == vec![0; 2 * MIB],
        "its time was believed, as asked for"
    );
    fs::write(fixture.pgdata().join(data_directory::MARKER), "").unwrap();
    fixture.restore(&["--delta", "--force"]).await.unwrap();
    fixture.assert_restored();
}

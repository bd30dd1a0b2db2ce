//! Work that makes a server write WAL of every kind that tells of changed files.

use crate::cluster::Cluster;

/// Settings that the workload needs. Small buffers, so that pages are written in between; all WAL is kept.
pub const SETTINGS: &[&str] = &[
    "wal_level=logical",
    "max_prepared_transactions=5",
    "wal_keep_size=2GB",
    "max_wal_size=64MB",
    "shared_buffers=4MB",
    "autovacuum=off",
];

/// Runs the whole workload, a crash of the server included.
pub fn run(cluster: &mut Cluster, major: u32) {
    let folder = cluster.make_directory("space").display().to_string();
    cluster.sql(&[&format!("CREATE TABLESPACE space LOCATION '{folder}'")]);
    for method in ["off", "pglz", "lz4", "zstd"] {
        // 14 has pglz alone and calls it `on`; a method that the build lacks is passed over.
        let method = if major == 14 && method == "pglz" { "on" } else { method };
        let set = format!("SET wal_compression = {method}");
        if cluster.try_sql(&[&set]) {
            tables(cluster, &set, method);
        }
    }
    cluster.sql(ENDS_OF_TRANSACTIONS);
    cluster.sql(&["VACUUM (TRUNCATE) ends", "VACUUM FULL ends", "CHECKPOINT"]);
    databases(cluster, major);
    cluster.sql(OTHERS);
    crash(cluster);
    overwrite(cluster);
}

/// Tables with all kinds of indexes, in a tablespace of their own every other time.
fn tables(cluster: &Cluster, set: &str, name: &str) {
    let space = if name == "off" { "pg_default" } else { "space" };
    let table = format!("t_{name}");
    let statements = [
        "CREATE EXTENSION IF NOT EXISTS bloom".to_owned(),
        format!(
            "CREATE TABLE {table} (i int, text text, words tsvector, spot point, numbers int[]) TABLESPACE {space}"
        ),
        format!(
            "INSERT INTO {table} SELECT i, repeat(md5(i::text), 3), to_tsvector('simple', md5(i::text) || ' ' || i % 7), \
             point(i, i * 7 % 1000), ARRAY[i % 10, i % 3] FROM generate_series(1, 3000) i"
        ),
        format!("CREATE INDEX ON {table} (i)"),
        format!("CREATE INDEX ON {table} USING hash (text) TABLESPACE {space}"),
        format!("CREATE INDEX ON {table} USING gin (words)"),
        format!("CREATE INDEX ON {table} USING gin (numbers) WITH (fastupdate = on)"),
        format!("CREATE INDEX ON {table} USING gist (spot)"),
        format!("CREATE INDEX ON {table} USING spgist (spot)"),
        format!("CREATE INDEX ON {table} USING brin (i) WITH (pages_per_range = 2)"),
        format!("CREATE INDEX ON {table} USING bloom (i, text)"),
        "CHECKPOINT".to_owned(),
        format!("UPDATE {table} SET text = text || 'x' WHERE i % 5 = 0"),
        format!("UPDATE {table} SET i = i + 10000 WHERE i % 11 = 0"),
        format!("DELETE FROM {table} WHERE i % 3 = 0"),
        format!("VACUUM (FREEZE, INDEX_CLEANUP ON) {table}"),
        format!("INSERT INTO {table} SELECT i, i::text, '', point(i, 1), '{{}}' FROM generate_series(1, 2000) i"),
        format!("DELETE FROM {table} WHERE i > 500"),
        format!("VACUUM (TRUNCATE) {table}"),
    ];
    let mut all = vec![set];
    all.extend(statements.iter().map(String::as_str));
    cluster.sql(&all);
}

/// Relations that appear and go with a transaction, which commits, aborts, or is prepared first.
const ENDS_OF_TRANSACTIONS: &[&str] = &[
    "CREATE TABLE ends AS SELECT i, md5(i::text) AS text FROM generate_series(1, 5000) i",
    "CREATE TABLE dropped AS SELECT i, repeat('y', 5000) AS big FROM generate_series(1, 50) i",
    "CREATE TABLE emptied AS SELECT i FROM generate_series(1, 5000) i",
    "CREATE UNLOGGED TABLE unlogged (i int PRIMARY KEY)",
    "INSERT INTO unlogged SELECT generate_series(1, 1000)",
    "DROP TABLE dropped",
    "TRUNCATE emptied",
    "INSERT INTO emptied SELECT generate_series(1, 100)",
    "BEGIN; CREATE TABLE aborted AS SELECT 1 AS i; SAVEPOINT a; CREATE TABLE aborted_too (i int); ROLLBACK TO a; \
     TRUNCATE emptied; ROLLBACK",
    "BEGIN; CREATE TABLE prepared AS SELECT 1 AS i; DROP TABLE emptied; PREPARE TRANSACTION 'one'",
    "COMMIT PREPARED 'one'",
    "BEGIN; CREATE TABLE refused AS SELECT 1 AS i; DROP TABLE prepared; PREPARE TRANSACTION 'two'",
    "ROLLBACK PREPARED 'two'",
    "BEGIN; SAVEPOINT a; INSERT INTO ends VALUES (1, ''); SAVEPOINT b; INSERT INTO ends VALUES (2, ''); \
     CREATE TABLE kept (i serial); DROP TABLE prepared; COMMIT",
    "ALTER TABLE unlogged SET LOGGED",
    "ALTER TABLE ends SET TABLESPACE space",
    "DELETE FROM ends WHERE i > 100",
];

/// Statements that write records of other kinds.
const OTHERS: &[&str] = &[
    "SELECT lo_from_bytea(0, decode(repeat(md5('x'), 5000), 'hex'))",
    "SELECT nextval(pg_get_serial_sequence('kept', 'i')) FROM generate_series(1, 100)",
    "SELECT pg_create_restore_point('here')",
    "SELECT length(pg_logical_emit_message(true, 'test', repeat('small', 10))::text)",
    // Over more than two segments of 1 MiB.
    "SELECT length(pg_logical_emit_message(false, 'test', repeat('large', 600000))::text)",
    "BEGIN; SELECT count(*) FROM (SELECT * FROM ends FOR UPDATE) e; SAVEPOINT a; SELECT count(*) FROM (SELECT * FROM ends FOR SHARE) e; COMMIT",
    "REINDEX TABLE pg_catalog.pg_class",
    "CLUSTER t_off USING t_off_i_idx",
    "SELECT pg_switch_wal() IS NULL",
    "CREATE ROLE somebody",
    "DROP OWNED BY somebody",
];

/// A database of each kind is created, filled and dropped; another stays.
fn databases(cluster: &Cluster, major: u32) {
    let strategies: &[&str] = if major >= 15 {
        &["STRATEGY file_copy", "STRATEGY wal_log"]
    } else {
        &[""]
    };
    for (number, strategy) in strategies.iter().enumerate() {
        for kept in [true, false] {
            let name = format!("d{number}_{kept}");
            cluster.sql(&[&format!("CREATE DATABASE {name} TEMPLATE template0 {strategy}")]);
            if kept {
                cluster.sql(&[&format!("ALTER DATABASE {name} SET TABLESPACE space")]);
            } else {
                cluster.sql(&[&format!("DROP DATABASE {name}")]);
            }
        }
    }
}

/// The server dies and recovers.
fn crash(cluster: &mut Cluster) {
    cluster.sql(&[
        "CHECKPOINT",
        "CREATE TABLE before_the_crash AS SELECT i FROM generate_series(1, 5000) i",
        "UPDATE ends SET text = 'changed'",
        "DROP TABLE kept",
    ]);
    cluster.crash();
    cluster.start(SETTINGS);
    cluster.sql(&["INSERT INTO before_the_crash SELECT generate_series(1, 100)"]);
}

/// The server dies within a record, and the file with the rest of it is lost: the record will never end.
fn overwrite(cluster: &mut Cluster) {
    cluster.sql(&["CHECKPOINT"]);
    let current = || {
        cluster
            .sql(&["SELECT pg_walfile_name(pg_current_wal_lsn())"])
            .trim()
            .to_owned()
    };
    let begun = current();
    cluster.sql(&["SELECT pg_logical_emit_message(false, 'test', repeat('large', 700000)) IS NULL"]);
    let ended = current();
    cluster.crash();
    let mut lost = 0;
    for item in std::fs::read_dir(cluster.pgdata().join("pg_wal")).unwrap() {
        let item = item.unwrap();
        let name = item.file_name().into_string().unwrap();
        if name.len() == 24 && name > begun {
            std::fs::remove_file(item.path()).unwrap();
            lost += u32::from(name <= ended);
        }
    }
    assert!(lost >= 3, "the record of {begun} to {ended} was to be longer");
    cluster.start(SETTINGS);
    cluster.sql(&["CREATE TABLE after_the_loss AS SELECT i FROM generate_series(1, 5000) i"]);
}

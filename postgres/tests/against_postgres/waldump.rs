//! The output of pg_waldump.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_postgres::wal::{BlockReference, ChangeMap, RelationFork};
use pgmesh_postgres::{Fork, Lsn, RelationFile};

use crate::cluster::Cluster;

/// All records from a position on.
pub struct Dump {
    /// The blocks that each record changes, by the record's position.
    pub records: BTreeMap<Lsn, BTreeSet<BlockReference>>,
    /// The changes of the records, read from pg_waldump's text.
    pub changes: ChangeMap,
    /// The resource managers and operations of the records: `Heap INSERT`.
    pub kinds: BTreeSet<String>,
}

impl Dump {
    /// Has pg_waldump print the records of timeline 1 from a position to the end of the WAL.
    pub fn of(cluster: &Cluster, start: Lsn) -> Self {
        let folder = cluster.pgdata().join("pg_wal");
        let arguments = ["-p", folder.to_str().unwrap(), "-s", &start.to_string()];
        // pg_waldump exits with an error at the end of the WAL.
        let output = cluster.attempt("pg_waldump", &arguments);
        let mut dump = Self {
            records: BTreeMap::new(),
            changes: ChangeMap::default(),
            kinds: BTreeSet::new(),
        };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            dump.line(line);
        }
        assert!(dump.records.len() > 1000, "{}", String::from_utf8_lossy(&output.stderr));
        dump
    }

    /// `rmgr: Heap  len (rec/tot): 54/54, tx: 736, lsn: 0/01524190, prev 0/01524158, desc: INSERT off 2, blkref #0: rel
    /// 1663/5/1259 blk 0`
    fn line(&mut self, line: &str) {
        let Some((head, description)) = line.split_once(", desc: ") else {
            return;
        };
        let field = |label: &str| head.split_once(label).unwrap().1.split(',').next().unwrap().trim();
        let manager = field("rmgr: ").split_whitespace().next().unwrap();
        let at: Lsn = field("lsn: ").parse().unwrap();
        let mut parts = description.split(", blkref #");
        let text = parts.next().unwrap();
        let blocks: BTreeSet<BlockReference> = parts.map(block).collect();
        for reference in &blocks {
            self.changes.add_block(reference.fork, reference.block);
        }
        self.special(manager, text);
        let operation = text.split_whitespace().next().unwrap_or_default();
        self.kinds.insert(format!("{manager} {operation}"));
        self.records.insert(at, blocks);
    }

    fn special(&mut self, manager: &str, text: &str) {
        let mut words = text.split_whitespace();
        let operation = words.next().unwrap_or_default();
        match (manager, operation) {
            ("Storage", "CREATE") => self.changes.add_limit(relation(words.next().unwrap()), 0),
            ("Storage", "TRUNCATE") => {
                let path = words.next().unwrap();
                assert_eq!(words.next(), Some("to"));
                self.changes
                    .add_limit(relation(path), words.next().unwrap().parse().unwrap());
            }
            ("Transaction", "COMMIT" | "ABORT" | "COMMIT_PREPARED" | "ABORT_PREPARED") => {
                let dropped = text.split("; ").find_map(|part| part.strip_prefix("rels: "));
                for path in dropped.unwrap_or_default().split_whitespace() {
                    for fork in [Fork::Main, Fork::Init] {
                        self.changes.add_limit(RelationFork { fork, ..relation(path) }, 0);
                    }
                }
            }
            // `copy dir 1663/1 to 1663/16400`, `create dir 1663/16400`, `dir 1663/16400 1700/16400`
            ("Database", _) => {
                let made = text.split_once(" to ").map_or(text, |(_, made)| made);
                for pair in made.split_whitespace().filter_map(|word| word.split_once('/')) {
                    self.changes
                        .add_database(pair.0.parse().unwrap(), pair.1.parse().unwrap());
                }
            }
            _ => (),
        }
    }
}

/// `0: rel 1663/5/1259 fork vm blk 0 FPW`
fn block(text: &str) -> BlockReference {
    let mut words = text.split_whitespace().skip_while(|word| *word != "rel").skip(1);
    let locator: Vec<u32> = words
        .next()
        .unwrap()
        .split('/')
        .map(|part| part.parse().unwrap())
        .collect();
    let mut word = words.next().unwrap();
    let mut fork = Fork::Main;
    if word == "fork" {
        fork = match words.next().unwrap() {
            "main" => Fork::Main,
            "fsm" => Fork::Fsm,
            "vm" => Fork::Vm,
            "init" => Fork::Init,
            other => panic!("fork {other}"),
        };
        word = words.next().unwrap();
    }
    assert_eq!(word, "blk", "{text}");
    let number = words.next().unwrap();
    BlockReference {
        fork: RelationFork {
            tablespace: locator[0],
            database: locator[1],
            relation: locator[2],
            fork,
        },
        block: number.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap(),
    }
}

fn relation(path: &str) -> RelationFork {
    let file = RelationFile::parse(path.trim_end_matches(',')).unwrap_or_else(|| panic!("{path} is no relation"));
    RelationFork {
        tablespace: file.tablespace,
        database: file.database,
        relation: file.filenode,
        fork: file.fork,
    }
}

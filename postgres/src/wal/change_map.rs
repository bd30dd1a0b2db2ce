//! The blocks that may have changed.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringBitmap;

use crate::{BLOCKS_PER_SEGMENT, Fork, RelationFile};

/// A fork of a relation, as the WAL and PostgreSQL's summaries of it name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFork {
    /// The tablespace's OID: 1663 for `pg_default`, 1664 for `pg_global`.
    pub tablespace: u32,
    /// The database's OID, 0 for shared relations.
    pub database: u32,
    /// The relation's file number.
    pub relation: u32,
    /// The fork.
    pub fork: Fork,
}

/// The blocks that may have changed in a stretch of WAL. All other blocks have not changed.
///
/// Visibility maps and free space maps are not in it, since the WAL does not name all their changes:
/// [`candidates`](Self::candidates) has them always read whole. The order of additions makes no difference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChangeMap {
    pub(super) forks: BTreeMap<RelationFork, Changes>,
    /// Tablespace and database.
    pub(super) databases: BTreeSet<(u32, u32)>,
}

/// The blocks of one fork that may have changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// All blocks from this one on. The fork may have been cut off here for a moment, and have grown again.
    pub limit: Option<u32>,
    /// Single blocks before the limit.
    pub blocks: RoaringBitmap,
}

/// The blocks of a file that a backup must read, since they may have changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Candidates {
    /// The whole file.
    All,
    /// These blocks, numbered within this file from 0. If it is empty, the file has not changed. Blocks may lie behind
    /// the file's end.
    Blocks(RoaringBitmap),
}

impl ChangeMap {
    /// Adds a block that may have changed.
    pub fn add_block(&mut self, fork: RelationFork, block: u32) {
        if self.keeps(&fork) {
            self.forks.entry(fork).or_default().add_block(block);
        }
    }

    /// Adds a fork that was created or removed (limit 0), or cut off before block `limit`: all blocks from there on may
    /// have changed. Relation 0 stands for the whole database, as in PostgreSQL 17's `pg_wal_summary_contents`.
    pub fn add_limit(&mut self, fork: RelationFork, limit: u32) {
        if fork.relation == 0 {
            self.add_database(fork.tablespace, fork.database);
        } else if self.keeps(&fork) {
            self.forks.entry(fork).or_default().add_limit(limit);
        }
    }

    /// Adds a database that was created or dropped in a tablespace: all its files there may have changed.
    pub fn add_database(&mut self, tablespace: u32, database: u32) {
        self.databases.insert((tablespace, database));
        self.forks
            .retain(|fork, _| (fork.tablespace, fork.database) != (tablespace, database));
    }

    /// Adds the changes of another stretch of WAL.
    pub fn merge(&mut self, other: &Self) {
        for (tablespace, database) in &other.databases {
            self.add_database(*tablespace, *database);
        }
        for (fork, changes) in &other.forks {
            if self.keeps(fork) {
                self.forks.entry(*fork).or_default().merge(changes);
            }
        }
    }

    /// Whether the map is empty: no block has changed, except in the files that are always read whole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forks.is_empty() && self.databases.is_empty()
    }

    /// The blocks of a file that a backup must read. The path is relative to PGDATA, with tablespaces as
    /// `pg_tblspc/<oid>/PG_<version>/…`.
    ///
    /// All blocks of a file whose changes the WAL does not name: files that belong to no relation, visibility maps and
    /// free space maps.
    #[must_use]
    pub fn candidates(&self, path: &str) -> Candidates {
        let Some(file) = RelationFile::parse(path).filter(|file| !file.temporary && !file.is_always_read_whole())
        else {
            return Candidates::All;
        };
        if self.databases.contains(&(file.tablespace, file.database)) {
            return Candidates::All;
        }
        let fork = RelationFork {
            tablespace: file.tablespace,
            database: file.database,
            relation: file.filenode,
            fork: file.fork,
        };
        self.forks.get(&fork).map_or_else(
            || Candidates::Blocks(RoaringBitmap::new()),
            |changes| changes.in_file(file.first_block()),
        )
    }

    /// Whether the map keeps changes of this fork: not if its files are read whole anyway.
    fn keeps(&self, fork: &RelationFork) -> bool {
        matches!(fork.fork, Fork::Main | Fork::Init) && !self.databases.contains(&(fork.tablespace, fork.database))
    }
}

impl Changes {
    fn add_block(&mut self, block: u32) {
        if self.limit.is_none_or(|limit| block < limit) {
            self.blocks.insert(block);
        }
    }

    fn add_limit(&mut self, limit: u32) {
        if self.limit.is_none_or(|before| limit < before) {
            self.limit = Some(limit);
            self.blocks.remove_range(limit..);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.blocks |= &other.blocks;
        let limits = self.limit.into_iter().chain(other.limit);
        if let Some(limit) = limits.min() {
            self.limit = Some(limit);
            self.blocks.remove_range(limit..);
        }
    }

    /// The candidates of one file of the fork, which begins with the fork's block `first`; numbered from 0.
    fn in_file(&self, first: u32) -> Candidates {
        let limit = self.limit.map(|limit| limit.saturating_sub(first));
        if limit == Some(0) {
            return Candidates::All;
        }
        let last = first.saturating_add(BLOCKS_PER_SEGMENT - 1);
        let mut blocks: RoaringBitmap = self.blocks.range(first..=last).map(|block| block - first).collect();
        if let Some(limit) = limit {
            blocks.insert_range(limit..BLOCKS_PER_SEGMENT.max(limit));
        }
        Candidates::Blocks(blocks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};

    const TABLE: RelationFork = RelationFork {
        tablespace: DEFAULT_TABLESPACE,
        database: 5,
        relation: 16384,
        fork: Fork::Main,
    };

    fn blocks(numbers: impl IntoIterator<Item = u32>) -> Candidates {
        Candidates::Blocks(numbers.into_iter().collect())
    }

    #[test]
    fn what_is_not_named_has_not_changed() {
        let map = ChangeMap::default();
        assert!(map.is_empty());
        for path in [
            "base/5/16384",
            "base/5/16384.3",
            "base/5/16384_init",
            "global/1260",
            "pg_tblspc/16500/PG_15_202209061/5/16384",
        ] {
            assert_eq!(map.candidates(path), blocks([]), "{path}");
        }
    }

    #[test]
    fn what_the_wal_does_not_name_is_read_whole() {
        let map = ChangeMap::default();
        for path in [
            "base/5/16384_vm",
            "base/5/16384_fsm",
            "base/5/16384_vm.1",
            "pg_tblspc/16500/PG_15_202209061/5/16384_vm",
            "base/5/t3_16384",
            "base/5/pg_filenode.map",
            "base/5/PG_VERSION",
            "global/pg_control",
            "pg_xact/0000",
            "postgresql.conf",
            "",
        ] {
            assert_eq!(map.candidates(path), Candidates::All, "{path}");
        }
    }

    #[test]
    fn blocks_are_numbered_within_their_file() {
        let mut map = ChangeMap::default();
        for block in [0, 7, 131_071, 131_072, 131_080, 262_143, 262_144, u32::MAX] {
            map.add_block(TABLE, block);
        }
        assert_eq!(map.candidates("base/5/16384"), blocks([0, 7, 131_071]));
        assert_eq!(map.candidates("base/5/16384.1"), blocks([0, 8, 131_071]));
        assert_eq!(map.candidates("base/5/16384.2"), blocks([0]));
        assert_eq!(map.candidates("base/5/16384.3"), blocks([]));
        assert_eq!(map.candidates("base/5/16384.32767"), blocks([131_071]));
        assert_eq!(map.candidates("base/5/16384_init"), blocks([]));
        assert_eq!(map.candidates("base/6/16384"), blocks([]));
        assert_eq!(map.candidates("global/16384"), blocks([]));
    }

    #[test]
    fn tablespaces_have_their_directories() {
        let mut map = ChangeMap::default();
        let shared = RelationFork {
            tablespace: GLOBAL_TABLESPACE,
            database: 0,
            relation: 1260,
            fork: Fork::Main,
        };
        map.add_block(shared, 1);
        map.add_block(
            RelationFork {
                tablespace: 16500,
                ..TABLE
            },
            2,
        );
        map.add_block(
            RelationFork {
                fork: Fork::Init,
                ..TABLE
            },
            3,
        );
        assert_eq!(map.candidates("global/1260"), blocks([1]));
        assert_eq!(map.candidates("pg_tblspc/16500/PG_15_202209061/5/16384"), blocks([2]));
        assert_eq!(map.candidates("base/5/16384_init"), blocks([3]));
        assert_eq!(map.candidates("base/5/16384"), blocks([]));
    }

    #[test]
    fn all_from_a_limit_on_is_read() {
        let mut map = ChangeMap::default();
        map.add_limit(TABLE, 131_074);
        map.add_block(TABLE, 5);
        map.add_block(TABLE, 131_072);
        assert_eq!(map.candidates("base/5/16384"), blocks([5]));
        assert_eq!(
            map.candidates("base/5/16384.1"),
            blocks([0].into_iter().chain(2..131_072))
        );
        assert_eq!(map.candidates("base/5/16384.2"), Candidates::All);
        // A limit at the very start of a file.
        map.add_limit(TABLE, 131_072);
        assert_eq!(map.candidates("base/5/16384"), blocks([5]));
        assert_eq!(map.candidates("base/5/16384.1"), Candidates::All);
        // A later, higher limit does not take back the blocks of an earlier one.
        map.add_limit(TABLE, 0);
        map.add_limit(TABLE, 9);
        assert_eq!(map.candidates("base/5/16384"), Candidates::All);
    }

    #[test]
    fn a_database_is_read_whole_in_its_tablespace() {
        let mut map = ChangeMap::default();
        map.add_block(TABLE, 5);
        map.add_database(DEFAULT_TABLESPACE, 5);
        map.add_block(TABLE, 6);
        // As PostgreSQL 17's summaries name a database.
        map.add_limit(
            RelationFork {
                tablespace: 16500,
                database: 6,
                relation: 0,
                fork: Fork::Main,
            },
            0,
        );
        assert_eq!(map.candidates("base/5/16384"), Candidates::All);
        assert_eq!(map.candidates("base/5/99"), Candidates::All);
        assert_eq!(map.candidates("base/6/16384"), blocks([]));
        assert_eq!(map.candidates("pg_tblspc/16500/PG_15_202209061/5/16384"), blocks([]));
        assert_eq!(
            map.candidates("pg_tblspc/16500/PG_15_202209061/6/16384"),
            Candidates::All
        );
    }

    /// An addition to a map.
    #[derive(Clone, Copy, Debug)]
    enum Said {
        Block(RelationFork, u32),
        Limit(RelationFork, u32),
        Database(u32, u32),
    }

    impl Said {
        fn to(self, map: &mut ChangeMap) {
            match self {
                Self::Block(fork, block) => map.add_block(fork, block),
                Self::Limit(fork, limit) => map.add_limit(fork, limit),
                Self::Database(tablespace, database) => map.add_database(tablespace, database),
            }
        }
    }

    fn any_said() -> impl Strategy<Value = Said> {
        let forks = prop::sample::select(vec![Fork::Main, Fork::Init, Fork::Vm, Fork::Fsm]);
        let fork =
            (1663..1665u32, 5..7u32, 1..4u32, forks).prop_map(|(tablespace, database, relation, fork)| RelationFork {
                tablespace,
                database,
                relation,
                fork,
            });
        let block = prop_oneof![0..20u32, 131_060..131_080u32, any::<u32>()];
        prop_oneof![
            20 => (fork.clone(), block.clone()).prop_map(|(fork, block)| Said::Block(fork, block)),
            3 => (fork, block).prop_map(|(fork, limit)| Said::Limit(fork, limit)),
            1 => (1663..1665u32, 5..7u32).prop_map(|(tablespace, database)| Said::Database(tablespace, database)),
        ]
    }

    proptest! {
        #[test]
        fn order_and_division_make_no_difference(said in prop::collection::vec(any_said(), 0..40), cut in 0..40usize) {
            let told = |some: &mut dyn Iterator<Item = &Said>| {
                let mut map = ChangeMap::default();
                some.for_each(|said| said.to(&mut map));
                map
            };
            let whole = told(&mut said.iter());
            prop_assert_eq!(&told(&mut said.iter().rev()), &whole);
            let (early, late) = said.split_at(cut.min(said.len()));
            let mut merged = told(&mut early.iter());
            merged.merge(&told(&mut late.iter()));
            prop_assert_eq!(&merged, &whole);
        }

        #[test]
        fn nothing_that_was_said_is_lost(said in prop::collection::vec(any_said(), 0..40)) {
            let mut map = ChangeMap::default();
            said.iter().for_each(|said| said.to(&mut map));
            for said in said {
                let (Said::Block(fork, block) | Said::Limit(fork, block)) = said else { continue };
                let folder = match fork.tablespace {
                    1663 => format!("base/{}", fork.database),
                    // A shared relation has no database, so no path leads there.
                    _ => continue,
                };
                let suffix = match fork.fork { Fork::Main => "", Fork::Init => "_init", Fork::Vm => "_vm", Fork::Fsm => "_fsm" };
                let (number, block) = (block / BLOCKS_PER_SEGMENT, block % BLOCKS_PER_SEGMENT);
                let number = if number == 0 { String::new() } else { format!(".{number}") };
                match map.candidates(&format!("{folder}/{}{suffix}{number}", fork.relation)) {
                    Candidates::All => (),
                    Candidates::Blocks(blocks) => prop_assert!(blocks.contains(block)),
                }
            }
        }
    }
}

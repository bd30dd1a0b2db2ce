//! A change map as bytes: one map, one sequence of bytes.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use super::change_map::Changes;
use super::codec::{Input, MapFormatError, put};
use super::{ChangeMap, RelationFork};
use crate::{Fork, SegmentSize};

/// The bytes of the shortest reference to a block. It bounds the number of blocks that a segment can name.
const SHORTEST_REFERENCE: u32 = 8;

/// Appends a map.
pub(super) fn put_changes(bytes: &mut Vec<u8>, changes: &ChangeMap) {
    put(bytes, changes.databases.len() as u64);
    for (tablespace, database) in &changes.databases {
        put(bytes, u64::from(*tablespace));
        put(bytes, u64::from(*database));
    }
    put(bytes, changes.forks.len() as u64);
    for (fork, changes) in &changes.forks {
        put(bytes, u64::from(fork.tablespace));
        put(bytes, u64::from(fork.database));
        put(bytes, u64::from(fork.relation));
        put(bytes, u64::from(fork.fork.number()));
        // The limit plus one; 0 for no limit.
        put(bytes, changes.limit.map_or(0, |limit| u64::from(limit) + 1));
        put_blocks(bytes, &changes.blocks);
    }
}

/// Reads the changes that [`put_changes`] wrote, of a segment of this size.
pub(super) fn changes(input: &mut Input<'_>, size: SegmentSize) -> Result<ChangeMap, MapFormatError> {
    let mut map = ChangeMap::default();
    for _ in 0..input.u64("number of databases")? {
        let database = (input.u32("tablespace")?, input.u32("database")?);
        if map.databases.last().is_some_and(|last| *last >= database) {
            return Err(MapFormatError::Malformed { part: "databases" });
        }
        map.databases.insert(database);
    }
    let mut allowed = u64::from(size.bytes() / SHORTEST_REFERENCE);
    for _ in 0..input.u64("number of forks")? {
        let (fork, changes) = fork(input, &map.databases, &mut allowed)?;
        if map.forks.last_key_value().is_some_and(|(last, _)| *last >= fork) {
            return Err(MapFormatError::Malformed { part: "forks" });
        }
        map.forks.insert(fork, changes);
    }
    Ok(map)
}

/// Reads one fork. Refuses blocks that another entry of the map covers, since no map keeps them.
fn fork(
    input: &mut Input<'_>,
    databases: &BTreeSet<(u32, u32)>,
    allowed: &mut u64,
) -> Result<(RelationFork, Changes), MapFormatError> {
    let (tablespace, database) = (input.u32("tablespace")?, input.u32("database")?);
    let relation = input.u32("relation")?;
    let fork = Fork::from_number(input.u32("fork")?).filter(|fork| matches!(fork, Fork::Main | Fork::Init));
    let malformed = |part| MapFormatError::Malformed { part };
    let fork = fork.ok_or_else(|| malformed("fork"))?;
    if databases.contains(&(tablespace, database)) {
        return Err(malformed("fork of a database"));
    }
    let limit = match input.u64("limit")?.checked_sub(1) {
        None => None,
        Some(limit) => Some(u32::try_from(limit).map_err(|_| malformed("limit"))?),
    };
    let blocks = blocks(input, allowed)?;
    let covered = limit.is_some_and(|limit| blocks.max().is_some_and(|last| last >= limit));
    if covered || (limit.is_none() && blocks.is_empty()) {
        return Err(malformed("blocks"));
    }
    let fork = RelationFork {
        tablespace,
        database,
        relation,
        fork,
    };
    Ok((fork, Changes { limit, blocks }))
}

/// Appends runs of blocks. A run is the number of blocks between it and the run before, doubled, plus one if the run
/// has several blocks. A run of several blocks then has its length minus two.
fn put_blocks(bytes: &mut Vec<u8>, blocks: &RoaringBitmap) {
    let runs: Vec<(u32, u32)> = runs(blocks).collect();
    put(bytes, runs.len() as u64);
    let mut next = 0;
    for (first, length) in runs {
        let gap = u64::from(first) - next;
        if length == 1 {
            put(bytes, gap << 1);
        } else {
            put(bytes, gap << 1 | 1);
            put(bytes, u64::from(length) - 2);
        }
        next = u64::from(first) + u64::from(length);
    }
}

fn blocks(input: &mut Input<'_>, allowed: &mut u64) -> Result<RoaringBitmap, MapFormatError> {
    let malformed = MapFormatError::Malformed { part: "blocks" };
    let mut blocks = RoaringBitmap::new();
    let mut next = 0u64;
    for number in 0..input.u64("number of runs")? {
        let coded = input.u64("gap")?;
        let gap = coded >> 1;
        let length = if coded & 1 == 0 {
            1
        } else {
            u64::from(input.u32("run")?) + 2
        };
        let first = next.checked_add(gap).ok_or(malformed)?;
        let last = u32::try_from(first + (length - 1)).map_err(|_| malformed)?;
        let first = u32::try_from(first).map_err(|_| malformed)?;
        *allowed = allowed.checked_sub(length).ok_or(malformed)?;
        if gap == 0 && number > 0 {
            return Err(malformed);
        }
        blocks.insert_range(first..=last);
        next = u64::from(last) + 1;
    }
    Ok(blocks)
}

/// The first block and the length of every run of consecutive blocks.
fn runs(blocks: &RoaringBitmap) -> impl Iterator<Item = (u32, u32)> + '_ {
    // Run by run, not block by block: a few bytes can stand for millions of blocks.
    let mut rest = blocks.iter();
    std::iter::from_fn(move || rest.next_range()).map(|run| (*run.start(), (run.end() - run.start()).saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_map() -> impl Strategy<Value = ChangeMap> {
        let fork = (
            1663..1665u32,
            4..7u32,
            0..5u32,
            prop::sample::select(vec![Fork::Main, Fork::Init]),
        );
        let block = prop_oneof![0..40u32, any::<u32>(), Just(u32::MAX)];
        let change = (fork, block, any::<bool>());
        let changes = prop::collection::vec(change, 0..200);
        (changes, prop::collection::vec((1663..1665u32, 4..5u32), 0..2)).prop_map(|(changes, databases)| {
            let mut map = ChangeMap::default();
            for ((tablespace, database, relation, fork), block, limit) in changes {
                let fork = RelationFork {
                    tablespace,
                    database,
                    relation: relation + 1,
                    fork,
                };
                // Few limits, or nothing else is left.
                if limit && block % 4 == 0 {
                    map.add_limit(fork, block);
                } else {
                    map.add_block(fork, block);
                }
            }
            for (tablespace, database) in databases {
                map.add_database(tablespace, database);
            }
            map
        })
    }

    proptest! {
        #[test]
        fn maps_come_back(map in any_map()) {
            let mut bytes = Vec::new();
            put_changes(&mut bytes, &map);
            let mut input = Input::new(&bytes);
            prop_assert_eq!(changes(&mut input, SegmentSize::DEFAULT), Ok(map));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn a_cut_map_is_refused(map in any_map(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            put_changes(&mut bytes, &map);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(changes(&mut Input::new(&bytes), SegmentSize::DEFAULT).is_err());
        }

        #[test]
        fn what_is_taken_is_written_the_same(bytes in prop::collection::vec(0..12u8, 0..60)) {
            let mut input = Input::new(&bytes);
            if let Ok(map) = changes(&mut input, SegmentSize::DEFAULT) && input.is_empty() {
                let mut again = Vec::new();
                put_changes(&mut again, &map);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn runs_are_joined_over_any_border() {
        let mut blocks: RoaringBitmap = (65_000..200_000).collect();
        blocks.insert(7);
        blocks.insert(u32::MAX);
        assert_eq!(
            runs(&blocks).collect::<Vec<_>>(),
            [(7, 1), (65_000, 135_000), (u32::MAX, 1)]
        );
    }

    #[test]
    fn a_short_map_of_all_blocks_is_refused() {
        // One fork with one run of 2^32 - 1 blocks: a bomb of 20 bytes.
        let mut bytes = vec![0, 1, 1, 1, 1, 0, 0, 1, 1];
        put(&mut bytes, u64::from(u32::MAX) - 2);
        assert!(changes(&mut Input::new(&bytes), SegmentSize::DEFAULT).is_err());
    }
}

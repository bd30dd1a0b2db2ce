//! Random records whose changes are known.

use proptest::prelude::*;

use super::super::writer::{Block, Writer, record_of};
use super::super::{ChangeMap, RelationFork};
use crate::{Fork, PgVersion};

/// A step of the workload.
#[derive(Clone, Debug)]
pub enum Step {
    /// A record of a resource manager that changes blocks, with so many bytes of its own.
    Blocks(u8, Vec<Block>, usize),
    /// The end of a transaction: `xl_info`, subtransactions, relations that are dropped, bytes behind.
    Transaction(u8, usize, Vec<RelationFork>, usize),
    /// A fork is created.
    Create(RelationFork),
    /// A relation is cut off, with these flags.
    Truncate(RelationFork, u32, u32),
    /// A database is created in a tablespace.
    CreateDatabase(u32, u32),
    /// A database is dropped in two tablespaces.
    DropDatabase(u32),
    /// The segment ends here.
    Switch,
    /// A record of so many bytes is begun and never ended.
    BreakOff(usize),
}

impl Step {
    /// Writes the step's records, and adds their changes to the expected map.
    pub fn write(&self, writer: &mut Writer, version: PgVersion, expected: &mut ChangeMap) {
        match self {
            Self::Blocks(manager, blocks, length) => {
                writer.write(&record_of(version, *manager, 0x20, blocks, &vec![7; *length]));
                for block in blocks {
                    expected.add_block(block.fork, block.block);
                }
            }
            Self::Transaction(info, subtransactions, relations, behind) => {
                let data = transaction(*subtransactions, relations, *behind);
                let special = u8::from(!relations.is_empty());
                writer.write(&record_of(version, 1, info | 0x80 | special, &[], &data));
                for relation in relations {
                    for fork in [Fork::Main, Fork::Init] {
                        expected.add_limit(RelationFork { fork, ..*relation }, 0);
                    }
                }
            }
            Self::Create(fork) => {
                let data = [locator(fork), fork.fork.number().to_le_bytes().to_vec()].concat();
                writer.write(&record_of(version, 2, 0x11, &[], &data));
                expected.add_limit(*fork, 0);
            }
            Self::Truncate(fork, limit, flags) => {
                let data = [
                    limit.to_le_bytes().to_vec(),
                    locator(fork),
                    flags.to_le_bytes().to_vec(),
                ]
                .concat();
                writer.write(&record_of(version, 2, 0x21, &[], &data));
                if flags & 1 == 1 {
                    expected.add_limit(
                        RelationFork {
                            fork: Fork::Main,
                            ..*fork
                        },
                        *limit,
                    );
                }
            }
            Self::CreateDatabase(tablespace, database) => {
                let data = numbers(&[*database, *tablespace, 1, 1663]);
                writer.write(&record_of(version, 4, 0x01, &[], &data));
                expected.add_database(*tablespace, *database);
            }
            Self::DropDatabase(database) => {
                let info = if version == PgVersion::V14 { 0x11 } else { 0x21 };
                writer.write(&record_of(version, 4, info, &[], &numbers(&[*database, 2, 1663, 1700])));
                expected.add_database(1663, *database);
                expected.add_database(1700, *database);
            }
            Self::Switch => writer.switch(),
            Self::BreakOff(length) => {
                writer.break_off(&record_of(version, 10, 0, &[], &vec![9; *length]));
            }
        }
    }
}

/// The data of a commit or an abort.
pub fn transaction(subtransactions: usize, relations: &[RelationFork], behind: usize) -> Vec<u8> {
    let mut has = 1 | 1 << 3;
    let mut data = vec![0; 20];
    if subtransactions > 0 {
        has |= 2;
        data.extend((subtransactions as u32).to_le_bytes());
        data.extend(vec![1; subtransactions * 4]);
    }
    if !relations.is_empty() {
        has |= 4;
        data.extend((relations.len() as u32).to_le_bytes());
        data.extend(relations.iter().flat_map(locator));
    }
    data[8..12].copy_from_slice(&(has as u32).to_le_bytes());
    data.extend(vec![3; behind]);
    data
}

/// Little-endian numbers one behind the other.
pub fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn locator(fork: &RelationFork) -> Vec<u8> {
    numbers(&[fork.tablespace, fork.database, fork.relation])
}

fn any_fork() -> impl Strategy<Value = RelationFork> {
    let forks = prop::sample::select(vec![Fork::Main, Fork::Main, Fork::Init, Fork::Vm, Fork::Fsm]);
    (
        prop::sample::select(vec![1663u32, 1700]),
        5..8u32,
        16384..16390u32,
        forks,
    )
        .prop_map(|(tablespace, database, relation, fork)| RelationFork {
            tablespace,
            database,
            relation,
            fork,
        })
}

fn any_blocks() -> impl Strategy<Value = Vec<Block>> {
    let image = prop::option::of((0..32u8, (0..8192usize).prop_map(|length| vec![5; length])));
    let block = (
        any_fork(),
        any::<u32>(),
        any::<bool>(),
        image,
        (0..300usize).prop_map(|length| vec![6; length]),
    );
    prop::collection::vec(block, 0..33).prop_map(|blocks| {
        let mut last: Option<RelationFork> = None;
        let blocks = blocks.into_iter().map(|(fork, block, same, image, data)| {
            let (fork, same) = match last {
                Some(last) if same => (
                    RelationFork {
                        fork: fork.fork,
                        ..last
                    },
                    true,
                ),
                _ => (fork, false),
            };
            last = Some(fork);
            Block {
                fork,
                block,
                same,
                image,
                data,
            }
        });
        blocks.collect()
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![5 => 0..400usize, 2 => 0..20_000usize, 1 => 0..600_000usize];
    let manager = prop::sample::select(vec![9u8, 10, 11, 20, 128, 255]);
    let ends = prop::sample::select(vec![0x00u8, 0x20, 0x30, 0x40]);
    prop_oneof![
        30 => (manager, any_blocks(), length.clone()).prop_map(|(manager, blocks, length)| Step::Blocks(manager, blocks, length)),
        4 => (ends, 0..300usize, prop::collection::vec(any_fork(), 0..60), length.clone())
            .prop_map(|(info, subtransactions, dropped, behind)| Step::Transaction(info, subtransactions, dropped, behind)),
        1 => any_fork().prop_map(Step::Create),
        2 => (any_fork(), any::<u32>(), 0..8u32).prop_map(|(fork, limit, flags)| Step::Truncate(fork, limit, flags)),
        1 => Just(Step::CreateDatabase(1663, 7)),
        1 => Just(Step::DropDatabase(7)),
        1 => Just(Step::Switch),
        1 => length.prop_map(Step::BreakOff),
    ]
}

pub fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..60)
}

pub fn any_version() -> impl Strategy<Value = PgVersion> {
    prop::sample::select(PgVersion::ALL.to_vec())
}

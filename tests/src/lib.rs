//! End to end: the real `pgmesh` program, a real PostgreSQL, real disks.
//!
//! The library holds the building blocks of the tests in `tests/`, in order:
//! - [`Scratch`]: a folder of one test, removed when the test passes, kept and named when it fails;
//! - [`Account`], [`Outcome`], [`Process`]: the account that runs programs, the result of a finished program, and a
//!   running program;
//! - [`Postgres`], [`Load`], [`Ledger`]: a cluster, traffic on it, and rows whose time of commit is known;
//! - [`Node`], [`Host`]: a node of a mesh, and a PG host that has joined it;
//! - [`Patroni`]: several servers of one cluster, each with its host, that Patroni manages;
//! - [`Mesh`]: several nodes with one catalog, if wanted with a relay between any two processes;
//! - [`Site`], [`MeshSite`]: all of these together, as most stories begin;
//! - [`Repository`], [`Damage`], [`WalForge`]: stored objects and ways to harm them, and WAL segments made by hand;
//! - [`Pushes`], [`Figures`]: pushes of such segments during any story, and their times.
//!
//! They panic if the state is not as a test needs it: a panic is a harness's verdict. Nothing here waits for a fixed
//! time: [`wait_for`] waits for a condition.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic fails the test that uses the harness"
)]

mod account;
mod disk;
mod figures;
mod host;
mod ledger;
mod mesh;
mod node;
mod objects;
mod outcome;
mod patroni;
mod port;
mod postgres;
mod process;
mod program;
mod pushes;
mod scale;
mod scratch;
mod site;
pub mod stored;
pub mod stores;
mod tools;
mod volume;
mod wait;
mod wal;

pub use account::Account;
pub use disk::{SlowDisk, SmallDisk};
pub use figures::Figures;
pub use host::Host;
pub use ledger::{Ledger, LedgerRow};
pub use mesh::{Mesh, MeshBuilder, MeshStatus, NodeStatus, RepositoryStatus};
pub use node::{Node, NodeBuilder, RepositoryFiles};
pub use objects::{Damage, Kind, Object, Repository};
pub use outcome::{Outcome, run, run_with_input};
pub use patroni::{Patroni, PatroniMember};
pub use pgmesh_chaos::http;
pub use pgmesh_chaos::{Faults, Network, Random, history};
pub use port::Port;
pub use postgres::{Load, Postgres, PostgresBuilder, majors, programs_of};
pub use process::Process;
pub use program::{example, pgmesh, shared_folder};
pub use pushes::Pushes;
pub use scale::number_from_environment;
pub use scratch::{Scratch, files_below};
pub use site::{MeshSite, Site};
pub use volume::Volume;
pub use wait::{wait_for, wait_for_some};
pub use wal::WalForge;

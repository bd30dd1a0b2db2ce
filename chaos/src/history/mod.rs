//! What concurrent clients asked a catalog and were told, and whether one catalog can have told them so.
//!
//! - [`Recorder`] writes down operations while they happen: [`Operation`], with what became of it, [`Answer`];
//! - [`Model`] is a sequential thing of which each operation takes effect at one moment; [`Catalog`] is pgmesh's;
//! - [`check`] judges whether there is such a moment for each operation between its call and its return
//!   (linearizability, Herlihy and Wing 1990).
//!
//! A client that got no answer does not know whether its operation took effect: [`Answer::Unknown`] may do so at any
//! later time, or never. [`Answer::Failed`] never does: seeing its effect is a violation.

mod catalog;
mod check;
mod record;

pub use catalog::{Catalog, Input, Key, Output};
pub use check::{Violation, check, check_within};
pub use record::{Answer, Operation, Recorder};

/// A sequential thing that is asked one operation after the other.
pub trait Model {
    /// What is independent of all else in it: each key's history is judged alone, which is as good as judging the
    /// whole (linearizability is a local property) and very much cheaper.
    type Key: Ord + Clone + std::fmt::Display;
    /// What stands under one key. The default is the state before the first operation.
    type State: Clone + Default + Eq + std::hash::Hash;
    /// An operation.
    type Input: std::fmt::Display;
    /// Its answer.
    type Output: PartialEq + std::fmt::Display;

    /// The key that an operation is about.
    fn key(input: &Self::Input) -> Self::Key;

    /// Carries an operation out.
    fn perform(state: &mut Self::State, input: &Self::Input) -> Self::Output;
}

#[cfg(test)]
mod tests;

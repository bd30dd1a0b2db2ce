//! The operations of concurrent clients with their answers, and the judgement whether one catalog can have given these
//! answers.
//!
//! - [`Recorder`] writes down each [`Operation`] while it happens, with its [`Answer`];
//! - [`Model`] is a sequential machine, in which each operation takes effect at one moment; [`Catalog`] is pgmesh's;
//! - [`check`] judges whether there is such a moment for each operation between its call and its return
//!   (linearizability, Herlihy and Wing 1990).
//!
//! A client without an answer does not know whether its operation took effect. An operation with [`Answer::Unknown`]
//! may take effect at any later time, or never. An operation with [`Answer::Failed`] never does: seeing its effect is a
//! violation.

mod catalog;
mod check;
mod record;

pub use catalog::{Catalog, Input, Key, Output};
pub use check::{Violation, check, check_within};
pub use record::{Answer, Operation, Recorder};

/// A machine that carries out one operation after the other.
pub trait Model {
    /// An independent part of the state. Each key's history is judged alone, which is as good as judging the whole
    /// (linearizability is a local property) and very much cheaper.
    type Key: Ord + Clone + std::fmt::Display;
    /// The state of one key. The default is the state before the first operation.
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

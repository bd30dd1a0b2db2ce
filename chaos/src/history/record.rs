//! Writing operations down while they happen.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// Who asked, for the reader of a violation.
    pub client: usize,
    /// What was asked.
    pub input: I,
    /// When, since the history began.
    pub called: Duration,
    /// When the client went on.
    pub returned: Duration,
    /// What it was told.
    pub answer: Answer<O>,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<O> {
    /// It took effect before it returned, with this answer.
    Ok(O),
    /// It had no effect, and never will.
    Failed,
    /// It has had an effect, or will have, or not.
    Unknown,
}

/// A history that is being written by several threads.
#[derive(Debug)]
pub struct Recorder<I, O> {
    began: Instant,
    operations: Mutex<Vec<Operation<I, O>>>,
}

impl<I, O> Default for Recorder<I, O> {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            operations: Mutex::default(),
        }
    }
}

impl<I, O> Recorder<I, O> {
    /// An empty history that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `ask` carry an operation out, and writes down when that began and ended.
    pub fn record(&self, client: usize, input: I, ask: impl FnOnce(&I) -> Answer<O>) {
        let called = self.began.elapsed();
        let answer = ask(&input);
        let returned = self.began.elapsed();
        let operation = Operation {
            client,
            input,
            called,
            returned,
            answer,
        };
        // Another client's panic leaves the list whole.
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.push(operation);
    }

    /// The history so far, without the operations that are still under way: so it is complete only when all clients
    /// have ended.
    #[must_use]
    pub fn finish(self) -> Vec<Operation<I, O>> {
        self.operations.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Writing operations down while they happen.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// The client's number, for the reader of a violation.
    pub client: usize,
    /// The request.
    pub input: I,
    /// The time of the call, since the history began.
    pub called: Duration,
    /// The time at which the client went on.
    pub returned: Duration,
    /// The outcome for the client.
    pub answer: Answer<O>,
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<O> {
    /// The operation took effect before it returned, with this answer.
    Ok(O),
    /// The operation had no effect, and never will.
    Failed,
    /// The operation may have had an effect, may still have it, or may never have it.
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

    /// Has `ask` carry an operation out, and writes down its beginning and its end.
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

    /// The history so far, without operations that are still under way. It is complete only after all clients have
    /// ended.
    #[must_use]
    pub fn finish(self) -> Vec<Operation<I, O>> {
        self.operations.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The judgement: is there an order of all operations, in accord with time, in which a sequential model gives the same
//! answers?
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of configurations (2017). It goes through calls and returns
//! in the order of time. An operation that has been called and whose answer fits is placed next, and lifted out of the
//! list. If the search meets the return of an operation that is not placed yet, an earlier choice was wrong, and it
//! goes back. A configuration is the set of placed operations and the state; the search does not follow a configuration
//! that it has seen before, which leads nowhere new.
//!
//! An operation without a known outcome has no return: the search need not place it, and may place it at any time after
//! its call. If it has no effect on the state, the search does not try it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::{Answer, Model, Operation};

/// The limit of configurations for each key, if the caller sets none.
const CONFIGURATIONS: usize = 1_000_000;

/// A history of a model.
type History<M> = Vec<Operation<<M as Model>::Input, <M as Model>::Output>>;

/// The reason for rejecting a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No order explains the answers.
    NotLinearizable {
        /// The key of these operations.
        key: String,
        /// The operations up to the first that finds no place, in order of their calls, one on each line.
        history: Vec<String>,
        /// The operation that found no place where the search came furthest.
        stuck: String,
    },
    /// The search was given up: too many operations of unknown outcome at once.
    TooHard {
        /// The key of these operations.
        key: String,
        /// The number of operations.
        operations: usize,
    },
}

impl std::error::Error for Violation {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable { key, history, stuck } => {
                writeln!(f, "no order explains what was said of {key}:")?;
                history.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
                write!(f, "no place was found for: {stuck}")
            }
            Self::TooHard { key, operations } => {
                write!(
                    f,
                    "the {operations} operations on {key} allow too many orders to be judged"
                )
            }
        }
    }
}

/// Judges a history.
///
/// # Errors
/// Fails with the first key, in order, whose operations no order explains, or whose search was given up.
pub fn check<M: Model>(history: History<M>) -> Result<(), Violation> {
    check_within::<M>(history, CONFIGURATIONS)
}

/// As [`check`], with at most so many configurations for each key.
///
/// # Errors
/// As [`check`].
pub fn check_within<M: Model>(history: History<M>, configurations: usize) -> Result<(), Violation> {
    let mut of_keys: BTreeMap<M::Key, History<M>> = BTreeMap::new();
    for operation in history {
        // An operation that surely had no effect explains nothing and needs no explanation.
        if operation.answer != Answer::Failed {
            of_keys.entry(M::key(&operation.input)).or_default().push(operation);
        }
    }
    for (key, mut operations) in of_keys {
        operations.sort_by_key(|operation| operation.called);
        let mut search = Search::<M>::new(&operations);
        match search.run(configurations) {
            Verdict::Explained => {}
            Verdict::Unexplained => return Err(search.violation(key.to_string())),
            Verdict::GivenUp => {
                return Err(Violation::TooHard {
                    key: key.to_string(),
                    operations: operations.len(),
                });
            }
        }
    }
    Ok(())
}

enum Verdict {
    Explained,
    Unexplained,
    GivenUp,
}

/// A call or a return, in a list from which operations are lifted out and put back.
#[derive(Clone, Copy, Debug)]
struct Event {
    operation: usize,
    /// For a call, its return's place in the list, if it has one.
    returns_at: Option<usize>,
    is_call: bool,
}

/// The place before the first event.
const HEAD: usize = 0;

struct Search<'a, M: Model> {
    operations: &'a [Operation<M::Input, M::Output>],
    /// In the order of time, from 1; no event stands behind the last.
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    state: M::State,
    /// A bit for each operation.
    placed: Vec<u64>,
    seen: HashSet<(Vec<u64>, M::State)>,
    /// The calls of the placed operations, in the order of placing, each with the state before it.
    path: Vec<(usize, M::State)>,
    /// The number of operations placed where the search came furthest, and the return at which it had to go back.
    furthest: (usize, usize),
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: &'a [Operation<M::Input, M::Output>]) -> Self {
        let mut times: Vec<(Duration, bool, usize)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            // At the same moment calls come before returns: then both orders are possible.
            times.push((operation.called, false, index));
            if operation.answer != Answer::Unknown {
                times.push((operation.returned, true, index));
            }
        }
        times.sort();
        let place_of_return: BTreeMap<usize, usize> = (1..)
            .zip(&times)
            .filter(|(_, (_, is_return, _))| *is_return)
            .map(|(place, (_, _, operation))| (*operation, place))
            .collect();
        let head = Event {
            operation: 0,
            returns_at: None,
            is_call: false,
        };
        let events: Vec<Event> = std::iter::once(head)
            .chain(times.iter().map(|&(_, is_return, operation)| Event {
                operation,
                returns_at: place_of_return.get(&operation).copied(),
                is_call: !is_return,
            }))
            .collect();
        let count = events.len();
        Self {
            operations,
            events,
            next: (1..=count).collect(),
            previous: (0..=count).map(|place| place.saturating_sub(1)).collect(),
            state: M::State::default(),
            placed: vec![0; operations.len().div_ceil(64)],
            seen: HashSet::new(),
            path: Vec::new(),
            furthest: (0, 0),
        }
    }

    fn run(&mut self, configurations: usize) -> Verdict {
        let end = self.events.len();
        let mut place = self.next[HEAD];
        // At the end of the list only calls without a return are left, and such an operation need never have taken
        // effect.
        while place != end {
            let event = self.events[place];
            if event.is_call {
                place = if self.try_to_place(place) {
                    self.next[HEAD]
                } else {
                    self.next[place]
                };
                if self.seen.len() > configurations {
                    return Verdict::GivenUp;
                }
                continue;
            }
            if self.path.len() >= self.furthest.0 {
                self.furthest = (self.path.len(), event.operation);
            }
            // The last choice was wrong: the search takes the next possible one after it.
            let Some((call, before)) = self.path.pop() else {
                return Verdict::Unexplained;
            };
            self.state = before;
            self.put_back(call);
            place = self.next[call];
        }
        Verdict::Explained
    }

    /// Places the operation of a call next, if its answer fits and the resulting configuration is new.
    fn try_to_place(&mut self, call: usize) -> bool {
        let index = self.events[call].operation;
        let operation = &self.operations[index];
        let mut after = self.state.clone();
        let output = M::perform(&mut after, &operation.input);
        let fits = match &operation.answer {
            Answer::Ok(told) => *told == output,
            Answer::Unknown => after != self.state,
            Answer::Failed => false,
        };
        if !fits {
            return false;
        }
        let mut placed = self.placed.clone();
        placed[index / 64] |= 1 << (index % 64);
        if !self.seen.insert((placed.clone(), after.clone())) {
            return false;
        }
        self.placed = placed;
        let before = std::mem::replace(&mut self.state, after);
        self.path.push((call, before));
        self.lift(call);
        if let Some(returns_at) = self.events[call].returns_at {
            self.lift(returns_at);
        }
        true
    }

    fn lift(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes the changes of placing to the list, in the reverse order.
    fn put_back(&mut self, call: usize) {
        let event = self.events[call];
        self.placed[event.operation / 64] &= !(1 << (event.operation % 64));
        for place in event.returns_at.into_iter().chain([call]) {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
    }

    fn violation(&self, key: String) -> Violation {
        let stuck = &self.operations[self.furthest.1];
        let until_then = self
            .operations
            .iter()
            .filter(|operation| operation.called <= stuck.returned);
        Violation::NotLinearizable {
            key,
            history: until_then.map(tell).collect(),
            stuck: tell(stuck),
        }
    }
}

/// An operation in one line.
fn tell<I: fmt::Display, O: fmt::Display>(operation: &Operation<I, O>) -> String {
    let Operation {
        client,
        input,
        called,
        returned,
        answer,
    } = operation;
    let answer = match answer {
        Answer::Ok(output) => output.to_string(),
        Answer::Failed => "failed".to_owned(),
        Answer::Unknown => "unknown".to_owned(),
    };
    let (called, returned) = (called.as_secs_f64(), returned.as_secs_f64());
    format!("{called:10.6} to {returned:10.6}  client {client}: {input}: {answer}")
}

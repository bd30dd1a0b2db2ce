//! Work that is done for many at the price of one: requests that come in while earlier work is on its way go together.

use pgmesh_runtime::tasks;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::peers::Setback;

/// How many requests may wait; a caller that comes later waits to be let in (invariant 11).
const QUEUE: usize = 4096;

/// How large a group may become, and how many may be on their way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most members.
    pub(super) members: usize,
    /// A group takes no further member that would make it weigh more, unless it is the only one.
    pub(super) weight: usize,
    /// How many groups are on their way at once.
    pub(super) in_flight: usize,
}

/// Takes single requests and does them in groups. Clones share the queue.
#[derive(Debug)]
pub(super) struct Batcher<T, R> {
    queue: mpsc::Sender<Waiting<T, R>>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

#[derive(Debug)]
struct Waiting<T, R> {
    request: T,
    weight: usize,
    answer: oneshot::Sender<Result<R, Setback>>,
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// `work` does a group: one result for each of its members, in their order, or one setback for all.
    pub(super) fn new<W, F>(limits: Limits, work: W) -> Self
    where
        W: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = Result<Vec<R>, Setback>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tasks::spawn("batching", run(limits, waiting, work));
        Self { queue }
    }

    /// Has a request done with others.
    pub(super) async fn ask(&self, request: T, weight: usize) -> Result<R, Setback> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            request,
            weight,
            answer,
        };
        let stopped = || Setback::Stopped("it was shut down".to_owned());
        self.queue.send(waiting).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

async fn run<T, R, W, F>(limits: Limits, mut waiting: mpsc::Receiver<Waiting<T, R>>, work: W)
where
    T: Send + 'static,
    R: Send + 'static,
    W: Fn(Vec<T>) -> F,
    F: Future<Output = Result<Vec<R>, Setback>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.in_flight));
    let mut held = None;
    loop {
        let first = match held.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        // Only now: requests that come until there is a place belong to the group.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let mut weight = first.weight;
        let mut group = vec![first];
        while group.len() < limits.members {
            let Ok(next) = waiting.try_recv() else { break };
            if weight + next.weight > limits.weight {
                held = Some(next);
                break;
            }
            weight += next.weight;
            group.push(next);
        }
        // A request whose caller has given up need not be begun.
        group.retain(|member| !member.answer.is_closed());
        if group.is_empty() {
            continue;
        }
        let (requests, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|member| (member.request, member.answer)).unzip();
        let work = work(requests);
        tasks::spawn("carrying out a batch", async move {
            let done = work.await;
            drop(place);
            answer(done, answers);
        });
    }
}

/// The caller may have gone; the work stands.
fn answer<R>(done: Result<Vec<R>, Setback>, answers: Vec<oneshot::Sender<Result<R, Setback>>>) {
    match done {
        Ok(results) => {
            for (answer, result) in std::iter::zip(answers, results) {
                let _ = answer.send(Ok(result));
            }
        }
        Err(setback) => {
            for answer in answers {
                let _ = answer.send(Err(setback.clone()));
            }
        }
    }
}

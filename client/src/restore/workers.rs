//! `process-max`: how much decompressing, checking and writing is done at once.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::tasks;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A limit on blocking work, shared by all that do it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Semaphore>);

impl Workers {
    /// So many at once.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit.max(1))))
    }

    /// Does a piece of work on a thread of its own, when there is room.
    ///
    /// # Errors
    /// The failure of the work, or its abnormal end.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        // The semaphore is never closed; if it were, work would only be less limited.
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let done = tasks::blocking("restoring", work).await;
        drop(permit);
        done.map_err(|error| abnormal(&error))?
    }
}

/// A task that panicked or was cancelled.
pub fn abnormal(error: &tokio::task::JoinError) -> Failure {
    Failure::new(ExitCode::Assert, "a worker ended abnormally").because(error)
}

//! SIGINT and SIGTERM while a restore runs: it ends, and says in what state it leaves the directory.

use super::options::RestoreOptions;
use super::unfinished;
use crate::exit::CommandError;
use crate::logging;
use pgmesh_protocol::{ExitCode, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How long the restore has to end by itself. Emptying a large directory does not listen.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits for a signal that ends the restore.
#[derive(Debug)]
pub struct Interruption {
    caught: oneshot::Receiver<Failure>,
    began: Began,
}

/// Whether anything in the data directory was changed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Began(Arc<AtomicBool>);

impl Began {
    /// From here on something is changed.
    pub fn now(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Interruption {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch(options: &RestoreOptions) -> Result<Self, Failure> {
        let caught = |kind| {
            signal(kind).map_err(|error| Failure::new(ExitCode::Runtime, "signals cannot be caught").because(error))
        };
        let mut interrupt = caught(SignalKind::interrupt())?;
        let mut terminate = caught(SignalKind::terminate())?;
        let (tell, caught) = oneshot::channel();
        let began = Began::default();
        let (has_begun, options) = (began.clone(), options.clone());
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            let failure = stopped(name, &has_begun, &options);
            // It is told when the process is to end; then nobody listens any more.
            if tell.send(failure).is_ok() {
                tokio::time::sleep(PATIENCE).await;
                let error = CommandError::from(stopped(name, &has_begun, &options));
                logging::report(&error);
                std::process::exit(error.code.number().into());
            }
        });
        Ok(Self { caught, began })
    }

    /// To be told when something is changed.
    pub fn began(&self) -> Began {
        self.began.clone()
    }

    /// Ends with a signal.
    pub async fn caught(&mut self) -> Failure {
        match (&mut self.caught).await {
            Ok(failure) => failure,
            Err(_) => std::future::pending().await,
        }
    }
}

fn stopped(signal: &str, began: &Began, options: &RestoreOptions) -> Failure {
    let failure = Failure::new(ExitCode::Runtime, format!("the restore was stopped by {signal}"));
    if began.0.load(Ordering::Acquire) {
        unfinished(failure, options)
    } else {
        failure.because("nothing was changed yet")
    }
}

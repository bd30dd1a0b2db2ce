//! The terminal in front of a backup or a restore: bars, and SIGINT and SIGTERM.

use crate::exit::CommandError;
use crate::logging;
use crate::progress::TerminalBar;
use futures::future::{BoxFuture, FutureExt, pending};
use pgmesh_client::caller::{Caller, Stopped};
use pgmesh_client::progress::Bar;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::tasks;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The time in which a restore has to end by itself: while it empties a large directory, it does not listen.
const PATIENCE: Duration = Duration::from_secs(2);

/// The terminal of the user who started the program.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// The time in which the work has to end by itself before the process ends it; none if the work always listens.
    patience: Option<Duration>,
}

impl Terminal {
    /// For a backup.
    pub const BACKUP: Self = Self { patience: None };
    /// For a restore.
    pub const RESTORE: Self = Self {
        patience: Some(PATIENCE),
    };
}

impl Caller for Terminal {
    fn bar(&self, what: &'static str, total: u64) -> Box<dyn Bar> {
        Box::new(TerminalBar::begin(what, total))
    }

    fn interruption(&self, stopped: Stopped) -> Result<BoxFuture<'static, Failure>, Failure> {
        let mut signals = Signals::catch()?;
        let Some(patience) = self.patience else {
            let caught = async move {
                let name = signals.caught().await;
                stopped(name)
            };
            return Ok(caught.boxed());
        };
        let (tell, told) = oneshot::channel();
        tasks::spawn("watching for signals", async move {
            let name = signals.caught().await;
            // Tells the work why it must end. If the work is over already, its receiver is gone, and the signal changes
            // nothing.
            if tell.send(stopped(name)).is_ok() {
                tokio::time::sleep(patience).await;
                let error = CommandError::from(stopped(name));
                logging::report(&error);
                std::process::exit(error.code.number().into());
            }
        });
        let told = async move {
            match told.await {
                Ok(failure) => failure,
                Err(_) => pending().await,
            }
        };
        Ok(told.boxed())
    }
}

/// SIGINT and SIGTERM, caught from the moment that a backup or a restore has work to give up.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let caught = |kind| {
            signal(kind).map_err(|error| Failure::new(ExitCode::Runtime, "signals cannot be caught").because(error))
        };
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
        })
    }

    /// Waits for either signal, and returns its name.
    async fn caught(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

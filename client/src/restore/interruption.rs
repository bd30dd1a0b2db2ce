//! The state in which a restore that is stopped leaves the data directory.

use super::options::RestoreSettings;
use super::unfinished;
use pgmesh_protocol::{ExitCode, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the restore has changed the data directory. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Began(Arc<AtomicBool>);

impl Began {
    /// From here on the restore changes the data directory.
    pub fn now(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The failure of a restore that is stopped by a signal, or by the program around it.
pub fn stopped(signal: &str, began: &Began, options: &RestoreSettings) -> Failure {
    let failure = Failure::new(ExitCode::Runtime, format!("the restore was stopped by {signal}"));
    if began.0.load(Ordering::Acquire) {
        unfinished(failure, options)
    } else {
        failure.because("nothing was changed yet")
    }
}

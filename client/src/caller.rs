//! The program around a backup or a restore: a command line, or an agent.

use crate::progress::{Bar, NoBar};
use futures::future::{BoxFuture, FutureExt, pending};
use pgmesh_protocol::Failure;

/// The failure that a user reads when a signal of this name (`SIGTERM`) stops the work. May be called several times: as
/// the work goes on, there is more to say.
pub type Stopped = Box<dyn Fn(&str) -> Failure + Send>;

/// The program around a backup or a restore, as these use it.
pub trait Caller: Send + Sync {
    /// Work of `total` bytes begins; `what` is a word for the user (`backup`).
    fn bar(&self, what: &'static str, total: u64) -> Box<dyn Bar>;

    /// From now on there is work to give up. If the program wants that, the future ends with the failure that `stopped`
    /// gives, and the work is dropped. The emptying of a large directory does not listen: a process that cannot wait
    /// for it may end all the same, and a cluster that was restored by half does not start.
    ///
    /// # Errors
    /// The caller cannot listen: the work is not begun.
    fn interruption(&self, stopped: Stopped) -> Result<BoxFuture<'static, Failure>, Failure>;
}

/// A caller that shows nothing and stops nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Caller for Nobody {
    fn bar(&self, _what: &'static str, _total: u64) -> Box<dyn Bar> {
        Box::new(NoBar)
    }

    fn interruption(&self, _stopped: Stopped) -> Result<BoxFuture<'static, Failure>, Failure> {
        Ok(pending().boxed())
    }
}

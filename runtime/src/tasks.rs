//! Tasks and threads with a name. If a task panics and its handle is not awaited, no trace would be left; here its end
//! is in the log with its name, and a caller that awaits the handle learns of the panic as before.

use futures::FutureExt;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use tokio::task::JoinHandle;

/// Spawns a task.
///
/// # Panics
/// Outside of a tokio runtime.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
pub fn spawn<F>(name: &'static str, task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(named(name, task))
}

/// Runs work that blocks on a thread for such work.
///
/// # Panics
/// Outside of a tokio runtime.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that hands blocking work to threads"
)]
pub fn blocking<R: Send + 'static>(name: &'static str, work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    tokio::task::spawn_blocking(move || logged(name, work))
}

/// Starts a thread. The operating system shows the first 15 bytes of its name.
///
/// # Errors
/// The operating system starts no further thread.
#[expect(clippy::disallowed_methods, reason = "the one place that starts threads")]
pub fn thread<R: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<thread::JoinHandle<R>> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(move || logged(name, work))
}

/// The same task, for a `JoinSet`: its panic is in the log with this name.
pub async fn named<F: Future>(name: &'static str, task: F) -> F::Output {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(output) => output,
        Err(panic) => {
            log(name, panic.as_ref());
            resume_unwind(panic)
        }
    }
}

/// The text of a panic.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a text")
}

fn logged<R>(name: &'static str, work: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(output) => output,
        Err(panic) => {
            log(name, panic.as_ref());
            resume_unwind(panic)
        }
    }
}

fn log(name: &'static str, panic: &(dyn Any + Send)) {
    tracing::error!(task = name, panic = panic_text(panic), "a task has panicked");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Metadata, Subscriber, span};

    /// Keeps the fields of all events.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<String>>);

    impl Visit for Heard {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            *self.0.lock().unwrap() += &format!("{field}={value:?};");
        }
    }

    impl Subscriber for Heard {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_panic_is_logged_with_the_name_and_reaches_who_waits() {
        let heard = Heard::default();
        tracing::subscriber::set_global_default(heard.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(spawn("adding", async { 1 + 1 }).await.unwrap(), 2);
            assert!(spawn("first", async { panic!("one") }).await.unwrap_err().is_panic());
            assert_eq!(blocking("adding", || 1 + 1).await.unwrap(), 2);
            let number = 2;
            let failed = blocking("second", move || panic!("number {number}")).await;
            assert!(failed.unwrap_err().is_panic());
        });
        assert_eq!(thread("adding", || 1 + 1).unwrap().join().unwrap(), 2);
        assert!(thread("third", || panic!("three")).unwrap().join().is_err());
        let heard = heard.0.lock().unwrap();
        for said in [
            "task=\"first\";panic=\"one\"",
            "task=\"second\";panic=\"number 2\"",
            "task=\"third\";panic=\"three\"",
        ] {
            assert!(heard.contains(said), "{heard}");
        }
        assert!(!heard.contains("adding"), "{heard}");
    }
}

//! The one progress reporter: a bar on a terminal, and in the log a line for every tenth of the work.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::activity::Activity;
use crate::output::size;

const STYLE: &str = "{prefix} {binary_bytes}/{binary_total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} to go";
const REDRAW: Duration = Duration::from_millis(200);

/// All bars of the process, drawn together on stderr; nothing is drawn when that is not a terminal.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Writes to stderr without tearing a bar apart.
pub(crate) fn write_beside_bars(bytes: &[u8]) -> io::Result<()> {
    bars().suspend(|| io::stderr().lock().write_all(bytes))
}

/// How far a piece of work has come, in bytes. Shared by all workers; the bar goes away when it is dropped.
#[derive(Debug)]
pub struct Progress {
    what: String,
    bar: ProgressBar,
    total: AtomicU64,
    done: AtomicU64,
    /// Tenths that the log has heard of.
    announced: AtomicU64,
    /// What is done is a sign of life.
    activity: Arc<Activity>,
}

impl Progress {
    /// Begins: `what` is a word for the user (`backup`), `total` the bytes to do.
    pub fn start(what: impl Into<String>, total: u64) -> Self {
        let what = what.into();
        let bar = bars().add(ProgressBar::new(total));
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.clone());
        if !bar.is_hidden() {
            bar.enable_steady_tick(REDRAW);
        }
        let (total, done) = (AtomicU64::new(total), AtomicU64::new(0));
        Self {
            what,
            bar,
            total,
            done,
            announced: AtomicU64::new(0),
            activity: Arc::default(),
        }
    }

    /// Tells also the activity of every step.
    pub fn watched(mut self, activity: Arc<Activity>) -> Self {
        self.activity = activity;
        self
    }

    /// More to do than was known at the start.
    pub fn grow(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc_length(bytes);
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.activity.mark();
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let total = self.total.load(Ordering::Relaxed);
        self.bar.inc(bytes);
        let tenths = tenths(done, total);
        if self.announced.fetch_max(tenths, Ordering::Relaxed) < tenths {
            tracing::info!("{}: {}% ({} of {})", self.what, tenths * 10, size(done), size(total));
        }
    }

    /// Bytes done and bytes to do in all.
    pub fn state(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        bars().remove(&self.bar);
    }
}

/// How far a piece of work has come of which nobody knows beforehand how much it is.
#[derive(Debug)]
pub struct Counter(ProgressBar);

impl Counter {
    /// Begins: `what` is a word for the user.
    pub fn start(what: &'static str) -> Self {
        let bar = bars().add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {spinner} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        if !bar.is_hidden() {
            bar.enable_steady_tick(REDRAW);
        }
        Self(bar)
    }

    /// What there is to say now.
    pub fn show(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        bars().remove(&self.0);
    }
}

/// Whole tenths of the work that are done; none while there is nothing to do.
fn tenths(done: u64, total: u64) -> u64 {
    if total == 0 {
        return 0;
    }
    u64::try_from(u128::from(done) * 10 / u128::from(total))
        .unwrap_or(10)
        .min(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_of_the_work() {
        let cases = [
            (0, 0, 0),
            (0, 100, 0),
            (9, 100, 0),
            (10, 100, 1),
            (99, 100, 9),
            (100, 100, 10),
            (200, 100, 10),
        ];
        for (done, total, expected) in cases {
            assert_eq!(tenths(done, total), expected, "{done} of {total}");
        }
        assert_eq!(tenths(u64::MAX, u64::MAX), 10);
    }

    #[test]
    fn the_style_is_valid() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }

    #[test]
    fn workers_add_up() {
        let progress = Progress::start("backup", 1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| progress.advance(2)));
            }
        });
        progress.grow(24);
        assert_eq!(progress.state(), (800, 1024));
        assert_eq!(progress.announced.load(Ordering::Relaxed), 8);
    }
}

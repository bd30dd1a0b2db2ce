//! Bars on a terminal.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use pgmesh_client::progress::{Bar, Progress};

const STYLE: &str = "{prefix} {binary_bytes}/{binary_total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} to go";
const REDRAW: Duration = Duration::from_millis(200);

/// All bars of the process, drawn together on stderr; nothing is drawn if stderr is not a terminal.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Writes to stderr without tearing a bar apart.
pub(crate) fn write_beside_bars(bytes: &[u8]) -> io::Result<()> {
    bars().suspend(|| io::stderr().lock().write_all(bytes))
}

/// Begins a task of `total` bytes that has a bar; `what` is a word for the user (`catalog-rebuild`).
pub fn start(what: &str, total: u64) -> Progress {
    Progress::start(what, total, Box::new(TerminalBar::begin(what, total)))
}

/// The bar of one task. It goes away when it is dropped.
#[derive(Debug)]
pub struct TerminalBar(ProgressBar);

impl TerminalBar {
    /// Shows the bar: `what` is a word for the user, `total` the bytes to do.
    pub fn begin(what: &str, total: u64) -> Self {
        let bar = bars().add(ProgressBar::new(total));
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        if !bar.is_hidden() {
            bar.enable_steady_tick(REDRAW);
        }
        Self(bar)
    }
}

impl Bar for TerminalBar {
    fn grow(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for TerminalBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        bars().remove(&self.0);
    }
}

/// The progress of a task whose size is not known beforehand.
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

    /// Shows the latest message.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_is_valid() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }
}

//! Log lines, in pgBackRest's form and with its level names: `2026-11-23 04:29:57.123 P00   INFO: text`.
//!
//! Lines go to stderr and, if `log-path` is usable, to a file. Results of commands go to stdout.

use pgmesh_runtime::clock;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Command, Config};
use crate::exit::CommandError;
use crate::output::{harmless, local_offset};
use crate::progress::write_beside_bars;

pub use pgmesh_client::DETAIL;

/// The prefix of pgmesh's crates. Other crates are heard from `warn` on only, until the level is `trace`.
const OURS: &str = "pgmesh";

/// The library that does consensus.
const CONSENSUS_LIBRARY: &str = "openraft";

/// The separator between the lines of one message.
const CONTINUED: &str = "\n            ";

/// Logs at level `detail`: more than most users want, less than debugging needs.
#[macro_export]
macro_rules! detail {
    ($($arguments:tt)+) => {
        ::tracing::event!(target: $crate::logging::DETAIL, ::tracing::Level::DEBUG, $($arguments)+)
    };
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "pgBackRest's level names")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Detail,
    Debug,
    Trace,
}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        Ok(match name {
            "off" => Self::Off,
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "detail" => Self::Detail,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return Err(UnknownLevel(name.to_owned())),
        })
    }
}

/// A word that is not a level.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a log level")]
pub struct UnknownLevel(String);

impl LogLevel {
    /// The events that are heard at this level.
    fn targets(self) -> Targets {
        let ours = match self {
            Self::Off => return Targets::new(),
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Detail => return Self::Info.targets().with_target(DETAIL, LevelFilter::DEBUG),
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => return Targets::new().with_default(LevelFilter::TRACE),
        };
        Targets::new()
            .with_default(ours.min(LevelFilter::WARN))
            // The library complains about an unreachable node several times a second. The catalog logs the complaints
            // that matter.
            .with_target(CONSENSUS_LIBRARY, LevelFilter::OFF)
            .with_target(OURS, ours)
    }
}

/// Whether [`init`] has set up the log.
static READY: AtomicBool = AtomicBool::new(false);

/// Sets up the log for the rest of the process, as the configuration says.
pub fn init(config: &Config) -> Result<(), CommandError> {
    let level = |option: &str| {
        let name = config.text(option).unwrap_or("off");
        name.parse::<LogLevel>()
            .map_err(|error| CommandError::assert(format!("{option}: {error}")))
    };
    let console = level("log-level-console")?.max(level("log-level-stderr")?);
    // As in pgBackRest, each line of an expiry that changes nothing says so.
    let prefix = if config.command() == Command::Expire && config.flag("dry-run") {
        "[DRY-RUN] "
    } else {
        ""
    };
    let lines = LineFormat {
        timestamp: config.flag("log-timestamp"),
        prefix,
    };
    let (file, warning) = open_file(config, level("log-level-file")?);
    let file_layer = file.map(|(file, level)| {
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(LineFormat {
                timestamp: true,
                prefix,
            })
            .with_writer(file)
            .with_filter(level.targets())
    });
    let registry = tracing_subscriber::registry().with(file_layer);
    let stderr = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(BesideBars);
    let result = if config.text("log-format") == Some("json") {
        registry
            .with(stderr.json().flatten_event(true).with_filter(console.targets()))
            .try_init()
    } else {
        registry
            .with(stderr.event_format(lines).with_filter(console.targets()))
            .try_init()
    };
    // A program that uses this crate as a library may have set up a log already; its log stays.
    READY.store(result.is_ok(), Ordering::Release);
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Tells the user why a command failed: through the log, or directly when there is none yet.
pub fn report(error: &CommandError) {
    if READY.load(Ordering::Acquire) {
        tracing::error!("{}", error.message());
    } else {
        // If stderr itself is gone, no way is left to tell the user.
        let _ = write_beside_bars(format!("{}\n", harmless(&error.to_string())).as_bytes());
    }
}

/// The log file with its level, if one is wanted, and a warning if it cannot be opened.
fn open_file(config: &Config, level: LogLevel) -> (Option<(Arc<File>, LogLevel)>, Option<String>) {
    let Some(directory) = config.path("log-path").filter(|_| level != LogLevel::Off) else {
        return (None, None);
    };
    let path = directory.join(file_name(config.command(), config.stanza()));
    match begin_file(&path) {
        Ok(file) => (Some((Arc::new(file), level)), None),
        // The default directory may be missing or belong to another user; only a directory from `log-path` is warned
        // of.
        Err(_) if !config.is_given("log-path") => (None, None),
        Err(error) => {
            let what = format!(
                "cannot write the log file {}: {error}; the command goes on without it",
                path.display()
            );
            (None, Some(what))
        }
    }
}

fn begin_file(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let gap = if file.metadata()?.len() == 0 { "" } else { "\n" };
    file.write_all(format!("{gap}-------------------PROCESS START-------------------\n").as_bytes())?;
    Ok(file)
}

/// `main-backup.log`; commands for all stanzas log to `all-…`.
fn file_name(command: Command, stanza: Option<&str>) -> String {
    format!("{}-{}.log", stanza.unwrap_or("all"), command.name().replace(' ', "-"))
}

/// Stderr, around the progress bars.
struct BesideBars;

impl Write for BesideBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_beside_bars(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for BesideBars {
    type Writer = Self;

    fn make_writer(&'writer self) -> Self {
        Self
    }
}

/// pgBackRest's line: time, process, level, text; then the fields of the event and of its spans.
struct LineFormat {
    timestamp: bool,
    /// Before each message.
    prefix: &'static str,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.timestamp {
            let now = OffsetDateTime::from(clock::now());
            let now = now.to_offset(local_offset(now));
            let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");
            write!(writer, "{} ", now.format(format).map_err(|_| fmt::Error)?)?;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let message = harmless(&text.message).replace('\n', CONTINUED);
        write!(writer, "P00 {:>6}: {}{message}", level_name(event), self.prefix)?;
        write!(writer, "{}", harmless(&text.fields))?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span
                .extensions()
                .get::<FormattedFields<N>>()
                .filter(|fields| !fields.is_empty())
            {
                write!(writer, " {}", harmless(fields.as_str()))?;
            }
        }
        writeln!(writer)
    }
}

fn level_name(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG if event.metadata().target() == DETAIL => "DETAIL",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// An event's message, and its other fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else if value.is_empty() || value.contains([' ', '"', '\n']) {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        } else {
            self.fields.push_str(&format!(" {}={value}", field.name()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, timestamp: bool, events: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(LineFormat { timestamp, prefix: "" })
            .with_writer(move || writer.clone())
            .with_filter(level.targets());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_look_like_pgbackrests() {
        let text = logged(LogLevel::Info, false, || {
            tracing::info!(repo = 1, why = "disk full", "pushed")
        });
        assert_eq!(text, "P00   INFO: pushed repo=1 why=\"disk full\"\n");
        let text = logged(LogLevel::Warn, true, || tracing::warn!("a\nb"));
        let (time, rest) = text.split_at(24);
        assert_eq!((time.len(), rest), (24, "P00   WARN: a\n            b\n"), "{text}");
    }

    #[test]
    fn each_line_of_a_dry_run_says_so() {
        let kept = Kept::default();
        let writer = kept.clone();
        let format = LineFormat {
            timestamp: false,
            prefix: "[DRY-RUN] ",
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(format)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!("repo1: 15-1 no archive to remove");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "P00   INFO: [DRY-RUN] repo1: 15-1 no archive to remove\n");
    }

    #[test]
    fn a_peer_does_not_write_to_the_terminal() {
        let log = logged(LogLevel::Info, false, || {
            tracing::info!(name = "a\u{1b}[2J", "from \u{1b}[1A\nthere")
        });
        assert!(!log.contains('\u{1b}') && log.contains("\\u{1b}[1A"), "{log:?}");
    }

    #[test]
    fn spans_add_their_fields() {
        let text = logged(LogLevel::Info, false, || {
            let _entered = tracing::info_span!("push", stanza = "main").entered();
            tracing::info!("done");
        });
        assert!(text.starts_with("P00   INFO: done stanza="), "{text}");
    }

    #[test]
    fn detail_lies_between_info_and_debug() {
        let events = || {
            tracing::error!("e");
            tracing::info!("i");
            detail!("d {}", 1);
            tracing::debug!("g");
        };
        assert_eq!(logged(LogLevel::Off, false, events), "");
        assert_eq!(logged(LogLevel::Error, false, events), "P00  ERROR: e\n");
        assert_eq!(logged(LogLevel::Info, false, events), "P00  ERROR: e\nP00   INFO: i\n");
        assert_eq!(
            logged(LogLevel::Detail, false, events),
            "P00  ERROR: e\nP00   INFO: i\nP00 DETAIL: d 1\n"
        );
        assert!(logged(LogLevel::Debug, false, events).ends_with("P00 DETAIL: d 1\nP00  DEBUG: g\n"));
    }

    #[test]
    fn other_crates_are_quiet() {
        let events = || {
            tracing::info!(target: "openraft::engine", "vote");
            tracing::warn!(target: "openraft::engine", "lost");
            tracing::info!(target: "rustls::client", "hello");
            tracing::warn!(target: "rustls::client", "odd");
        };
        assert_eq!(logged(LogLevel::Debug, false, events), "P00   WARN: odd\n");
        assert!(logged(LogLevel::Trace, false, events).contains("vote"));
    }

    #[test]
    fn file_names() {
        assert_eq!(file_name(Command::Backup, Some("main")), "main-backup.log");
        assert_eq!(file_name(Command::NodeInit, None), "all-node-init.log");
    }
}

//! From the command line to a command, and from its outcome to an exit code.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::config::{Command, Config, calls};
use crate::exit::{CommandError, ExitCode};
use crate::{commands, help, logging, output, version};

/// Runs the program with its arguments, the program's name left out, and returns the process's exit code.
///
/// No panic passes through: a defect ends as exit 25 like other errors.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut called = Called::guess(&arguments);
    let outcome = catch_unwind(AssertUnwindSafe(|| configure_and_dispatch(&arguments, &mut called)));
    let code = outcome.unwrap_or_else(|_| {
        logging::report(&CommandError::assert(
            "pgmesh stopped because of a defect in pgmesh, described above",
        ));
        ExitCode::Assert
    });
    if called.archive_get {
        honest_archive_get(code, called.asker())
    } else {
        code
    }
}

/// The facts beside the outcome on which the exit code depends, known or guessed before anything can fail.
struct Called {
    archive_get: bool,
    /// PostgreSQL asks for a history file.
    history: bool,
    /// The server follows another one: its data directory has standby.signal.
    standby: bool,
    /// The data directory has recovery.signal.
    recovering: bool,
}

/// The state of the server that runs `archive-get`, which decides how it takes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// The server follows another one: after 1 to 125 it tries again, and above it ends.
    Standby,
    /// The server recovers to a target or to the end of the archive: it takes 1 to 125 for "not there", and above it
    /// ends.
    Recovering,
    /// The server is being promoted, its signal files are gone, and it copies the history of the timeline that it
    /// leaves. If it ended now it would start again as a writable server on that timeline.
    Promoted,
}

impl Called {
    /// Guesses from arguments that may not make sense. PostgreSQL runs restore_command in its data directory.
    fn guess(arguments: &[OsString]) -> Self {
        Self {
            archive_get: calls(arguments, Command::ArchiveGet),
            history: arguments
                .iter()
                .any(|word| word.to_string_lossy().ends_with(".history")),
            standby: is_standby(Path::new(".")),
            recovering: is_recovering(Path::new(".")),
        }
    }

    fn asker(&self) -> Asker {
        match self {
            Self { standby: true, .. } => Asker::Standby,
            Self {
                recovering: false,
                history: true,
                ..
            } => Asker::Promoted,
            _ => Asker::Recovering,
        }
    }

    fn learn(&mut self, config: &Config) {
        self.archive_get = config.command() == Command::ArchiveGet;
        self.standby |= config.pg_path().is_some_and(is_standby);
        self.recovering |= config.pg_path().is_some_and(is_recovering);
    }
}

fn is_standby(pgdata: &Path) -> bool {
    pgdata.join("standby.signal").exists()
}

fn is_recovering(pgdata: &Path) -> bool {
    pgdata.join("recovery.signal").exists()
}

fn configure_and_dispatch(arguments: &[OsString], called: &mut Called) -> ExitCode {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let outcome = Config::load(arguments, &environment).and_then(|config| {
        called.learn(&config);
        logging::init(&config)?;
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        dispatch(&config)
    });
    outcome.unwrap_or_else(|error| {
        logging::report(&error);
        error.code
    })
}

fn dispatch(config: &Config) -> Result<ExitCode, CommandError> {
    match config.command() {
        Command::Help => output::print(&help::topic(config)?)?,
        Command::Version => output::print(&version::text(config))?,
        Command::Completions => output::print(&help::completions(config)?)?,
        _ => return commands::run(config),
    }
    Ok(ExitCode::Ok)
}

/// Invariant 7: in recovery, PostgreSQL reads 1 to 125 as "the archive ends here" and goes on without the rest. Only
/// `NotFound` means that; every other failure of `archive-get`, even a typing error in the configuration, must stop
/// recovery. A standby is different: it retries after 1 to 125 and gives up above. A server that is being promoted must
/// not end: see [`Asker`].
fn honest_archive_get(code: ExitCode, asker: Asker) -> ExitCode {
    match (code, asker) {
        (ExitCode::Ok | ExitCode::NotFound, _) => code,
        (_, Asker::Recovering) => ExitCode::ArchiveUnknown,
        (ExitCode::ArchiveUnknown, Asker::Standby | Asker::Promoted) => ExitCode::Unknown,
        (_, Asker::Standby | Asker::Promoted) => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_7_archive_get_ends_recovery_only_when_it_knows() {
        assert_eq!(honest_archive_get(ExitCode::Ok, Asker::Recovering), ExitCode::Ok);
        assert_eq!(
            honest_archive_get(ExitCode::NotFound, Asker::Recovering),
            ExitCode::NotFound
        );
        for code in [
            ExitCode::OptionInvalid,
            ExitCode::Assert,
            ExitCode::HostConnect,
            ExitCode::ArchiveUnknown,
        ] {
            assert!(honest_archive_get(code, Asker::Recovering).number() > 125, "{code:?}");
            for asker in [Asker::Standby, Asker::Promoted] {
                assert!(
                    (2..=125).contains(&honest_archive_get(code, asker).number()),
                    "{code:?} for {asker:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_history_that_a_promoted_server_copies_is_asked_for_without_signal_files() {
        let called = |standby, recovering, history| {
            Called {
                archive_get: true,
                history,
                standby,
                recovering,
            }
            .asker()
        };
        assert_eq!(called(true, false, true), Asker::Standby);
        assert_eq!(called(false, true, true), Asker::Recovering);
        assert_eq!(called(false, false, true), Asker::Promoted);
        assert_eq!(called(false, false, false), Asker::Recovering);
    }

    #[test]
    fn an_option_that_does_not_exist_stops_recovery() {
        let arguments = ["archive-get", "--stanzza=main", "000000010000000000000001", "x"];
        assert_eq!(run(arguments.map(OsString::from)), ExitCode::ArchiveUnknown);
        assert_eq!(
            run(["backup", "--stanzza=main"].map(OsString::from)),
            ExitCode::OptionInvalid
        );
    }
}

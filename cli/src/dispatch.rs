//! From the command line to a command, and from its outcome to an exit code.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::config::{Command, Config, calls};
use crate::exit::{CommandError, ExitCode};
use crate::{commands, help, logging, output};

/// Runs the program with its arguments, the program's name left out, and gives back what the process returns.
///
/// Nothing it does panics through: a defect ends as exit 25 like other errors.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut called = Called::guess(&arguments);
    let outcome = catch_unwind(AssertUnwindSafe(|| configure_and_dispatch(&arguments, &mut called)));
    let code = outcome.unwrap_or_else(|_| {
        logging::report(&CommandError::assert(
            "pgmesh stopped at a defect of its own, described above",
        ));
        ExitCode::Assert
    });
    if called.archive_get {
        honest_archive_get(code, called.standby)
    } else {
        code
    }
}

/// What the exit code depends on besides the outcome, known or guessed before anything can fail.
struct Called {
    archive_get: bool,
    /// The cluster that archive-get serves follows another one.
    standby: bool,
}

impl Called {
    /// From arguments that may not make sense. PostgreSQL runs restore_command in its data directory.
    fn guess(arguments: &[OsString]) -> Self {
        Self {
            archive_get: calls(arguments, Command::ArchiveGet),
            standby: is_standby(Path::new(".")),
        }
    }

    fn learn(&mut self, config: &Config) {
        self.archive_get = config.command() == Command::ArchiveGet;
        self.standby |= config.pg_path().is_some_and(is_standby);
    }
}

fn is_standby(pgdata: &Path) -> bool {
    pgdata.join("standby.signal").exists()
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
        Command::Version => output::print(help::VERSION)?,
        Command::Completions => output::print(&help::completions(config)?)?,
        _ => return commands::run(config),
    }
    Ok(ExitCode::Ok)
}

/// Invariant 7: PostgreSQL reads 1 to 125 as "the archive ends here" and goes on without the rest. Only `NotFound` means
/// that; whatever else went wrong in `archive-get`, be it a typing error in the configuration, must stop recovery. A
/// standby is different: it retries after 1 to 125 and gives up above.
fn honest_archive_get(code: ExitCode, standby: bool) -> ExitCode {
    match code {
        ExitCode::Ok | ExitCode::NotFound => code,
        ExitCode::ArchiveUnknown if standby => ExitCode::Unknown,
        _ if standby => code,
        _ => ExitCode::ArchiveUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_7_archive_get_ends_recovery_only_when_it_knows() {
        assert_eq!(honest_archive_get(ExitCode::Ok, false), ExitCode::Ok);
        assert_eq!(honest_archive_get(ExitCode::NotFound, false), ExitCode::NotFound);
        for code in [
            ExitCode::OptionInvalid,
            ExitCode::Assert,
            ExitCode::HostConnect,
            ExitCode::ArchiveUnknown,
        ] {
            assert!(honest_archive_get(code, false).number() > 125, "{code:?}");
            assert!(
                (2..=125).contains(&honest_archive_get(code, true).number()),
                "{code:?} on a standby"
            );
        }
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

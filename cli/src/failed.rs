//! Between what fails on a node or in a flow ([`Failure`]) and how the program ends ([`CommandError`]).

use crate::exit::{CommandError, ExitCode};
use pgmesh_protocol::Failure;

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        let code = ExitCode::ALL
            .into_iter()
            .find(|code| code.number() == failure.code)
            .unwrap_or(ExitCode::Unknown);
        Self {
            code,
            what: failure.what,
            cause: failure.cause,
            remedy: failure.remedy,
        }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self {
            code: error.code.number(),
            what: error.what,
            cause: error.cause,
            remedy: error.remedy,
            again: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_protocol::code;

    #[test]
    fn every_code_of_a_node_is_an_exit_code() {
        for number in [
            code::ASSERT,
            code::CHECKSUM,
            code::CONFIG,
            code::FILE_INVALID,
            code::FORMAT,
            code::OPTION_INVALID,
            code::OPTION_REQUIRED,
            code::PROTOCOL,
            code::ARCHIVE_MISMATCH,
            code::ARCHIVE_DUPLICATE,
            code::VERSION_NOT_SUPPORTED,
            code::HOST_CONNECT,
            code::LOCK_ACQUIRE,
            code::BACKUP_MISMATCH,
            code::FILE_MISSING,
            code::DB_CONNECT,
            code::DB_MISMATCH,
            code::STOP,
            code::BACKUP_SET_INVALID,
            code::ARCHIVE_TIMEOUT,
            code::CRYPTO,
            code::REPO_INVALID,
            code::RUNTIME,
        ] {
            assert_eq!(CommandError::from(Failure::new(number, "x")).code.number(), number);
        }
    }
}

//! From a failure of a node or a flow ([`Failure`]) to the error that ends the program ([`CommandError`]).

use crate::exit::CommandError;
use pgmesh_protocol::Failure;

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code,
            what: failure.what,
            cause: failure.cause,
            remedy: failure.remedy,
        }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self {
            code: error.code,
            what: error.what,
            cause: error.cause,
            remedy: error.remedy,
            again: false,
        }
    }
}

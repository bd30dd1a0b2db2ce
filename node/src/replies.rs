//! Replies of the catalog.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::Reply;

/// An answer that does not belong to the command.
pub(crate) fn unexpected(reply: &Reply) -> Failure {
    Failure::new(
        ExitCode::Assert,
        "the catalog gave an answer that does not belong to the command",
    )
    .because(format!("{reply:?}"))
}

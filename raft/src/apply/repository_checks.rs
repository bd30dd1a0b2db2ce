//! Why a command about a repository is refused.

use pgmesh_storage::RepoKey;

use super::{Base, Outcome, Step};
use crate::key::KeyReader;
use crate::model::{ChangeKind, RepositoryRecord};
use crate::refusal::Refusal;
use crate::table::Table;

/// The refusal of a command that must wait for a walk's end.
pub(super) fn changing(repo: RepoKey, kind: ChangeKind) -> Refusal {
    let doing = match kind {
        ChangeKind::Retiring => "removed from the mesh",
        ChangeKind::Replacing => "made good after the loss of its disk",
    };
    Refusal::RepositoryChanging {
        repo,
        doing: doing.to_owned(),
    }
}

/// Refuses a storage that is registered under another number.
pub(super) fn refuse_known_storage<B: Base>(step: &Step<'_, '_, B>, repo: RepoKey, uuid: &str) -> Outcome<()> {
    for row in step.txn.records::<RepositoryRecord>(Table::Repositories, &[]) {
        let (key, other) = row?;
        if let Some(known) = KeyReader::new(&key).repository()
            && other.uuid == uuid
            && known != repo
        {
            return Err(Refusal::RepositoryTaken { known, given: repo }.into());
        }
    }
    Ok(())
}

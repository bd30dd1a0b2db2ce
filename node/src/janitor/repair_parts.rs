//! Making a replica of a file that lies in parts: one part after the other.

use crate::janitor::Janitor;
use crate::refs::Known;
use crate::repositories::RepositoryRoute;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::limits::GENERATIONS_TRIED;
use pgmesh_raft::{Claim, ObjectRef};
use pgmesh_storage::{FILE_PART_LENGTH, FilePart, Generation, RepoKey};
use std::collections::BTreeSet;

/// The outcome of copying a file under one generation.
enum Copied {
    /// All of it is there.
    All(Claim),
    /// A damaged part lies under a name of this generation: all of it goes under this one.
    Beside(Generation),
}

impl Janitor {
    /// Copies a file to a repository that owes it. All its parts have one generation.
    pub(crate) async fn copy_file(
        &self,
        place: &RepositoryRoute,
        object: &ObjectRef,
        known: &Known,
        of: u16,
        first: Generation,
    ) -> Result<Claim, Failure> {
        // One part as it is stored, decrypted, plain and encrypted again.
        let _held = self.budget.hold(4 * FILE_PART_LENGTH).await;
        let mut generation = first;
        for _ in 0..GENERATIONS_TRIED {
            match self.copy_parts(place, object, known, of, generation).await? {
                Copied::All(claim) => return Ok(claim),
                Copied::Beside(next) => generation = next,
            }
        }
        let what = format!("{object} cannot be written: damaged parts lie under its names");
        Err(Failure::new(ExitCode::RepoInvalid, what))
    }

    async fn copy_parts(
        &self,
        place: &RepositoryRoute,
        object: &ObjectRef,
        known: &Known,
        of: u16,
        generation: Generation,
    ) -> Result<Copied, Failure> {
        let mut hasher = self.suite().hasher();
        let mut read_from = BTreeSet::new();
        let mut made: Option<Claim> = None;
        for part in FilePart::all(of) {
            let known_part = known.of_part(part);
            let (payload, from) = self.reads.read_part(object, &known_part, &[place.key()]).await?;
            read_from.insert(from);
            let (payload, digested) = self.reads.digested(payload, hasher).await?;
            hasher = digested;
            // Invariant 6: a set of parts is complete only when they are together the file.
            if part.is_last() && hasher.clone().finalize() != known.digest {
                let repos: Vec<RepoKey> = read_from.into_iter().collect();
                self.reads.doubt(object, known, &repos).await;
                return Err(Failure::new(ExitCode::Checksum, format!("{object} is damaged"))
                    .because("its parts are together another content"));
            }
            let written = place.put(&known_part.name, generation, &payload).await;
            let claim = written.map_err(|error| unwritable(object, &chain(&error)))?.claim;
            if claim.replica.generation != generation {
                return Ok(Copied::Beside(claim.replica.generation));
            }
            if made.as_ref().is_some_and(|made| *made != claim) {
                return Err(unwritable(object, "the repository has changed meanwhile"));
            }
            made = Some(claim);
        }
        made.map(Copied::All)
            .ok_or_else(|| Failure::new(ExitCode::Assert, format!("{object} has no parts")))
    }
}

fn unwritable(object: &ObjectRef, why: &str) -> Failure {
    Failure::new(ExitCode::RepoInvalid, format!("{object} cannot be written")).because(why)
}

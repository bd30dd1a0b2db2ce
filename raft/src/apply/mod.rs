//! The function from state and command to new state.
//!
//! Invariant 10: it reads the tables and the command and nothing else — no clock, no randomness, no I/O — so that every
//! node comes to the same state, whatever the batches in which it is given the commands.

mod adopt;
mod backup;
mod base;
mod chunk;
mod garbage;
mod mesh;
mod node;
pub(crate) mod objects;
mod repository;
mod request;
mod retire;
mod segment;
mod session;
mod stanza;
mod token;
mod txn;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod refusals_mesh;
#[cfg(test)]
pub(crate) mod scenario;
#[cfg(test)]
mod shared;

pub use base::{Base, MemoryBase, Row, Rows};
pub use txn::{Txn, Writes};

use crate::command::{Command, Proposal};
use crate::error::ReadError;
use crate::key;
use crate::model::{AuditRecord, LogIndex, MeshRecord, RequestId, SessionRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// Why a step did not come to its end.
enum Stop {
    Refused(Refusal),
    Failed(ReadError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

type Outcome<T = Reply> = Result<T, Stop>;

/// One command on its way into a transaction.
struct Step<'t, 'a, B> {
    txn: &'t mut Txn<'a, B>,
    index: LogIndex,
    request: RequestId,
    at: i64,
    actor: &'t str,
}

impl<B: Base> Step<'_, '_, B> {
    fn audit(&mut self, what: String) {
        let record = AuditRecord {
            at: self.at,
            actor: self.actor.to_owned(),
            what,
        };
        self.txn.put(Table::Audit, key::index(self.index), &record);
    }
}

/// The position that the next command will have.
///
/// # Errors
/// The base's.
pub fn next_index<B: Base>(txn: &Txn<'_, B>) -> Result<LogIndex, ReadError> {
    let applied: LogIndex = txn.record(Table::Mesh, key::APPLIED)?.unwrap_or_default();
    Ok(LogIndex(applied.0 + 1))
}

/// Applies a command at `index`, which must be [`next_index`]. A refused command changes nothing but that it counts and
/// that its refusal is remembered; so does one whose request was applied before, which gets the same answer again.
///
/// # Errors
/// The tables cannot be read. Then nothing of the transaction may be used.
pub fn apply<B: Base>(
    txn: &mut Txn<'_, B>,
    index: LogIndex,
    proposal: Proposal,
) -> Result<Result<Reply, Refusal>, ReadError> {
    let outcome = if let Some(known) = request::outcome(txn, proposal.id)? {
        known
    } else {
        let mut step = Step {
            txn,
            index,
            request: proposal.id,
            at: proposal.at,
            actor: &proposal.actor,
        };
        let outcome = match run(&mut step, proposal.command) {
            Ok(reply) => Ok(reply),
            Err(Stop::Refused(refusal)) => {
                txn.refuse();
                Err(refusal)
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        request::remember(txn, proposal.id, index, &outcome)?;
        outcome
    };
    txn.put(Table::Mesh, key::APPLIED.to_vec(), &index);
    txn.accept();
    Ok(outcome)
}

fn run<B: Base>(step: &mut Step<'_, '_, B>, command: Command) -> Outcome {
    let founded = step.txn.record::<MeshRecord>(Table::Mesh, key::MESH)?.is_some();
    if !founded && !matches!(command, Command::FoundMesh(_)) {
        return Err(Refusal::NoMesh.into());
    }
    match command {
        Command::FoundMesh(record) => mesh::found(step, record),
        Command::RegisterNode { name, record } => node::register(step, name, record),
        Command::AdmitNode {
            name,
            region,
            advertise,
            fingerprint,
            program,
            catalog_format,
        } => {
            let given = node::Given {
                region,
                advertise,
                fingerprint,
                program,
            };
            node::admit(step, name, given, catalog_format)
        }
        Command::AnnounceNode {
            name,
            node_id,
            region,
            advertise,
            fingerprint,
            program,
            reaches,
        } => {
            let given = node::Given {
                region,
                advertise,
                fingerprint,
                program,
            };
            node::announce(step, &name, node_id, given, reaches)
        }
        Command::SetNodeService { name, service } => node::set_service(step, &name, service),
        Command::SetNodeVote { name, vote } => node::set_vote(step, &name, vote),
        Command::Audit { what } => mesh::audit(step, what),
        Command::Adopt(adopt) => adopt::adopt(step, *adopt),
        Command::RegisterRepository {
            repo,
            definition,
            host,
            uuid,
            wrapped_keys,
            node,
        } => {
            let given = crate::model::RepositoryRecord {
                definition,
                host,
                uuid,
                wrapped_keys,
                registered_by: node,
                backfill: None,
                change: None,
                replaced: LogIndex(0),
            };
            repository::register(step, repo, given)
        }
        Command::UpdateRepository {
            repo,
            definition,
            host,
            wrapped_keys,
        } => repository::update(step, repo, definition, host, wrapped_keys),
        Command::RetireRepository { repo } => retire::retire(step, repo),
        Command::ReplaceRepository {
            repo,
            uuid,
            wrapped_keys,
            node,
        } => retire::replace(step, repo, uuid, wrapped_keys, &node),
        Command::Backfill { repo } => repository::backfill(step, repo),
        Command::CreateStanza { stanza, cluster, info } => stanza::create(step, stanza, cluster, info),
        Command::UpgradeStanza { stanza, cluster, info } => stanza::upgrade(step, stanza, cluster, info),
        Command::DeleteStanza { stanza } => stanza::delete(step, &stanza),
        Command::StopStanza { stanza, reason } => stanza::stop(step, &stanza, reason),
        Command::StartStanza { stanza } => stanza::start(step, &stanza),
        Command::AdoptWriter {
            stanza,
            timeline,
            instance,
        } => stanza::adopt_writer(step, &stanza, timeline, instance),
        Command::PushSegment(push) => segment::push(step, *push),
        Command::AddChunks { session, chunks } => chunk::add(step, session, chunks),
        Command::OpenSession {
            kind,
            stanza,
            holder,
            node,
            resume_key,
        } => {
            let record = SessionRecord {
                kind,
                stanza,
                holder,
                node,
                opened_at: step.at,
                resume_key,
                request: step.request,
                lease: step.index,
                turn: 0,
            };
            session::open(step, &record)
        }
        Command::AdoptSession {
            session,
            turn,
            node,
            key,
        } => session::adopt(step, session, turn, node, key),
        Command::CloseSession { session } => session::close(step, session),
        Command::ExpireSession { session, lease, reason } => session::expire(step, session, lease, &reason),
        Command::BeginBackup {
            stanza,
            session,
            label,
            system_id,
        } => backup::begin(step, &stanza, session, label, system_id),
        Command::CommitBackup(commit) => backup::commit(step, *commit),
        Command::Annotate {
            stanza,
            label,
            annotations,
        } => backup::annotate(step, &stanza, &label, annotations),
        Command::RemoveBackup { stanza, label } => backup::remove(step, &stanza, &label),
        Command::AddReplicas { session, replicas } => objects::add_replicas(step, session, replicas),
        Command::ReportBad {
            repo,
            object,
            generation,
            reason,
            what,
        } => objects::report_bad(step, repo, &object, generation, reason, &what),
        Command::Condemn { chunks, checked_at } => garbage::condemn(step, &chunks, checked_at),
        Command::Forget { chunks, kept } => garbage::forget(step, &chunks, &kept),
        Command::ForgetGarbage { garbage } => garbage::forget_garbage(step, &garbage),
        Command::KeepGarbage { garbage } => garbage::keep(step, &garbage),
        Command::CreateToken {
            id,
            secret_hash,
            role,
            expires,
        } => token::create(step, id, secret_hash, role, expires),
        Command::RedeemToken { id, secret_hash, name } => token::redeem(step, id, secret_hash, name),
    }
}

//! The function from state and command to new state.
//!
//! Invariant 10: it reads the tables and the command and nothing else — no clock, no randomness, no I/O — so that every
//! node comes to the same state, however the commands are batched.

mod adopt;
pub(crate) mod authority;
mod backup;
mod base;
#[cfg(test)]
mod bounds;
mod certificate;
mod chunk;
mod expiry;
mod garbage;
mod members;
mod mesh;
pub(crate) mod names;
mod node;
pub(crate) mod objects;
pub(crate) mod orphans;
mod release;
pub(crate) mod repository;
mod repository_checks;
mod request;
mod retire;
pub(crate) mod rights;
mod rotation;
mod segment;
mod session;
mod stanza;
mod token;
mod txn;
pub(crate) mod use_judge;
mod uses;
pub(crate) mod withdrawn;

#[cfg(test)]
mod claims;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod expiry_model;
mod forget_wal;
#[cfg(test)]
mod forgotten;
#[cfg(test)]
mod orphans_seen;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod refusals_fence;
#[cfg(test)]
mod refusals_mesh;
#[cfg(test)]
mod refusals_repository;
#[cfg(test)]
pub(crate) mod scenario;
#[cfg(test)]
mod shared;

pub use base::{Base, Counting, MemoryBase, Row, Rows, Snapshots};
pub use certificate::{AUTHORITIES, CERTIFICATES};
pub use rotation::FIRST_SEEN;
pub use txn::{Txn, Writes};

use std::collections::BTreeSet;

use pgmesh_storage::Digest;

use crate::command::{Command, Proposal};
use crate::error::ReadError;
use crate::model::{AuditRecord, CatalogPast, LogIndex, MeshRecord, RequestId, SessionRecord};
use crate::refusal::{AuthorityRefusal, Refusal};
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits};

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

impl From<AuthorityRefusal> for Stop {
    fn from(refusal: AuthorityRefusal) -> Self {
        Refusal::from(refusal).into()
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

/// The highest level of this program: see [`Levels`](crate::model::Levels). A change of any command's effect on the
/// tables is a new level, and asks for the catalog's level first.
pub const LEVEL: u32 = AUTHORITIES;

/// The position that the next command will have.
///
/// # Errors
/// The base's.
pub fn next_index<B: Base>(txn: &Txn<'_, B>) -> Result<LogIndex, ReadError> {
    let applied: LogIndex = txn.record(Table::Mesh, key::APPLIED)?.unwrap_or_default();
    Ok(LogIndex(applied.0 + 1))
}

/// Applies a command at `index`, which must be [`next_index`]. A refused command changes nothing but that it counts and
/// that its refusal is remembered. A command whose request was applied before changes no more, and gets the same answer
/// again. A command is also refused if it would leave a record that is too large to be read back.
///
/// # Errors
/// The tables cannot be read. Then nothing of the transaction may be used.
pub fn apply<B: Base>(
    txn: &mut Txn<'_, B>,
    index: LogIndex,
    proposal: Proposal,
) -> Result<Result<Reply, Refusal>, ReadError> {
    let digest = request::digest(&proposal.command);
    let outcome = if let Some(known) = request::outcome(txn, proposal.id, &digest)? {
        known
    } else {
        let id = proposal.id;
        let outcome = match limits::check(&proposal) {
            Ok(()) => carry_out(txn, index, proposal)?,
            Err(refusal) => Err(refusal),
        };
        remember(txn, id, index, digest, outcome)?
    };
    txn.put(Table::Mesh, key::APPLIED.to_vec(), &index);
    txn.accept();
    Ok(outcome)
}

fn carry_out<B: Base>(
    txn: &mut Txn<'_, B>,
    index: LogIndex,
    proposal: Proposal,
) -> Result<Result<Reply, Refusal>, ReadError> {
    let mut step = Step {
        txn,
        index,
        request: proposal.id,
        at: proposal.at,
        actor: &proposal.actor,
    };
    let refusal = match run(&mut step, proposal.command) {
        Ok(reply) => match txn.excess() {
            None => {
                bound_audit(txn, index)?;
                return Ok(Ok(reply));
            }
            Some(refusal) => refusal.clone(),
        },
        Err(Stop::Refused(refusal)) => refusal,
        Err(Stop::Failed(error)) => return Err(error),
    };
    txn.refuse();
    Ok(Err(refusal))
}

/// The oldest line of the audit trail goes when a new one has come that is one too many.
fn bound_audit<B: Base>(txn: &mut Txn<'_, B>, index: LogIndex) -> Result<(), ReadError> {
    if txn.get(Table::Audit, &key::index(index))?.is_none() {
        return Ok(());
    }
    let lines: u64 = txn.record(Table::Mesh, key::AUDIT_LINES)?.unwrap_or_default();
    let mut lines = lines.saturating_add(1);
    if lines > limits::AUDIT_LINES {
        let oldest = txn.scan(Table::Audit, &[], &[]).next().transpose()?;
        if let Some((oldest, _)) = oldest {
            txn.delete(Table::Audit, oldest);
            lines -= 1;
        }
    }
    txn.put(Table::Mesh, key::AUDIT_LINES.to_vec(), &lines);
    Ok(())
}

/// Remembers an outcome. If the outcome itself is too large to be kept, the command is refused.
fn remember<B: Base>(
    txn: &mut Txn<'_, B>,
    id: RequestId,
    index: LogIndex,
    command: Digest,
    mut outcome: Result<Reply, Refusal>,
) -> Result<Result<Reply, Refusal>, ReadError> {
    request::remember(txn, id, index, command, &outcome)?;
    if let Some(refusal) = txn.excess().cloned() {
        txn.refuse();
        outcome = Err(refusal);
        request::remember(txn, id, index, command, &outcome)?;
    }
    Ok(outcome)
}

/// Leaves an entry out that cannot be applied: its commands leave only a line in the audit trail. The entry counts as
/// one command, with any state.
pub fn skip<B: Base>(txn: &mut Txn<'_, B>, index: LogIndex, entry: &str, proposals: &[Proposal]) {
    let names: BTreeSet<&str> = proposals.iter().map(|proposal| proposal.command.name()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let what = format!(
        "entry {entry} of the log was skipped; it held {} commands that were not carried out: {}",
        proposals.len(),
        names.join(", ")
    );
    let record = AuditRecord {
        at: proposals.first().map_or(0, |proposal| proposal.at),
        actor: "node start --skip-entry".to_owned(),
        what: limits::shortened(what, limits::REASON),
    };
    txn.put(Table::Audit, key::index(index), &record);
    txn.put(Table::Mesh, key::APPLIED.to_vec(), &index);
    txn.accept();
}

/// Whether a command acknowledges an object to a client. A catalog whose place another has taken must not do that.
fn rests_on_the_present(command: &Command) -> bool {
    matches!(
        command,
        Command::PushSegment(_) | Command::AddChunks { .. } | Command::CommitBackup { .. }
    )
}

fn run<B: Base>(step: &mut Step<'_, '_, B>, command: Command) -> Outcome {
    let founded = step.txn.record::<MeshRecord>(Table::Mesh, key::MESH)?.is_some();
    if !founded && !matches!(command, Command::FoundMesh(_)) {
        return Err(Refusal::NoMesh.into());
    }
    if rests_on_the_present(&command) {
        mesh::refuse_lost(step)?;
    }
    match command {
        Command::FoundMesh(record) => mesh::found(step, record),
        Command::ReportLoss(loss) => mesh::report_loss(step, loss),
        Command::AcceptLoss { position, branch } => mesh::accept_loss(step, position, branch),
        Command::BeginEra {
            era,
            branch,
            floor,
            last_number,
            compare,
            reason,
        } => {
            let past = CatalogPast {
                era,
                branch,
                loss: None,
                unlisted: compare.clone(),
                uncompared: compare,
            };
            mesh::begin_era(step, past, floor, last_number, &reason)
        }
        Command::NoteLevel { node_id, level } => node::note_level(step, node_id, level),
        Command::RaiseLevel { level } => node::raise_level(step, level),
        Command::Compared { repo, era, all } => mesh::compared(step, repo, era, all),
        Command::RegisterNode { name, record } => node::register(step, name, record),
        Command::AdmitNode(admit) => {
            rotation::refuse_unnamed(step)?;
            node::admit(step, *admit)
        }
        Command::RenumberNode {
            name,
            number,
            key,
            reason,
        } => node::renumber(step, &name, number, key, &reason),
        Command::AnnounceNode {
            name,
            node_id,
            region,
            advertise,
            key,
            program,
            reaches,
        } => {
            let given = node::NodeDescription {
                region,
                advertise,
                key,
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
                mark: None,
                placed: step.index,
                was_of_lost_catalog: false,
            };
            repository::register(step, repo, given)
        }
        Command::UpdateRepository {
            repo,
            definition,
            host,
            wrapped_keys,
        } => repository::update(step, repo, definition, host, wrapped_keys),
        Command::RetireRepository { repo, force } => retire::retire(step, repo, force),
        Command::MarkRepository {
            repo,
            identity,
            number,
            nonce,
        } => repository::mark(step, repo, &identity, number, nonce),
        Command::ReplaceRepository {
            repo,
            uuid,
            wrapped_keys,
            node,
        } => retire::replace(step, repo, uuid, wrapped_keys, &node),
        Command::Backfill { repo } => repository::backfill(step, repo),
        Command::CreateStanza {
            stanza,
            cluster,
            info,
            checked_at,
        } => stanza::create(step, stanza, cluster, info, checked_at),
        Command::UpgradeStanza {
            stanza,
            cluster,
            info,
            checked_at,
        } => stanza::upgrade(step, stanza, cluster, info, checked_at),
        Command::DeleteStanza { stanza, force } => stanza::delete(step, &stanza, force),
        Command::StopStanza { stanza, reason } => stanza::stop(step, &stanza, reason),
        Command::StartStanza { stanza } => stanza::start(step, &stanza),
        Command::AdoptWriter {
            stanza,
            timeline,
            instance,
            machine,
        } => stanza::adopt_writer(step, &stanza, timeline, instance, machine),
        Command::ForgetWal {
            stanza,
            from,
            upto,
            with_backups,
            force,
        } => {
            let wish = forget_wal::Wish {
                from,
                upto,
                with_backups,
                force,
            };
            forget_wal::forget(step, &stanza, &wish)
        }
        Command::PushSegment(push) => segment::push(step, *push),
        Command::AddChunks { session, ack, chunks } => chunk::add(step, session, ack, chunks),
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
            object,
            bad,
            reason,
            what,
        } => objects::report_bad(step, &object, &bad, reason, &what),
        Command::Suspect { chunks } => garbage::suspect(step, &chunks),
        Command::Condemn { chunks, suspected } => garbage::condemn(step, &chunks, suspected),
        Command::Reprieve { session, chunks } => garbage::reprieve(step, session, &chunks),
        Command::Forget { chunks, kept } => garbage::forget(step, &chunks, &kept),
        Command::ForgetGarbage { garbage } => garbage::forget_garbage(step, &garbage),
        Command::KeepGarbage { garbage } => garbage::keep(step, &garbage),
        Command::NoteOrphans(note) => orphans::note(step, *note),
        Command::DiscardOrphans(given) => orphans::discard(step, *given),
        Command::RaiseFloor { generation } => garbage::raise_floor(step, generation),
        Command::CreateToken {
            id,
            secret_hash,
            role,
            expires,
        } => token::create_unmade(step, id, secret_hash, role, expires),
        Command::RedeemToken { redemption, name } => {
            rotation::refuse_unnamed(step)?;
            token::redeem(step, redemption, name)
        }
        Command::IssueCertificate(issue) => {
            rotation::refuse_unnamed(step)?;
            certificate::issue(step, *issue)
        }
        Command::NoteCertificate(note) => certificate::note(step, *note),
        Command::RevokeCertificates(given) => certificate::revoke(step, &given),
        Command::HandOutToken(given) => token::hand_out(step, *given),
        Command::Authority(given) => authority::apply(step, *given),
        Command::StageUses {
            stanza,
            session,
            label,
            manifest,
        } => uses::stage(step, &stanza, session, &label, manifest),
        Command::ShareRights(given) => uses::share(step, &given),
        Command::NoteUses(note) => uses::note(step, &note),
        Command::DoubtUses { stanza } => uses::doubt_deaths(step, &stanza),
        Command::EndListing(end) => uses::end_listing(step, &end),
        Command::DropUses(given) => uses::drop_abandoned(step, &given),
        Command::ExpireBackups(expire) => expiry::expire_backups(step, *expire),
        Command::ExpireWal(expire) => expiry::expire_wal(step, &expire),
        Command::Release(given) => release::release(step, &given),
        Command::EndRelease {
            repo,
            stanza,
            label,
            since,
        } => release::end_release(step, repo, &stanza, &label, since),
        Command::Trim { repo, chunks } => release::trim(step, repo, &chunks),
        Command::HoldBackup(given) => expiry::hold(step, *given),
    }
}

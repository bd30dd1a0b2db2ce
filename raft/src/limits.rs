//! The largest sizes of texts, lists and records in the catalog.
//!
//! The log and the tables hold only values that can be read back. So everything that a peer can send has a bound. The
//! bound is checked where the proposal comes in, and again by `apply`, since only that decides ([`check`]); and the
//! records of a command are measured when they are written ([`Txn`](crate::apply::Txn)). The bounds are part of the
//! catalog's format: all nodes must come to the same answer (invariant 10).

use std::collections::BTreeMap;

use pgmesh_protocol::bounded;
use pgmesh_storage::WrappedKey;

use crate::command::{AdmitNode, Adopt, AuthorityCommand, ClaimedObject, Command, Proposal};
use crate::model::{
    BackupRecord, CertificateRole, Claim, NodeRecord, PlacedIdentity, Redemption, RepositoryRecord, StanzaRecord,
    TokenRole,
};
use crate::refusal::Refusal;

/// The longest record that a command may write, in bytes: far below the longest that
/// [`value::decode`](crate::value::decode) reads.
pub const RECORD: usize = 1 << 20;
/// The sum of all records of one command, in bytes.
pub const COMMAND_RECORDS: usize = 64 << 20;

/// A text in the audit trail or in a message: an actor, a reason, a finding. In bytes, as all that follow.
pub const REASON: usize = bounded::REASON;
/// The holder of a session, the actor of a command.
pub const HOLDER: usize = bounded::HOLDER;
/// A name, an identifier, a version.
pub const NAME: usize = bounded::NAME;
/// The era of a catalog that has lost entries: far more than a mesh comes to.
pub const LOSS_ERAS: usize = 1 << 16;
/// Its position and its floor.
pub const LOSS_GENERATIONS: usize = 1 << 31;
/// The fingerprint of a data directory. Each timeline of a stanza may have a different one in its record.
pub const INSTANCE: usize = bounded::INSTANCE;
/// The client that pushed the first segment of a timeline, in the stanza's record.
pub const WRITER_HOST: usize = 64;
/// A `host:port`.
pub const ADDRESS: usize = bounded::ADDRESS;
/// Addresses of one node.
pub const ADDRESSES: usize = bounded::ADDRESSES;
/// Nodes that are part of the mesh at once.
pub const NODES: usize = 256;
/// Options of a repository's definition, and the length of one value.
pub const OPTIONS: usize = 64;
/// The longest value of an option: a path may have this many bytes.
pub const OPTION: usize = bounded::OPTION;
/// Wrapped keys of one repository, and the longest part of one.
pub const WRAPPED_KEYS: usize = 256;
/// The longest field of a wrapped key.
pub const WRAPPED_KEY: usize = 256;
/// Annotations of one backup.
pub const ANNOTATIONS: usize = 128;
/// An annotation's key.
pub const ANNOTATION_KEY: usize = 256;
/// An annotation's value.
pub const ANNOTATION_VALUE: usize = 4096;
/// All keys and values of one backup's annotations.
pub const ANNOTATION_SUM: usize = 16 << 10;
/// Digests of chunks that table `Withdrawn` has: if a sweep or a walk withdraws as many, commits that are under way can
/// still choose which chunks to look at again. Few in tests, so that some are dropped.
pub const WITHDRAWN: u64 = if cfg!(test) { 12 } else { 1 << 20 };
/// Timelines of a stanza whose writers and histories are known: a cluster that is promoted every day gets there after
/// five years. One more is taken, and the timeline that was not written to for the longest time is forgotten
/// ([`StanzaRecord::make_room`]): no limit stops an archiver.
pub const TIMELINES: usize = 2048;
/// The bytes of a stanza's record that its timelines may take; above it, timelines are forgotten as well.
pub const STANZA: usize = RECORD / 2;
/// Lines of a history that the catalog knows: the newest. The file itself may have any number.
pub const LINES: usize = 1024;
/// Databases of a stanza: a major upgrade makes one, and a cluster that is initialized anew.
pub const DATABASES: usize = 1024;
/// Records of join tokens, with used and expired ones. It bounds the rows that `CreateToken` looks through.
pub const TOKENS: usize = 1024;
/// The certificate of a member, in bytes: all of a TLS handshake must fit into this.
pub const CERTIFICATE: usize = 16 << 10;
/// A renewal that prolongs a certificate by less is not noted, in seconds: renewed in a loop, it would fill the log.
pub const RENEWAL: i64 = 24 * 3600;
/// Certificates that count, of all members but nodes, with expired ones that there is room for. It bounds what a join
/// looks through.
pub const CERTIFICATES: usize = if cfg!(test) { 4 } else { 1 << 14 };
/// Certificates that were revoked, and names of which all were. Beyond it the certificate goes that ends first: its
/// name still keeps it out. Beyond it the name goes that was revoked first.
pub const REVOKED: usize = if cfg!(test) { 6 } else { 1 << 16 };
/// The certificate of an authority, in bytes.
pub const AUTHORITY: usize = 4 << 10;
/// Authorities that count no more and are remembered: the newest.
pub const AUTHORITIES: usize = 64;
/// Clients that a refusal or an answer names; the others are counted.
pub const NAMED: usize = 20;
/// Stanzas of one certificate.
pub const CERTIFICATE_STANZAS: usize = 64;
/// Stanzas of one token.
pub const TOKEN_STANZAS: usize = bounded::TOKEN_STANZAS;
/// Replicas of one object: one in each repository, and one more generation of each.
pub const REPLICAS: usize = 512;
/// Chunks, replicas, objects or files that one command is about.
pub const ITEMS: usize = 4096;
/// Lines that the audit trail keeps, the newest ones: at a hundred a day, three years.
pub const AUDIT_LINES: u64 = 100_000;
/// The fingerprint of a machine, in bytes.
pub const MACHINE: usize = bounded::MACHINE;
/// Objects of one repository that are remembered as seen once and unknown; objects beyond that wait for a later scan.
pub const ORPHANS: u64 = if cfg!(test) { 4 } else { 1 << 14 };
/// The path of an object in a repository, in bytes: twice the longest that there is.
pub const ORPHAN_PATH: usize = 512;
/// How many damaged objects in a row under one name a write passes over before it gives a repository up: so many
/// generations above the assigned one.
pub const GENERATIONS_TRIED: u32 = 8;
/// WAL files that one command forgets.
pub const FORGOTTEN_FILES: usize = if cfg!(test) { 4 } else { 1000 };

/// Cuts a text that is only for people, so that it does not keep a command from being carried out.
#[must_use]
pub fn shortened(mut text: String, limit: usize) -> String {
    const CUT: &str = " …";
    if text.len() > limit {
        let mut end = limit.saturating_sub(CUT.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

fn bounded(what: &str, given: usize, limit: usize) -> Result<(), Refusal> {
    if given <= limit {
        return Ok(());
    }
    Err(Refusal::BeyondLimit {
        what: what.to_owned(),
        given: given as u64,
        limit: limit as u64,
    })
}

/// Refuses a proposal with a field that is larger than may be.
///
/// # Errors
/// [`Refusal::BeyondLimit`].
pub fn check(proposal: &Proposal) -> Result<(), Refusal> {
    bounded("the name of whoever asks, in bytes", proposal.actor.len(), HOLDER)?;
    match &proposal.command {
        Command::FoundMesh(record) => bounded("the mesh's identifier, in bytes", record.mesh_id.len(), NAME),
        Command::ReportLoss(loss) => {
            bounded("the era of a loss", loss.era as usize, LOSS_ERAS)?;
            bounded("the floor of a loss", loss.floor.0 as usize, LOSS_GENERATIONS)?;
            let position = usize::try_from(loss.position.0).unwrap_or(usize::MAX);
            bounded("the position of a loss", position, LOSS_GENERATIONS)
        }
        Command::BeginEra {
            era,
            floor,
            compare,
            reason: text,
            ..
        } => {
            bounded("an era", *era as usize, LOSS_ERAS)?;
            bounded("the floor of an era", floor.0 as usize, LOSS_GENERATIONS)?;
            items(compare.len())?;
            reason(text)
        }
        Command::RegisterNode { record, .. } => node(record),
        Command::AdmitNode(admit) => admission(admit),
        Command::AnnounceNode {
            region,
            advertise,
            program,
            ..
        } => whereabouts(region, advertise, program),
        Command::RegisterRepository {
            definition,
            uuid,
            wrapped_keys,
            ..
        } => {
            options(definition)?;
            identity(uuid, wrapped_keys)
        }
        Command::UpdateRepository {
            definition,
            wrapped_keys,
            ..
        } => {
            definition.as_ref().map_or(Ok(()), options)?;
            wrapped_keys.as_deref().map_or(Ok(()), keys)
        }
        Command::ReplaceRepository { uuid, wrapped_keys, .. } => identity(uuid, wrapped_keys),
        Command::CreateStanza { info, .. } | Command::UpgradeStanza { info, .. } => object(info),
        Command::StopStanza { reason: text, .. } | Command::ExpireSession { reason: text, .. } => reason(text),
        Command::ReportBad { what: text, bad, .. } => {
            claim(bad)?;
            reason(text)
        }
        Command::Audit { what: text } => reason(text),
        Command::AdoptWriter { instance, machine, .. } => {
            self::instance(instance)?;
            self::machine(machine)
        }
        Command::PushSegment(push) => {
            object(&push.object)?;
            instance(&push.server.instance)?;
            machine(&push.server.machine)?;
            bounded("an address, in bytes", push.server.address.len(), NAME)?;
            bounded("the lines of a server's history", push.server.branches.len(), TIMELINES)?;
            branches(push.branches.len())
        }
        Command::AddChunks { chunks, .. } => {
            items(chunks.len())?;
            chunks.iter().try_for_each(|chunk| claims(&chunk.claims))
        }
        Command::OpenSession { holder, .. } => bounded("the holder of a session, in bytes", holder.len(), HOLDER),
        Command::CommitBackup(commit) => {
            claims(&commit.claims)?;
            backup(&commit.record)
        }
        Command::Annotate { annotations: given, .. } => annotations(given),
        Command::AddReplicas { replicas, .. } => {
            items(replicas.len())?;
            replicas.iter().try_for_each(|new| claim(&new.claim))
        }
        Command::Suspect { chunks } | Command::Condemn { chunks, .. } => items(chunks.len()),
        Command::Reprieve { chunks, .. } => items(chunks.len()),
        Command::Forget { chunks, kept } => items(chunks.len().max(kept.len())),
        Command::ForgetGarbage { garbage } | Command::KeepGarbage { garbage } => items(garbage.len()),
        Command::CreateToken { role, .. } => token_role(role),
        Command::HandOutToken(token) => token_role(&token.role),
        Command::IssueCertificate(issue) => {
            redemption(&issue.redemption)?;
            bounded("a name, in bytes", issue.name.len(), NAME)
        }
        Command::NoteCertificate(note) => {
            certificate_role(&note.role)?;
            bounded("a name, in bytes", note.name.len(), NAME)
        }
        Command::Authority(given) => authority_command(given),
        Command::RevokeCertificates(given) => {
            bounded("a name, in bytes", given.name.len(), NAME)?;
            reason(&given.reason)
        }
        Command::RedeemToken {
            redemption: given,
            name,
        } => {
            redemption(given)?;
            bounded("a name, in bytes", name.len(), NAME)
        }
        Command::Adopt(adopt) => self::adopt(adopt),
        Command::NoteOrphans(note) => {
            items(note.sighted.len())?;
            items(note.gone.len())?;
            placed(&note.identity)?;
            let mut paths = note.sighted.iter().map(|(path, _)| path).chain(&note.gone);
            paths.try_for_each(|path| orphan_path(path))
        }
        Command::DiscardOrphans(discard) => {
            items(discard.orphans.len())?;
            placed(&discard.identity)?;
            discard.orphans.iter().try_for_each(|orphan| orphan_path(&orphan.path))
        }
        Command::RenumberNode { reason: text, .. } => reason(text),
        Command::NoteUses(note) => items(note.born.len() + note.carried.len() + note.died.len()),
        Command::ShareRights(given) => items(given.chunks.len()),
        Command::DropUses(uses) => items(uses.chunks.len()),
        Command::ExpireBackups(expire) => {
            items(expire.labels.len())?;
            reason(&expire.why)
        }
        Command::ExpireWal(expire) => items(expire.files.len()),
        Command::Release(release) => items(release.chunks.len()),
        Command::Trim { chunks, .. } => items(chunks.len()),
        Command::HoldBackup(given) => given.hold.as_ref().map_or(Ok(()), |hold| {
            reason(&hold.why)?;
            bounded("the holder of a hold, in bytes", hold.by.len(), HOLDER)
        }),
        Command::MarkRepository { identity, .. } => placed(identity),
        Command::RaiseFloor { .. }
        | Command::AcceptLoss { .. }
        | Command::Compared { .. }
        | Command::NoteLevel { .. }
        | Command::RaiseLevel { .. }
        | Command::SetNodeService { .. }
        | Command::SetNodeVote { .. }
        | Command::RetireRepository { .. }
        | Command::Backfill { .. }
        | Command::DeleteStanza { .. }
        | Command::ForgetWal { .. }
        | Command::StartStanza { .. }
        | Command::AdoptSession { .. }
        | Command::CloseSession { .. }
        | Command::BeginBackup { .. }
        | Command::StageUses { .. }
        | Command::DoubtUses { .. }
        | Command::EndListing(_)
        | Command::EndRelease { .. }
        | Command::RemoveBackup { .. } => Ok(()),
    }
}

/// The bounds of a backup's annotations, whether they are its first ones or a change of them.
///
/// # Errors
/// [`Refusal::BeyondLimit`].
pub fn annotations(given: &BTreeMap<String, String>) -> Result<(), Refusal> {
    bounded("the number of annotations", given.len(), ANNOTATIONS)?;
    for (key, value) in given {
        bounded("the key of an annotation, in bytes", key.len(), ANNOTATION_KEY)?;
        bounded("the value of an annotation, in bytes", value.len(), ANNOTATION_VALUE)?;
    }
    let sum = given.iter().map(|(key, value)| key.len() + value.len()).sum();
    bounded("all annotations of a backup together, in bytes", sum, ANNOTATION_SUM)
}

/// The bounds of a stanza's record, which grows by one command after the other.
pub(crate) fn stanza(record: &StanzaRecord) -> Result<(), Refusal> {
    bounded("the databases of a stanza", record.databases.len(), DATABASES)
}

/// The bounds of a repository's record, which grows by one command after the other.
pub(crate) fn repository(record: &RepositoryRecord) -> Result<(), Refusal> {
    keys(&record.wrapped_keys)
}

/// So many nodes may be part of the mesh.
pub(crate) fn nodes(count: usize) -> Result<(), Refusal> {
    bounded("the nodes of the mesh", count, NODES)
}

fn certificate_role(role: &CertificateRole) -> Result<(), Refusal> {
    bounded(
        "the stanzas of a certificate",
        role.stanzas().len(),
        CERTIFICATE_STANZAS,
    )
}

fn token_role(role: &TokenRole) -> Result<(), Refusal> {
    match role {
        TokenRole::Client { stanzas } => bounded("the stanzas of a token", stanzas.len(), TOKEN_STANZAS),
        TokenRole::Member { role, replaces } => {
            let name = replaces.as_ref().map_or(0, String::len);
            bounded("a name, in bytes", name, NAME)?;
            certificate_role(role)
        }
        TokenRole::Node { .. } | TokenRole::Admin => Ok(()),
    }
}

fn admission(given: &AdmitNode) -> Result<(), Refusal> {
    redemption(&given.redemption)?;
    whereabouts(&given.region, &given.advertise, &given.program)
}

fn authority_command(given: &AuthorityCommand) -> Result<(), Refusal> {
    match given {
        AuthorityCommand::Issue(given) => {
            redemption(&given.issue.redemption)?;
            bounded("a name, in bytes", given.issue.name.len(), NAME)
        }
        AuthorityCommand::Note(given) => {
            certificate_role(&given.certificate.role)?;
            bounded("a name, in bytes", given.certificate.name.len(), NAME)
        }
        AuthorityCommand::Begin(given) => {
            let all = [&given.former_certificate, &given.next_certificate, &given.vouched];
            let longest = all.iter().map(|one| one.len()).max().unwrap_or_default();
            bounded("an authority's certificate, in bytes", longest, AUTHORITY)
        }
        AuthorityCommand::TakePart(_) | AuthorityCommand::Finish { .. } | AuthorityCommand::GiveUp => Ok(()),
        AuthorityCommand::Admit(given) => admission(&given.admit),
    }
}

fn redemption(given: &Redemption) -> Result<(), Refusal> {
    bounded("a certificate, in bytes", given.certificate.len(), CERTIFICATE)
}

fn reason(text: &str) -> Result<(), Refusal> {
    bounded("a reason, in bytes", text.len(), REASON)
}

fn instance(instance: &str) -> Result<(), Refusal> {
    bounded(
        "the fingerprint of a data directory, in bytes",
        instance.len(),
        INSTANCE,
    )
}

fn machine(machine: &str) -> Result<(), Refusal> {
    bounded("the fingerprint of a machine, in bytes", machine.len(), MACHINE)
}

fn branches(count: usize) -> Result<(), Refusal> {
    bounded("the lines of a history file", count, LINES)
}

fn orphan_path(path: &str) -> Result<(), Refusal> {
    bounded("the path of an object, in bytes", path.len(), ORPHAN_PATH)
}

fn items(count: usize) -> Result<(), Refusal> {
    bounded("the objects that a command is about", count, ITEMS)
}

fn claims(claims: &[Claim]) -> Result<(), Refusal> {
    bounded("the replicas of an object", claims.len(), REPLICAS)?;
    claims.iter().try_for_each(claim)
}

fn claim(claim: &Claim) -> Result<(), Refusal> {
    placed(&claim.identity)
}

fn placed(identity: &PlacedIdentity) -> Result<(), Refusal> {
    bounded("the identifier of a repository, in bytes", identity.uuid.len(), NAME)
}

fn object(object: &ClaimedObject) -> Result<(), Refusal> {
    claims(&object.claims)
}

fn whereabouts(region: &str, advertise: &[String], program: &str) -> Result<(), Refusal> {
    bounded("a region, in bytes", region.len(), NAME)?;
    bounded("the version of a program, in bytes", program.len(), NAME)?;
    bounded("the addresses of a node", advertise.len(), ADDRESSES)?;
    let mut addresses = advertise.iter();
    addresses.try_for_each(|address| bounded("an address, in bytes", address.len(), ADDRESS))
}

fn node(record: &NodeRecord) -> Result<(), Refusal> {
    bounded("the revoked keys of a node", record.revoked.len(), NAME)?;
    whereabouts(&record.region, &record.advertise, &record.program)
}

/// The bounds of a repository's definition.
///
/// # Errors
/// [`Refusal::BeyondLimit`].
pub fn options(definition: &BTreeMap<String, String>) -> Result<(), Refusal> {
    bounded("the options of a repository", definition.len(), OPTIONS)?;
    definition.iter().try_for_each(|(option, value)| {
        bounded("the name of an option, in bytes", option.len(), NAME)?;
        bounded("the value of an option, in bytes", value.len(), OPTION)
    })
}

fn identity(uuid: &str, wrapped_keys: &[WrappedKey]) -> Result<(), Refusal> {
    bounded("the identifier of a repository, in bytes", uuid.len(), NAME)?;
    keys(wrapped_keys)
}

fn keys(wrapped_keys: &[WrappedKey]) -> Result<(), Refusal> {
    bounded("the wrapped keys of a repository", wrapped_keys.len(), WRAPPED_KEYS)?;
    wrapped_keys.iter().try_for_each(|wrapped| {
        let fields = [
            wrapped.repository.len(),
            wrapped.iv.0.len(),
            wrapped.ciphertext.0.len(),
            wrapped.tag.0.len(),
            wrapped.derivation.salt.0.len(),
        ];
        let longest = fields.into_iter().max().unwrap_or_default();
        bounded("a field of a wrapped key, in bytes", longest, WRAPPED_KEY)
    })
}

fn backup(record: &BackupRecord) -> Result<(), Refusal> {
    annotations(&record.annotations)?;
    bounded("the version of a program, in bytes", record.program.len(), NAME)?;
    bounded("the replicas of an object", record.manifest.replicas.len(), REPLICAS)
}

fn adopt(adopt: &Adopt) -> Result<(), Refusal> {
    match adopt {
        Adopt::Stanza { databases, .. } => {
            bounded("the databases of a stanza", databases.len(), DATABASES)?;
            databases.iter().try_for_each(|database| object(&database.info))
        }
        Adopt::WalFiles { files, .. } => {
            items(files.len())?;
            files.iter().try_for_each(|file| {
                object(&file.object)?;
                branches(file.branches.len())
            })
        }
        Adopt::Backup {
            record, claims: given, ..
        } => {
            claims(given)?;
            backup(record)
        }
    }
}

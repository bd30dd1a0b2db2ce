//! The catalog's refusals, as the user reads them: exit code and remedy for each refusal.

use crate::error::{CatalogError, ReadError};
use crate::refusal::{AuthorityRefusal, ExpiryRefusal, OtherMachine, OtherWriter, Refusal};
use pgmesh_protocol::ExitCode;
use pgmesh_protocol::failure::{Failure, chain};
use pgmesh_storage::StanzaName;

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (code, remedy) = verdict(&refusal);
        let mut failure = Self::new(code, refusal.to_string());
        // The node signs with the other one as soon as it has heard of it.
        failure.again = matches!(refusal, Refusal::Authority(AuthorityRefusal::OtherAuthority));
        match remedy {
            Some(remedy) => failure.remedy(match stanza_of(&refusal) {
                // A command works as it is printed.
                Some(stanza) => remedy.replace("--stanza=NAME", &format!("--stanza={stanza}")),
                None => remedy.to_owned(),
            }),
            None => failure,
        }
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Refused(refusal) => refusal.into(),
            // Another node may be on the side of the majority, or may not be stopping: the client goes there.
            error @ (CatalogError::NoQuorum(_) | CatalogError::NotLeader { .. } | CatalogError::Stopped(_)) => {
                Self::new(
                    ExitCode::HostConnect,
                    "this node cannot read or change the catalog at the moment",
                )
                .because(chain(&error))
                .remedy("bring back the nodes that do not answer: 'pgmesh status' and 'pgmesh doctor' name them")
                .again()
            }
            error @ CatalogError::Format { .. } => Self::new(
                ExitCode::VersionNotSupported,
                "another version of pgmesh has written this node's catalog",
            )
            .because(chain(&error))
            .remedy("start the version of pgmesh that wrote the catalog; nothing was changed"),
            error @ CatalogError::Level { .. } => {
                Self::new(ExitCode::VersionNotSupported, "this program is older than the mesh").because(chain(&error))
            }
            other => Self::new(ExitCode::Runtime, "the catalog could not be changed or read")
                .because(chain(&other))
                .again(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::new(ExitCode::Runtime, "the catalog could not be read")
            .because(chain(&error))
            .again()
    }
}

/// The stanza that a remedy's command is for.
fn stanza_of(refusal: &Refusal) -> Option<&StanzaName> {
    use Refusal as R;
    match refusal {
        R::UnknownStanza(stanza) | R::StanzaNotStopped(stanza) => Some(stanza),
        R::StanzaStopped { stanza, .. }
        | R::SystemIdDiffers { stanza, .. }
        | R::VersionDiffers { stanza, .. }
        | R::SegmentSizeDiffers { stanza, .. }
        | R::Duplicate { stanza, .. }
        | R::OtherWriter(OtherWriter { stanza, .. })
        | R::OtherMachine(OtherMachine { stanza, .. })
        | R::HistoryContradicts { stanza, .. } => Some(stanza),
        _ => None,
    }
}

/// What the holder of a certificate does that counts no more.
const JOIN_AGAIN: &str =
    "join again with a new token: 'pgmesh invite' on a node, then 'pgmesh join --force TOKEN' here";

fn expiry(refusal: &ExpiryRefusal) -> (ExitCode, Option<&'static str>) {
    use ExpiryRefusal as E;
    match refusal {
        E::Held { .. } => (
            ExitCode::CommandInvalid,
            Some("an administrator releases it: 'pgmesh --stanza=NAME release LABEL'"),
        ),
        E::LastFull { .. } => (
            ExitCode::BackupSetInvalid,
            Some("take a full backup first: 'pgmesh --stanza=NAME --type=full backup'"),
        ),
        E::Committing { .. } => (ExitCode::LockAcquire, Some("try again in a moment")),
        E::OtherManifest { .. } => (
            ExitCode::LockAcquire,
            Some("run the backup again: chunks that are stored already are not sent again"),
        ),
        E::HoldStays { .. } => (
            ExitCode::CommandInvalid,
            Some("give a later time, or ask an administrator: 'pgmesh --stanza=NAME release LABEL'"),
        ),
        E::Unlisted(_) => (
            ExitCode::ArchiveTimeout,
            Some("try again: the leader reads them now, and 'pgmesh status' says if it cannot"),
        ),
    }
}

fn verdict(refusal: &Refusal) -> (ExitCode, Option<&'static str>) {
    use Refusal as R;
    match refusal {
        R::NoMesh | R::OtherMesh { .. } | R::OtherFormat { .. } | R::NodeTaken { .. } | R::UnknownNode(_) => {
            (ExitCode::Config, None)
        }
        R::NodeFormat { .. } => (
            ExitCode::VersionNotSupported,
            Some("install the version of pgmesh that the other nodes run"),
        ),
        R::NodeReplaced { .. } | R::NodeRemoved(_) | R::KeyRevoked(_) | R::OtherKey(_) => (
            ExitCode::Crypto,
            Some(
                "to bring it back: 'pgmesh invite --role=node NAME' on another node, then 'pgmesh node join TOKEN' with an empty node-path",
            ),
        ),
        R::NoSuchLoss(_) => (
            ExitCode::OptionInvalid,
            Some(
                "give the position that 'pgmesh doctor' shows for the loss; if it shows none, the catalog has lost \
                 nothing",
            ),
        ),
        R::LevelTooNew { .. } => (
            ExitCode::VersionNotSupported,
            Some("finish the upgrade of all nodes first"),
        ),
        R::CatalogLost(_) => (
            ExitCode::Runtime,
            Some("run 'pgmesh doctor': it explains the loss and lists the choices"),
        ),
        R::EraHasBegun { .. } => (ExitCode::CommandInvalid, None),
        R::LossTooLarge => (
            ExitCode::OptionInvalid,
            Some("found the mesh anew with 'pgmesh catalog-rebuild' from a repository"),
        ),
        R::LastNode(_) => (ExitCode::CommandInvalid, None),
        R::RepositoryChanging { .. } => (
            ExitCode::RepoInvalid,
            Some("run the command again when that change is done"),
        ),
        R::SessionKeyDiffers(_) | R::SessionMoved(_) => (ExitCode::LockAcquire, None),
        R::RepositoryDiffers { .. } => (
            ExitCode::RepoInvalid,
            Some("give the same value, or change the definition for the whole mesh with 'pgmesh repo-update'"),
        ),
        R::RepositoryTaken { .. } => (
            ExitCode::RepoInvalid,
            Some("give each repository a storage of its own: another repoN-path or bucket"),
        ),
        R::LastRepository(_) => (ExitCode::CommandInvalid, Some("declare another repository first")),
        R::RepositoryNeeded { .. } | R::OthersOwe { .. } => (
            ExitCode::CommandInvalid,
            Some(
                "fill the other repositories first ('pgmesh --repo=N repo-sync'), or give --force to lose the objects \
                 that only this repository has",
            ),
        ),
        R::UnknownRepository(_) => (
            ExitCode::RepoInvalid,
            Some("declare it in the configuration file of a node that reaches it"),
        ),
        R::UnknownStanza(_) => (
            ExitCode::FileMissing,
            Some(
                "check the spelling of --stanza, or create it with 'pgmesh --stanza=NAME stanza-create' on its PG host",
            ),
        ),
        R::StanzaStopped { .. } => (ExitCode::Stop, Some("'pgmesh --stanza=NAME start' lets it go on")),
        R::StanzaDeleting(_) => (
            ExitCode::Stop,
            Some("wait until the deletion is done, then create the stanza anew"),
        ),
        R::StanzaNotStopped(_) => (
            ExitCode::Stop,
            Some("'pgmesh --stanza=NAME stop' first, or give --force"),
        ),
        R::SystemIdDiffers { .. } | R::VersionDiffers { .. } | R::SegmentSizeDiffers { .. } => (
            ExitCode::ArchiveMismatch,
            Some(
                "this is another cluster: check --stanza and pg1-path; after pg_upgrade run 'pgmesh --stanza=NAME stanza-upgrade'",
            ),
        ),
        R::WrongLength { .. } => (
            ExitCode::FileInvalid,
            Some("the file was truncated: PostgreSQL must archive it again"),
        ),
        R::Duplicate { .. } => (
            ExitCode::ArchiveDuplicate,
            Some(
                "two servers have written different WAL under one name; nothing in the archive was changed. Stop archiving on the one \
                 that is a copy (archive_mode=off), or give it a stanza of its own: 'pgmesh --stanza=OTHER stanza-create'. If this is \
                 the cluster itself, put back to an earlier state, it has another history than the archive from there on: give it a \
                 stanza of its own and take a full backup",
            ),
        ),
        R::OtherWriter(_) => (
            ExitCode::ArchiveMismatch,
            Some(
                "if this is a copy (a clone, or a restore for a test), turn its archiving off or give it a stanza of its own: 'pgmesh \
                 --stanza=OTHER stanza-create'; if the cluster itself was moved here, run 'pgmesh --stanza=NAME stanza-adopt' here; if \
                 this is the original and the other one the copy, stop that one's archiving and run 'pgmesh --stanza=NAME --force \
                 stanza-adopt' here",
            ),
        ),
        // Nothing is wrong yet: it is tried again.
        R::OtherMachine(_) => (
            ExitCode::LockAcquire,
            Some(
                "if the volume was moved here, wait, or run here: 'pgmesh --stanza=NAME --force stanza-adopt'; if \
                 this is a clone, turn its archiving off, or give it a stanza of its own: 'pgmesh --stanza=OTHER \
                 stanza-create'",
            ),
        ),
        R::BackupNeedsWal { .. } => (
            ExitCode::CommandInvalid,
            Some("--dry-run names the backups; --with-backups removes them with the WAL"),
        ),
        R::WalSince { .. } => (
            ExitCode::ArchiveTimeout,
            Some(
                "stop archiving on the server that pushes this WAL, and run the command again: WAL that is forgotten \
                 already stays forgotten",
            ),
        ),
        R::StaleMap { .. } => (
            ExitCode::ArchiveTimeout,
            Some("nothing to do: the next backup that needs the change map makes it again"),
        ),
        R::UnknownTimeline { .. } => (
            ExitCode::ArchiveMismatch,
            Some("archive the timeline's .history file from pg_wal first"),
        ),
        R::HistoryContradicts { .. } | R::ForeignHeader { .. } => (
            ExitCode::ArchiveMismatch,
            Some("this cluster's history differs from the history in the archive: give it a stanza of its own"),
        ),
        R::TooFewReplicas { .. } | R::StaleGenerations(_) | R::Recheck { .. } | R::RepositoryUnsettled(_) => {
            (ExitCode::ArchiveTimeout, None)
        }
        R::LengthDiffers { .. } | R::WalRange { .. } | R::KnownOtherwise(_) => (ExitCode::Assert, None),
        R::RestoreRunning { .. } => (
            ExitCode::LockAcquire,
            Some("wait until it has ended ('pgmesh doctor' names sessions), or give --force, which ends it"),
        ),
        R::BackupRunning { .. } => (ExitCode::LockAcquire, Some("wait until it has ended")),
        R::BackupNotBegun { .. } | R::SessionEnded(_) | R::SessionOpen { .. } => (
            ExitCode::LockAcquire,
            Some("run the command again: chunks that are stored already are not sent again"),
        ),
        R::LabelNotLater { .. } => (
            ExitCode::BackupSetInvalid,
            Some("run the backup again: it gets another label"),
        ),
        R::WalMissing { .. } => (
            ExitCode::ArchiveTimeout,
            Some("see that archive_command succeeds (pg_stat_archiver)"),
        ),
        R::UnknownBackup { .. } => (
            ExitCode::BackupSetInvalid,
            Some("'pgmesh info' lists the backups there are"),
        ),
        R::BeyondLimit { .. } => (ExitCode::OptionInvalid, None),
        R::RecordTooLarge { .. } => (
            ExitCode::CommandInvalid,
            Some("nothing was changed; remove what is not needed any more, such as annotations, and try again"),
        ),
        R::OtherRequest(_) => (
            ExitCode::Protocol,
            Some("run the command again: it then gets a request id of its own"),
        ),
        R::Skipped { .. } => (
            ExitCode::Runtime,
            Some(
                "the command changed nothing; the node's log says why its entry could not be applied; run the command \
                 again",
            ),
        ),
        R::TokenTaken(_) => (ExitCode::Assert, None),
        R::TokenOfAnother { .. } => (
            ExitCode::OptionInvalid,
            Some(
                "set node-name to the name that the token is for, or make a token for this one: 'pgmesh invite --role=node NAME'; the token is still good",
            ),
        ),
        R::TokenOfOtherRole { is_for_node: true } => (
            ExitCode::OptionInvalid,
            Some(
                "run 'pgmesh --config=FILE node join TOKEN' with the new node's configuration file; the token is still good",
            ),
        ),
        R::TokenOfOtherRole { is_for_node: false } => (
            ExitCode::OptionInvalid,
            Some(
                "redeem it with 'pgmesh join TOKEN', or make a token for a node: 'pgmesh invite --role=node NAME'; the token is still good",
            ),
        ),
        R::NodeExists { .. } => (
            ExitCode::OptionInvalid,
            Some(
                "choose another node-name; or, if that node has lost its disk for good: 'pgmesh invite --role=node NAME --force' makes a token \
                 with which another takes its place",
            ),
        ),
        R::NeedsLevel { .. } => (
            ExitCode::VersionNotSupported,
            Some(
                "nothing was changed; finish the upgrade of all nodes first: 'pgmesh node list' shows their programs, and \
                 'pgmesh status' whether all nodes are there",
            ),
        ),
        R::NameTaken { role, .. } if role == "node" => (
            ExitCode::OptionInvalid,
            Some("a node has that name; give another one: 'pgmesh join TOKEN NAME'; the token is still good"),
        ),
        R::NameTaken { .. } => (
            ExitCode::OptionInvalid,
            Some(
                "a second identity on a host needs a name of its own: 'pgmesh join TOKEN NAME'; the token is still good. Only \
                 if the identity of that name is lost: 'pgmesh client revoke NAME' first, or a token of 'pgmesh invite \
                 --force NAME', which revokes it: a host that still uses it stops archiving",
            ),
        ),
        R::CertificateRevoked(_) => (ExitCode::Crypto, Some(JOIN_AGAIN)),
        R::OtherHolder { .. } => (ExitCode::Crypto, Some(JOIN_AGAIN)),
        R::TokenOfOtherName(..) => (
            ExitCode::OptionInvalid,
            Some("give the name that the token is for: 'pgmesh join --force TOKEN NAME'; the token is still good"),
        ),
        R::Expiry(refusal) => expiry(refusal),
        R::ChunkMissing { .. } => (ExitCode::Runtime, Some("run the backup again: it sends the chunk")),
        R::TooManyCertificates(_) => (
            ExitCode::CommandInvalid,
            Some("revoke those of hosts that are gone: 'pgmesh client list', then 'pgmesh client revoke NAME'"),
        ),
        R::Authority(refusal) => of_authority(refusal),
        R::LastAdministrator(_) => (
            ExitCode::CommandInvalid,
            Some("give --force: the administrators of the nodes (in their node-path) are left"),
        ),
        R::TokenUnknown | R::TokenExpired { .. } | R::TokenUsed { .. } => (
            ExitCode::Crypto,
            Some("make a new token with 'pgmesh invite' on a node: each is good for one use"),
        ),
    }
}

fn of_authority(refusal: &AuthorityRefusal) -> (ExitCode, Option<&'static str>) {
    use AuthorityRefusal as R;
    match refusal {
        R::UnknownName(_) => (
            ExitCode::CommandInvalid,
            Some(
                "see 'pgmesh client list': the catalog notes a certificate when it is issued, renewed or used; a node and \
                 its administrator go with 'pgmesh node remove'; with --force the name is barred all the same: no node \
                 serves certificates of that name that were issued before",
            ),
        ),
        R::UnderWay { .. } => (
            ExitCode::CommandInvalid,
            Some(
                "'pgmesh mesh rotate-ca' shows how far it is, 'pgmesh mesh rotate-ca --finish' ends it, --abort gives it \
                 up",
            ),
        ),
        R::Signs => (
            ExitCode::CommandInvalid,
            Some(
                "'pgmesh mesh rotate-ca --finish' ends the rotation; if the new authority is not to stay, begin another \
                 rotation then",
            ),
        ),
        R::NotRotating => (ExitCode::CommandInvalid, Some("'pgmesh mesh rotate-ca' begins it")),
        R::OtherAuthority => (ExitCode::Crypto, Some("try again")),
        R::FirstSeen(_) => (ExitCode::Crypto, Some(JOIN_AGAIN)),
        R::StillNeeded { nodes, .. } if !nodes.is_empty() => (
            ExitCode::CommandInvalid,
            Some(
                "a node renews its certificate by itself when it runs and reaches the others: start it, or 'pgmesh node \
                 remove NAME' if it is gone",
            ),
        ),
        R::StillNeeded { .. } => (
            ExitCode::CommandInvalid,
            Some(
                "a client renews its certificate with its next command that reaches a node; 'pgmesh client revoke NAME' \
                 for hosts that are gone; --force cuts off those that are left: they have to join again",
            ),
        ),
    }
}

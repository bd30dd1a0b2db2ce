//! The name of each command, and the apply level that it needs.

use super::Command;
use crate::apply::{AUTHORITIES, CERTIFICATES};
use crate::model::TokenRole;

impl Command {
    /// The apply level from which on all programs can read it. Below it the command must not enter the log: an older
    /// program would stand still there.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::IssueCertificate(_)
            | Self::NoteCertificate(_)
            | Self::RevokeCertificates(_)
            | Self::HandOutToken(_)
            | Self::CreateToken {
                role: TokenRole::Member { .. },
                ..
            } => CERTIFICATES,
            Self::Authority(_) => AUTHORITIES,
            _ => 1,
        }
    }

    /// The command's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::FoundMesh(_) => "found mesh",
            Self::ReportLoss(_) => "report loss",
            Self::AcceptLoss { .. } => "accept loss",
            Self::BeginEra { .. } => "begin era",
            Self::Compared { .. } => "compared",
            Self::NoteLevel { .. } => "note level",
            Self::RaiseLevel { .. } => "raise level",
            Self::RegisterNode { .. } => "register node",
            Self::AdmitNode(_) => "admit node",
            Self::AnnounceNode { .. } => "announce node",
            Self::RenumberNode { .. } => "renumber node",
            Self::MarkRepository { .. } => "mark repository",
            Self::RaiseFloor { .. } => "raise floor",
            Self::NoteOrphans(_) => "note orphans",
            Self::DiscardOrphans(_) => "discard orphans",
            Self::SetNodeService { .. } => "set node service",
            Self::SetNodeVote { .. } => "set node vote",
            Self::RegisterRepository { .. } => "register repository",
            Self::UpdateRepository { .. } => "update repository",
            Self::RetireRepository { .. } => "retire repository",
            Self::ReplaceRepository { .. } => "replace repository",
            Self::Backfill { .. } => "backfill",
            Self::CreateStanza { .. } => "create stanza",
            Self::UpgradeStanza { .. } => "upgrade stanza",
            Self::DeleteStanza { .. } => "delete stanza",
            Self::StopStanza { .. } => "stop stanza",
            Self::StartStanza { .. } => "start stanza",
            Self::AdoptWriter { .. } => "adopt writer",
            Self::ForgetWal { .. } => "forget WAL",
            Self::PushSegment(_) => "push segment",
            Self::AddChunks { .. } => "add chunks",
            Self::OpenSession { .. } => "open session",
            Self::AdoptSession { .. } => "adopt session",
            Self::CloseSession { .. } => "close session",
            Self::ExpireSession { .. } => "expire session",
            Self::BeginBackup { .. } => "begin backup",
            Self::CommitBackup(_) => "commit backup",
            Self::Annotate { .. } => "annotate",
            Self::RemoveBackup { .. } => "remove backup",
            Self::AddReplicas { .. } => "add replicas",
            Self::ReportBad { .. } => "report bad",
            Self::Suspect { .. } => "suspect",
            Self::Condemn { .. } => "condemn",
            Self::Reprieve { .. } => "reprieve",
            Self::Forget { .. } => "forget",
            Self::ForgetGarbage { .. } => "forget garbage",
            Self::KeepGarbage { .. } => "keep garbage",
            Self::CreateToken { .. } => "create token",
            Self::RedeemToken { .. } => "redeem token",
            Self::Audit { .. } => "audit",
            Self::Adopt(_) => "adopt",
            Self::IssueCertificate(_) => "issue certificate",
            Self::NoteCertificate(_) => "note certificate",
            Self::RevokeCertificates(_) => "revoke certificates",
            Self::HandOutToken(_) => "hand out token",
            Self::StageUses { .. } => "stage uses",
            Self::NoteUses(_) => "note uses",
            Self::ShareRights(_) => "share rights",
            Self::DoubtUses { .. } => "doubt uses",
            Self::EndListing(_) => "end listing",
            Self::DropUses(_) => "drop uses",
            Self::ExpireBackups(_) => "expire backups",
            Self::ExpireWal(_) => "expire WAL",
            Self::Release(_) => "release",
            Self::EndRelease { .. } => "end release",
            Self::Trim { .. } => "trim",
            Self::HoldBackup(_) => "hold backup",
            Self::Authority(given) => given.name(),
        }
    }
}

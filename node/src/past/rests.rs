//! Which requests rest on the catalog: checked for each request, since the catalog may have lost entries.

use pgmesh_protocol::Request;

/// How far a request rests on the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rests {
    /// Not at all: requests by which an administrator finds out how the mesh does, and puts it right, are answered.
    No,
    /// It reads for a restore, which must not hang on a majority: it is answered even while a mark is still to be
    /// compared.
    AsRestore,
    /// It reads, and is answered while the repositories have not been looked at lately.
    AsRead,
    /// It writes.
    Yes,
    /// It would count replicas that may not be there.
    OnReplicas,
}

/// There is no arm for all others: a new request needs a line here.
pub(super) fn rests(request: &Request) -> Rests {
    match request {
        Request::BeginBackup(_) | Request::QueryChunks(_) | Request::CommitBackup(_) => Rests::OnReplicas,
        Request::GetSegment(_) | Request::ChangeMaps(_) => Rests::AsRead,
        Request::BeginRestore(_) | Request::ResumeSession(_) | Request::ChoosePrior(_) | Request::ChooseBackup(_) => {
            Rests::AsRestore
        }
        Request::PushSegment(_)
        | Request::PutChunk(_)
        | Request::CreateStanza(_)
        | Request::UpgradeStanza(_)
        | Request::AdoptStanza(_)
        | Request::ForgetWal(_)
        | Request::DeleteStanza(_)
        | Request::RemoveRepository(_)
        | Request::ExpireBackups(_)
        | Request::ExpireWal(_)
        | Request::ReplaceRepository(_)
        | Request::CollectGarbage(_) => Rests::Yes,
        Request::Hello(_)
        | Request::KeepSession(_)
        | Request::EndSession(_)
        | Request::TerminateSession(_)
        | Request::AcceptLoss(_)
        | Request::GetManifest(_)
        | Request::GetChunk(_)
        | Request::GetPieces(_)
        | Request::Info(_)
        | Request::ArchiveStatus(_)
        | Request::Verify(_)
        | Request::SetStopped(_)
        | Request::Annotate(_)
        | Request::GetRetained(_)
        | Request::HoldBackup(_)
        | Request::ListRepository(_)
        | Request::ReadRepository(_)
        | Request::Invite(_)
        | Request::Join(_)
        | Request::UpdateRepository(_)
        | Request::Renew(_)
        | Request::ListCertificates(_)
        | Request::RevokeCertificates(_)
        | Request::ListNodes(_)
        | Request::ChangeNode(_)
        | Request::Status(_)
        | Request::SyncRepository(_)
        | Request::Raft(_)
        | Request::Announce(_)
        | Request::Authority(_)
        | Request::AuthorityOf(_)
        | Request::RotateAuthority(_)
        | Request::NodeStatus(_)
        | Request::StoreObject(_)
        | Request::ReadObject(_)
        | Request::DeleteObject(_)
        | Request::BeginAnew(_)
        | Request::Vouch(_)
        | Request::MayLeave(_) => Rests::No,
    }
}

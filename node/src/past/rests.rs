//! What rests on the catalog: looked at for each request, where the catalog may have lost something.

use pgmesh_protocol::Request;

/// How far a request rests on the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rests {
    /// Not at all: what an administrator needs to find out how the mesh does, and to put it right, is answered.
    No,
    /// It reads what a restore needs, which must not hang on a majority: what is answered without one is answered here,
    /// too.
    AsRestore,
    /// It reads, and is answered while the repositories have not been looked at lately.
    AsRead,
    /// It writes.
    Yes,
    /// It would count replicas that may not be there.
    OnReplicas,
}

/// There is no arm for all others: whoever adds a request says here what it rests on.
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
        | Request::ListRepository(_)
        | Request::ReadRepository(_)
        | Request::Invite(_)
        | Request::Join(_)
        | Request::UpdateRepository(_)
        | Request::Renew(_)
        | Request::ListNodes(_)
        | Request::ChangeNode(_)
        | Request::Status(_)
        | Request::SyncRepository(_)
        | Request::Raft(_)
        | Request::Announce(_)
        | Request::Authority(_)
        | Request::NodeStatus(_)
        | Request::StoreObject(_)
        | Request::ReadObject(_)
        | Request::DeleteObject(_)
        | Request::BeginAnew(_)
        | Request::Vouch(_)
        | Request::MayLeave(_) => Rests::No,
    }
}

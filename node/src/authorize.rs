//! Which peer may send which request: one table, looked at before a request is served.

use pgmesh_protocol::{ExitCode, Failure, Request};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{ReadError, View};
use pgmesh_storage::{Digest, StanzaName};
use pgmesh_transport::{Peer, Role};

/// Refuses a request beyond the peer's role.
///
/// A client works for the stanzas in its certificate: it adds to them and reads them, and cannot delete. A restoring
/// host reads them, and adds nothing. A monitor reads the state of the mesh, and no data. Requests that concern the
/// whole mesh, or delete, are for administrators. A node that serves a request asks other nodes for their part of it,
/// after it has checked the peer's rights itself.
pub fn authorize(peer: &Peer, request: &Request) -> Result<(), Failure> {
    let rights = rights(request);
    let allowed = match peer {
        Peer::Joining => matches!(request, Request::Join(_)),
        Peer::Member(member) => match &member.role {
            Role::Admin => rights.administrator,
            Role::Client { stanzas } => rights.client.allows(stanzas),
            Role::Restore { stanzas } => rights.is_reading && rights.client.allows(stanzas),
            Role::Monitor => rights.monitor,
            Role::Node => rights.node,
        },
    };
    if allowed { Ok(()) } else { Err(refusal(peer, request)) }
}

/// Whose chunks a peer may read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reader<'p> {
    /// An administrator, or a node: everybody's.
    Everything,
    /// Those of these stanzas.
    Of(&'p [StanzaName]),
}

impl<'p> Reader<'p> {
    pub(crate) fn of(peer: &'p Peer) -> Self {
        match peer {
            Peer::Joining => Self::Of(&[]),
            Peer::Member(member) => match &member.role {
                Role::Admin | Role::Node => Self::Everything,
                role @ (Role::Client { .. } | Role::Restore { .. } | Role::Monitor) => Self::Of(role.stanzas()),
            },
        }
    }

    /// Whether the reader may have a chunk, if the mesh has it.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) fn may_read<B: Base>(self, view: &View<B>, digest: &Digest) -> Result<bool, ReadError> {
        match self {
            Self::Everything => Ok(true),
            Self::Of(stanzas) => view.rights(stanzas)?.may_have(digest),
        }
    }
}

/// Which members a request is served to.
struct Rights<'r> {
    client: Clients<'r>,
    /// A host that only restores may do it, too, where a client may: it changes nothing but the host's own session.
    is_reading: bool,
    monitor: bool,
    administrator: bool,
    node: bool,
}

/// Which clients a request is served to.
enum Clients<'r> {
    None,
    All,
    /// The clients of this stanza.
    Of(&'r StanzaName),
    /// The clients of a stanza whose folder in a repository is this path, or above it.
    Below(&'r str),
}

impl Clients<'_> {
    fn allows(&self, stanzas: &[StanzaName]) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Of(stanza) => stanzas.contains(stanza),
            // ".." never appears in an object's path.
            Self::Below(path) => {
                !path.contains("..")
                    && stanzas.iter().any(|stanza| {
                        let rest = path.strip_prefix(&format!("stanza/{stanza}"));
                        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    })
            }
        }
    }
}

/// The rights to a request. There is no arm for all others: a new request needs a line here.
fn rights(request: &Request) -> Rights<'_> {
    let of_client = |client| Rights {
        client,
        is_reading: false,
        monitor: false,
        administrator: true,
        node: false,
    };
    let reading = |client| Rights {
        is_reading: true,
        ..of_client(client)
    };
    let of_administrator = of_client(Clients::None);
    let of_monitor = Rights {
        monitor: true,
        ..of_client(Clients::None)
    };
    let of_node = Rights {
        administrator: false,
        node: true,
        ..of_client(Clients::None)
    };
    match request {
        Request::Hello(_) => Rights {
            node: true,
            monitor: true,
            ..reading(Clients::All)
        },
        // The answer is for the name, the role and the stanzas that the asker has.
        Request::Renew(_) => Rights {
            monitor: true,
            ..reading(Clients::All)
        },
        // The answer is cut down to the client's stanzas where none is named.
        Request::Info(r) => Rights {
            monitor: true,
            ..reading(r.stanza.as_ref().map_or(Clients::All, Clients::Of))
        },
        Request::GetSegment(_)
        | Request::BeginRestore(_)
        | Request::ResumeSession(_)
        | Request::KeepSession(_)
        | Request::EndSession(_)
        | Request::GetManifest(_)
        | Request::GetChunk(_)
        | Request::GetPieces(_)
        | Request::ChooseBackup(_)
        | Request::GetRetained(_)
        | Request::ArchiveStatus(_) => reading(of_stanza(request)),
        Request::PushSegment(_)
        | Request::ChangeMaps(_)
        | Request::BeginBackup(_)
        | Request::QueryChunks(_)
        | Request::PutChunk(_)
        | Request::CommitBackup(_)
        | Request::ChoosePrior(_)
        | Request::CreateStanza(_)
        | Request::UpgradeStanza(_)
        | Request::AdoptStanza(_)
        | Request::SetStopped(_)
        | Request::Annotate(_)
        // The catalog keeps a stanza's last full backup in each repository, and all that is held.
        | Request::ExpireBackups(_)
        | Request::ExpireWal(_) => of_client(of_stanza(request)),
        // A stolen client could release what an administrator holds against it.
        Request::HoldBackup(r) if r.hold.is_none() => of_administrator,
        Request::HoldBackup(_) => of_client(of_stanza(request)),
        Request::Verify(_) => Rights {
            node: true,
            ..reading(of_stanza(request))
        },
        Request::ListRepository(r) => Rights {
            node: true,
            ..reading(Clients::Below(&r.path))
        },
        Request::ReadRepository(r) => Rights {
            node: true,
            ..reading(Clients::Below(&r.path))
        },
        Request::ListNodes(_) | Request::Status(_) => of_monitor,
        Request::TerminateSession(_)
        | Request::AcceptLoss(_)
        | Request::ForgetWal(_)
        | Request::DeleteStanza(_)
        | Request::Invite(_)
        | Request::ListCertificates(_)
        | Request::RevokeCertificates(_)
        | Request::RotateAuthority(_)
        | Request::UpdateRepository(_)
        | Request::RemoveRepository(_)
        | Request::ChangeNode(_)
        | Request::SyncRepository(_) => of_administrator,
        Request::ReplaceRepository(_) => Rights {
            node: true,
            ..of_administrator
        },
        Request::Raft(_)
        | Request::Announce(_)
        | Request::Authority(_)
        | Request::AuthorityOf(_)
        | Request::NodeStatus(_)
        | Request::BeginAnew(_)
        | Request::Vouch(_)
        | Request::MayLeave(_)
        | Request::StoreObject(_)
        | Request::ReadObject(_)
        | Request::DeleteObject(_)
        | Request::CollectGarbage(_) => of_node,
        // A member has a certificate already.
        Request::Join(_) => Rights {
            administrator: false,
            ..of_administrator
        },
    }
}

/// The clients of the stanza that a request is about; none where it names none.
fn of_stanza(request: &Request) -> Clients<'_> {
    request.stanza().map_or(Clients::None, Clients::Of)
}

const AS_ADMINISTRATOR: &str = "run it as an administrator (with a node's configuration file)";

/// What a member does whose role is not enough.
fn remedy_of(role: &Role, request: &Request) -> &'static str {
    let stanzas = role.stanzas();
    let clients = rights(request).client;
    if matches!(role, Role::Client { .. }) {
        return match request.stanza() {
            Some(stanza) if !stanzas.contains(stanza) => {
                "run it as an administrator (with a node's configuration file), or join with a token for this stanza"
            }
            _ => AS_ADMINISTRATOR,
        };
    }
    match clients {
        Clients::None => AS_ADMINISTRATOR,
        _ => "join with a client's token for this: 'pgmesh invite --role=client --stanza=NAME' on a node",
    }
}

fn refusal(peer: &Peer, request: &Request) -> Failure {
    let what = request.name();
    let (who, remedy) = match peer {
        Peer::Joining => (
            "a peer without a certificate".to_owned(),
            "join first: pgmesh join TOKEN, with a token from 'pgmesh invite' on a node",
        ),
        Peer::Member(member) => match &member.role {
            role @ (Role::Client { stanzas } | Role::Restore { stanzas }) => (
                format!(
                    "{} {}, whose certificate is for {}stanza {}",
                    role.kind(),
                    member.name,
                    if matches!(role, Role::Restore { .. }) {
                        "restoring "
                    } else {
                        ""
                    },
                    stanzas.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
                remedy_of(role, request),
            ),
            Role::Monitor => (
                format!(
                    "monitor {}, whose certificate is for reading how the mesh does",
                    member.name
                ),
                remedy_of(&member.role, request),
            ),
            role => (format!("{} {}", role.kind(), member.name), AS_ADMINISTRATOR),
        },
    };
    let of = request
        .stanza()
        .map(|stanza| format!(" for stanza {stanza}"))
        .unwrap_or_default();
    Failure::new(ExitCode::Protocol, format!("{what}{of} is refused to {who}")).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unsigned;
    use pgmesh_protocol::{
        ChangeMaps, CreateInvite, DeleteStanza, GetAuthority, GetInfo, GetSegment, GetStatus, Hello, ListCertificates,
        ListNodes, ListRepository, QueryChunks, SetStopped, VerifyRequest,
    };
    use pgmesh_storage::RepoKey;
    use std::sync::Arc;

    fn stanza(name: &str) -> StanzaName {
        name.parse().unwrap()
    }

    fn client_of(name: &str) -> Peer {
        let stanzas = vec![stanza(name)];
        Peer::Member(Arc::new(unsigned("db1", Role::Client { stanzas })))
    }

    fn get(name: &str) -> Request {
        Request::GetSegment(GetSegment {
            stanza: stanza(name),
            file: "00000002.history".into(),
            system_id: None,
            avoid: vec![].into(),
            doubted: Vec::new().into(),
        })
    }

    #[test]
    fn a_client_is_held_to_its_stanzas() {
        let peer = client_of("main");
        assert!(authorize(&peer, &get("main")).is_ok());
        let refused = authorize(&peer, &get("other")).unwrap_err();
        assert_eq!(refused.code, ExitCode::Protocol);
        assert!(refused.what.contains("main"), "{refused}");
        let maps = |name: &str| {
            let segment = "000000010000000000000001".parse().unwrap();
            Request::ChangeMaps(ChangeMaps {
                stanza: stanza(name),
                first: segment,
                last: segment,
            })
        };
        assert!(authorize(&peer, &maps("main")).is_ok());
        assert!(authorize(&peer, &maps("other")).is_err());
        let all = Request::Verify(VerifyRequest {
            part: None,
            stanza: None,
            repo: None,
        });
        assert!(authorize(&peer, &all).is_err());
    }

    #[test]
    fn a_client_deletes_and_invites_nothing() {
        let peer = client_of("main");
        assert!(
            authorize(
                &peer,
                &Request::DeleteStanza(DeleteStanza {
                    stanza: stanza("main"),
                    force: true,
                    is_down: true
                })
            )
            .is_err()
        );
        let invite = CreateInvite {
            role: "admin".into(),
            name: None,
            force: false,
            stanzas: vec![].into(),
            expires: 60,
            addresses: pgmesh_protocol::List::default(),
        };
        assert!(authorize(&peer, &Request::Invite(invite)).is_err());
    }

    #[test]
    fn a_client_lists_only_below_its_stanza() {
        let peer = client_of("main");
        let list = |path: &str| {
            Request::ListRepository(ListRepository {
                repo: RepoKey::new(1).unwrap(),
                path: path.into(),
                recurse: false,
                after: None,
            })
        };
        assert!(authorize(&peer, &list("stanza/main")).is_ok());
        assert!(authorize(&peer, &list("stanza/main/backup")).is_ok());
        for path in ["", "stanza", "stanza/mainly", "stanza/main/../other", "chunk/00"] {
            assert!(authorize(&peer, &list(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_restoring_host_reads_its_stanzas_and_writes_nothing() {
        let stanzas = vec![stanza("main")];
        let peer = Peer::Member(Arc::new(unsigned("db9", Role::Restore { stanzas })));
        assert!(authorize(&peer, &get("main")).is_ok());
        assert!(authorize(&peer, &get("other")).is_err());
        assert!(authorize(&peer, &Hello.into()).is_ok());
        let push = crate::testing::push_of("000000010000000000000001", b"");
        let refused = authorize(&peer, &push.into()).unwrap_err();
        assert!(refused.what.contains("restoring stanza main"), "{refused}");
        assert!(refused.remedy.unwrap().contains("--role=client"));
        let query = QueryChunks {
            stanza: stanza("main"),
            session: 1,
            digests: vec![].into(),
        };
        assert!(authorize(&peer, &query.into()).is_err());
        let stop = SetStopped {
            stanza: Some(stanza("main")),
            stopped: None,
            ends_sessions: false,
        };
        assert!(authorize(&peer, &stop.into()).is_err());
        assert!(authorize(&peer, &GetStatus.into()).is_err());
    }

    #[test]
    fn a_monitor_reads_how_the_mesh_does_and_no_data() {
        let peer = Peer::Member(Arc::new(unsigned("grafana", Role::Monitor)));
        for allowed in [Request::from(GetStatus), Hello.into(), ListNodes.into()] {
            assert!(authorize(&peer, &allowed).is_ok(), "{}", allowed.name());
        }
        let info = GetInfo {
            stanza: Some(stanza("main")),
            backups: true,
            after: None,
        };
        assert!(authorize(&peer, &info.into()).is_ok());
        let list = ListCertificates { after: None };
        for refused in [get("main"), list.into(), GetAuthority.into()] {
            assert!(authorize(&peer, &refused).is_err(), "{}", refused.name());
        }
    }

    #[test]
    fn what_nodes_say_to_each_other_is_theirs_alone() {
        let certificate = |role| Peer::Member(Arc::new(unsigned("x", role)));
        assert!(authorize(&certificate(Role::Node), &GetAuthority.into()).is_ok());
        assert!(authorize(&certificate(Role::Admin), &GetAuthority.into()).is_err());
        assert!(authorize(&client_of("main"), &GetAuthority.into()).is_err());
        assert!(authorize(&client_of("main"), &GetStatus.into()).is_err());
        // A node works for stanzas only through its own services.
        assert!(authorize(&certificate(Role::Node), &get("main")).is_err());
    }

    #[test]
    fn without_a_certificate_nothing_but_join_is_served() {
        assert!(authorize(&Peer::Joining, &Hello.into()).is_err());
        assert!(authorize(&Peer::Joining, &get("main")).is_err());
    }
}

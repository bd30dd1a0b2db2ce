//! Certificates that are valid and count no more, or not yet: those that were revoked; of nodes that were removed, or
//! whose name has come back with another disk; of those nodes' administrators; and of nodes that were never admitted.
//!
//! A connection lives for as long as both processes do, so it is not enough to look when it is made. It is looked at
//! for each request, of this node and to this node; and when the catalog changes, connections that it concerns are
//! closed (`server.rs`).

use crate::backups::Backups;
use crate::certificates::{JOIN_AGAIN, refuse_ended};
use crate::membership::Membership;
use crate::sessions::ConnectionNumber;
use crate::worth::{Worth, ended, worth};
use pgmesh_protocol::{ExitCode, Failure, Request, now_unix};
use pgmesh_transport::{Identity, MemberCertificate, Peer, Role};
use std::sync::Arc;
use std::time::Duration;

/// So long after a command the next one is looked at, with all that came in between.
const PAUSE: Duration = Duration::from_millis(50);
/// At least so often an open connection's certificate is looked at again.
const LOOK: Duration = Duration::from_secs(30);

/// Whether a node that members have vouched for may send this request before this node's catalog has it: it is a
/// request by which this node comes to hear of the other.
fn is_introduction(request: &Request) -> bool {
    matches!(request, Request::Raft(_) | Request::Announce(_))
}

impl Membership {
    /// Whether a certificate is for the key of the administrator in this node's node-path, which no thief of an
    /// authority's key has.
    fn is_own_administrator(&self, member: &MemberCertificate) -> bool {
        Identity::load(&self.layout.admin()).is_ok_and(|own| own.member().key == member.key)
    }

    /// Refuses a request of a peer that is not, or no longer, a member of the mesh.
    pub(crate) fn check_worth(&self, peer: &Peer, request: &Request) -> Result<(), Failure> {
        let Some(member) = peer.member() else {
            return Ok(());
        };
        refuse_ended(member)?;
        let (kind, name) = (member.role.kind(), &member.name);
        match worth(&self.catalog.view(), member) {
            Worth::Member => Ok(()),
            // The answer has only the mesh's identity and its nodes' addresses.
            Worth::Unheard if matches!(request, Request::Hello(_)) => Ok(()),
            Worth::Unheard if is_introduction(request) && self.links.acquaintances.knows(member) => Ok(()),
            Worth::Unheard => {
                if is_introduction(request) {
                    self.core.ask_around(member);
                }
                Err(Failure::new(
                    ExitCode::Protocol,
                    format!(
                        "{} is refused to {kind} {name}: the catalog of node {} has no such member",
                        request.name(),
                        self.name
                    ),
                )
                .remedy("a node that has just joined waits until the others have heard of it")
                .again())
            }
            // Whoever looks after this node asks it what is wrong.
            Worth::Unknown(_)
                if matches!(request, Request::Hello(_) | Request::Status(_)) && self.is_own_administrator(member) =>
            {
                Ok(())
            }
            Worth::Unknown(why) => Err(Failure::new(
                ExitCode::Runtime,
                format!(
                    "node {} cannot read whether the certificate of {kind} {name} counts",
                    self.name
                ),
            )
            .because(why)
            .again()),
            Worth::Nothing { why, .. } => {
                let what = format!("{} is refused to {kind} {name}", request.name());
                Err(match member.role {
                    Role::Node => Failure::new(ExitCode::Protocol, what).because(why),
                    _ => Failure::new(ExitCode::Crypto, what).because(why).remedy(JOIN_AGAIN),
                })
            }
        }
    }

    /// Tells the connections of a revocation, until the node stops. There may be thousands of connections, and hundreds
    /// of commands a second: so one task looks at each command, not all of them.
    pub(crate) async fn keep_hearing_revocations(self: Arc<Self>) {
        loop {
            let view = self.catalog.view();
            let seen = view.applied().unwrap_or_default();
            if let Ok(last) = view.last_revocation() {
                self.revocations
                    .send_if_modified(|known| std::mem::replace(known, last) != last);
            }
            drop(view);
            self.catalog.applied_after(seen).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns when a peer's certificate counts no more, or is over, with the reason.
    pub(crate) async fn until_shut_out(&self, peer: &Peer) -> String {
        let Some(member) = peer.member() else {
            return std::future::pending().await;
        };
        let goes_with_a_node = matches!(member.role, Role::Node | Role::Admin);
        let mut revocations = self.revocations.subscribe();
        loop {
            revocations.borrow_and_update();
            let view = self.catalog.view();
            // An error of the disk ends the node elsewhere.
            let seen = view.applied().unwrap_or_default();
            if let Worth::Nothing { why, .. } = worth(&view, member) {
                return why;
            }
            if let Some(why) = ended(member) {
                return why;
            }
            drop(view);
            let left = member.not_after.saturating_sub(now_unix()).max(1);
            let pause = Duration::from_secs(left.unsigned_abs()).min(LOOK);
            tokio::select! {
                _ = revocations.changed() => {}
                () = self.catalog.applied_after(seen), if goes_with_a_node => {}
                // The clock may have been set.
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Backups {
    /// Ends the sessions that a connection of a peer works under who was shut out: nobody is to come back for them.
    /// Those of a certificate that is only over go on with a renewed one.
    pub(crate) async fn end_sessions_of(&self, actor: &str, peer: &Peer, connection: ConnectionNumber) {
        let Some(member) = peer.member() else { return };
        let Worth::Nothing { why, .. } = worth(&self.catalog.view(), member) else {
            return;
        };
        for session in self.clients.of(connection) {
            self.end_session(actor, session, &why).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::links::{Lane, Recipient};
    use crate::testing::TestNode;
    use pgmesh_protocol::{CollectGarbage, Consensus, DeleteObject, GetAuthority, GetNodeStatus, Hello, ListNodes};
    use pgmesh_raft::NodeName;
    use pgmesh_raft::peers::{PeerMessage, PeerRequest};
    use pgmesh_raft::store::Mark;
    use pgmesh_storage::{Digest, Generation, ObjectName, RepoKey};
    use pgmesh_transport::{CloseCode, ConnectionLost, Server};
    use std::sync::Arc;

    fn delete() -> Request {
        Request::DeleteObject(DeleteObject {
            repo: RepoKey::new(1).unwrap(),
            uuid: "other".into(),
            object: ObjectName::Chunk(Digest([1; 32])),
            generation: Generation::FIRST,
            term: u64::MAX,
        })
    }

    fn consensus() -> Request {
        let request = PeerRequest {
            to: 1,
            from: 7,
            address: String::new(),
            known: None,
            mark: Mark::default(),
            message: PeerMessage::ReadIndex,
        };
        Request::Raft(Consensus(pgmesh_storage::wire::encode(&request).into()))
    }

    /// The removed node goes on asking over the connections that it has.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_removed_gets_nothing_over_the_connections_that_it_has() {
        let site = TestNode::start(SessionTimes::default()).await;
        let beta = site.certificate(&Role::Node, "beta");
        let connected = site.connect_as(&beta).await;
        let refused = connected.ask(&GetAuthority, None).await;
        assert!(refused.err().unwrap().again, "nobody has heard of it yet");
        site.admit(&beta).await;
        connected.ask(&GetAuthority, None).await.unwrap();
        site.remove("beta").await;
        let served = connected.ask_once(&GetAuthority).await;
        assert!(served.is_none(), "the mesh's private key");
        let lost = connected.closed().await;
        assert!(
            matches!(&lost, ConnectionLost::ClosedByPeer { code, .. } if *code == CloseCode::FORBIDDEN),
            "{lost:?}"
        );
        let peer = Peer::Member(Arc::new(beta.member().clone()));
        for request in [
            GetAuthority.into(),
            GetNodeStatus.into(),
            CollectGarbage.into(),
            delete(),
        ] {
            assert!(
                site.node.membership.check_worth(&peer, &request).is_err(),
                "{}",
                request.name()
            );
        }
    }

    /// A node that takes requests, and does not answer. Returns its address.
    fn silent_node(identity: &Identity) -> String {
        let server = Arc::new(Server::bind("127.0.0.1:0".parse().unwrap(), identity).unwrap());
        let address = server.local_address().unwrap().to_string();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                tokio::spawn(async move { incoming.establish().await.unwrap().closed().await });
            }
        });
        address
    }

    /// The stranger's vote would count, and so would its claims of stored objects.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_asked_of_a_stranger_that_answers_in_a_member_s_place() {
        let site = TestNode::start(SessionTimes::default()).await;
        site.admit(&site.certificate(&Role::Node, "beta")).await;
        let address = silent_node(&site.certificate(&Role::Node, "beta"));
        let name: NodeName = "beta".parse().unwrap();
        site.node.links.announced(name.clone(), vec![address.clone()]);
        for (whom, lane) in [
            (Recipient::Named(name.clone()), Lane::Data),
            (Recipient::Named(name), Lane::Consensus),
            (Recipient::At(address), Lane::Consensus),
        ] {
            let asked = site.node.links.ask(&whom, lane, &GetNodeStatus, None).await;
            let refused = asked.map(drop).unwrap_err().to_string();
            assert!(refused.contains("vouches for"), "{refused}");
        }
    }

    /// Nothing is asked of the removed node, though it runs on and answers.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_asked_of_a_node_that_was_removed_but_what_lets_it_go() {
        let site = TestNode::start(SessionTimes::default()).await;
        let beta = site.certificate(&Role::Node, "beta");
        site.admit(&beta).await;
        let address = silent_node(&beta);
        let name: NodeName = "beta".parse().unwrap();
        site.node.links.announced(name.clone(), vec![address]);
        let whom = Recipient::Named(name);
        let ask = async |lane| {
            let asked = site.node.links.ask(&whom, lane, &GetNodeStatus, None).await;
            asked.map(drop).map_err(|error| error.to_string())
        };
        ask(Lane::Data).await.unwrap();
        site.remove("beta").await;
        // Over the present connection, and over a new connection.
        for _ in 0..2 {
            let refused = ask(Lane::Data).await.unwrap_err();
            assert!(refused.contains("node beta was removed"), "{refused}");
        }
        ask(Lane::Consensus).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_renewed_certificate_counts_as_long_as_the_node_is_a_member() {
        let site = TestNode::start(SessionTimes::default()).await;
        let worth_of = |identity: &Identity| worth(&site.node.catalog.view(), identity.member());
        let first = site.certificate(&Role::Node, "beta");
        site.admit(&first).await;
        // No node has been told of the renewed certificate.
        let second = site.renewed(&first);
        assert_ne!(first.fingerprint(), second.fingerprint());
        assert_eq!((worth_of(&first), worth_of(&second)), (Worth::Member, Worth::Member));
        // The disk is replaced: a process with the old disk is not the node any more.
        let third = site.certificate(&Role::Node, "beta");
        site.admit(&third).await;
        for former in [&first, &second, &site.renewed(&second)] {
            assert!(matches!(worth_of(former), Worth::Nothing { is_removed: false, .. }));
        }
        assert_eq!(worth_of(&third), Worth::Member);
        site.remove("beta").await;
        for gone in [&first, &third, &site.renewed(&third)] {
            assert!(matches!(worth_of(gone), Worth::Nothing { is_removed: true, .. }));
        }
    }

    /// A node that has left the mesh can sign any certificate: it has the authority's key.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_certificate_of_a_member_s_name_for_another_key_is_a_stranger_s() {
        let site = TestNode::start(SessionTimes::default()).await;
        site.admit(&site.certificate(&Role::Node, "beta")).await;
        let forged = site.certificate(&Role::Node, "beta");
        let peer = Peer::Member(Arc::new(forged.member().clone()));
        assert!(site.node.membership.check_worth(&peer, &Hello.into()).is_ok());
        for request in [GetAuthority.into(), GetNodeStatus.into(), delete(), consensus()] {
            assert!(
                site.node.membership.check_worth(&peer, &request).is_err(),
                "{}",
                request.name()
            );
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_administrator_of_a_node_that_was_removed_gets_nothing_any_more() {
        let site = TestNode::start(SessionTimes::default()).await;
        let admin = site.certificate(&Role::Admin, "beta");
        // Invited on the host of the same name.
        let other = site.certificate(&Role::Admin, "beta");
        site.admit_with(&site.certificate(&Role::Node, "beta"), admin.member().key.0)
            .await;
        let (connected, others) = (site.connect_as(&admin).await, site.connect_as(&other).await);
        let list = ListNodes;
        connected.ask(&list, None).await.unwrap();
        site.remove("beta").await;
        assert!(connected.ask_once(&list).await.is_none());
        let lost = connected.closed().await;
        assert!(
            matches!(&lost, ConnectionLost::ClosedByPeer { code, .. } if *code == CloseCode::FORBIDDEN),
            "{lost:?}"
        );
        let renewed = Peer::Member(Arc::new(site.renewed(&admin).member().clone()));
        assert!(site.node.membership.check_worth(&renewed, &list.into()).is_err());
        others.ask(&list, None).await.unwrap();
    }
}

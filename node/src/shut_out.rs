//! Nodes whose certificate is valid and counts no more: they were removed, or their name has come back with another
//! disk.
//!
//! A connection lives for as long as both processes do, so it is not enough to look when it is made. It is looked at
//! for each request, of this node and to this node; and when the catalog changes, connections that it concerns are
//! closed (`server.rs`).

use crate::protocol::Request;
use crate::{Failure, Node, code};
use pgmesh_raft::{NodeName, NodeRecord, NodeService, View};
use pgmesh_transport::{MemberCertificate, Peer, Role};

/// What a node's certificate is worth to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Worth {
    /// A member's.
    Member,
    /// The catalog of this node has no member of that name. It may lag behind: a node that has just joined is heard of by
    /// its messages. Until then it gets nothing else.
    Unheard,
    /// It counts no more.
    Nothing {
        /// Why.
        why: String,
        /// Whether the node was removed, and has not joined anew.
        is_removed: bool,
    },
}

/// What this certificate is worth, by this view. Only nodes lose theirs.
pub(crate) fn worth(view: &View, member: &MemberCertificate) -> Worth {
    if member.role != Role::Node {
        return Worth::Member;
    }
    let name: Option<NodeName> = member.name.as_str().parse().ok();
    let record = name.and_then(|name| view.node(&name).ok().flatten());
    judge(member, record.as_ref())
}

fn judge(member: &MemberCertificate, record: Option<&NodeRecord>) -> Worth {
    let name = &member.name;
    match record {
        Some(record) if record.revoked.contains(&member.fingerprint.0) => {
            let is_removed = !record.is_member();
            let why = if is_removed {
                format!("node {name} was removed from the mesh")
            } else {
                format!("this certificate of node {name} counts no more: the node has joined anew")
            };
            Worth::Nothing { why, is_removed }
        }
        Some(record) if record.service != NodeService::Removed => Worth::Member,
        Some(_) | None => Worth::Unheard,
    }
}

/// What a node of which this one has not heard may ask: what makes this one hear of it.
fn is_introduction(request: &Request) -> bool {
    matches!(request, Request::Hello | Request::Raft(_) | Request::Announce(_))
}

impl Node {
    /// Refuses what a node asks that is no member of the mesh, or not any more.
    pub(crate) fn check_worth(&self, peer: &Peer, request: &Request) -> Result<(), Failure> {
        let Some(member) = peer.member() else {
            return Ok(());
        };
        match worth(&self.catalog.view(), member) {
            Worth::Member => Ok(()),
            Worth::Unheard if is_introduction(request) => Ok(()),
            Worth::Unheard => Err(Failure::new(
                code::PROTOCOL,
                format!(
                    "{} is refused to node {}: the catalog of node {} has no such member",
                    request.name(),
                    member.name,
                    self.name
                ),
            )
            .remedy("a node that has just joined waits until the others have heard of it")
            .again()),
            Worth::Nothing { why, .. } => Err(Failure::new(
                code::PROTOCOL,
                format!("{} is refused to node {}", request.name(), member.name),
            )
            .because(why)),
        }
    }

    /// Returns when a peer's certificate counts no more, with the reason.
    pub(crate) async fn until_shut_out(&self, peer: &Peer) -> String {
        let Some(member) = peer.member().filter(|member| member.role == Role::Node) else {
            return std::future::pending().await;
        };
        loop {
            let view = self.catalog.view();
            // An error of the disk ends the node elsewhere.
            let seen = view.applied().unwrap_or_default();
            if let Worth::Nothing { why, .. } = worth(&view, member) {
                return why;
            }
            self.catalog.applied_after(seen).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::links::{Lane, Whom};
    use crate::protocol::{AuthorityKey, DeleteObject};
    use crate::testing::TestNode;
    use pgmesh_raft::Command;
    use pgmesh_storage::{Digest, Generation, ObjectName, RepoKey};
    use pgmesh_transport::{CloseCode, ConnectionLost, Server};
    use std::sync::Arc;

    fn delete() -> Request {
        Request::DeleteObject(DeleteObject {
            repo: RepoKey::new(1).unwrap(),
            uuid: "other".to_owned(),
            object: ObjectName::Chunk(Digest([1; 32])),
            generation: Generation::FIRST,
            term: u64::MAX,
        })
    }

    /// It goes on asking over the connections that it has.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_removed_gets_nothing_over_the_connections_that_it_has() {
        let site = TestNode::start(SessionTimes::default()).await;
        let beta = site.certificate(&Role::Node, "beta");
        let connected = site.connect_as(&beta).await;
        let refused = connected.ask::<AuthorityKey>(&Request::Authority, None).await;
        assert!(refused.err().unwrap().again, "nobody has heard of it yet");
        site.admit("beta", beta.fingerprint().0).await;
        connected.ask::<AuthorityKey>(&Request::Authority, None).await.unwrap();
        let remove = Command::SetNodeService {
            name: "beta".parse().unwrap(),
            service: NodeService::Removed,
        };
        site.propose(remove).await;
        let served = connected.ask_once::<AuthorityKey>(&Request::Authority).await;
        assert!(served.is_none(), "the mesh's private key");
        let lost = connected.closed().await;
        assert!(
            matches!(&lost, ConnectionLost::ClosedByPeer { code, .. } if *code == CloseCode::FORBIDDEN),
            "{lost:?}"
        );
        let peer = Peer::Member(Arc::new(beta.member().clone()));
        for request in [
            Request::Authority,
            Request::NodeStatus,
            Request::CollectGarbage,
            delete(),
        ] {
            assert!(site.node.check_worth(&peer, &request).is_err(), "{}", request.name());
        }
    }

    /// Nor is anything asked of it, though it runs on and answers.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_asked_of_a_node_that_was_removed_but_what_lets_it_go() {
        let site = TestNode::start(SessionTimes::default()).await;
        let beta = site.certificate(&Role::Node, "beta");
        site.admit("beta", beta.fingerprint().0).await;
        let server = Arc::new(Server::bind("127.0.0.1:0".parse().unwrap(), &beta).unwrap());
        let address = server.local_address().unwrap().to_string();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                // It takes whatever is asked, and does not answer.
                tokio::spawn(async move { incoming.establish().await.unwrap().closed().await });
            }
        });
        let name: NodeName = "beta".parse().unwrap();
        site.node.links.announced(name.clone(), vec![address]);
        let whom = Whom::Named(name.clone());
        let ask = async |lane| {
            let asked = site.node.links.ask(&whom, lane, &Request::NodeStatus, None).await;
            asked.map(drop).map_err(|error| error.to_string())
        };
        ask(Lane::Data).await.unwrap();
        let service = NodeService::Removed;
        site.propose(Command::SetNodeService { name, service }).await;
        // Over the connection that there is, and over a new one.
        for _ in 0..2 {
            let refused = ask(Lane::Data).await.unwrap_err();
            assert!(refused.contains("node beta was removed"), "{refused}");
        }
        ask(Lane::Consensus).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_certificate_of_a_node_that_was_removed_counts_no_more() {
        let site = TestNode::start(SessionTimes::default()).await;
        let [first, second, third] = [(); 3].map(|()| site.certificate(&Role::Node, "beta"));
        let worth_of = |identity: &pgmesh_transport::Identity| worth(&site.node.catalog.view(), identity.member());
        let node_id = site.admit("beta", first.fingerprint().0).await;
        // Renewed; connections that were made before go on with the first one.
        let announce = Command::AnnounceNode {
            name: "beta".parse().unwrap(),
            node_id,
            region: String::new(),
            advertise: vec!["127.0.0.1:1".to_owned()],
            fingerprint: second.fingerprint().0,
            program: "test".to_owned(),
            reaches: std::collections::BTreeSet::new(),
        };
        site.propose(announce).await;
        assert_eq!((worth_of(&first), worth_of(&second)), (Worth::Member, Worth::Member));
        // The disk is replaced: whoever has the old one is not the node any more.
        site.admit("beta", third.fingerprint().0).await;
        for former in [&first, &second] {
            assert!(matches!(worth_of(former), Worth::Nothing { is_removed: false, .. }));
        }
        assert_eq!(worth_of(&third), Worth::Member);
    }
}

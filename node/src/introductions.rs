//! How nodes come to know nodes that their catalogs do not have yet: they ask the members, and vouch for members
//! (`acquaintances.rs`).

use crate::acquaintances::MOST;
use crate::core::Core;
use crate::links::{Lane, Recipient};
use crate::mesh_file::MeshFile;
use crate::worth::{Worth, worth_of_node};
use futures::future::join_all;
use pgmesh_protocol::{KnownMember, Vouch, Vouched};
use pgmesh_raft::NodeName;
use pgmesh_runtime::tasks;
use pgmesh_transport::{Fingerprint, MemberCertificate};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long a member may take to say whether it knows a node.
const ASK_LIMIT: Duration = Duration::from_secs(3);

impl Core {
    /// The members in this node's catalog, without the node that has the name `but`.
    pub(crate) fn known_members(&self, but: &str) -> Vec<KnownMember> {
        let nodes = self.catalog.view().nodes().unwrap_or_default().into_iter();
        let others = nodes.filter(|(name, record)| record.is_member() && name.as_str() != but);
        others
            .map(|(name, record)| KnownMember {
                name: name.to_string(),
                key: Fingerprint(record.key).to_string(),
                addresses: record.advertise,
            })
            .collect()
    }

    /// The `mesh.json` for this node's next start, which may be with an empty catalog: the members in its catalog, and
    /// the remembered members of which a catalog that is being filled has not heard.
    pub(crate) fn mesh_to_remember(&self) -> MeshFile {
        let nodes = self.catalog.view().nodes().unwrap_or_default();
        let is_heard_of = |name: &str| nodes.iter().any(|(heard, _)| heard.as_str() == name);
        let mut members = self.known_members(self.name.as_str());
        let remembered = self.mesh.members.iter();
        members.extend(remembered.filter(|member| !is_heard_of(&member.name)).cloned());
        members.truncate(MOST);
        let mut seeds: Vec<String> = members.iter().flat_map(|member| member.addresses.clone()).collect();
        if seeds.is_empty() {
            seeds.clone_from(&self.mesh.seeds);
        }
        MeshFile {
            seeds,
            members,
            ..self.mesh.clone()
        }
    }

    /// This node's word for another.
    pub(crate) fn vouch(&self, vouch: &Vouch) -> Vouched {
        match worth_of_node(&self.catalog.view(), &vouch.name, &vouch.key) {
            Worth::Member => Vouched::Member,
            Worth::Unheard | Worth::Unknown(_) => Vouched::Unknown,
            Worth::Nothing { .. } => Vouched::ShutOut,
        }
    }

    /// Asks the known members about a stranger, in a task of its own. Their answer counts for the stranger's next
    /// message.
    pub(crate) fn ask_around(self: &Arc<Self>, stranger: &MemberCertificate) {
        if !self.links.acquaintances.begin_asking(stranger) {
            return;
        }
        let (node, stranger) = (self.clone(), stranger.clone());
        tasks::spawn("asking around", async move {
            let word = node.word_for(&stranger).await;
            let name = &stranger.name;
            match word {
                Vouched::Member => {
                    tracing::info!(node = %name, "members vouch for a node that this node's catalog does not have yet");
                    node.links.acquaintances.meet(&stranger);
                }
                Vouched::ShutOut => tracing::warn!(node = %name, "this node was removed from the mesh, or replaced"),
                Vouched::Unknown => tracing::warn!(
                    node = %name,
                    "none of the members that this node knows and can reach vouches for this one, which asks to be heard. If it \
                     is a member and those are gone, empty node-path and let this node join anew"
                ),
            }
            node.links.acquaintances.asked(&stranger);
        });
    }

    async fn word_for(&self, stranger: &MemberCertificate) -> Vouched {
        let request = Vouch {
            name: stranger.name.to_string().into(),
            key: stranger.key.0,
        };
        let remembered = self.mesh.members.iter().filter_map(|member| member.name.parse().ok());
        let view = self.catalog.view();
        let nodes = view.nodes().unwrap_or_default().into_iter();
        let members = nodes.filter(|(_, record)| record.is_member()).map(|(name, _)| name);
        let is_other = |name: &NodeName| *name != self.name && name.as_str() != stranger.name.as_str();
        let asked: BTreeSet<NodeName> = members.chain(remembered).filter(is_other).take(MOST).collect();
        let asked = asked.into_iter().map(|name| async {
            let whom = Recipient::Named(name);
            let word = self.links.call(&whom, Lane::Data, &request, ASK_LIMIT).await;
            word.unwrap_or(Vouched::Unknown)
        });
        let words = join_all(asked).await;
        // A member whose catalog lags behind may not have heard that the stranger has left the mesh.
        match words.iter().find(|word| **word == Vouched::ShutOut) {
            Some(shut_out) => *shut_out,
            None if words.contains(&Vouched::Member) => Vouched::Member,
            None => Vouched::Unknown,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_protocol::{Consensus, Failure, GetNodeStatus, MESSAGE_LIMIT, Request};
    use pgmesh_raft::peers::{PeerMessage, PeerRequest, Started};
    use pgmesh_raft::store::Mark;
    use pgmesh_transport::{Identity, Role, Server};
    use tokio::time::Instant;

    /// Serves as a member of the mesh and answers each question with this word. Returns its address.
    fn member_that_says(identity: &Identity, word: Vouched) -> String {
        let server = Arc::new(Server::bind("127.0.0.1:0".parse().unwrap(), identity).unwrap());
        let address = server.local_address().unwrap().to_string();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                tokio::spawn(async move {
                    let session = incoming.establish().await.unwrap();
                    while let Ok(mut stream) = session.accept_stream().await {
                        let request = stream.recv_request(MESSAGE_LIMIT).await.unwrap();
                        assert!(matches!(request, Request::Vouch(_)), "{request:?}");
                        stream.send(&Ok::<_, Failure>(word)).await.unwrap();
                        stream.finish().unwrap();
                        let _ = stream.delivered().await;
                    }
                });
            }
        });
        address
    }

    /// Adds a member to the site's mesh that says this of other nodes.
    async fn admit(site: &TestNode, name: &str, word: Vouched) {
        let identity = site.certificate(&Role::Node, name);
        site.admit(&identity).await;
        let address = member_that_says(&identity, word);
        site.node.links.announced(name.parse().unwrap(), vec![address]);
    }

    fn consensus(message: PeerMessage) -> Consensus {
        let request = PeerRequest {
            to: 1,
            from: 7,
            address: String::new(),
            known: None,
            mark: Mark::default(),
            message,
        };
        Consensus(pgmesh_storage::wire::encode(&request).into())
    }

    /// Whether the site's node takes part in consensus with a node, which asks again and again.
    async fn is_heard(site: &TestNode, stranger: &Identity) -> bool {
        let connected = site.connect_as(stranger).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            let request = consensus(PeerMessage::MayStand { last_log: None });
            match connected.ask(&request, None).await {
                Ok(_) => return true,
                Err(refusal) => assert!(refusal.again, "{refusal}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Its certificate is valid: a node that has left has signed it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_never_admitted_takes_no_part_in_consensus() {
        let site = TestNode::start(SessionTimes::default()).await;
        let stranger = site.certificate(&Role::Node, "mallory");
        assert!(!is_heard(&site, &stranger).await, "nobody else is there");
        admit(&site, "beta", Vouched::Unknown).await;
        assert!(!is_heard(&site, &stranger).await, "nobody knows it");
        let connected = site.connect_as(&stranger).await;
        let started = Started {
            node_id: 7,
            reached: None,
        };
        let requests = [
            consensus(PeerMessage::WhatOfMe(started)),
            consensus(PeerMessage::Propose(Vec::new())),
            consensus(PeerMessage::ReadIndex),
        ];
        for request in requests {
            assert!(connected.ask_once(&request).await.is_none(), "{request:?}");
        }
        assert!(connected.ask_once(&GetNodeStatus).await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_a_member_vouches_for_takes_part_before_the_catalog_here_has_it() {
        let site = TestNode::start(SessionTimes::default()).await;
        admit(&site, "beta", Vouched::Unknown).await;
        admit(&site, "gamma", Vouched::Member).await;
        let newcomer = site.certificate(&Role::Node, "delta");
        assert!(is_heard(&site, &newcomer).await);
        // In consensus only.
        let connected = site.connect_as(&newcomer).await;
        let refused = connected.ask_once(&GetNodeStatus);
        assert!(refused.await.is_none());
        // The word is for this key.
        assert!(
            !site
                .node
                .links
                .acquaintances
                .knows(site.certificate(&Role::Node, "delta").member())
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_has_heard_of_a_removal_counts_more_than_those_that_have_not() {
        let site = TestNode::start(SessionTimes::default()).await;
        admit(&site, "beta", Vouched::Member).await;
        admit(&site, "gamma", Vouched::ShutOut).await;
        let gone = site.certificate(&Role::Node, "delta");
        assert!(!is_heard(&site, &gone).await);
    }
}

//! A network in one process that can be cut and slowed down, and can be made to lose messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use pgmesh_storage::wire;
use tokio::time::{sleep, timeout};

use crate::Catalog;
use crate::peers::{MESSAGE_LIMIT, PeerError, PeerMessage, PeerReply, PeerRequest, Peers};

/// How long a connection lives on which nothing comes back.
const CONNECTION_LOST: Duration = Duration::from_secs(2);

/// All catalogs of a mesh in one process.
#[derive(Default)]
pub(super) struct Lan {
    nodes: Mutex<BTreeMap<u64, Catalog>>,
    /// Nodes that are cut off from all others.
    cut: Mutex<BTreeSet<u64>>,
    /// One way, in milliseconds.
    pub(super) delay: AtomicU64,
    /// Of 100 messages of the kinds that [`Self::is_lossy`] names, so many requests and so many replies are lost.
    pub(super) loss: AtomicU64,
    /// How many parts of snapshots that are not the first were carried, and how many first ones.
    pub(super) parts: [AtomicU64; 2],
    dice: AtomicU64,
}

impl Lan {
    pub(super) fn from(self: &Arc<Self>, from: u64) -> Arc<dyn Peers> {
        Arc::new(Port {
            lan: Arc::clone(self),
            from,
        })
    }

    pub(super) fn connect(&self, catalog: &Catalog) {
        self.nodes.lock().unwrap().insert(catalog.node_id(), catalog.clone());
    }

    pub(super) fn disconnect(&self, node_id: u64) {
        self.nodes.lock().unwrap().remove(&node_id);
    }

    pub(super) fn cut(&self, node_id: u64) {
        self.cut.lock().unwrap().insert(node_id);
    }

    pub(super) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }

    fn is_lost(&self, message: &PeerMessage) -> bool {
        let number = self.dice.fetch_add(1, Ordering::Relaxed);
        let roll = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        Self::is_lossy(message) && roll % 100 < self.loss.load(Ordering::Relaxed)
    }

    fn is_lossy(message: &PeerMessage) -> bool {
        matches!(
            message,
            PeerMessage::Propose(_) | PeerMessage::ReadIndex | PeerMessage::Snapshot(_)
        )
    }

    fn is_cut(&self, a: u64, b: u64) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(&a) || cut.contains(&b)
    }

    /// As on a wire: nothing comes back, and after a while the connection is given up, even if the message's own limit
    /// is longer.
    async fn silence(&self, unreachable: &impl Fn(&str) -> PeerError) -> PeerError {
        sleep(CONNECTION_LOST).await;
        unreachable("the connection was lost")
    }

    /// The node that lies at an address, even if another node is meant: the address is the number of the first node
    /// there.
    fn at(&self, address: &str, node_id: u64) -> Option<Catalog> {
        let nodes = self.nodes.lock().unwrap();
        let moved = address.strip_prefix("moved:").and_then(|number| number.parse().ok());
        nodes.get(&moved.unwrap_or(node_id)).cloned()
    }
}

/// One node's plug.
struct Port {
    lan: Arc<Lan>,
    from: u64,
}

impl Peers for Port {
    fn call(
        &self,
        node_id: u64,
        address: String,
        request: PeerRequest,
        limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        let (lan, from) = (Arc::clone(&self.lan), self.from);
        Box::pin(async move {
            let unreachable = |reason: &str| PeerError::Unreachable {
                node_id,
                address: address.clone(),
                reason: reason.to_owned(),
            };
            let lossy_reply = lan.is_lost(&request.message);
            if lan.is_lost(&request.message) {
                return Err(unreachable("the request was lost"));
            }
            let delay = Duration::from_millis(lan.delay.load(Ordering::Relaxed));
            let work = async {
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                if lan.is_cut(from, node_id) {
                    return Err(lan.silence(&unreachable).await);
                }
                let peer = lan
                    .at(&address, node_id)
                    .ok_or_else(|| unreachable("not in the test"))?;
                if let PeerMessage::Snapshot(part) = &request.message {
                    lan.parts[usize::from(part.offset == 0)].fetch_add(1, Ordering::Relaxed);
                }
                let bytes = wire::encode(&request);
                assert!(bytes.len() <= MESSAGE_LIMIT);
                let request: PeerRequest = wire::decode(&bytes, MESSAGE_LIMIT).unwrap();
                let reply = peer.answer(request).await;
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                if lan.is_cut(from, node_id) {
                    return Err(lan.silence(&unreachable).await);
                }
                Ok(wire::decode(&wire::encode(&reply), MESSAGE_LIMIT).unwrap())
            };
            match timeout(limit, work).await {
                Ok(_) if lossy_reply => Err(unreachable("the reply was lost")),
                Ok(reply) => reply,
                Err(_) => Err(unreachable("no answer in time")),
            }
        })
    }
}

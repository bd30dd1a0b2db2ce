//! The background workers of a node: their names, and how the supervisor answers their ends. The names are in the
//! log, in `status` and in `doctor`.

use crate::Node;
use crate::supervisor::Policy::{self, Restart};
use futures::future::BoxFuture;
use pgmesh_transport::Server;
use std::sync::Arc;
use tokio::task::JoinHandle;

type Worker = fn(Arc<Node>) -> BoxFuture<'static, ()>;

/// All but the renewal of certificates, which needs the server, too. Each of them begins from the catalog and from the
/// repositories whenever it is started, so it can be started again.
const WORKERS: [(&str, Policy, Worker); 16] = [
    ("memory", Restart, |node| {
        Box::pin(node.core.clone().keep_sharing_memory())
    }),
    ("sessions", Restart, |node| {
        Box::pin(node.backups.clone().keep_sessions())
    }),
    ("opening", Restart, |node| Box::pin(node.core.clone().keep_opening())),
    ("repair", Restart, |node| {
        Box::pin(node.janitor.clone().keep_repairing())
    }),
    ("releases", Restart, |node| {
        Box::pin(node.janitor.clone().keep_releasing())
    }),
    ("sweep", Restart, |node| Box::pin(node.janitor.clone().keep_sweeping())),
    ("orphans", Restart, |node| {
        Box::pin(node.janitor.clone().keep_finding_orphans())
    }),
    ("backfilling", Restart, |node| {
        Box::pin(node.janitor.clone().keep_backfilling())
    }),
    ("marking", Restart, |node| Box::pin(node.core.clone().keep_marking())),
    ("comparing", Restart, |node| {
        Box::pin(node.core.clone().keep_comparing())
    }),
    ("fence", Restart, |node| Box::pin(node.core.clone().keep_looking())),
    ("stock", Restart, |node| {
        Box::pin(node.janitor.clone().keep_taking_stock())
    }),
    ("losses", Restart, |node| {
        Box::pin(node.janitor.clone().keep_searching_lost())
    }),
    ("revocations", Restart, |node| {
        Box::pin(node.membership.clone().keep_hearing_revocations())
    }),
    ("announcing", Restart, |node| {
        Box::pin(node.membership.clone().keep_announcing())
    }),
    ("leading", Restart, |node| {
        Box::pin(node.membership.clone().keep_leading())
    }),
];

/// The running workers of a node. They stop when this is dropped.
pub(crate) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Starts all workers under the node's supervisor.
    pub(crate) fn start(node: &Arc<Node>, server: &Arc<Server>) -> Self {
        let start = |(name, policy, worker): (&'static str, Policy, Worker)| {
            let owner = node.clone();
            node.supervisor.start(name, policy, move || worker(owner.clone()))
        };
        let mut running: Vec<JoinHandle<()>> = WORKERS.into_iter().map(start).collect();
        let rotated = server.clone();
        let (owner, server) = (node.clone(), server.clone());
        let renew =
            move || -> BoxFuture<'static, ()> { Box::pin(owner.membership.clone().keep_renewing(server.clone())) };
        running.push(node.supervisor.start("renewal", Restart, renew));
        let (owner, server) = (node.clone(), rotated);
        let rotate =
            move || -> BoxFuture<'static, ()> { Box::pin(owner.membership.clone().keep_rotating(server.clone())) };
        running.push(node.supervisor.start("authority", Restart, rotate));
        Self(running)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &self.0 {
            worker.abort();
        }
    }
}

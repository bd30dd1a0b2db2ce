//! Proposals and linearizable reads, from any node.

use std::future::Future;
use std::time::Duration;

use openraft::ServerState;
use pgmesh_storage::wire;
use tokio::time::{sleep, timeout};

use super::Catalog;
use crate::command::{Command, Proposal};
use crate::error::CatalogError;
use crate::limits;
use crate::model::RequestId;
use crate::peers::Setback;
use crate::reply::Reply;
use crate::view::View;

/// The largest proposal in bytes.
pub(super) const PROPOSAL_BYTES: usize = 4 << 20;
/// How often it is looked whether this node is cut off, while somebody waits.
const CUT_OFF_LOOK: Duration = Duration::from_millis(100);
/// The pause before a request is tried again, unless there is another leader before.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Catalog {
    /// Asks for a change, stamped with the time of this node's clock, on whichever node leads. Returns when it is applied:
    /// committed by a majority, durable, and visible in views of this node. It is tried again, with one effect, while the
    /// leader changes or is silent, for as long as [`CatalogOptions::patience`].
    ///
    /// # Errors
    /// [`CatalogError::Refused`] when the catalog refuses it. After [`CatalogError::NoQuorum`] and
    /// [`CatalogError::Stopped`] it is not known whether it was or will be applied; commands may be repeated.
    pub async fn propose(&self, actor: &str, command: Command) -> Result<Reply, CatalogError> {
        self.propose_as(actor, RequestId::random(), command).await
    }

    /// Asks for a change that may have been asked for before, by way of this node or another: requests with one
    /// identifier have one effect and one answer.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_as(&self, actor: &str, id: RequestId, command: Command) -> Result<Reply, CatalogError> {
        self.propose_stamped(Proposal {
            id,
            at: (self.clock)(),
            actor: actor.to_owned(),
            command,
        })
        .await
    }

    /// Asks for a change that has its identifier and its time already.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_stamped(&self, proposal: Proposal) -> Result<Reply, CatalogError> {
        // Before it is in the log, which must hold nothing that cannot be read back.
        limits::check(&proposal)?;
        let bytes = wire::encode(&proposal);
        let weight = bytes.len();
        if weight > PROPOSAL_BYTES {
            return Err(CatalogError::TooLarge {
                given: weight,
                limit: PROPOSAL_BYTES,
            });
        }
        wire::decode::<Proposal>(&bytes, PROPOSAL_BYTES)
            .map_err(|error| CatalogError::Undecodable(error.to_string()))?;
        let asked = self.until_answered(|leads| {
            let queue = if leads {
                &self.own_proposals
            } else {
                &self.forwarded_proposals
            };
            queue.ask(proposal.clone(), weight)
        });
        let applied = self.patiently(asked, |applied| applied.entry).await?;
        Ok(applied.outcome?)
    }

    /// A view that shows everything that was committed when this was called, by whichever node.
    ///
    /// # Errors
    /// [`CatalogError::NoQuorum`], [`CatalogError::Stopped`].
    pub async fn view_linearizable(&self) -> Result<View, CatalogError> {
        let asked = self.until_answered(|leads| {
            let rounds = if leads { &self.own_reads } else { &self.forwarded_reads };
            rounds.ask((), 1)
        });
        self.patiently(asked, |entry| *entry).await?;
        Ok(self.view())
    }

    /// Tries again and again: by itself where this node leads, else by way of the leader.
    async fn until_answered<T, F>(&self, attempt: impl Fn(bool) -> F) -> Result<T, Setback>
    where
        F: Future<Output = Result<T, Setback>>,
    {
        let mut leader = self.way.leader.clone();
        loop {
            let now = *leader.borrow_and_update();
            match attempt(now == Some(self.node_id)).await {
                Err(setback @ (Setback::NotLeading { .. } | Setback::Silent(_))) => {
                    tracing::debug!(%setback, "the leader is asked again");
                    let _ = timeout(RETRY_PAUSE, leader.changed()).await;
                }
                done => return done,
            }
        }
    }

    /// Waits for an answer, and until this node has applied the entry with which it shows, but not for ever.
    async fn patiently<T>(
        &self,
        asked: impl Future<Output = Result<T, Setback>>,
        entry: impl Fn(&T) -> u64,
    ) -> Result<T, CatalogError> {
        let work = async {
            let answer = asked.await?;
            self.state.wait_until_applied(entry(&answer)).await;
            Ok(answer)
        };
        let patient = async {
            tokio::select! {
                answer = work => answer,
                // Whoever asked can go to a node that is on the side of the majority: it shall not wait here for long.
                () = self.cut_off() => Err(Setback::Silent(self.why_cut_off())),
            }
        };
        match timeout(self.way.patience, patient).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Setback::Stopped(reason))) => Err(CatalogError::Stopped(reason)),
            Ok(Err(setback)) => Err(CatalogError::NoQuorum(setback.to_string())),
            Err(_) => Err(CatalogError::NoQuorum(self.why_silent())),
        }
    }

    /// Returns when this node has heard of no majority for longer than an election takes. Not at once: it may just have
    /// come back.
    async fn cut_off(&self) {
        sleep(self.signs.lost_after() / 3).await;
        while !self.is_cut_off() {
            sleep(CUT_OFF_LOOK).await;
        }
    }

    fn is_cut_off(&self) -> bool {
        let metrics = self.way.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return self.signs.is_cut_off();
        }
        let is_alone = metrics.membership_config.membership().voter_ids().count() < 2;
        let quiet = metrics.millis_since_quorum_ack.map(Duration::from_millis);
        !is_alone && quiet.is_some_and(|quiet| quiet >= self.signs.lost_after())
    }

    fn why_cut_off(&self) -> String {
        let seconds = self.signs.lost_after().as_secs_f32();
        if self.is_leader() {
            format!("this node led, but no majority has answered for {seconds} s")
        } else {
            format!("no leader has been heard of for {seconds} s")
        }
    }

    fn why_silent(&self) -> String {
        let seconds = self.way.patience.as_secs_f32();
        match self.leader() {
            None => format!("no leader was elected within {seconds} s"),
            Some(leader) if leader == self.node_id => {
                format!("this node leads, but no majority has answered within {seconds} s")
            }
            Some(leader) => format!("nothing was heard of the leader, node {leader}, within {seconds} s"),
        }
    }
}

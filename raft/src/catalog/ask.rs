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
/// How often it is looked whether this node is cut off, while a caller waits.
const CUT_OFF_LOOK: Duration = Duration::from_millis(100);
/// The pause before a request is tried again, unless there is another leader before.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The proof that this node has been confirmed as the leader. Only [`Catalog::confirm_lead`] makes one.
#[derive(Debug, Clone)]
pub struct Lead {
    catalog: Catalog,
    term: u64,
}

impl Lead {
    /// The term for which it was confirmed.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether this node still leads in the term for which it was confirmed, as far as it knows.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.catalog.is_leader() && self.catalog.term() == self.term
    }
}

impl Catalog {
    /// Asks the leader, on this node or another, for a change, stamped with the time of this node's clock. Returns when
    /// the change is applied: committed by a majority, durable, and visible in views of this node. It is tried again,
    /// with one effect, while the leader changes or is silent, for as long as `CatalogOptions::patience`.
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

    /// A view that shows all commands that were committed when this was called, by any node.
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

    /// Confirms that this node leads the mesh: a majority has just said so, and views of this node show all commands
    /// that were committed before. Work that only the leader may do is done under it, and not for long.
    ///
    /// # Errors
    /// [`CatalogError::NotLeader`]; [`CatalogError::NoQuorum`] when no majority answers; [`CatalogError::Stopped`].
    pub async fn confirm_lead(&self) -> Result<Lead, CatalogError> {
        let not_leader = |leader_id| CatalogError::NotLeader {
            leader_id,
            address: None,
        };
        if !self.is_leader() {
            return Err(not_leader(self.leader().filter(|leader| *leader != self.node_id)));
        }
        let term = self.term();
        let round = async {
            let entry = self.own_reads.ask((), 1).await?;
            self.state.wait_until_applied(entry).await;
            Ok(())
        };
        match timeout(self.way.patience, round).await {
            Ok(Ok(())) => {}
            Ok(Err(Setback::NotLeading { leader })) => return Err(not_leader(leader)),
            Ok(Err(Setback::Stopped(reason))) => return Err(CatalogError::Stopped(reason)),
            Ok(Err(setback)) => return Err(CatalogError::NoQuorum(setback.to_string())),
            Err(_) => return Err(CatalogError::NoQuorum(self.why_silent())),
        }
        Ok(Lead {
            catalog: self.clone(),
            term,
        })
    }

    fn term(&self) -> u64 {
        self.way.raft.server_metrics().borrow().vote.leader_id().term
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
                // The caller can go to a node that is on the side of the majority: it shall not wait here for long.
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
        if let Some(trouble) = self.status().trouble() {
            return trouble;
        }
        let seconds = self.signs.lost_after().as_secs_f32();
        if self.is_elected() {
            format!("this node led, but no majority has answered for {seconds} s")
        } else {
            format!("no leader has been heard of for {seconds} s")
        }
    }

    fn why_silent(&self) -> String {
        if let Some(trouble) = self.status().trouble() {
            return trouble;
        }
        let seconds = self.way.patience.as_secs_f32();
        match *self.way.leader.borrow() {
            None => format!("no leader was elected within {seconds} s"),
            Some(leader) if leader == self.node_id => {
                format!("this node leads, but no majority has answered within {seconds} s")
            }
            Some(leader) => format!("nothing was heard of the leader, node {leader}, within {seconds} s"),
        }
    }
}

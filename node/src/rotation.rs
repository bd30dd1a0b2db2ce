//! The rotation of the mesh's authority, as a node takes part in it (decision 44).
//!
//! The catalog says how far the rotation is; the keys are on the nodes' disks (`rotation/authorities.rs`). Each node
//! does its part of the present step and says so in the catalog. What an administrator asks is in `rotation/asked.rs`.

mod asked;
mod authorities;

pub(crate) use asked::{move_of, under_way};
pub(crate) use authorities::id_of;

use crate::links::{Lane, Recipient};
use crate::membership::Membership;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, GetAuthorityOf};
use pgmesh_raft::command::{AuthorityCommand, NoteAuthority};
use pgmesh_raft::{AuthorityId, Rotation, RotationStep};
use pgmesh_transport::{Identity, MeshCa, Server};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// How often a node looks whether there is something to do.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// The wait for another node's answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The end of a rotation: its new authority, and whether that stayed.
type Ended = (AuthorityId, RotationStep);

impl Membership {
    /// Takes part in rotations of the mesh's authority, until the node stops.
    pub(crate) async fn keep_rotating(self: Arc<Self>, server: Arc<Server>) {
        let mut done = None;
        loop {
            let pause = match self.take_part(&server, &mut done).await {
                Ok(()) => LOOK,
                Err(failure) => {
                    tracing::info!(error = %failure, "the rotation of the authority goes on later");
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Does this node's part of the present step. `done` is the end of the last rotation, where this node is through
    /// with it.
    async fn take_part(&self, server: &Server, done: &mut Option<Ended>) -> Result<(), Failure> {
        let ended = |rotation: &Rotation| (!rotation.is_under_way()).then_some((rotation.next, rotation.step));
        match self.catalog.view().rotation()? {
            None => return Ok(()),
            Some(seen) if ended(&seen).is_some() && ended(&seen) == *done => return Ok(()),
            Some(_) => {}
        }
        let _held = self.authorities.lock().await;
        // A catalog that lags may have a rotation under way that ended long ago: its former authority is a thief's.
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let Some(rotation) = view.rotation()? else {
            return Ok(());
        };
        drop(view);
        if rotation.is_under_way() {
            let (needed, other) = match rotation.step {
                RotationStep::GivingUp => (rotation.former, rotation.next),
                _ => (rotation.next, rotation.former),
            };
            self.fetch(&needed).await?;
            // A node that has joined since has the authority of nodes alone; the other one's key may be lost.
            if let Err(failure) = self.fetch(&other).await {
                tracing::info!(error = %failure, "one of the mesh's two authorities cannot be had");
            }
            // Trusted first, then said: from the last node's word on, certificates of it are in use.
            self.trust(server, &others(&rotation))?;
            let admin = self.show(server, &rotation).await?;
            self.note_part(&rotation).await?;
            return admin;
        }
        self.fetch(&rotation.signing()).await?;
        let admin = self.show(server, &rotation).await?;
        self.trust(server, &[])?;
        self.drop_authorities_but(&rotation.signing());
        // Else nobody would try it again.
        admin?;
        *done = ended(&rotation);
        Ok(())
    }

    /// Renews those of this node's certificates that are of another authority than they are to be. Returns whether the
    /// administrator's is as it is to be, which keeps the node from nothing.
    async fn show(&self, server: &Server, rotation: &Rotation) -> Result<Result<(), Failure>, Failure> {
        let admin = Identity::load(&self.layout.admin());
        let is_admin_of = |id: AuthorityId| admin.is_ok_and(|admin| admin.member().authority == id);
        if self.is_of(&rotation.of_nodes()) && is_admin_of(rotation.signing()) {
            return Ok(Ok(()));
        }
        let (renewed, admin) = self.renew_own(server, Some(rotation))?;
        self.audit_renewals(&renewed).await;
        Ok(admin)
    }

    /// Whether this node's own certificate is of this authority.
    fn is_of(&self, authority: &AuthorityId) -> bool {
        self.identity().member().authority == *authority
    }

    /// From now on these authorities' certificates count beside those of the node's own.
    fn trust(&self, server: &Server, others: &[Vec<u8>]) -> Result<(), Failure> {
        let _held = self.identity_files.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.identity();
        if known.others() == others {
            return Ok(());
        }
        let identity = known.with_others(others);
        identity
            .save_others(&self.layout.identity())
            .map_err(|error| crypto("the mesh's authorities cannot be saved", &error))?;
        server
            .replace_identity(&identity)
            .map_err(|error| crypto("the mesh's authorities cannot be used", &error))?;
        self.links.replace_identity(&identity)?;
        self.replace_identity(identity);
        Ok(())
    }

    /// Tells the catalog that this node has done its part, unless it knows.
    async fn note_part(&self, rotation: &Rotation) -> Result<(), Failure> {
        let node_id = self.mesh.node_id;
        let is_done = rotation.step == RotationStep::Spreading || self.is_of(&rotation.of_nodes());
        if !is_done || rotation.ready.contains(&node_id) {
            return Ok(());
        }
        let note = NoteAuthority {
            node_id,
            authority: rotation.next,
            step: rotation.step,
        };
        self.catalog
            .propose(self.actor(), AuthorityCommand::TakePart(note).into())
            .await
            .map(drop)
            .map_err(Failure::from)
    }

    /// An authority's key, from a node that has it, unless this node has it.
    async fn fetch(&self, authority: &AuthorityId) -> Result<(), Failure> {
        if self.authority_of(authority)?.is_some() {
            return Ok(());
        }
        let ask = GetAuthorityOf { authority: *authority };
        let mut last = None;
        for (name, record) in self.catalog.view().nodes()? {
            if name == self.name || !record.is_member() {
                continue;
            }
            match self.links.call(&Recipient::Named(name), Lane::Data, &ask, LIMIT).await {
                Ok(key) => {
                    let ca = MeshCa::from_parts(&key.certificate, Zeroizing::new(key.key))
                        .map_err(|error| crypto("the authority that a node handed over cannot be used", &error))?;
                    return self.save_authority(&ca, authority);
                }
                Err(error) => last = Some(Failure::from(error)),
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(ExitCode::Crypto, "no other node has the authority's key")))
    }
}

/// The certificates that a node trusts and shows while both authorities count.
fn others(rotation: &Rotation) -> Vec<Vec<u8>> {
    vec![
        rotation.next_certificate.clone(),
        rotation.vouched.clone(),
        rotation.former_certificate.clone(),
    ]
}

fn crypto(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::Crypto, what).because(chain(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

//! A node tells the other nodes that it has started, and its address; it hears the same from them.

use crate::links::{Lane, Recipient};
use crate::membership::Membership;
use crate::repositories::Opened;
use pgmesh_protocol::{Announce, ExitCode, Failure, KnownMember};
use pgmesh_raft::{Command, MeshRecord, NodeName, Standing, own_level};
use pgmesh_storage::RepoKey;
use pgmesh_transport::MemberCertificate;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The pause between two looks, until the catalog's record of this node agrees with its file, and afterwards.
const EAGER: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);
/// How long another node may take to answer.
const LIMIT: Duration = Duration::from_secs(3);

impl Membership {
    /// Announces this node until the catalog agrees, and again when it does not any more, until the node stops.
    pub async fn keep_announcing(self: Arc<Self>) {
        // Others may have put this node's repositories aside while it was away: they hear of it in any case.
        let mut heard = false;
        let mut remembered = self.mesh.members.clone();
        loop {
            if *self.catalog.standing().borrow() == Standing::Cleared {
                self.remember_others(&mut remembered);
            }
            if !heard || !self.is_recorded() {
                heard |= self.announce().await;
                self.record_oneself().await;
            }
            self.note_level().await;
            let pause = if heard && self.is_recorded() { IDLE } else { EAGER };
            // Woken when a repository was opened, or turned out not to be this node's to open.
            let _ = tokio::time::timeout(pause, self.announcing.notified()).await;
        }
    }

    /// Tells the catalog this program's apply level, until the catalog knows it.
    async fn note_level(&self) {
        let node_id = self.mesh.node_id;
        let is_member = self.catalog.view().node(&self.name).ok().flatten();
        let levels = self.catalog.view().levels().unwrap_or_default();
        let is_known = levels.nodes.get(&node_id) == Some(&own_level());
        if is_known || *self.catalog.standing().borrow() != Standing::Cleared {
            return;
        }
        if !is_member.is_some_and(|record| record.node_id == node_id && record.is_member()) {
            return;
        }
        let note = Command::NoteLevel {
            node_id,
            level: own_level(),
        };
        let noted = tokio::time::timeout(LIMIT, self.catalog.propose(self.actor(), note)).await;
        if !matches!(noted, Ok(Ok(_))) {
            tracing::debug!("the apply level of this node is not noted yet");
        }
    }

    /// Remembers the other nodes' names, keys and addresses, for a start at which the catalog cannot say them.
    fn remember_others(&self, remembered: &mut Vec<KnownMember>) {
        let file = self.mesh_to_remember();
        if file.members == *remembered {
            return;
        }
        match file.write(&self.layout) {
            Ok(()) => *remembered = file.members,
            Err(error) => tracing::warn!(%error, "the other nodes' addresses could not be written"),
        }
    }

    /// Whether the catalog's record of this node agrees with its file.
    fn is_recorded(&self) -> bool {
        let record = self.catalog.view().node(&self.name).ok().flatten();
        record.is_some_and(|record| {
            let announce = self.announcement();
            record.node_id == announce.node_id
                && record.region == announce.region
                && record.advertise == Vec::<String>::from(announce.advertise)
                && record.program == announce.program
                && record.reaches == self.reaches(&record.reaches)
        })
    }

    /// The shared repositories that this node reaches: it has opened them as the mesh defines them, and its file still
    /// can. A repository that is away for a while still counts as reached: its health is not recorded in the catalog.
    fn reaches(&self, known: &BTreeSet<RepoKey>) -> BTreeSet<RepoKey> {
        let view = self.catalog.view();
        let shared = self.repositories.slots().filter(|slot| {
            let record = view.repository(slot.key).ok().flatten();
            slot.settings.is_shared() && record.is_some_and(|record| self.is_as_declared(slot, &record))
        });
        let reached = shared.filter(|slot| match slot.opened() {
            Opened::Open(_) => true,
            Opened::Closed { .. } => known.contains(&slot.key),
            Opened::Refused { .. } => false,
        });
        reached.map(|slot| slot.key).collect()
    }

    fn announcement(&self) -> Announce {
        Announce {
            node_id: self.mesh.node_id,
            region: self.settings.region.clone().unwrap_or_default().into(),
            advertise: vec![self.settings.advertise.clone()].into(),
            program: env!("CARGO_PKG_VERSION").into(),
            catalog_format: MeshRecord::CATALOG_FORMAT,
        }
    }

    /// Tells all nodes that are known, or else the addresses that were known when this node joined. Whether a node has
    /// heard, or there is no other node.
    async fn announce(&self) -> bool {
        let others: Vec<NodeName> = self
            .catalog
            .view()
            .nodes()
            .unwrap_or_default()
            .into_iter()
            .filter(|(name, record)| *name != self.name && record.is_member())
            .map(|(name, _)| name)
            .collect();
        let is_alone = others.is_empty() && self.catalog.status().voters == [self.mesh.node_id];
        let mut whom: Vec<Recipient> = others.into_iter().map(Recipient::Named).collect();
        let seeds = self.settings.seeds.iter().chain(&self.mesh.seeds);
        whom.extend(seeds.map(|address| Recipient::At(address.clone())));
        let request = self.announcement();
        let told = whom.iter().map(|whom| async {
            let answer = self.links.call(whom, Lane::Data, &request, LIMIT).await;
            if let Err(error) = &answer {
                tracing::debug!(%error, "an announcement was not heard");
            }
            answer.is_ok()
        });
        let heard = futures::future::join_all(told).await;
        is_alone || heard.contains(&true)
    }

    async fn record_oneself(&self) {
        let announce = self.announcement();
        let record = self.catalog.view().node(&self.name).ok().flatten();
        let known = record.map(|record| record.reaches).unwrap_or_default();
        let command = Command::AnnounceNode {
            name: self.name.clone(),
            node_id: announce.node_id,
            region: announce.region.into(),
            advertise: announce.advertise.into(),
            key: self.key(),
            program: announce.program.into(),
            reaches: self.reaches(&known),
        };
        if let Err(error) = self.catalog.propose(self.actor(), command).await {
            tracing::debug!(error = %pgmesh_protocol::failure::chain(&error), "the catalog does not know yet where this node is");
        }
    }

    /// Another node has started.
    pub(crate) fn hear(&self, member: &MemberCertificate, announce: &Announce) -> Result<(), Failure> {
        if announce.catalog_format != MeshRecord::CATALOG_FORMAT {
            return Err(Failure::new(
                ExitCode::VersionNotSupported,
                format!(
                    "node {} writes catalog format {}, the mesh has {}",
                    member.name,
                    announce.catalog_format,
                    MeshRecord::CATALOG_FORMAT
                ),
            )
            .remedy("start it with the version of pgmesh that the other nodes run"));
        }
        let name: NodeName = member
            .name
            .as_str()
            .parse()
            .map_err(|error| Failure::new(ExitCode::Protocol, "the certificate names no node").because(error))?;
        let known = self.catalog.view().node(&name)?;
        if known.is_some_and(|record| record.node_id > announce.node_id) {
            return Err(Failure::new(
                ExitCode::Protocol,
                format!("node {name} has joined again with another disk: this one is not part of the mesh any more"),
            ));
        }
        tracing::info!(node = %name, addresses = ?announce.advertise, "node has started");
        self.links.announced(name.clone(), announce.advertise.clone().into());
        self.repositories.forgive(&name);
        self.repair.wake();
        Ok(())
    }
}

//! The rotation of the mesh's authority, as a node takes part in it (decision 44).
//!
//! The catalog says how far the rotation is; the keys are on the nodes' disks, below `ca/`: the mesh's first authority
//! in the folder itself, a later one in a folder with the name of its identifier.

use crate::Node;
use crate::links::{Lane, Recipient};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{AuthorityKey, AuthorityRotation, ExitCode, Failure, GetAuthorityOf, RotateAuthority};
use pgmesh_raft::command::{AuthorityCommand, BeginRotation, NoteAuthority};
use pgmesh_raft::{AuthorityId, AuthorityRefusal, CatalogError, NodeRecord, Reply, Rotation, View, limits};
use pgmesh_transport::{Identity, MeshCa, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// How often a node looks whether there is something to do.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// The wait for another node's answer.
const LIMIT: Duration = Duration::from_secs(5);

impl Node {
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

    /// Does what there is to do. `done` is the authority of the last rotation that has ended for this node.
    async fn take_part(&self, server: &Server, done: &mut Option<AuthorityId>) -> Result<(), Failure> {
        let Some(rotation) = self.catalog.view().rotation()? else {
            return Ok(());
        };
        if rotation.is_under_way() {
            if self.authority_of(&rotation.next)?.is_none() {
                self.fetch(&rotation.next).await?;
            }
            // Trusted first, then said: from the last node's word on, certificates of it are in use.
            self.trust(server, &others(&rotation))?;
            self.show(server, &rotation).await?;
            return self.note_part(&rotation).await;
        }
        if *done != Some(rotation.next) {
            self.show(server, &rotation).await?;
            self.trust(server, &[])?;
            self.drop_retired(&rotation);
            *done = Some(rotation.next);
        }
        Ok(())
    }

    /// Renews those of this node's certificates that are of the former authority, when it is time for each.
    async fn show(&self, server: &Server, rotation: &Rotation) -> Result<(), Failure> {
        let admin = Identity::load(&self.layout.admin())
            .map_err(|error| crypto("a certificate of this node cannot be read", &error))?;
        if self.is_of(&rotation.of_nodes()) && admin.member().authority == rotation.signing() {
            return Ok(());
        }
        let renewed = self.renew_own(server)?;
        self.audit_renewals(&renewed).await;
        Ok(())
    }

    /// Whether this node's own certificate is of this authority.
    fn is_of(&self, authority: &AuthorityId) -> bool {
        let own = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        own.member().authority == *authority
    }

    /// From now on these authorities' certificates count beside those of the node's own.
    fn trust(&self, server: &Server, others: &[Vec<u8>]) -> Result<(), Failure> {
        let known = self.identity.read().unwrap_or_else(PoisonError::into_inner).clone();
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
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }

    /// Tells the catalog what this node has, unless it knows.
    async fn note_part(&self, rotation: &Rotation) -> Result<(), Failure> {
        let node_id = self.mesh.node_id;
        let shows = rotation.is_trusted && self.is_of(&rotation.next);
        let is_known = rotation.has.contains(&node_id) && (!shows || rotation.shows.contains(&node_id));
        // A node that was removed may have been the last one that the others waited for.
        if is_known && (rotation.is_signing || !waiting(&self.catalog.view(), rotation)?.is_empty()) {
            return Ok(());
        }
        let note = NoteAuthority {
            node_id,
            authority: rotation.next,
            shows,
        };
        self.catalog
            .propose(self.actor(), AuthorityCommand::TakePart(note).into())
            .await
            .map(drop)
            .map_err(Failure::from)
    }

    /// The new authority's key, from a node that has it.
    async fn fetch(&self, authority: &AuthorityId) -> Result<(), Failure> {
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
        Err(last.unwrap_or_else(|| Failure::new(ExitCode::Crypto, "no other node has the new authority's key")))
    }

    fn save_authority(&self, ca: &MeshCa, expected: &AuthorityId) -> Result<(), Failure> {
        let id = id_of(ca)?;
        if id != *expected {
            return Err(Failure::new(
                ExitCode::Crypto,
                "the authority that a node handed over is another one",
            ));
        }
        ca.save(&self.authority_folder(&id))
            .map_err(|error| crypto("the new authority cannot be saved", &error))
    }

    fn authority_folder(&self, id: &AuthorityId) -> PathBuf {
        self.layout
            .ca()
            .join(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// The authority that signs now.
    pub(crate) fn authority(&self) -> Result<MeshCa, Failure> {
        self.authority_by(Rotation::signing)
    }

    /// The authority of nodes' own certificates: during a rotation they have the new one's first.
    pub(crate) fn authority_of_nodes(&self) -> Result<MeshCa, Failure> {
        self.authority_by(Rotation::of_nodes)
    }

    fn authority_by(&self, which: impl FnOnce(&Rotation) -> AuthorityId) -> Result<MeshCa, Failure> {
        match self.catalog.view().rotation()? {
            None => load(&self.layout.ca()),
            Some(rotation) => self.authority_of(&which(&rotation))?.ok_or_else(|| {
                Failure::new(
                    ExitCode::Crypto,
                    "this node does not have the key of the mesh's authority yet",
                )
                .again()
            }),
        }
    }

    /// One of the mesh's authorities, if this node has its key.
    fn authority_of(&self, id: &AuthorityId) -> Result<Option<MeshCa>, Failure> {
        for folder in [self.authority_folder(id), self.layout.ca()] {
            if MeshCa::exists(&folder) {
                let ca = load(&folder)?;
                if id_of(&ca)? == *id {
                    return Ok(Some(ca));
                }
            }
        }
        Ok(None)
    }

    /// One of the mesh's authorities, for another node.
    pub(crate) fn hand_over_one(&self, authority: &AuthorityId) -> Result<AuthorityKey, Failure> {
        match self.authority_of(authority)? {
            Some(ca) => Ok(key_of(&ca)),
            None => Err(Failure::new(ExitCode::Crypto, "this node does not have that authority's key").again()),
        }
    }

    /// The authority that signs, for a node that joins.
    pub(crate) fn hand_over_authority(&self) -> Result<AuthorityKey, Failure> {
        Ok(key_of(&self.authority()?))
    }

    /// The keys of authorities that count no more are of use to thieves only.
    fn drop_retired(&self, rotation: &Rotation) {
        let kept = self.authority_folder(&rotation.next);
        let first = load(&self.layout.ca()).ok().and_then(|ca| id_of(&ca).ok());
        if first.is_some_and(|first| rotation.retired.contains(&first)) && MeshCa::exists(&kept) {
            removed(MeshCa::remove(&self.layout.ca()));
        }
        let entries = fs::read_dir(self.layout.ca()).into_iter().flatten().flatten();
        for folder in entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && *path != kept)
        {
            removed(MeshCa::remove(&folder));
            // It holds nothing else.
            let _ = fs::remove_dir(&folder);
        }
    }

    /// Begins a rotation, tells how far it is, or ends it.
    pub(crate) async fn rotate_authority(
        &self,
        actor: &str,
        asked: RotateAuthority,
    ) -> Result<AuthorityRotation, Failure> {
        let known = self
            .catalog
            .view_linearizable()
            .await
            .map_err(Failure::from)?
            .rotation()?;
        match (asked, known.filter(Rotation::is_under_way)) {
            (RotateAuthority::Begin, Some(_)) => self.rotation_told(false),
            (RotateAuthority::Begin, None) => {
                self.begin_rotation(actor).await?;
                self.rotation_told(true)
            }
            (RotateAuthority::Finish { force }, _) => {
                match self
                    .catalog
                    .propose(actor, AuthorityCommand::Finish { force }.into())
                    .await?
                {
                    Reply::CutOff { names, more } => Ok(AuthorityRotation {
                        clients: names,
                        more,
                        ..self.rotation_told(false)?
                    }),
                    other => Err(crate::replies::unexpected(&other)),
                }
            }
        }
    }

    async fn begin_rotation(&self, actor: &str) -> Result<(), Failure> {
        let former = self.authority()?;
        let unusable = |error| crypto("a new authority cannot be made", &error);
        let next = MeshCa::create(former.mesh_id().clone()).map_err(unusable)?;
        let vouched = former.vouch_for(&next).map_err(unusable)?;
        let id = id_of(&next)?;
        // Durable first: an authority in the catalog whose key nobody has could not be taken back.
        self.save_authority(&next, &id)?;
        let begin = BeginRotation {
            former: id_of(&former)?,
            former_certificate: former.certificate_der().to_vec(),
            next: id,
            next_certificate: next.certificate_der().to_vec(),
            vouched,
        };
        let begun = self.catalog.propose(actor, AuthorityCommand::Begin(begin).into()).await;
        if let Err(CatalogError::Refused(refusal)) = begun {
            removed(MeshCa::remove(&self.authority_folder(&id)));
            return Err(CatalogError::Refused(refusal).into());
        }
        begun.map(drop).map_err(Failure::from)
    }

    /// How far the rotation is, as this node's catalog knows.
    fn rotation_told(&self, is_new: bool) -> Result<AuthorityRotation, Failure> {
        let view = self.catalog.view();
        let Some(rotation) = view.rotation()? else {
            return Err(CatalogError::Refused(AuthorityRefusal::NotRotating.into()).into());
        };
        let (mut clients, mut more) = (Vec::new(), 0);
        let now = pgmesh_protocol::now_unix();
        if rotation.is_under_way() {
            for row in view.certificates(None) {
                let (key, record) = row?;
                if !record.is_valid(now) || view.issuer(&key)? == Some(rotation.next) {
                    continue;
                }
                match clients.len() < limits::NAMED {
                    true => clients.push(format!("{} {}", record.role.kind(), record.name)),
                    false => more += 1,
                }
            }
        }
        Ok(AuthorityRotation {
            former: short(&rotation.former),
            next: short(&rotation.next),
            begun_at: rotation.begun_at,
            begun_by: rotation.begun_by.clone(),
            is_new,
            is_signing: rotation.is_signing,
            nodes: waiting(&view, &rotation)?,
            clients,
            more,
            finished_at: rotation.finished_at,
        })
    }
}

/// The nodes that have not done their part: all have to trust the new authority, then all have to show it.
fn waiting(view: &View, rotation: &Rotation) -> Result<Vec<String>, Failure> {
    let done = match rotation.is_trusted {
        true => &rotation.shows,
        false => &rotation.has,
    };
    let is_waited_for =
        |record: &NodeRecord| rotation.is_under_way() && record.is_member() && !done.contains(&record.node_id);
    let nodes = view.nodes()?.into_iter();
    Ok(nodes
        .filter(|(_, record)| is_waited_for(record))
        .map(|(name, _)| name.to_string())
        .collect())
}

/// The certificates that a node trusts and shows while both authorities count.
fn others(rotation: &Rotation) -> Vec<Vec<u8>> {
    vec![
        rotation.next_certificate.clone(),
        rotation.vouched.clone(),
        rotation.former_certificate.clone(),
    ]
}

fn key_of(ca: &MeshCa) -> AuthorityKey {
    AuthorityKey {
        certificate: ca.certificate_der().to_vec(),
        key: ca.key_pkcs8().to_vec(),
    }
}

fn load(folder: &Path) -> Result<MeshCa, Failure> {
    MeshCa::load(folder).map_err(|error| crypto("the mesh's certificate authority cannot be read on this node", &error))
}

fn id_of(ca: &MeshCa) -> Result<AuthorityId, Failure> {
    ca.id()
        .map_err(|error| crypto("the mesh's certificate authority cannot be used", &error))
}

fn removed(removed: Result<(), pgmesh_transport::CaError>) {
    if let Err(error) = removed {
        tracing::warn!(error = %chain(&error), "the key of an authority that counts no more could not be removed");
    }
}

fn short(id: &AuthorityId) -> String {
    id.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn crypto(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::Crypto, what).because(chain(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{TestNode, stanza};
    use pgmesh_protocol::{Hello, RenewCertificate};
    use pgmesh_transport::{Peer, Role};

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    /// A thief has the former authority's key.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_forged_certificate_does_not_become_a_good_one() {
        let site = TestNode::start(SessionTimes::default()).await;
        let former = site.node.authority().unwrap();
        let forge = |role: &Role, name: &str| former.issue(role, &name.parse().unwrap(), YEAR).unwrap();
        let begun = site.node.rotate_authority("test", RotateAuthority::Begin).await;
        assert!(begun.unwrap().is_new);
        let told = |node: &Node| node.rotation_told(false).unwrap();
        site.wait("the new authority", |node| {
            let told = told(node);
            told.is_signing && told.nodes.is_empty()
        })
        .await;
        let again = site.node.rotate_authority("test", RotateAuthority::Begin).await;
        assert!(!again.unwrap().is_new);

        let admin = forge(&Role::Admin, "mallory");
        let peer = Peer::Member(Arc::new(admin.member().clone()));
        let refused = site.node.core.check_worth(&peer, &Hello.into()).unwrap_err();
        assert_eq!(refused.code, ExitCode::Crypto, "{refused}");
        let stanzas = vec![stanza()];
        let client = forge(&Role::Client { stanzas }, "thief");
        let connected = site.connect_as(&client).await;
        connected.ask(&Hello, None).await.unwrap();
        let csr = client.renewal_csr_der().unwrap();
        let refused = connected.ask(&RenewCertificate { csr }, None).await.unwrap_err();
        assert!(refused.what.contains("was first seen"), "{refused}");

        site.wait("its row", |node| told(node).clients == ["client thief"])
            .await;
        let finish = |force| site.node.rotate_authority("test", RotateAuthority::Finish { force });
        let needed = finish(false).await.unwrap_err();
        assert!(needed.what.ends_with("needed by client thief"), "{needed}");
        let finished = finish(true).await.unwrap();
        assert_eq!((finished.clients, finished.more), (vec!["client thief".to_owned()], 0));
        connected.closed().await;
        site.wait("the former key to go", |node| !MeshCa::exists(&node.layout.ca()))
            .await;
        let refused = site.try_connect_as(&client).await;
        assert!(refused.is_err(), "its authority is trusted no more");
        assert_eq!(
            site.node.authority().unwrap().id().unwrap(),
            site.node.identity.read().unwrap().member().authority
        );
    }
}

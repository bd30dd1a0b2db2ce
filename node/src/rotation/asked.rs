//! What an administrator asks of a rotation: its beginning, its end, giving it up, and how far it is.

use super::authorities::id_of;
use super::crypto;
use crate::membership::Membership;
use crate::replies::unexpected;
use pgmesh_protocol::{AuthorityMove, AuthorityRotation, Failure, RotateAuthority, RotationState, now_unix};
use pgmesh_raft::command::{AuthorityCommand, BeginRotation};
use pgmesh_raft::{
    AuthorityId, AuthorityRefusal, CatalogError, CertificateRecord, FIRST_SEEN, ReadError, Reply, Rotation,
    RotationStep, View, limits,
};
use pgmesh_transport::MeshCa;

impl Membership {
    /// Begins a rotation, tells how far it is, or ends it.
    pub(crate) async fn rotate_authority(
        &self,
        actor: &str,
        asked: RotateAuthority,
    ) -> Result<AuthorityRotation, Failure> {
        match asked {
            RotateAuthority::Begin => {
                let is_new = self.begin_rotation(actor).await?;
                self.rotation_told(is_new).await
            }
            RotateAuthority::GiveUp => {
                self.catalog.propose(actor, AuthorityCommand::GiveUp.into()).await?;
                self.rotation_told(false).await
            }
            RotateAuthority::Finish { force } => {
                let finish = AuthorityCommand::Finish { force };
                match self.catalog.propose(actor, finish.into()).await? {
                    Reply::CutOff { names, more } => Ok(AuthorityRotation {
                        clients: names,
                        more,
                        ..self.rotation_told(false).await?
                    }),
                    other => Err(unexpected(&other)),
                }
            }
        }
    }

    /// Begins a rotation unless one is under way. Returns whether it did.
    async fn begin_rotation(&self, actor: &str) -> Result<bool, Failure> {
        let _held = self.authorities.lock().await;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        if view.rotation()?.is_some_and(|known| known.is_under_way()) {
            return Ok(false);
        }
        drop(view);
        let former = self.authority()?;
        let unusable = |error| crypto("a new authority cannot be made", &error);
        // Of a beginning that was interrupted: its key may lie in a backup of this disk by now.
        self.drop_authorities_but(&id_of(&former)?);
        let next = MeshCa::create(former.mesh_id().clone()).map_err(unusable)?;
        let vouched = former.vouch_for(&next).map_err(unusable)?;
        let id = id_of(&next)?;
        // Durable first: the nodes would wait for the key of an authority in the catalog that nobody has.
        self.save_authority(&next, &id)?;
        let begin = BeginRotation {
            former: id_of(&former)?,
            former_certificate: former.certificate_der().to_vec(),
            next: id,
            next_certificate: next.certificate_der().to_vec(),
            vouched,
        };
        match self.catalog.propose(actor, AuthorityCommand::Begin(begin).into()).await {
            Ok(_) => Ok(true),
            Err(CatalogError::Refused(refusal)) => {
                self.drop_authority(&id);
                Err(CatalogError::Refused(refusal).into())
            }
            // It may have begun: the key stays.
            Err(error) => Err(error.into()),
        }
    }

    async fn rotation_told(&self, is_new: bool) -> Result<AuthorityRotation, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        match view.rotation()? {
            Some(rotation) => told(&view, &rotation, is_new),
            None => Err(CatalogError::Refused(AuthorityRefusal::NotRotating.into()).into()),
        }
    }
}

/// The rotation that is under way, by this view.
pub(crate) fn under_way(view: &View) -> Result<Option<AuthorityRotation>, Failure> {
    match view.rotation()?.filter(Rotation::is_under_way) {
        Some(rotation) => told(view, &rotation, false).map(Some),
        None => Ok(None),
    }
}

fn told(view: &View, rotation: &Rotation, is_new: bool) -> Result<AuthorityRotation, Failure> {
    let (mut clients, mut suspects, mut more) = (Vec::new(), Vec::new(), 0);
    let now = now_unix();
    let rows = rotation.is_under_way().then(|| view.certificates(None));
    for row in rows.into_iter().flatten() {
        let (key, record) = row?;
        let due = move_of(view, rotation, &key, &record, now)?;
        if due == AuthorityMove::Done {
            continue;
        }
        if clients.len() >= limits::NAMED {
            more += 1;
            continue;
        }
        let name = format!("{} {}", record.role.kind(), record.name);
        if due == AuthorityMove::Barred {
            suspects.push(name.clone());
        }
        clients.push(name);
    }
    Ok(AuthorityRotation {
        former: short(&rotation.former),
        next: short(&rotation.next),
        begun_at: rotation.begun_at,
        begun_by: rotation.begun_by.clone(),
        is_new,
        state: state_of(rotation.step),
        nodes: waiting(view, rotation)?,
        clients,
        more,
        suspects,
        ended_at: rotation.ended_at,
    })
}

/// Whether a certificate has to move to the new authority.
pub(crate) fn move_of(
    view: &View,
    rotation: &Rotation,
    key: &[u8; 32],
    record: &CertificateRecord,
    now: i64,
) -> Result<AuthorityMove, ReadError> {
    if !rotation.is_under_way() || rotation.step == RotationStep::GivingUp || !record.is_valid(now) {
        return Ok(AuthorityMove::Done);
    }
    Ok(match view.issuer(key)? {
        Some(issuer) if issuer == rotation.next => AuthorityMove::Done,
        Some(FIRST_SEEN) => AuthorityMove::Barred,
        _ => AuthorityMove::Due,
    })
}

fn state_of(step: RotationStep) -> RotationState {
    match step {
        RotationStep::Spreading => RotationState::Spreading,
        RotationStep::Showing => RotationState::Showing,
        RotationStep::Signing => RotationState::Renewing,
        RotationStep::GivingUp => RotationState::GivingUp,
        RotationStep::Finished => RotationState::Finished,
        RotationStep::GivenUp => RotationState::GivenUp,
    }
}

/// The nodes that have not done their part of the present step.
fn waiting(view: &View, rotation: &Rotation) -> Result<Vec<String>, Failure> {
    if !rotation.is_under_way() {
        return Ok(Vec::new());
    }
    let nodes = view.nodes()?.into_iter();
    let waited_for = nodes.filter(|(_, record)| record.is_member() && !rotation.ready.contains(&record.node_id));
    Ok(waited_for.map(|(name, _)| name.to_string()).collect())
}

fn short(id: &AuthorityId) -> String {
    id.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

//! The certificates of clients, administrators, monitors and restoring hosts: which there are, and how one is taken
//! away.
//!
//! A certificate is known by its public key, which a renewal does not change. The catalog has a row for each
//! certificate that was issued by a join; an unknown certificate (issued at an earlier apply level) gets a row when it
//! is first seen. A revoked key gets nothing from any node that has heard of it (`shut_out.rs`).

use crate::membership::Membership;
use crate::replies::unexpected;
use crate::rotation::move_of;
use crate::worth::{Worth, ended, noted_role, worth};
use pgmesh_protocol::{
    AuthorityMove, CertificateInfo, CertificatePage, CertificateRevoked, ExitCode, Failure, ListCertificates,
    RevokeCertificates, RevokedCertificates, now_unix, utc,
};
use pgmesh_raft::command::{AuthorityCommand, NoteCertificate, NoteIssued, RevokeCertificates as Revoke};
use pgmesh_raft::{
    AUTHORITIES, CERTIFICATES, CatalogError, CertificateRecord, CertificateRole, Command, FIRST_SEEN, ReadError,
    Refusal, Reply, Rotation, View, limits, short_key,
};
use pgmesh_runtime::tasks;
use pgmesh_transport::{MemberCertificate, Role};
use std::sync::Arc;

/// Certificates in one answer: with 64 stanzas each, they are far shorter together than a message may be.
const PAGE: usize = 256;

/// The role of a certificate, from the catalog's word for it.
pub(crate) fn granted_role(role: CertificateRole) -> Role {
    match role {
        CertificateRole::Admin => Role::Admin,
        CertificateRole::Monitor => Role::Monitor,
        CertificateRole::Client { stanzas } => Role::Client { stanzas },
        CertificateRole::Restore { stanzas } => Role::Restore { stanzas },
    }
}

/// Who it is, for the audit trail and the log. Two hosts of one name have two keys.
pub(crate) fn actor_of(member: &MemberCertificate) -> String {
    format!("{} {} ({})", member.role.kind(), member.name, short_key(&member.key.0))
}

impl Membership {
    /// Whether the catalog notes certificates: the programs of all nodes know how.
    pub(crate) fn notes_certificates(&self) -> Result<bool, Failure> {
        Ok(self.catalog.view().levels()?.current >= CERTIFICATES)
    }

    /// Notes in the background that a certificate is in use: where the catalog does not know it, and where it is the
    /// first one of its key that the mesh's new authority has signed.
    pub(crate) fn note_shown(self: &Arc<Self>, member: &MemberCertificate) {
        let view = self.catalog.view();
        let Some(role) = noted_role(&member.role) else { return };
        let key = member.key.0;
        // What cannot be read is noted at another time.
        if !is_news(&view, member).unwrap_or_default() || !self.notes_certificates().unwrap_or_default() {
            return;
        }
        if role == CertificateRole::Admin && self.is_administrator_of_a_node(&key).unwrap_or(true) {
            return;
        }
        let note = NoteCertificate {
            key,
            name: member.name.to_string(),
            role,
            not_after: member.not_after,
            is_renewed: false,
        };
        let command = note_command(&view, note, member);
        let (node, actor) = (self.clone(), actor_of(member));
        tasks::spawn("certificate", async move {
            let noted = node.catalog.propose(&actor, command).await;
            if let Err(error) = noted {
                tracing::warn!(actor, %error, "a certificate that is in use is not noted");
            }
        });
    }

    /// The catalog notes that a member's certificate is renewed, in its row where it has one, and in the audit trail.
    /// The key stays.
    pub(crate) async fn note_renewal(
        &self,
        member: &MemberCertificate,
        renewed: &MemberCertificate,
    ) -> Result<(), Failure> {
        let (actor, not_after) = (actor_of(member), renewed.not_after);
        let view = self.catalog.view();
        refuse_worthless(&view, member)?;
        let gains = |before: i64| not_after.saturating_sub(before) >= limits::RENEWAL;
        let command = match noted_role(&member.role) {
            Some(role) if self.notes_certificates()? && !self.is_administrator_of_a_node(&member.key.0)? => {
                let known = view.certificate(&member.key.0)?;
                // `apply` knows for certain who signs, and whether the key was first seen during the rotation.
                let is_moving = |known: &Rotation| known.is_under_way() && known.signing() == known.next;
                let is_rotating = view.rotation()?.as_ref().is_some_and(is_moving);
                let is_moved = view.issuer(&member.key.0)? == Some(renewed.authority);
                if (is_moved || !is_rotating) && known.is_some_and(|known| !gains(known.not_after)) {
                    return Ok(());
                }
                let note = NoteCertificate {
                    key: member.key.0,
                    name: member.name.to_string(),
                    role,
                    not_after,
                    is_renewed: true,
                };
                note_command(&view, note, renewed)
            }
            _ if !gains(member.not_after) => return Ok(()),
            _ => Command::Audit {
                what: format!("certificate of {actor} renewed until {}", utc(not_after)),
            },
        };
        match self.catalog.propose(&actor, command).await {
            // A renewal is never refused for want of room: its host would stop archiving at the certificate's end.
            Err(CatalogError::Refused(refusal @ Refusal::TooManyCertificates(_))) => {
                tracing::warn!(actor, %refusal, "a renewed certificate has no row in the catalog");
                Ok(())
            }
            other => other.map(drop).map_err(Failure::from),
        }
    }

    fn is_administrator_of_a_node(&self, key: &[u8; 32]) -> Result<bool, Failure> {
        let nodes = self.catalog.view().nodes()?;
        Ok(nodes.iter().any(|(_, node)| node.administrator == *key))
    }

    /// A page of the certificates that were issued.
    pub(crate) async fn list_certificates(&self, list: ListCertificates) -> Result<CertificatePage, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let rows = view.certificates(list.after.as_ref()).take(PAGE + 1);
        let (rotation, now) = (view.rotation()?, now_unix());
        let mut certificates = Vec::new();
        for row in rows {
            let (key, record) = row?;
            let due = match &rotation {
                Some(rotation) => move_of(&view, rotation, &key, &record, now)?,
                None => AuthorityMove::Done,
            };
            certificates.push(info(key, record, due));
        }
        let more = certificates.len() > PAGE;
        certificates.truncate(PAGE);
        Ok(CertificatePage { certificates, more })
    }

    /// The certificates of a name count no more.
    pub(crate) async fn revoke_certificates(
        &self,
        member: &MemberCertificate,
        revoke: RevokeCertificates,
    ) -> Result<RevokedCertificates, Failure> {
        let command = Command::RevokeCertificates(Box::new(Revoke {
            name: revoke.name.into(),
            reason: revoke.reason.into(),
            asker: member.key.0,
            force: revoke.force,
        }));
        match self.catalog.propose(&actor_of(member), command).await? {
            Reply::Revoked { certificates } => Ok(RevokedCertificates { certificates }),
            other => Err(unexpected(&other)),
        }
    }
}

/// Refuses a certificate that counts for nothing, or of which this node cannot tell.
///
/// # Errors
/// 95, with the reason; 122, to be asked again.
pub(crate) fn refuse_worthless(view: &View, member: &MemberCertificate) -> Result<(), Failure> {
    match worth(view, member) {
        Worth::Nothing { why, .. } => Err(Failure::new(ExitCode::Crypto, why).remedy(JOIN_AGAIN)),
        Worth::Unknown(why) => {
            let what = "whether the certificate counts is not known";
            Err(Failure::new(ExitCode::Runtime, what).because(why).again())
        }
        Worth::Member | Worth::Unheard => Ok(()),
    }
}

/// Whether the catalog has to hear of a certificate that was shown.
fn is_news(view: &View, member: &MemberCertificate) -> Result<bool, ReadError> {
    let key = &member.key.0;
    if view.certificate(key)?.is_none() {
        return Ok(true);
    }
    let Some(rotation) = view.rotation()? else {
        return Ok(false);
    };
    let is_new = member.authority == rotation.next && member.authority == rotation.signing();
    Ok(is_new
        && view
            .issuer(key)?
            .is_none_or(|known| known != rotation.next && known != FIRST_SEEN))
}

/// The command that notes a certificate, as far as the mesh knows how.
fn note_command(view: &View, certificate: NoteCertificate, member: &MemberCertificate) -> Command {
    let levels = view.levels().unwrap_or_default();
    if levels.current < AUTHORITIES {
        return Command::NoteCertificate(Box::new(certificate));
    }
    AuthorityCommand::Note(NoteIssued {
        certificate,
        issued_at: member.issued_at(),
        authority: member.authority,
    })
    .into()
}

/// Refuses a request of a member whose certificate is over.
pub(crate) fn refuse_ended(member: &MemberCertificate) -> Result<(), Failure> {
    match ended(member) {
        None => Ok(()),
        // This node's clock may be ahead: another node is asked, and the client looks at its own clock before it dials.
        Some(why) => Err(Failure::new(ExitCode::HostConnect, why)
            .because("this node's clock says so")
            .remedy("if the time is right on this host, correct the node's clock")
            .again()),
    }
}

/// The remedy for the holder of a certificate that counts no more.
pub(crate) const JOIN_AGAIN: &str =
    "join again with a new token: 'pgmesh invite' on a node, then 'pgmesh join --force TOKEN' on this host";

fn info(key: [u8; 32], record: CertificateRecord, move_to_next: AuthorityMove) -> CertificateInfo {
    CertificateInfo {
        key,
        name: record.name,
        role: record.role.kind().to_owned(),
        stanzas: record.role.stanzas().iter().map(ToString::to_string).collect(),
        issued_at: record.issued_at,
        not_after: record.not_after,
        renewed_at: record.renewed_at,
        revoked: record.revoked.map(|revoked| CertificateRevoked {
            at: revoked.at,
            by: revoked.by,
            why: revoked.why,
        }),
        move_to_next,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

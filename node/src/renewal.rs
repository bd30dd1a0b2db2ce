//! Certificates renew by themselves: every node has the mesh's authority and signs for itself, and for members that ask
//! in time.

use crate::certificates::{JOIN_AGAIN, granted_role, refuse_worthless};
use crate::init::CERTIFICATE_VALIDITY;
use crate::membership::Membership;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, JoinAccepted, RenewCertificate, now_unix};
use pgmesh_raft::{AuthorityId, Rotation};
use pgmesh_transport::{Identity, MemberCertificate, MemberName, Role, Server, key_of_request};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How often a node looks at its certificates.
const PERIOD: Duration = Duration::from_secs(3600);

/// Whether it is time: a third of the certificate's life is over. Pure.
fn is_due(not_before: i64, not_after: i64, now: i64) -> bool {
    now.saturating_sub(not_before) > not_after.saturating_sub(not_before) / 3
}

impl Membership {
    /// Renews this node's certificate and its administrator's in time, until the node stops.
    pub(crate) async fn keep_renewing(self: Arc<Self>, server: Arc<Server>) {
        loop {
            match self.renew_own(&server, None) {
                Ok((renewed, admin)) => {
                    self.audit_renewals(&renewed).await;
                    if let Err(failure) = admin {
                        tracing::warn!(error = %failure, "the administrator's certificate in node-path is not renewed");
                    }
                }
                Err(failure) => {
                    tracing::warn!(error = %failure, "this node's certificates could not be renewed; it is tried again");
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Renews what is due, under the authority that it has, or what is of another authority than the rotation says. A
    /// catalog that lags, or is empty, moves no certificate to another authority. Returns the certificates that were
    /// renewed, and whether the administrator's in node-path is as it should be.
    pub(crate) fn renew_own(
        &self,
        server: &Server,
        rotation: Option<&Rotation>,
    ) -> Result<(Vec<MemberCertificate>, Result<(), Failure>), Failure> {
        let _held = self.identity_files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        if let Some(renewed) = self.renewed(&self.layout.identity(), rotation.map(Rotation::of_nodes))? {
            server
                .replace_identity(&renewed)
                .map_err(|error| crypto("the renewed certificate cannot be used", &error))?;
            self.links.replace_identity(&renewed)?;
            tracing::info!(expires = renewed.expires_at(), "this node's certificate is renewed");
            all.push(renewed.member().clone());
            self.replace_identity(renewed);
        }
        // The node goes on without its administrator.
        let admin = self.renewed(&self.layout.admin(), rotation.map(Rotation::signing));
        let admin = admin.map(|renewed| {
            if let Some(renewed) = renewed {
                tracing::info!(
                    expires = renewed.expires_at(),
                    "the administrator's certificate is renewed"
                );
                all.push(renewed.member().clone());
            }
        });
        Ok((all, admin))
    }

    /// They count without it: the node has the authority.
    pub(crate) async fn audit_renewals(&self, renewed: &[MemberCertificate]) {
        for member in renewed {
            if let Err(failure) = self.note_renewal(member, member).await {
                tracing::warn!(error = %failure, "a renewal is not in the audit trail");
            }
        }
    }

    /// The identity in a directory with a new certificate for its key, kept there, when it is due, or of another
    /// authority than `wanted`.
    fn renewed(&self, directory: &Path, wanted: Option<AuthorityId>) -> Result<Option<Identity>, Failure> {
        let identity =
            Identity::load(directory).map_err(|error| crypto("a certificate of this node cannot be read", &error))?;
        let member = identity.member();
        let id = wanted.unwrap_or(member.authority);
        if id == member.authority && !is_due(member.not_before, member.not_after, now_unix()) {
            return Ok(None);
        }
        let authority = self.authority_of(&id)?.ok_or_else(|| {
            let what = "this node does not have the key of the authority that its certificate is to be of";
            Failure::new(ExitCode::Crypto, what).again()
        })?;
        let csr = identity
            .renewal_csr_der()
            .map_err(|error| crypto("a certificate request cannot be made", &error))?;
        let certificate = authority
            .sign_csr(&csr, &member.role, &member.name, CERTIFICATE_VALIDITY)
            .map_err(|error| crypto("the certificate could not be signed", &error))?;
        let renewed = identity
            .reissued(authority.certificate_der(), &certificate)
            .map_err(|error| crypto("the renewed certificate cannot be used", &error))?;
        renewed
            .save_certificate(directory)
            .map_err(|error| crypto("the renewed certificate cannot be saved", &error))?;
        Ok(Some(renewed))
    }

    /// A new certificate for a member that shows its present certificate. The key stays: otherwise a thief could renew
    /// a stolen certificate for a key that the catalog does not know.
    pub(crate) async fn renew(
        &self,
        member: &MemberCertificate,
        renew: &RenewCertificate,
    ) -> Result<JoinAccepted, Failure> {
        if member.role == Role::Node {
            return Err(Failure::new(ExitCode::Protocol, "a node renews its certificate itself"));
        }
        let key = key_of_request(&renew.csr).map_err(|error| crypto("the certificate could not be signed", &error))?;
        if key != member.key {
            return Err(
                Failure::new(ExitCode::Crypto, "a certificate is renewed for its own key only").remedy(JOIN_AGAIN),
            );
        }
        // A catalog that lags, or that this node has not received yet, knows neither the rows nor who signs.
        drop(self.catalog.view_linearizable().await.map_err(Failure::from)?);
        let (role, name) = self.granted(member)?;
        let authority = self.authority()?;
        let certificate = authority
            .sign_csr(&renew.csr, &role, &name, CERTIFICATE_VALIDITY)
            .map_err(|error| crypto("the certificate could not be signed", &error))?;
        let renewed = MemberCertificate::parse(&certificate)
            .map_err(|error| crypto("the renewed certificate cannot be read", &error))?;
        // Before it is handed out: what the catalog does not know it cannot keep until the end of it.
        self.note_renewal(member, &renewed).await?;
        let nodes = self.addresses();
        Ok(JoinAccepted {
            certificate,
            ca: authority.certificate_der().to_vec(),
            nodes: nodes.into_iter().flat_map(|node| node.addresses).collect(),
            node: None,
        })
    }

    /// The role and the name that a renewal is signed for: those of the row, where the catalog has one. The certificate
    /// that is shown may be forged.
    fn granted(&self, member: &MemberCertificate) -> Result<(Role, MemberName), Failure> {
        let view = self.catalog.view();
        refuse_worthless(&view, member)?;
        let Some(row) = view.certificate(&member.key.0)? else {
            return Ok((member.role.clone(), member.name.clone()));
        };
        let name = row
            .name
            .parse()
            .map_err(|error| Failure::new(ExitCode::Crypto, "the certificate's name cannot be used").because(error))?;
        Ok((granted_role(row.role), name))
    }
}

fn crypto(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::Crypto, what).because(chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SUITE, settings};
    use crate::worth::{Worth, worth};
    use crate::{Layout, Node, SessionTimes, init};
    use pgmesh_raft::{Catalog, CatalogOptions};
    use pgmesh_transport::MeshCa;
    use std::fs;

    /// A node that has just joined knows of no row and of no rotation: a forged administrator would get a certificate
    /// of the new authority.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_without_a_catalog_renews_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repo");
        let of = |name: &str| settings(&folder.path().join(name), &[&repository], SessionTimes::default());
        init(&of("founder"), SUITE).await.unwrap();
        // Another place: this process may have the founder's catalog open for a moment longer.
        fs::rename(folder.path().join("founder"), folder.path().join("node")).unwrap();
        let settings = of("node");
        let layout = Layout::new(&settings.path);
        fs::remove_dir_all(layout.catalog()).unwrap();
        Catalog::create_joining(&layout.catalog(), 2, &CatalogOptions::default())
            .await
            .unwrap();
        let identity = Identity::load(&layout.identity()).unwrap();
        let authority = MeshCa::load(&layout.ca()).unwrap();
        let forged = authority
            .issue(&Role::Admin, &"mallory".parse().unwrap(), CERTIFICATE_VALIDITY)
            .unwrap();
        let node = Node::open(settings, identity).await.unwrap().unwrap();
        let known = worth(&node.catalog.view(), forged.member());
        assert!(matches!(known, Worth::Unknown(_)), "{known:?}");
        let renew = RenewCertificate {
            csr: forged.renewal_csr_der().unwrap().into(),
        };
        let refused = node
            .membership
            .renew(forged.member(), &renew)
            .await
            .map(drop)
            .unwrap_err();
        assert!(refused.again, "{refused}");
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_over() {
        assert!(!is_due(0, 300, 100));
        assert!(is_due(0, 300, 101));
        assert!(is_due(0, 300, 10_000));
    }
}

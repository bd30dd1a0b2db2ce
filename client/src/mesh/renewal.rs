//! This host's certificate renews itself, long before it ends: after a command that succeeded, seldom, and without ever
//! being a reason for a failure.

use super::nodes::Nodes;
use super::{AccessSettings, Mesh};
use crate::text::timestamp;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, RenewCertificate, now_unix};
use pgmesh_transport::{IdentityError, MemberCertificate};
use std::time::Duration;

/// Asked for at most this often, in seconds.
const DAY: i64 = 24 * 3600;
/// The same while the mesh's authority is rotated: ten minutes.
const ROTATION: i64 = 600;
/// PostgreSQL waits for `archive-push`.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks for a newer certificate when the one there is has less than two thirds of its life before it, or is of another
/// authority than the nodes'.
pub async fn renew_if_due(access: AccessSettings) {
    let Ok(identity) = access.identity() else { return };
    let mesh = identity.mesh_id().to_string();
    let nodes = Nodes::open(access.directory.clone(), mesh, access.ways.clone());
    if !nodes.is_other_authority() && !is_due(identity.member(), now_unix()) {
        return;
    }
    match tokio::time::timeout(LIMIT, renew(access)).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(until))) => tracing::info!("this host's certificate was renewed until {}", timestamp(until)),
        Ok(Err(failure)) => tracing::info!("this host's certificate was not renewed: {failure}"),
        Err(_) => tracing::info!("this host's certificate was not renewed: no answer"),
    }
}

/// The end of the new certificate; none where it is too early to ask again.
async fn renew(access: AccessSettings) -> Result<Option<i64>, Failure> {
    let mesh = Mesh::open(access)?;
    let now = now_unix();
    // Where the folder takes no stamp, it takes no certificate either.
    let pause = if mesh.nodes.is_other_authority() { ROTATION } else { DAY };
    if was_asked_lately(mesh.nodes.renewal_asked(), now, pause) || !mesh.nodes.asks_for_renewal(now) {
        return Ok(None);
    }
    let crypto =
        |what: &'static str| move |error: IdentityError| Failure::new(ExitCode::Crypto, what).because(chain(&error));
    let old = mesh.identity();
    // The same key: one file is replaced by one rename, so that a crash at any moment leaves a usable pair.
    let csr = old
        .renewal_csr_der()
        .map_err(crypto("a certificate request cannot be made"))?;
    let accepted = mesh.call(&RenewCertificate { csr: csr.into() }).await?;
    // The present authority vouches for a later one there.
    let shown = mesh.link().await?.connection.shown_authorities().to_vec();
    let new = old
        .renewed_under(&accepted.ca, &accepted.certificate, &shown)
        .map_err(crypto("the node's answer does not match the request"))?;
    if new.expires_at() <= old.expires_at() && new.ca_fingerprint() == old.ca_fingerprint() {
        return Err(Failure::new(
            ExitCode::Crypto,
            "the new certificate ends no later than the old one",
        ));
    }
    new.save_certificate(&mesh.access.directory)
        .map_err(crypto("the certificate cannot be saved"))?;
    Ok(Some(new.expires_at()))
}

/// Whether less than two thirds of a certificate's life are left.
fn is_due(certificate: &MemberCertificate, now: i64) -> bool {
    let life = certificate.not_after.saturating_sub(certificate.not_before);
    let left = certificate.not_after.saturating_sub(now);
    left.saturating_mul(3) < life.saturating_mul(2)
}

fn was_asked_lately(asked: Option<i64>, now: i64, pause: i64) -> bool {
    asked.is_some_and(|asked| (0..pause).contains(&now.saturating_sub(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_transport::{Fingerprint, MeshId, Role};

    #[test]
    fn a_certificate_is_due_after_a_third_of_its_life() {
        let certificate = MemberCertificate {
            mesh_id: MeshId::random().unwrap(),
            name: "db1".parse().unwrap(),
            role: Role::Admin,
            fingerprint: Fingerprint([0; 32]),
            key: Fingerprint([0; 32]),
            not_before: 1000,
            not_after: 4000,
            authority: [0; 20],
        };
        for (now, due) in [
            (1000, false),
            (2000, false),
            (2001, true),
            (3999, true),
            (9000, true),
            (0, false),
        ] {
            assert_eq!(is_due(&certificate, now), due, "{now}");
        }
        let endless = MemberCertificate {
            not_before: 0,
            not_after: i64::MAX,
            ..certificate
        };
        let _ = is_due(&endless, 1_800_000_000);
    }

    #[test]
    fn it_is_asked_for_once_a_day() {
        let now = 1_800_000_000;
        assert!(!was_asked_lately(None, now, DAY));
        assert!(was_asked_lately(Some(now), now, DAY));
        assert!(was_asked_lately(Some(now - DAY + 1), now, DAY));
        assert!(!was_asked_lately(Some(now - DAY), now, DAY));
        assert!(!was_asked_lately(Some(now + 5), now, DAY), "the clock was set back");
    }
}

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

use super::*;
use crate::SessionTimes;
use crate::testing::{TestNode, stanza};
use pgmesh_protocol::{AuthorityRotation, Hello, RenewCertificate, RotateAuthority, RotationState};
use pgmesh_transport::{KeyRequest, Peer, Role};
use std::fs;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

async fn ask(site: &TestNode, asked: RotateAuthority) -> Result<AuthorityRotation, Failure> {
    site.node.membership.rotate_authority("test", asked).await
}

async fn begin(site: &TestNode) -> AuthorityRotation {
    ask(site, RotateAuthority::Begin).await.unwrap()
}

/// Waits until the rotation is so far.
async fn wait_for(site: &TestNode, step: RotationStep) {
    let is_there = |rotation: Rotation| rotation.step == step;
    site.wait("the step", |node| {
        node.catalog.view().rotation().unwrap().is_some_and(is_there)
    })
    .await;
}

fn rotation(site: &TestNode) -> Rotation {
    site.node.catalog.view().rotation().unwrap().unwrap()
}

/// A node that does not run does its part of a step.
async fn take_part(site: &TestNode, node_id: u64, step: RotationStep) {
    let authority = rotation(site).next;
    let note = NoteAuthority {
        node_id,
        authority,
        step,
    };
    site.propose(AuthorityCommand::TakePart(note).into()).await;
}

fn own_authority(site: &TestNode) -> AuthorityId {
    site.node.membership.identity().member().authority
}

/// The folders of later authorities on the node's disk.
fn folders(site: &TestNode) -> usize {
    let entries = fs::read_dir(site.node.layout.ca()).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

/// A thief has the former authority's key.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_certificate_does_not_become_a_good_one() {
    let site = TestNode::start(SessionTimes::default()).await;
    let former = site.node.membership.authority().unwrap();
    let forge = |role: &Role, name: &str| former.issue(role, &name.parse().unwrap(), YEAR).unwrap();
    assert!(begin(&site).await.is_new);
    wait_for(&site, RotationStep::Signing).await;
    assert!(!begin(&site).await.is_new);

    let admin = forge(&Role::Admin, "mallory");
    let peer = Peer::Member(Arc::new(admin.member().clone()));
    let refused = site.node.membership.check_worth(&peer, &Hello.into()).unwrap_err();
    assert_eq!(refused.code, ExitCode::Crypto, "{refused}");
    let stanzas = vec![stanza()];
    let client = forge(&Role::Client { stanzas }, "thief");
    let connected = site.connect_as(&client).await;
    connected.ask(&Hello, None).await.unwrap();
    let csr = client.renewal_csr_der().unwrap();
    let refused = connected
        .ask(&RenewCertificate { csr: csr.into() }, None)
        .await
        .unwrap_err();
    assert!(refused.what.contains("was first seen"), "{refused}");

    let key = client.member().key.0;
    site.wait("its row", |node| {
        node.catalog.view().certificate(&key).unwrap().is_some()
    })
    .await;
    assert_eq!(begin(&site).await.suspects, ["client thief"]);
    let needed = ask(&site, RotateAuthority::Finish { force: false }).await.unwrap_err();
    assert!(needed.what.ends_with("needed by client thief"), "{needed}");
    let finished = ask(&site, RotateAuthority::Finish { force: true }).await.unwrap();
    assert_eq!((finished.clients, finished.more), (vec!["client thief".to_owned()], 0));
    connected.closed().await;
    site.wait("the former key to go", |node| !MeshCa::exists(&node.layout.ca()))
        .await;
    assert!(
        site.try_connect_as(&client).await.is_err(),
        "its authority is trusted no more"
    );
    let present = site.node.membership.authority().unwrap().id().unwrap();
    assert_eq!((present, present), (own_authority(&site), rotation(&site).next));
}

/// A thief has the former authority's key, and that of a client whose row is old: the row would have let it renew.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_s_certificate_forged_for_a_client_s_key_counts_for_nothing() {
    let site = TestNode::start(SessionTimes::default()).await;
    let former = site.node.membership.authority().unwrap();
    let folder = tempfile::tempdir().unwrap();
    KeyRequest::generate().unwrap().keep(folder.path(), "key").unwrap();
    let of_key = |role: Role, name: &str| {
        let key = KeyRequest::kept(folder.path(), "key").unwrap().unwrap();
        let csr = key.csr_der().unwrap();
        let signed = former.sign_csr(&csr, &role, &name.parse().unwrap(), YEAR).unwrap();
        key.into_identity(former.certificate_der(), &signed, former.fingerprint())
            .unwrap()
    };
    let stanzas = vec![stanza()];
    let client = of_key(Role::Client { stanzas }, "db1");
    site.connect_as(&client).await.ask(&Hello, None).await.unwrap();
    let key = client.member().key.0;
    site.wait("its row", |node| {
        node.catalog.view().certificate(&key).unwrap().is_some()
    })
    .await;
    let refuse = async || {
        let other = vec!["other".parse().unwrap()];
        for forged in [
            of_key(Role::Admin, "mallory"),
            of_key(Role::Admin, "db1"),
            of_key(Role::Client { stanzas: other }, "db1"),
        ] {
            let peer = Peer::Member(Arc::new(forged.member().clone()));
            let refused = site.node.membership.check_worth(&peer, &Hello.into()).unwrap_err();
            assert!(
                refused.to_string().contains("its key is that of client db1"),
                "{refused}"
            );
            if let Ok(connected) = site.try_connect_as(&forged).await {
                assert!(connected.ask_once(&Hello).await.is_none());
            }
            let renew = RenewCertificate {
                csr: forged.renewal_csr_der().unwrap().into(),
            };
            assert!(site.node.membership.renew(forged.member(), &renew).await.is_err());
        }
    };
    refuse().await;
    begin(&site).await;
    wait_for(&site, RotationStep::Signing).await;
    refuse().await;
    // The client itself moves, and only when it shows its new certificate.
    let renew = RenewCertificate {
        csr: client.renewal_csr_der().unwrap().into(),
    };
    let accepted = site.node.membership.renew(client.member(), &renew).await.unwrap();
    assert_eq!(begin(&site).await.clients, ["client db1"]);
    let vouched = vec![rotation(&site).vouched];
    let moved = client
        .renewed_under(&accepted.ca, &accepted.certificate, &vouched)
        .unwrap();
    site.connect_as(&moved).await.ask(&Hello, None).await.unwrap();
    let next = rotation(&site).next;
    site.wait("the move", |node| {
        node.catalog.view().issuer(&key).unwrap() == Some(next)
    })
    .await;
    let finished = ask(&site, RotateAuthority::Finish { force: false }).await.unwrap();
    assert_eq!((finished.state, finished.clients.len()), (RotationState::Finished, 0));
}

/// The second node does not run.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_given_up_at_each_step_before_the_new_authority_signs() {
    let site = TestNode::start(SessionTimes::default()).await;
    let before = own_authority(&site);
    site.admit(&site.certificate(&Role::Node, "beta")).await;
    let beta = site
        .node
        .catalog
        .view()
        .node(&"beta".parse().unwrap())
        .unwrap()
        .unwrap()
        .node_id;
    // A beginning that was killed before its entry was in the log.
    let leftover = MeshCa::create(site.node.membership.authority().unwrap().mesh_id().clone()).unwrap();
    leftover.save(&site.node.layout.ca().join("ab")).unwrap();
    let waiting = begin(&site).await;
    assert_eq!((folders(&site), waiting.state), (1, RotationState::Spreading));
    site.wait("this node", |node| {
        node.catalog.view().rotation().unwrap().unwrap().ready.len() == 1
    })
    .await;
    assert_eq!(begin(&site).await.nodes, ["beta"]);
    assert_eq!(
        ask(&site, RotateAuthority::GiveUp).await.unwrap().state,
        RotationState::GivenUp
    );
    site.wait("its key to go", |_| folders(&site) == 0).await;
    assert!(site.node.membership.identity().others().is_empty());

    assert!(begin(&site).await.is_new);
    take_part(&site, beta, RotationStep::Spreading).await;
    let next = rotation(&site).next;
    site.wait("this node's certificate", |_| own_authority(&site) == next)
        .await;
    let client = site.certificate(&Role::Monitor, "m1");
    site.connect_as(&client).await.ask(&Hello, None).await.unwrap();
    let going = ask(&site, RotateAuthority::GiveUp).await.unwrap();
    assert_eq!(going.state, RotationState::GivingUp);
    site.wait("the way back", |_| own_authority(&site) == before).await;
    site.connect_as(&client).await.ask(&Hello, None).await.unwrap();
    take_part(&site, beta, RotationStep::GivingUp).await;
    wait_for(&site, RotationStep::GivenUp).await;
    site.wait("its key to go", |_| folders(&site) == 0).await;
    assert_eq!(site.node.membership.authority().unwrap().id().unwrap(), before);
    site.connect_as(&client).await.ask(&Hello, None).await.unwrap();

    // A node that is gone is removed, and the rotation goes on.
    begin(&site).await;
    site.remove("beta").await;
    wait_for(&site, RotationStep::Signing).await;
    assert!(
        ask(&site, RotateAuthority::GiveUp).await.is_err(),
        "clients may know it alone"
    );
}

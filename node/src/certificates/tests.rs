use super::*;
use crate::SessionTimes;
use crate::services::Comer;
use crate::testing::{Connected, TestNode, stanza};
use pgmesh_protocol::{
    BeginRestore, CreateInvite, GetInfo, GetSegment, GetStatus, Hello, JoinRequest, RenewCertificate, now_unix,
};
use pgmesh_raft::{LogIndex, SessionId};
use pgmesh_transport::{CloseCode, ConnectionLost, Identity, JoinClient, JoinToken, KeyRequest};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn invite(site: &TestNode, role: &str, replaces: Option<&str>) -> JoinToken {
    let stanzas = match role {
        "client" | "restore" => vec![stanza()],
        _ => vec![],
    };
    let invite = CreateInvite {
        role: role.into(),
        name: replaces.map(str::to_owned).map(Into::into),
        force: replaces.is_some(),
        stanzas: stanzas.into(),
        expires: 60,
        addresses: pgmesh_protocol::List::default(),
    };
    let invite = site.node.membership.invite("test", [9; 32], invite).await.unwrap();
    invite.token.parse().unwrap()
}

fn request(token: &JoinToken, key: &KeyRequest, name: &str) -> JoinRequest {
    JoinRequest {
        token_id: token.id,
        secret: token.secret.clone(),
        csr: key.csr_der().unwrap().into(),
        name: name.into(),
        node: None,
    }
}

async fn redeem(site: &TestNode, join: JoinRequest) -> Result<pgmesh_protocol::JoinAccepted, Failure> {
    let comer = Comer {
        address: HERE,
        place: None,
    };
    site.node.membership.join(join, &comer).await
}

async fn join_by(site: &TestNode, token: &JoinToken, name: &str) -> Result<Identity, Failure> {
    let key = KeyRequest::generate().unwrap();
    let accepted = redeem(site, request(token, &key, name)).await?;
    Ok(key
        .into_identity(&accepted.ca, &accepted.certificate, token.ca_fingerprint)
        .unwrap())
}

async fn join(site: &TestNode, role: &str, name: &str) -> Identity {
    let token = invite(site, role, None).await;
    join_by(site, &token, name).await.unwrap()
}

async fn revoke(site: &TestNode, name: &str) -> u32 {
    revoke_with(site, name, false).await
}

async fn revoke_with(site: &TestNode, name: &str, force: bool) -> u32 {
    let admin = site.connect().await;
    let revoke = RevokeCertificates {
        name: name.into(),
        reason: "disk stolen".into(),
        force,
    };
    admin.ask(&revoke, None).await.unwrap().certificates
}

fn segment() -> GetSegment {
    GetSegment {
        stanza: stanza(),
        file: "000000010000000000000001".into(),
        system_id: None,
        avoid: vec![].into(),
        doubted: vec![].into(),
    }
}

async fn begin_restore(connected: &Connected) -> SessionId {
    let begin = BeginRestore {
        stanza: stanza(),
        holder: "process 7 on db1".into(),
    };
    let begun = connected.ask(&begin, None).await.unwrap();
    SessionId(LogIndex(begun.session))
}

fn row(site: &TestNode, identity: &Identity) -> Option<CertificateRecord> {
    site.node.catalog.view().certificate(&identity.member().key.0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_client_is_cut_off_and_another_of_its_stanza_goes_on() {
    let site = TestNode::start(SessionTimes::default()).await;
    site.create_stanza(&site.connect().await).await;
    let (stolen, other) = (join(&site, "client", "db1").await, join(&site, "client", "db2").await);
    let (thief, honest) = (site.connect_as(&stolen).await, site.connect_as(&other).await);
    thief.ask(&segment(), None).await.unwrap();
    let (session, others) = (begin_restore(&thief).await, begin_restore(&honest).await);
    let began = Instant::now();
    assert_eq!(revoke(&site, "db1").await, 1);
    let lost = thief.closed().await;
    assert!(
        matches!(&lost, ConnectionLost::ClosedByPeer { code, reason }
            if *code == CloseCode::FORBIDDEN && reason.contains("disk stolen")),
        "{lost:?}"
    );
    site.wait("the end of its session", |_| !site.is_open(session)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Nor does it come back, whatever certificate of its key it shows.
    for shown in [&stolen, &site.renewed(&stolen)] {
        // It may be welcomed before it is looked at.
        if let Ok(again) = site.try_connect_as(shown).await {
            assert!(again.ask_once(&Hello).await.is_none());
        }
        let peer = pgmesh_transport::Peer::Member(Arc::new(shown.member().clone()));
        let refused = site.node.membership.check_worth(&peer, &Hello.into()).unwrap_err();
        assert_eq!(refused.code, ExitCode::Crypto);
        assert!(refused.remedy.unwrap().contains("new token"));
    }
    honest.ask(&segment(), None).await.unwrap();
    assert!(site.is_open(others));
    assert_eq!(revoke(&site, "db1").await, 0, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_for_its_own_key_and_only_while_it_counts() {
    let site = TestNode::start(SessionTimes::default()).await;
    let client = join(&site, "client", "db1").await;
    let connected = site.connect_as(&client).await;
    let before = row(&site, &client).unwrap();
    assert_eq!((before.name.as_str(), before.renewed_at), ("db1", None));
    assert!((before.not_after - client.expires_at()).abs() <= 1);
    let csr = client.renewal_csr_der().unwrap();
    // In a loop it would fill the log.
    let applied = site.node.catalog.view().applied().unwrap();
    for _ in 0..3 {
        let renew = RenewCertificate {
            csr: csr.clone().into(),
        };
        connected.ask(&renew, None).await.unwrap();
    }
    assert_eq!(site.node.catalog.view().applied().unwrap(), applied);
    let later = before.not_after + 24 * 3600;
    let later = MemberCertificate {
        not_after: later,
        ..client.member().clone()
    };
    site.node
        .membership
        .note_renewal(client.member(), &later)
        .await
        .unwrap();
    assert!(row(&site, &client).unwrap().renewed_at.is_some());
    let audit: Vec<String> = site
        .node
        .catalog
        .view()
        .audit(LogIndex(0))
        .map(|line| line.unwrap().1)
        .filter(|line| line.what.contains("renewed"))
        .map(|line| line.actor)
        .collect();
    let key = short_key(&client.member().key.0);
    assert_eq!(audit, [format!("client db1 ({key})")]);
    // With a key of its own, a thief would go on under a certificate that nobody knows.
    let other = KeyRequest::generate().unwrap().csr_der().unwrap();
    let refused = connected.ask(&RenewCertificate { csr: other.into() }, None).await;
    assert_eq!(refused.unwrap_err().code, ExitCode::Crypto);
    revoke(&site, "db1").await;
    let refused = site
        .node
        .membership
        .renew(client.member(), &RenewCertificate { csr: csr.into() })
        .await;
    assert_eq!(refused.unwrap_err().code, ExitCode::Crypto);
}

/// An open connection outlived its certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_certificate() {
    let site = TestNode::start(SessionTimes::default()).await;
    let authority = site.node.membership.authority().unwrap();
    let role = Role::Client {
        stanzas: vec![stanza()],
    };
    let life = Duration::from_secs(3);
    let short = authority.issue(&role, &"db1".parse().unwrap(), life).unwrap();
    let connected = site.connect_as(&short).await;
    connected.ask(&Hello, None).await.unwrap();
    let lost = connected.closed().await;
    assert!(
        matches!(&lost, ConnectionLost::ClosedByPeer { code, reason }
            if *code == CloseCode::FORBIDDEN && reason.contains("has ended")),
        "{lost:?}"
    );
    assert!(now_unix() >= short.expires_at());
    let peer = pgmesh_transport::Peer::Member(Arc::new(short.member().clone()));
    let csr = short.renewal_csr_der().unwrap();
    let refused = site
        .node
        .membership
        .check_worth(&peer, &RenewCertificate { csr: csr.into() }.into());
    let refused = refused.unwrap_err();
    assert!(refused.again, "this node's clock may be wrong");
    assert!(!refused.remedy.unwrap().contains("join"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_do_not_get_one_name_by_accident() {
    let site = TestNode::start(SessionTimes::default()).await;
    let first = join(&site, "client", "db1").await;
    let token = invite(&site, "client", None).await;
    let applied = site.node.catalog.view().applied().unwrap();
    let refused = join_by(&site, &token, "db1").await.unwrap_err();
    assert_eq!(refused.code, ExitCode::OptionInvalid);
    assert!(refused.remedy.unwrap().contains("client revoke"));
    assert_eq!(
        site.node.catalog.view().applied().unwrap(),
        applied,
        "nothing was proposed"
    );
    join_by(&site, &token, "db1-b").await.unwrap();
    let forced = invite(&site, "client", Some("db1")).await;
    let second = join_by(&site, &forced, "db1").await.unwrap();
    assert!(row(&site, &first).unwrap().revoked.is_some());
    site.connect_as(&second).await.ask(&Hello, None).await.unwrap();
}

/// Sent again, a used token had the node sign and propose, and its connection kept its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_token_is_answered_again_without_the_log_and_not_when_it_is_revoked() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (token, key) = (invite(&site, "client", None).await, KeyRequest::generate().unwrap());
    let join = request(&token, &key, "db1");
    let first = redeem(&site, join.clone()).await.unwrap();
    let applied = site.node.catalog.view().applied().unwrap();
    let again = redeem(&site, join.clone()).await.unwrap();
    assert_eq!(again.certificate, first.certificate);
    assert_eq!(site.node.catalog.view().applied().unwrap(), applied);
    revoke(&site, "db1").await;
    let refused = redeem(&site, join).await.unwrap_err();
    assert!(refused.what.contains("revoked"), "{refused}");
}

/// The token was used up, and its name was taken by a key that nobody had.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_at_the_token_s_other_addresses() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (mut token, key) = (invite(&site, "client", None).await, KeyRequest::generate().unwrap());
    let join = request(&token, &key, "db1");
    let first = redeem(&site, join.clone()).await.unwrap();
    let beta = site.certificate(&Role::Node, "beta");
    let broken = Arc::new(pgmesh_transport::Server::bind("127.0.0.1:0".parse().unwrap(), &beta).unwrap());
    token.addresses = vec![broken.local_address().unwrap().to_string(), site.address().to_owned()];
    tokio::spawn(async move {
        while let Some(incoming) = broken.accept().await {
            let session = incoming.establish().await.unwrap();
            session.close(CloseCode::FORBIDDEN, "gone");
        }
    });
    let redeemed = crate::join::redeem_by_token(&token, &join).await.unwrap();
    let (address, again) = (redeemed.address, redeemed.accepted);
    assert_eq!(address, site.address());
    assert_eq!(again.certificate, first.certificate);
}

/// Its bearer named an administrator, who was revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_force_needs_the_name_that_it_may_replace() {
    let site = TestNode::start(SessionTimes::default()).await;
    join(&site, "client", "db1").await;
    let victim = join(&site, "client", "db2").await;
    let nameless = CreateInvite {
        role: "client".into(),
        name: None,
        force: true,
        stanzas: vec![stanza()].into(),
        expires: 60,
        addresses: pgmesh_protocol::List::default(),
    };
    let refused = site
        .node
        .membership
        .invite("test", [9; 32], nameless)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ExitCode::OptionRequired);
    let token = invite(&site, "client", Some("db1")).await;
    let refused = join_by(&site, &token, "db2").await.unwrap_err();
    assert!(refused.remedy.unwrap().contains("name that the token is for"));
    assert!(row(&site, &victim).unwrap().revoked.is_none());
}

/// It has not connected since the catalog notes certificates.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_node_has_seen_is_shut_out_by_its_name() {
    let site = TestNode::start(SessionTimes::default()).await;
    let role = Role::Client {
        stanzas: vec![stanza()],
    };
    let old = site.certificate(&role, "db1");
    assert_eq!(revoke_with(&site, "db1", true).await, 0);
    if let Ok(connected) = site.try_connect_as(&old).await {
        assert!(connected.ask_once(&Hello).await.is_none());
    }
    let new = join(&site, "client", "db1").await;
    site.connect_as(&new).await.ask(&Hello, None).await.unwrap();
    let peer = pgmesh_transport::Peer::Member(Arc::new(old.member().clone()));
    let refused = site.node.membership.check_worth(&peer, &Hello.into()).unwrap_err();
    assert_eq!(refused.code, ExitCode::Crypto);
    // A node's administrator has no row either, and goes with its node.
    revoke_with(&site, site.node.core.name.as_str(), true).await;
    site.connect().await.ask(&Hello, None).await.unwrap();
}

/// Each of them moved the Raft log, after a certificate had been signed for it.
#[tokio::test(flavor = "multi_thread")]
async fn joins_with_invented_tokens_move_nothing() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (good, used) = (invite(&site, "admin", None).await, invite(&site, "client", None).await);
    join_by(&site, &used, "db1").await.unwrap();
    site.wait("the last of the start", |node| {
        let seen = node.catalog.view().applied().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        node.catalog.view().applied().unwrap() == seen
    })
    .await;
    let applied = site.node.catalog.view().applied().unwrap();
    let key = KeyRequest::generate().unwrap();
    let mut guessed = request(&good, &key, "mallory");
    guessed.secret = pgmesh_protocol::TokenSecret::generate().unwrap();
    let began = Instant::now();
    for number in 0..2400_u32 {
        guessed.token_id.0[..4].copy_from_slice(&number.to_le_bytes());
        let refused = redeem(&site, guessed.clone()).await.unwrap_err();
        assert_eq!(refused.code, ExitCode::Crypto);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let (joins, now) = (&site.node.membership.failed_joins, site.node.running.now());
    assert!(
        !joins.may_ask(HERE, now),
        "the leader is asked for none of them any more"
    );
    // A used one, and a request that is none.
    assert!(join_by(&site, &used, "mallory").await.is_err());
    let mut broken = request(&good, &key, "mallory");
    broken.csr.truncate(20);
    assert!(redeem(&site, broken).await.is_err());
    assert_eq!(site.node.catalog.view().applied().unwrap(), applied);
    // Whoever has a good one comes in all the same, from the same address.
    join_by(&site, &good, "alice").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_and_a_restoring_host_do_what_they_are_for() {
    let site = TestNode::start(SessionTimes::default()).await;
    let admin = site.connect().await;
    site.create_stanza(&admin).await;
    let monitor = site.connect_as(&join(&site, "monitor", "grafana").await).await;
    monitor.ask(&GetStatus, None).await.unwrap();
    let info = GetInfo {
        stanza: None,
        backups: true,
        after: None,
    };
    assert_eq!(monitor.ask(&info, None).await.unwrap().stanzas.len(), 1);
    assert!(monitor.ask(&segment(), None).await.is_err());
    let restoring = site.connect_as(&join(&site, "restore", "db9").await).await;
    restoring.ask(&segment(), None).await.unwrap();
    assert_eq!(restoring.ask(&info, None).await.unwrap().stanzas.len(), 1);
    begin_restore(&restoring).await;
    let refused = restoring.begin_backup("20260101-000000F").await.unwrap_err();
    assert!(refused.remedy.unwrap().contains("--role=client"));
    let listed = admin.ask(&ListCertificates { after: None }, None).await.unwrap();
    let mut names: Vec<_> = listed.certificates.iter().map(|one| (&*one.name, &*one.role)).collect();
    names.sort_unstable();
    assert_eq!(names, [("db9", "restore"), ("grafana", "monitor")]);
    assert!(!listed.more);
}

/// It was issued before the catalog noted certificates.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_known_is_noted_when_it_is_seen() {
    let site = TestNode::start(SessionTimes::default()).await;
    let role = Role::Client {
        stanzas: vec![stanza()],
    };
    let old = site.certificate(&role, "db1");
    let connected = site.connect_as(&old).await;
    site.wait("its row", |_| row(&site, &old).is_some()).await;
    assert_eq!(revoke(&site, "db1").await, 1);
    connected.closed().await;
    // The administrator of the node is in the node's record.
    assert_eq!(site.node.catalog.view().certificates(None).count(), 1);
}

/// They kept every join out, for as long as they were there.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_connections_that_show_no_token_keep_nobody_from_joining() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (good, used) = (invite(&site, "client", None).await, invite(&site, "client", None).await);
    join_by(&site, &used, "db1").await.unwrap();
    let dial = || JoinClient::connect(site.address(), good.ca_fingerprint);
    let key = KeyRequest::generate().unwrap();
    let mut idle = Vec::new();
    for number in 0..60 {
        let connection = dial().await.unwrap();
        // Every second one shows a token that was used up.
        if number % 2 == 0 {
            let refused = crate::join::call(&connection, &request(&used, &key, "mallory")).await;
            assert!(refused.is_err());
        }
        idle.push(connection);
    }
    let joins = dial().await.unwrap();
    let accepted = crate::join::call(&joins, &request(&good, &key, "db2")).await;
    accepted.unwrap();
    // It keeps its place, and theirs are given up.
    site.wait("the end of the others", |_| {
        idle.iter().all(|connection| connection.lost().is_some())
    })
    .await;
    assert!(joins.lost().is_none(), "{:?}", joins.lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_revoked_by_another_and_not_by_itself_by_mistake() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (alice, bob) = (join(&site, "admin", "alice").await, join(&site, "admin", "bob").await);
    let (alices, bobs) = (site.connect_as(&alice).await, site.connect_as(&bob).await);
    let revoke = |name: &str, force| RevokeCertificates {
        name: name.into(),
        reason: String::new().into(),
        force,
    };
    assert_eq!(bobs.ask(&revoke("alice", false), None).await.unwrap().certificates, 1);
    let lost = alices.closed().await;
    assert!(
        matches!(&lost, ConnectionLost::ClosedByPeer { reason, .. } if reason.contains("admin alice was revoked")),
        "{lost:?}"
    );
    let refused = bobs.ask(&revoke("bob", false), None).await.unwrap_err();
    assert_eq!(refused.code, ExitCode::CommandInvalid);
    assert!(refused.remedy.unwrap().contains("--force"));
    // The answer may come before the end of the connection, or not.
    let _ = bobs.ask_once(&revoke("bob", true)).await;
    bobs.closed().await;
    // The node's own administrator is left.
    let unknown = site.connect().await.ask(&revoke("carol", false), None).await;
    let unknown = unknown.unwrap_err();
    assert!(unknown.what.contains("no certificate of carol"), "{unknown}");
}

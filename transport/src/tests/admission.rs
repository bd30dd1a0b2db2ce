//! Which clients and nodes are let in, and the error that each refused one gets.

use quinn::ConnectionError;

use crate::wire_version::WIRE_VERSION;

use super::support::{Mesh, YEAR, listen, pair, raw_connect, raw_listen};
use crate::{
    BindError, Client, CloseCode, ConnectError, ConnectionLost, EstablishError, Fingerprint, JoinClient,
    NodeCertificateProblem, Peer, Role, Server, StreamError, lost,
};

#[tokio::test]
async fn each_role_is_seen_as_what_it_is() {
    let mesh = Mesh::new();
    let node = mesh.node();
    let (address, mut arrivals) = listen(&node);
    for role in [
        Role::Node,
        Role::Admin,
        Role::Client {
            stanzas: vec!["main".parse().unwrap()],
        },
    ] {
        let identity = mesh.identity(&role, "somebody");
        let connection = Client::new(&identity).unwrap().connect(&address).await.unwrap();
        assert_eq!(connection.node(), node.member());
        assert_eq!(connection.node_program(), env!("CARGO_PKG_VERSION"));
        let session = arrivals.recv().await.unwrap().unwrap();
        let Peer::Member(member) = session.peer() else {
            panic!("{:?}", session.peer())
        };
        assert_eq!(**member, *identity.member());
        assert!(session.peer().may_see(&"main".parse().unwrap()));
        assert_eq!(session.peer().is_node(), role == Role::Node);
        assert_eq!(session.peer().is_admin(), role == Role::Admin);
        let foreign = "other".parse().unwrap();
        assert_eq!(session.peer().may_see(&foreign), !matches!(role, Role::Client { .. }));
    }
}

#[tokio::test]
async fn a_member_without_a_certificate_is_told_to_join() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = raw_connect(&address, &format!("pgmesh/{WIRE_VERSION}"), None, &mesh.ca)
        .await
        .unwrap();
    let lost = ConnectionLost::from(connection.closed().await);
    assert!(
        matches!(
            lost,
            ConnectionLost::ClosedByPeer {
                code: CloseCode::NO_CERTIFICATE,
                ..
            }
        ),
        "{lost}"
    );
    let error = arrivals.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, EstablishError::NoCertificate { .. }), "{error}");
}

#[tokio::test]
async fn who_comes_to_join_is_nobody_yet() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = JoinClient::connect(&address, mesh.ca.fingerprint()).await.unwrap();
    assert_eq!(connection.shown_ca_der(), Some(mesh.ca.certificate_der()));
    let session = arrivals.recv().await.unwrap().unwrap();
    assert_eq!(*session.peer(), Peer::Joining);
    assert!(!session.peer().may_see(&"main".parse().unwrap()));
    assert!(!session.peer().is_admin());
    // An administrator's certificate gives a joining client no more rights.
    let admin = mesh.identity(&Role::Admin, "root");
    let _connection = raw_connect(&address, &format!("pgmesh-join/{WIRE_VERSION}"), Some(&admin), &mesh.ca)
        .await
        .unwrap();
    assert_eq!(*arrivals.recv().await.unwrap().unwrap().peer(), Peer::Joining);
}

fn problem(result: Result<crate::Connection, ConnectError>) -> NodeCertificateProblem {
    match result {
        Err(ConnectError::NodeCertificate { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn joining_trusts_only_the_authority_of_the_token() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let (address, _arrivals) = listen(&mesh.node());
    let expected = other.ca.fingerprint();
    let found = problem(JoinClient::connect(&address, expected).await);
    assert_eq!(found, NodeCertificateProblem::OtherAuthority { expected });
    let found = problem(JoinClient::connect(&address, Fingerprint([0; 32])).await);
    assert!(matches!(found, NodeCertificateProblem::OtherAuthority { .. }));

    // An attacker in the middle shows the right authority's certificate, which is no secret, beside its own.
    let node = other.node();
    let authority = mesh.node().roots().remove(0);
    let chain = vec![node.chain()[0].clone(), authority];
    let middle = raw_listen(&format!("pgmesh-join/{WIRE_VERSION}"), &node, chain);
    let address = middle.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Some(incoming) = middle.accept().await {
            let _ = incoming.await;
        }
    });
    let found = problem(JoinClient::connect(&address, mesh.ca.fingerprint()).await);
    assert!(matches!(found, NodeCertificateProblem::OtherMesh { .. }), "{found}");
}

#[tokio::test]
async fn a_members_certificate_does_not_make_a_node() {
    let mesh = Mesh::new();
    for role in [Role::Admin, Role::Client { stanzas: vec![] }] {
        let identity = mesh.identity(&role, "thief");
        let bound = Server::bind("127.0.0.1:0".parse().unwrap(), &identity);
        assert!(matches!(bound, Err(BindError::NotANode { .. })));
        // A modified program can listen with this certificate all the same.
        for (alpn, joining) in [
            (&format!("pgmesh/{WIRE_VERSION}"), false),
            (&format!("pgmesh-join/{WIRE_VERSION}"), true),
        ] {
            let server = raw_listen(alpn, &identity, identity.chain_with_ca());
            let address = server.local_addr().unwrap().to_string();
            tokio::spawn(async move {
                while let Some(incoming) = server.accept().await {
                    let _ = incoming.await;
                }
            });
            let result = match joining {
                true => JoinClient::connect(&address, mesh.ca.fingerprint()).await,
                false => mesh.dialler().connect(&address).await,
            };
            assert_eq!(problem(result), NodeCertificateProblem::NotANode, "{role:?} {alpn}");
        }
    }
}

#[tokio::test]
async fn another_mesh_is_refused_by_both_sides() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let (address, mut arrivals) = listen(&mesh.node());
    let error = other.dialler().connect(&address).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("its certificate is not of mesh {}", other.ca.mesh_id())),
        "{text}"
    );
    assert!(!error.is_transient());
    assert!(matches!(
        arrivals.recv().await.unwrap(),
        Err(EstablishError::Handshake { .. })
    ));

    // A client that does not check the node's certificate gets no further.
    for alpn in [
        &format!("pgmesh/{WIRE_VERSION}"),
        &format!("pgmesh-join/{WIRE_VERSION}"),
    ] {
        let connection = raw_connect(&address, alpn, Some(&other.client()), &mesh.ca)
            .await
            .unwrap();
        let lost = ConnectionLost::from(connection.closed().await);
        let alert = Some(lost::ALERT_UNKNOWN_CA);
        assert!(
            matches!(&lost, ConnectionLost::Refused { alert: found, .. } if *found == alert),
            "{lost}"
        );
        assert!(lost.to_string().contains("not of the mesh"), "{lost}");
        assert!(matches!(
            arrivals.recv().await.unwrap(),
            Err(EstablishError::Handshake { .. })
        ));
    }
}

#[tokio::test]
async fn a_forged_authority_of_the_same_name_is_another_mesh() {
    let mesh = Mesh::new();
    let forged = Mesh {
        ca: crate::MeshCa::create(mesh.ca.mesh_id().clone()).unwrap(),
    };
    let (address, _arrivals) = listen(&forged.node());
    let found = problem(mesh.dialler().connect(&address).await);
    assert!(matches!(found, NodeCertificateProblem::OtherMesh { .. }), "{found}");
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = raw_connect(
        &address,
        &format!("pgmesh/{WIRE_VERSION}"),
        Some(&forged.client()),
        &mesh.ca,
    )
    .await
    .unwrap();
    assert!(matches!(
        connection.closed().await,
        ConnectionError::ConnectionClosed(_)
    ));
    assert!(matches!(
        arrivals.recv().await.unwrap(),
        Err(EstablishError::Handshake { .. })
    ));
}

#[tokio::test]
async fn expired_certificates_are_refused_by_both_sides() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let late = Client::new(&mesh.expired(&Role::Admin)).unwrap();
    let error = late.connect(&address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Expired { .. }), "{error}");
    // A client whose clock is slow does not know that its certificate has expired.
    let error = late.dial(&address).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Rejected { reason, .. } if reason.contains("expired")),
        "{error}"
    );
    assert!(matches!(
        arrivals.recv().await.unwrap(),
        Err(EstablishError::Handshake { .. })
    ));

    let (address, _arrivals) = listen(&mesh.expired(&Role::Node));
    assert_eq!(
        problem(mesh.dialler().connect(&address).await),
        NodeCertificateProblem::Expired
    );
    let joined = JoinClient::connect(&address, mesh.ca.fingerprint()).await;
    assert_eq!(problem(joined), NodeCertificateProblem::Expired);
}

#[tokio::test]
async fn both_versions_are_named_when_they_differ() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    for alpn in ["pgmesh/1", "pgmesh-join/1"] {
        let connection = raw_connect(&address, alpn, None, &mesh.ca).await.unwrap();
        let lost = ConnectionLost::from(connection.closed().await);
        let ConnectionLost::ClosedByPeer { code, reason } = &lost else {
            panic!("{lost}")
        };
        assert_eq!(code.spoken_version(), Some(WIRE_VERSION));
        assert_eq!(*reason, format!("this node speaks pgmesh wire protocol {WIRE_VERSION}"));
        assert!(matches!(
            arrivals.recv().await.unwrap(),
            Err(EstablishError::Version { .. })
        ));
    }

    // A node of the future that refuses us as we refuse others: it completes the handshake of our version to say so.
    let next = WIRE_VERSION + 1;
    let node = mesh.node();
    let future = raw_listen(&format!("pgmesh/{WIRE_VERSION}"), &node, node.chain_with_ca());
    let address = future.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Some(incoming) = future.accept().await {
            let connection = incoming.await.unwrap();
            connection.close(CloseCode::speaks(next).0.into(), b"");
            connection.closed().await;
        }
    });
    let error = mesh.dialler().connect(&address).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!(
            "speaks pgmesh wire protocol {next}, this program {WIRE_VERSION}"
        )),
        "{error}"
    );

    let stranger = raw_listen("h3", &node, node.chain_with_ca());
    let address = stranger.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Some(incoming) = stranger.accept().await {
            let _ = incoming.await;
        }
    });
    let error = mesh.dialler().connect(&address).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotPgmesh { .. }), "{error}");
}

#[tokio::test]
async fn a_renewed_identity_is_used_from_now_on() {
    let mesh = Mesh::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &mesh.node()).unwrap();
    let address = server.local_address().unwrap().to_string();
    let renewed = mesh.ca.issue(&Role::Node, &"node1".parse().unwrap(), 2 * YEAR).unwrap();
    assert!(matches!(
        server.replace_identity(&mesh.client()),
        Err(BindError::NotANode { .. })
    ));
    server.replace_identity(&renewed).unwrap();
    let _arrivals = super::support::arrivals(server);
    let connection = mesh.dialler().connect(&address).await.unwrap();
    assert_eq!(connection.node().fingerprint, renewed.fingerprint());
}

#[tokio::test]
async fn the_reason_of_a_close_is_shown() {
    let (connection, session) = pair(&Mesh::new()).await;
    session.close(CloseCode::FORBIDDEN, "db1 was removed from the mesh");
    let lost = connection.closed().await;
    assert!(!lost.is_orderly());
    assert!(lost.to_string().contains("db1 was removed from the mesh"), "{lost}");
    assert!(matches!(
        connection.open().await,
        Err(ConnectionLost::ClosedByPeer { .. })
    ));
    assert!(StreamError::Lost(lost).is_peer_failure());
}

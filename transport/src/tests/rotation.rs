//! Two authorities of one mesh, one after the other.

use super::support::{Mesh, YEAR, arrivals};
use crate::{Client, ConnectError, Identity, JoinClient, KeyRequest, MeshCa, Role, Server};

/// A mesh whose authority is being rotated: the former authority and the new one.
struct Rotating {
    former: MeshCa,
    next: MeshCa,
    vouched: Vec<u8>,
}

impl Rotating {
    fn new() -> Self {
        let former = Mesh::new().ca;
        let next = MeshCa::create(former.mesh_id().clone()).unwrap();
        let vouched = former.vouch_for(&next).unwrap();
        Self { former, next, vouched }
    }

    fn of(&self, ca: &MeshCa, role: &Role) -> Identity {
        let identity = ca.issue(role, &"x".parse().unwrap(), YEAR).unwrap();
        match role {
            Role::Node => identity.with_others(&self.others()),
            _ => identity,
        }
    }

    fn others(&self) -> Vec<Vec<u8>> {
        let roots = [&self.former, &self.next].map(|ca| ca.certificate_der().to_vec());
        roots.into_iter().chain([self.vouched.clone()]).collect()
    }
}

async fn connects(node: &Identity, client: &Identity) -> Result<Vec<Vec<u8>>, ConnectError> {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), node).unwrap();
    let address = server.local_address().unwrap().to_string();
    let mut arrivals = arrivals(server);
    let connection = Client::new(client).unwrap().connect(&address).await?;
    let session = arrivals.recv().await.unwrap().unwrap();
    assert_eq!(session.peer().member().unwrap().authority, client.member().authority);
    Ok(connection.shown_authorities().to_vec())
}

#[tokio::test]
async fn members_of_both_authorities_reach_each_other_until_one_is_retired() {
    let mesh = Rotating::new();
    for ca in [&mesh.former, &mesh.next] {
        for client in [&mesh.former, &mesh.next] {
            for role in [Role::Node, Role::Monitor] {
                // A client of the new authority is one that a node of the new authority has renewed.
                if role == Role::Monitor && client.id().unwrap() == mesh.next.id().unwrap() {
                    continue;
                }
                connects(&mesh.of(ca, &Role::Node), &mesh.of(client, &role))
                    .await
                    .unwrap();
            }
        }
    }
    let renewed = mesh.of(&mesh.next, &Role::Monitor);
    connects(&mesh.of(&mesh.next, &Role::Node), &renewed).await.unwrap();
    let alone = mesh.of(&mesh.next, &Role::Node).with_others(&[]);
    connects(&alone, &renewed).await.unwrap();
    let refused = connects(&alone, &mesh.of(&mesh.former, &Role::Monitor))
        .await
        .unwrap_err();
    assert!(matches!(refused, ConnectError::NodeCertificate { .. }), "{refused}");
    // Also where the client does not look.
    let blind = mesh.of(&mesh.former, &Role::Node);
    assert!(connects(&alone, &blind).await.is_err());
}

#[tokio::test]
async fn a_client_takes_the_new_authority_where_its_own_vouches_for_it() {
    let mesh = Rotating::new();
    let client = mesh.of(&mesh.former, &Role::Monitor);
    let shown = connects(&mesh.of(&mesh.next, &Role::Node), &client).await.unwrap();
    let csr = client.renewal_csr_der().unwrap();
    let sign = |ca: &MeshCa| ca.sign_csr(&csr, client.role(), client.name(), YEAR).unwrap();
    let renewed = client.renewed_under(mesh.next.certificate_der(), &sign(&mesh.next), &shown);
    let renewed = renewed.unwrap();
    assert_eq!(renewed.member().authority, mesh.next.id().unwrap());
    assert!(
        client.renewed(mesh.next.certificate_der(), &sign(&mesh.next)).is_err(),
        "nobody vouches"
    );
    // An authority that a thief has made, and that vouches for itself.
    let foreign = MeshCa::create(mesh.former.mesh_id().clone()).unwrap();
    let shown = [
        foreign.vouch_for(&foreign).unwrap(),
        foreign.certificate_der().to_vec(),
        mesh.vouched.clone(),
    ];
    assert!(
        client
            .renewed_under(foreign.certificate_der(), &sign(&foreign), &shown)
            .is_err()
    );
    // One file is replaced: a crash before the other one leaves a usable pair.
    let folder = tempfile::tempdir().unwrap();
    client.save(folder.path()).unwrap();
    let before = std::fs::read(folder.path().join("ca.crt")).unwrap();
    renewed.save_certificate(folder.path()).unwrap();
    assert_eq!(Identity::load(folder.path()).unwrap().member(), renewed.member());
    std::fs::write(folder.path().join("ca.crt"), before).unwrap();
    let read = Identity::load(folder.path()).unwrap();
    assert_eq!(read.ca_fingerprint(), mesh.next.fingerprint());
}

#[tokio::test]
async fn a_token_of_the_former_authority_is_good_while_it_vouches() {
    let mesh = Rotating::new();
    let node = mesh.of(&mesh.next, &Role::Node);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &node).unwrap();
    let address = server.local_address().unwrap().to_string();
    let _arrivals = arrivals(server);
    for token in [mesh.former.fingerprint(), mesh.next.fingerprint()] {
        let connection = JoinClient::connect(&address, token).await.unwrap();
        let key = KeyRequest::generate().unwrap();
        let (csr, name) = (key.csr_der().unwrap(), "db1".parse().unwrap());
        let certificate = mesh.next.sign_csr(&csr, &Role::Monitor, &name, YEAR).unwrap();
        let shown = connection.shown_authorities();
        let joined = key.into_identity_under(mesh.next.certificate_der(), &certificate, token, shown);
        assert_eq!(joined.unwrap().ca_fingerprint(), mesh.next.fingerprint());
    }
}

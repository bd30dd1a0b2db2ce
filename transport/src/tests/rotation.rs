//! Two authorities of one mesh, one after the other.

use super::support::{Mesh, YEAR, arrivals};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CustomExtension, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    PKCS_ED25519, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

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

/// A certificate that one authority has signed and that names another one as its signer.
fn misnamed(signer: &MeshCa, named: &MeshCa) -> Identity {
    let request = KeyRequest::generate().unwrap();
    let parsed = CertificateSigningRequestDer::from(request.csr_der().unwrap());
    let mut signed = CertificateSigningRequestParams::from_der(&parsed).unwrap();
    let mut params = CertificateParams::default();
    let uri = format!("pgmesh://{}/admin/mallory", signer.mesh_id());
    params
        .subject_alt_names
        .push(SanType::URI(uri.as_str().try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    // RFC 5280, section 4.2.1.1: a sequence with the key identifier, tag 0.
    let name = [&[0x30, 22, 0x80, 20], named.id().unwrap().as_slice()].concat();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 35], name)];
    signed.params = params;
    let key = PrivatePkcs8KeyDer::from(signer.key_pkcs8());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).unwrap();
    let authority = CertificateDer::from(signer.certificate_der().to_vec());
    let issuer = Issuer::from_ca_cert_der(&authority, key).unwrap();
    let certificate = signed.signed_by(&issuer).unwrap();
    request
        .into_identity(signer.certificate_der(), certificate.der(), signer.fingerprint())
        .unwrap()
}

/// A thief of the former authority's key would name the new one, for which nodes have no doubts.
#[tokio::test]
async fn a_certificate_counts_only_under_the_authority_that_has_signed_it() {
    let mesh = Rotating::new();
    let node = mesh.of(&mesh.next, &Role::Node);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &node).unwrap();
    let address = server.local_address().unwrap().to_string();
    let mut arrivals = arrivals(server);
    let forged = misnamed(&mesh.former, &mesh.next);
    assert_eq!(forged.member().authority, mesh.next.id().unwrap());
    let refused = Client::new(&forged).unwrap().connect(&address).await;
    assert!(refused.is_err(), "it says that the new authority has signed it");
    assert!(arrivals.recv().await.unwrap().is_err());
    // The same certificate with the right name.
    let honest = misnamed(&mesh.former, &mesh.former);
    connects(&node, &honest).await.unwrap();
}

/// After the new authority was given up, or while it is retired, a node that has not heard of it is still reached.
#[tokio::test]
async fn a_node_of_the_new_authority_is_reached_by_nodes_that_know_the_former_one_alone() {
    let mesh = Rotating::new();
    let alone = mesh.of(&mesh.former, &Role::Node).with_others(&[]);
    connects(&mesh.of(&mesh.next, &Role::Node), &alone).await.unwrap();
    let back = mesh.of(&mesh.next, &Role::Node);
    let csr = back.renewal_csr_der().unwrap();
    let signed = mesh.former.sign_csr(&csr, &Role::Node, back.name(), YEAR).unwrap();
    // Nobody vouches for the former one, but a node goes by the catalog.
    assert!(
        back.renewed_under(mesh.former.certificate_der(), &signed, &mesh.others())
            .is_err()
    );
    let back = back.reissued(mesh.former.certificate_der(), &signed).unwrap();
    connects(&back, &mesh.of(&mesh.next, &Role::Node)).await.unwrap();
    connects(&alone, &back).await.unwrap();
}

/// A crash between the two files leaves a certificate without a key, which is no authority, and never a key without its
/// certificate.
#[test]
fn an_authority_s_key_is_written_last() {
    let folder = tempfile::tempdir().unwrap();
    // The key cannot be renamed over a folder.
    std::fs::create_dir_all(folder.path().join("ca.key/full")).unwrap();
    let ca = Mesh::new().ca;
    assert!(ca.save(folder.path()).is_err());
    assert!(folder.path().join("ca.crt").exists());
    std::fs::remove_dir_all(folder.path().join("ca.key")).unwrap();
    assert!(!MeshCa::exists(folder.path()));
    ca.save(folder.path()).unwrap();
    assert_eq!(MeshCa::load(folder.path()).unwrap().id().unwrap(), ca.id().unwrap());
}

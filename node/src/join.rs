//! `node join`: this host becomes a node of a mesh that exists.
//!
//! The token's bearer gets a certificate from any node; with it, as a node, the mesh's certificate authority, so that
//! the new node can admit other nodes when all older nodes are gone; and a number in the Raft group. The catalog itself
//! comes by replication once the node runs.

use crate::init::CERTIFICATE_VALIDITY;
use crate::init::{check_directory, identity_at, make_private_directory, node_names, write_marker};
use crate::mesh_file::MeshFile;
use crate::pending_key::{forget_pending_keys, pending_key};
use crate::settings::{Layout, NodeSettings};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{Call, ExitCode, Failure, GetAuthority, JoinAccepted, JoinRequest, NewNode};
use pgmesh_raft::{Catalog, CatalogOptions, MeshRecord};
use pgmesh_transport::{Client, Connection, Identity, JoinClient, JoinToken, KeyRequest, MemberName, MeshCa, Role};
use std::time::Duration;
use zeroize::Zeroizing;

/// The node that `node join` made.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The mesh.
    pub mesh_id: String,
    /// The node's number in it.
    pub node_id: u64,
    /// SHA-256 of the certificate of the mesh's authority.
    pub ca_fingerprint: String,
}

/// So often the nodes of a token are asked, one after the other.
const REDEMPTIONS: u32 = 3;
/// The pause before they are asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the data directory of a node that joins. The marker is written last, so that an attempt that was interrupted
/// is started over: with the same token it goes on under the same keys, also if the token is used up by it.
///
/// # Errors
/// The directory holds a node or other files already, no node that the token names can be reached, or the mesh refuses.
pub async fn join(settings: &NodeSettings, token: &JoinToken) -> Result<Joined, Failure> {
    let layout = Layout::new(&settings.path);
    check_directory(&layout)?;
    let (_, member) = node_names(settings)?;
    make_private_directory(layout.root())?;
    let request = pending_key(layout.root(), token, "identity")?;
    let csr = request
        .csr_der()
        .map_err(|error| crypto("a certificate request cannot be made", &error))?;
    // Made before a node is asked: the mesh knows the node by this key, and shuts both out when the node leaves.
    let administrator = pending_key(layout.root(), token, "admin")?;
    let join = JoinRequest {
        token_id: token.id,
        secret: token.secret.clone(),
        csr: csr.into(),
        name: member.to_string().into(),
        node: Some(NewNode {
            region: settings.region.clone().unwrap_or_default().into(),
            advertise: vec![settings.advertise.clone()].into(),
            administrator: administrator.key().0,
            program: env!("CARGO_PKG_VERSION").into(),
            catalog_format: MeshRecord::CATALOG_FORMAT,
        }),
    };
    let Redeemed {
        address,
        accepted,
        shown,
    } = redeem_by_token(token, &join).await?;
    let Some(node) = accepted.node else {
        return Err(Failure::new(ExitCode::OptionInvalid, "this token does not make a node")
            .remedy("redeem it with 'pgmesh join', or ask for another: pgmesh invite --role=node NAME"));
    };
    let identity = request
        .into_identity_under(&accepted.ca, &accepted.certificate, token.ca_fingerprint, &shown)
        .map_err(|error| crypto("the node's answer is not what the token promises", &error))?;
    // While the mesh's authority is rotated, the node has shown both. It is the node that the token vouches for.
    let others: Vec<Vec<u8>> = shown.iter().filter(|der| *der != identity.ca_der()).cloned().collect();
    let identity = identity.with_others(&others);
    let authority = fetch_authority(&identity, &address).await?;
    if authority.certificate_der() != identity.ca_der() && !others.iter().any(|der| der == authority.certificate_der())
    {
        return Err(Failure::new(
            ExitCode::Crypto,
            "the authority that the node handed over is none that it has shown",
        )
        .again());
    }
    authority
        .save(&layout.ca())
        .map_err(|error| crypto("the mesh's authority cannot be saved", &error))?;
    let administrator = certified(administrator, &authority, &member)?;
    identity_at(&administrator, &layout.admin())?;
    identity_at(&identity, &layout.identity())?;
    identity
        .save_others(&layout.identity())
        .map_err(|error| crypto("the mesh's authorities cannot be saved", &error))?;
    Catalog::create_joining(&layout.catalog(), node.node_id, &CatalogOptions::default()).await?;
    let mut seeds = accepted.nodes;
    if !seeds.contains(&address) {
        seeds.push(address);
    }
    let file = MeshFile {
        mesh_id: identity.mesh_id().to_string(),
        suite: node.suite,
        node_id: node.node_id,
        seeds,
        members: node.members,
    };
    file.write(&layout)?;
    write_marker(&layout)?;
    forget_pending_keys(layout.root());
    Ok(Joined {
        mesh_id: file.mesh_id,
        node_id: node.node_id,
        ca_fingerprint: authority.fingerprint().to_string(),
    })
}

/// A token that was redeemed.
#[derive(Debug)]
pub struct Redeemed {
    /// The address of the node that has answered.
    pub address: String,
    /// Its answer.
    pub accepted: JoinAccepted,
    /// The certificates of authorities that it has shown, in DER.
    pub shown: Vec<Vec<u8>>,
}

/// Redeems a token at its first node that answers. If an answer is
/// lost, the token may be used up: the same request is sent to the next node, which gives the same answer.
///
/// # Errors
/// No node of the token can be reached, or the mesh refuses.
pub async fn redeem_by_token(token: &JoinToken, join: &JoinRequest) -> Result<Redeemed, Failure> {
    let mut lost = None;
    for round in 0..REDEMPTIONS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for address in &token.addresses {
            let Ok(connection) = JoinClient::connect(address, token.ca_fingerprint).await else {
                continue;
            };
            match call(&connection, join).await {
                Ok(accepted) => {
                    return Ok(Redeemed {
                        address: address.clone(),
                        accepted,
                        shown: connection.shown_authorities().to_vec(),
                    });
                }
                Err(failure) if failure.again || failure.code == ExitCode::HostConnect => lost = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        if lost.is_none() {
            // Says why none can be reached.
            connect_by_token(token).await?;
        }
    }
    Err(lost.unwrap_or_else(|| Failure::new(ExitCode::HostConnect, "no node that the token names has answered")))
}

/// Connects to the first node of a token that answers. Returns its address, too.
///
/// # Errors
/// No node of the token can be reached.
async fn connect_by_token(token: &JoinToken) -> Result<(String, Connection), Failure> {
    let mut reasons = Vec::new();
    for address in &token.addresses {
        match JoinClient::connect(address, token.ca_fingerprint).await {
            Ok(connection) => return Ok((address.clone(), connection)),
            Err(error) => reasons.push(chain(&error)),
        }
    }
    Err(
        Failure::new(ExitCode::HostConnect, "no node that the token names can be reached")
            .because(reasons.join("; "))
            .remedy("check that the node runs, and that its node-advertise can be reached from here"),
    )
}

/// With its new certificate as a node, this host asks for the mesh's authority, which only nodes get.
async fn fetch_authority(identity: &Identity, address: &str) -> Result<MeshCa, Failure> {
    let client = Client::new(identity).map_err(|error| crypto("the new identity cannot be used", &error))?;
    let connection = client.connect(address).await.map_err(|error| interrupted(&error))?;
    let key = call(&connection, &GetAuthority).await?;
    MeshCa::from_parts(&key.certificate, Zeroizing::new(key.key))
        .map_err(|error| crypto("the authority that the node handed over cannot be used", &error))
}

/// The administrator's identity of a node that has the authority.
fn certified(request: KeyRequest, authority: &MeshCa, name: &MemberName) -> Result<Identity, Failure> {
    let csr = request
        .csr_der()
        .map_err(|error| crypto("a certificate request cannot be made", &error))?;
    let certificate = authority
        .sign_csr(&csr, &Role::Admin, name, CERTIFICATE_VALIDITY)
        .map_err(|error| crypto("a certificate cannot be made", &error))?;
    request
        .into_identity(authority.certificate_der(), &certificate, authority.fingerprint())
        .map_err(|error| crypto("the administrator's certificate cannot be used", &error))
}

pub(crate) async fn call<C: Call>(connection: &Connection, call: &C) -> Result<C::Reply, Failure> {
    let mut stream = connection.open().await.map_err(|error| interrupted(&error))?;
    stream.call(call).await.map_err(|error| interrupted(&error))?;
    stream.finish().map_err(|error| interrupted(&error))?;
    stream.reply::<C>().await.map_err(|error| interrupted(&error))?
}

fn interrupted(error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::HostConnect, "joining was interrupted")
        .because(chain(error))
        .remedy("try again; if the token is refused then, it is used up: take back what it may have made (a node: 'pgmesh node remove NAME'; any other: 'pgmesh client revoke NAME'), and make another token")
}

fn crypto(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::Crypto, what).because(chain(error))
}

//! Join tokens and certificates.

use crate::failure::chain;
use crate::protocol::{BeginAnew, CreateInvite, Invite, JoinAccepted, JoinRequest, JoinedNode, NewNode, NewNumber};
use crate::services::unexpected;
use crate::{Failure, Node, code, now_unix};
use pgmesh_raft::{
    CatalogError, Command, MeshRecord, NodeName, NodeRecord, Refusal, Reply, RequestId, TokenId, TokenRole,
};
use pgmesh_storage::wire;
use pgmesh_transport::{Fingerprint, JoinToken, MemberCertificate, MemberName, MeshCa, Role};
use std::time::Duration;

/// How long a certificate is valid; members renew theirs by themselves when a third of this is over.
pub const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Addresses in a token: it must stay short enough to be handed over.
const TOKEN_ADDRESSES: usize = 5;
/// The longest that a token may be good.
const LONGEST_EXPIRY: u64 = 30 * 24 * 3600;

impl Node {
    /// Makes a join token; its secret is nowhere kept (invariant 9).
    pub async fn invite(&self, actor: &str, invite: CreateInvite) -> Result<Invite, Failure> {
        let (role, token_role) = match invite.role.as_str() {
            "client" if invite.stanzas.is_empty() => {
                return Err(
                    Failure::new(code::OPTION_REQUIRED, "a client's token needs the stanzas it is for")
                        .remedy("add --stanza=NAME"),
                );
            }
            "client" => {
                let stanzas = invite.stanzas;
                (
                    Role::Client {
                        stanzas: stanzas.clone(),
                    },
                    TokenRole::Client { stanzas },
                )
            }
            "admin" => (Role::Admin, TokenRole::Admin),
            "node" => {
                let name = invite.name.as_deref();
                (Role::Node, self.node_token(name, invite.force).await?)
            }
            other => {
                return Err(Failure::new(
                    code::OPTION_INVALID,
                    format!("'{other}' is no role that can be invited"),
                )
                .remedy("--role=client, --role=admin or --role=node NAME"));
            }
        };
        if invite.expires == 0 || invite.expires > LONGEST_EXPIRY {
            return Err(Failure::new(
                code::OPTION_INVALID,
                format!("a token cannot be good for {} s", invite.expires),
            )
            .remedy("--expires takes up to 30d"));
        }
        let expires = now_unix().saturating_add(i64::try_from(invite.expires).unwrap_or(i64::MAX));
        let addresses = if invite.addresses.is_empty() {
            self.token_addresses()
        } else {
            invite.addresses
        };
        let authority = self.authority()?;
        let token = JoinToken::generate(addresses, authority.fingerprint(), role, expires)
            .map_err(|error| Failure::new(code::CRYPTO, "a token could not be made").because(chain(&error)))?;
        let command = Command::CreateToken {
            id: catalog_token_id(&token.id.0),
            secret_hash: token.secret_hash(),
            role: token_role,
            expires,
        };
        self.catalog.propose(actor, command).await?;
        Ok(Invite {
            token: token.to_string(),
            expires_at: expires,
        })
    }

    /// What a node's token is for: a name, and the node whose place it takes, where that is meant.
    async fn node_token(&self, name: Option<&str>, force: bool) -> Result<TokenRole, Failure> {
        let name = name.ok_or_else(|| {
            Failure::new(
                code::OPTION_REQUIRED,
                "a node's token needs the name that the node will have",
            )
            .remedy("'pgmesh invite --role=node NAME', where NAME is the node-name in the new node's file")
        })?;
        let name: NodeName = name
            .parse()
            .map_err(|error| Failure::new(code::OPTION_INVALID, "the node's name cannot be used").because(error))?;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let member = view.node(&name)?.filter(NodeRecord::is_member);
        // Without --force the catalog refuses a name that is taken.
        let replaces = member.filter(|_| force).map(|record| record.node_id);
        Ok(TokenRole::Node { name, replaces })
    }

    /// Redeems a token and signs the bearer's certificate.
    pub async fn join(&self, join: JoinRequest) -> Result<JoinAccepted, Failure> {
        let name: MemberName = join.name.parse().map_err(|error| {
            Failure::new(
                code::OPTION_INVALID,
                format!("'{}' is no name for a member of the mesh", join.name),
            )
            .because(error)
        })?;
        let authority = self.authority()?;
        // Before the token is used up: a request that cannot be signed shall not cost it.
        let sign = |role: &Role| {
            authority
                .sign_csr(&join.csr, role, &name, CERTIFICATE_VALIDITY)
                .map_err(|error| {
                    Failure::new(code::CRYPTO, "the certificate could not be signed").because(chain(&error))
                })
        };
        sign(&Role::Admin)?;
        if let Some(new) = &join.node {
            self.check_new_node(&name, new).await?;
        }
        let command = Command::RedeemToken {
            id: catalog_token_id(&join.token_id.0),
            secret_hash: join.secret.hash(),
            name: name.to_string(),
        };
        // The same request again, perhaps through another node because the answer was lost, is the same redemption;
        // with anything else in it, it is another one, and the token is used up.
        let whole = wire::encode(&("redeem", join.token_id, join.secret.hash(), &join.csr, name.as_str()));
        let request = RequestId(first_half(&self.suite().digest(&whole)));
        let actor = format!("joining {name}");
        let role = match self.catalog.propose_as(&actor, request, command).await? {
            Reply::Token(TokenRole::Admin) => Role::Admin,
            Reply::Token(TokenRole::Client { stanzas }) => Role::Client { stanzas },
            Reply::Token(TokenRole::Node { .. }) => Role::Node,
            other => return Err(unexpected(&other)),
        };
        let certificate = sign(&role)?;
        let node = match (&role, join.node) {
            (Role::Node, Some(new)) => Some(self.admit(&actor, &name, new, &certificate).await?),
            (Role::Node, None) => {
                return Err(Failure::new(
                    code::OPTION_INVALID,
                    "this token makes a node, and this is no node's request",
                )
                .remedy("run 'pgmesh node join TOKEN' with the new node's configuration file and a new token"));
            }
            _ => None,
        };
        Ok(JoinAccepted {
            certificate,
            ca: authority.certificate_der().to_vec(),
            nodes: self.token_addresses(),
            node,
        })
    }

    /// A name that is taken by a node that lives must not be given to another.
    async fn check_new_node(&self, name: &MemberName, new: &NewNode) -> Result<(), Failure> {
        let known = MeshRecord::CATALOG_FORMAT;
        if new.catalog_format != known {
            return Err(Failure::new(
                code::VERSION_NOT_SUPPORTED,
                format!(
                    "the new node's program (pgmesh {}) writes catalog format {}, the mesh has {known}",
                    new.program, new.catalog_format
                ),
            )
            .remedy("install the version of pgmesh that the other nodes run"));
        }
        let node: NodeName = name
            .as_str()
            .parse()
            .map_err(|error| Failure::new(code::OPTION_INVALID, "node-name cannot be used").because(error))?;
        let taken = || {
            Failure::new(code::OPTION_INVALID, format!("the mesh has a node '{node}', and it is running"))
                .remedy(format!("choose another node-name, or stop that node first; if it is to go for good: 'pgmesh node remove {node}'"))
        };
        if node == self.name {
            return Err(taken());
        }
        let record = self.catalog.view().node(&node)?;
        if record.is_some_and(|record| record.is_member()) && self.ask_node(&node).await.is_ok() {
            return Err(taken());
        }
        Ok(())
    }

    async fn admit(
        &self,
        actor: &str,
        name: &MemberName,
        new: NewNode,
        certificate: &[u8],
    ) -> Result<JoinedNode, Failure> {
        let name: NodeName = name
            .as_str()
            .parse()
            .map_err(|error| Failure::new(code::OPTION_INVALID, "node-name cannot be used").because(error))?;
        let command = Command::AdmitNode {
            name,
            region: new.region,
            advertise: new.advertise,
            fingerprint: Fingerprint::of(certificate).0,
            program: new.program,
            catalog_format: new.catalog_format,
        };
        match self.catalog.propose(actor, command).await? {
            Reply::Admitted { node_id, .. } => Ok(JoinedNode {
                node_id,
                suite: self.suite(),
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Another number for a node whose disk lacks what it has promised under the one that it has. A leader with a
    /// majority gives it out, so whatever was acknowledged is on the others.
    pub(crate) async fn renumber(&self, member: &MemberCertificate, begin: BeginAnew) -> Result<NewNumber, Failure> {
        let name: NodeName = member
            .name
            .as_str()
            .parse()
            .map_err(|error| Failure::new(code::PROTOCOL, "the certificate names no node").because(error))?;
        if name == self.name {
            return Err(Failure::new(
                code::PROTOCOL,
                "a node cannot ask itself for another number",
            ));
        }
        let command = Command::RenumberNode {
            name: name.clone(),
            number: begin.number,
            fingerprint: member.fingerprint.0,
            reason: begin.reason,
        };
        match self
            .catalog
            .propose_as(&format!("node {name}"), begin.id, command)
            .await
        {
            Ok(Reply::Admitted { node_id, .. }) => Ok(NewNumber::Given(node_id)),
            Ok(other) => Err(unexpected(&other)),
            Err(CatalogError::Refused(Refusal::NodeReplaced { known, .. })) => Ok(NewNumber::Is(known)),
            Err(error) => Err(error.into()),
        }
    }

    /// Where whoever joins finds the mesh: this node first, and others in case it is gone by then.
    fn token_addresses(&self) -> Vec<String> {
        let mut addresses = vec![self.settings.advertise.clone()];
        for node in self.addresses() {
            for address in node.addresses {
                if !addresses.contains(&address) && addresses.len() < TOKEN_ADDRESSES {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    pub(crate) fn authority(&self) -> Result<MeshCa, Failure> {
        MeshCa::load(&self.layout.ca()).map_err(|error| {
            Failure::new(
                code::CRYPTO,
                "the mesh's certificate authority cannot be read on this node",
            )
            .because(chain(&error))
        })
    }
}

/// The catalog's identifiers are longer than those of this version's tokens; the rest is zero.
fn catalog_token_id(bytes: &[u8]) -> TokenId {
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(bytes) {
        *to = *from;
    }
    TokenId(id)
}

fn first_half(digest: &pgmesh_storage::Digest) -> [u8; 16] {
    let mut half = [0; 16];
    for (to, from) in half.iter_mut().zip(digest.as_bytes()) {
        *to = *from;
    }
    half
}

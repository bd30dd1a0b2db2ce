//! Join tokens and certificates.

use crate::failure::chain;
use crate::protocol::{CreateInvite, Invite, JoinAccepted, JoinRequest};
use crate::services::unexpected;
use crate::{Failure, Node, code, now_unix};
use pgmesh_raft::{Command, Reply, TokenId, TokenRole};
use pgmesh_transport::{JoinToken, MemberName, MeshCa, Role};
use std::time::Duration;

/// How long a certificate is valid. Members of later meshes renew by themselves; until then a long time.
pub const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
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
            other => {
                return Err(Failure::new(
                    code::OPTION_INVALID,
                    format!("'{other}' is no role that can be invited"),
                )
                .remedy("--role=client or --role=admin"));
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
            vec![self.settings.advertise.clone()]
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
        let command = Command::RedeemToken {
            id: catalog_token_id(&join.token_id.0),
            secret_hash: join.secret.hash(),
            name: name.to_string(),
        };
        let role = match self.catalog.propose(&format!("joining {name}"), command).await? {
            Reply::Token(TokenRole::Admin) => Role::Admin,
            Reply::Token(TokenRole::Client { stanzas }) => Role::Client { stanzas },
            Reply::Token(TokenRole::Node) => {
                return Err(Failure::new(
                    code::OPTION_INVALID,
                    "a node's token is not redeemed in this way",
                ));
            }
            other => return Err(unexpected(&other)),
        };
        Ok(JoinAccepted {
            certificate: sign(&role)?,
            ca: authority.certificate_der().to_vec(),
            nodes: vec![self.settings.advertise.clone()],
            node: None,
        })
    }

    fn authority(&self) -> Result<MeshCa, Failure> {
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

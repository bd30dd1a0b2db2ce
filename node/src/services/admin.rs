//! Join tokens and certificates.

use crate::certificates::granted_role;
use crate::init::CERTIFICATE_VALIDITY;
use crate::membership::Membership;
use crate::replies::unexpected;
use crate::services::joining::Comer;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    BeginAnew, CreateInvite, ExitCode, Failure, Invite, JoinAccepted, JoinRequest, JoinedNode, NewNode, NewNumber,
    now_unix,
};
use pgmesh_raft::command::{AdmitNode, HandOutToken, IssueCertificate};
use pgmesh_raft::{
    CatalogError, Command, MeshRecord, NodeName, NodeRecord, Redemption, Refusal, Reply, TokenId, TokenRole,
};
use pgmesh_storage::wire;
use pgmesh_transport::{JoinToken, MemberCertificate, MemberName, MeshCa, Role};

/// Addresses in a token: it must stay short enough to be handed over.
const TOKEN_ADDRESSES: usize = 5;
/// The longest that a token may be good.
const LONGEST_EXPIRY: u64 = 30 * 24 * 3600;

impl Membership {
    /// Makes a join token for the administrator who has the key with this SHA-256; its secret is nowhere kept
    /// (invariant 9).
    pub async fn invite(&self, actor: &str, maker: [u8; 32], invite: CreateInvite) -> Result<Invite, Failure> {
        // The token names the authority that signs: a view that lags could name one that is retired.
        drop(self.catalog.view_linearizable().await.map_err(Failure::from)?);
        let (role, token_role) = self.invited_role(&invite).await?;
        if invite.expires == 0 || invite.expires > LONGEST_EXPIRY {
            return Err(Failure::new(
                ExitCode::OptionInvalid,
                format!("a token cannot be good for {} s", invite.expires),
            )
            .remedy("--expires takes up to 30d"));
        }
        let expires = now_unix().saturating_add(i64::try_from(invite.expires).unwrap_or(i64::MAX));
        let addresses = if invite.addresses.is_empty() {
            self.token_addresses()
        } else {
            invite.addresses.into()
        };
        let authority = self.authority()?;
        let token = JoinToken::generate(addresses, authority.fingerprint(), role, expires)
            .map_err(|error| Failure::new(ExitCode::Crypto, "a token could not be made").because(chain(&error)))?;
        let (id, secret_hash) = (catalog_token_id(&token.id.0), token.secret_hash());
        let command = if self.notes_certificates()? {
            Command::HandOutToken(Box::new(HandOutToken {
                id,
                secret_hash,
                role: token_role,
                expires,
                maker,
            }))
        } else {
            Command::CreateToken {
                id,
                secret_hash,
                role: token_role,
                expires,
            }
        };
        self.catalog.propose(actor, command).await?;
        Ok(Invite {
            token: token.to_string(),
            expires_at: expires,
        })
    }

    /// The role of a node's token: its name, and the node whose place it takes, where that is meant.
    pub(super) async fn node_token(&self, name: Option<&str>, force: bool) -> Result<TokenRole, Failure> {
        let name = name.ok_or_else(|| {
            Failure::new(
                ExitCode::OptionRequired,
                "a node's token needs the name that the node will have",
            )
            .remedy("'pgmesh invite --role=node NAME', where NAME is the node-name in the new node's file")
        })?;
        let name: NodeName = name
            .parse()
            .map_err(|error| Failure::new(ExitCode::OptionInvalid, "the node's name cannot be used").because(error))?;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let member = view.node(&name)?.filter(NodeRecord::is_member);
        // Without --force the catalog refuses a name that is taken.
        let replaces = member.filter(|_| force).map(|record| record.node_id);
        Ok(TokenRole::Node { name, replaces })
    }

    /// Redeems a token: signs the bearer's certificate, and has the catalog use the token up for it. If the answer is
    /// lost, the bearer sends the same request again, perhaps to another node, and gets the certificate of the first
    /// one.
    pub(crate) async fn join(&self, join: JoinRequest, comer: &Comer<'_>) -> Result<JoinAccepted, Failure> {
        let name: MemberName = join.name.parse().map_err(|error| {
            Failure::new(
                ExitCode::OptionInvalid,
                format!("'{}' is no name for a member of the mesh", join.name),
            )
            .because(error)
        })?;
        let token = catalog_token_id(&join.token_id.0);
        let known = self.shown_token(token, &join, comer).await?;
        let is_noted = matches!(known.role, TokenRole::Member { .. });
        let role = match &known.role {
            TokenRole::Admin => Role::Admin,
            TokenRole::Client { stanzas } => Role::Client {
                stanzas: stanzas.clone(),
            },
            TokenRole::Node { .. } => Role::Node,
            TokenRole::Member { role, .. } => granted_role(role.clone()),
        };
        let is_for_node = role == Role::Node;
        if is_for_node != join.node.is_some() {
            return Err(CatalogError::Refused(Refusal::TokenOfOtherRole { is_for_node }).into());
        }
        let administrator = join.node.as_ref().map(|new| new.administrator);
        let asked = wire::encode(&("join", &join.csr, name.as_str(), administrator));
        let request = *self.suite().digest(&asked).as_bytes();
        if let Some(used) = &known.redeemed {
            self.check_used(&join, &name, used, &request)?;
            return self.accepted(&name, used.certificate.clone(), used.node_id);
        }
        let key = self.check_join(&join, &name, &known)?;
        // Not before: a token that was used up must not keep others out.
        comer.place.inspect(|place| place.has_token());
        let authority = match role {
            Role::Node => self.authority_of_nodes()?,
            _ => self.authority()?,
        };
        let not_after = now_unix().saturating_add(i64::try_from(CERTIFICATE_VALIDITY.as_secs()).unwrap_or(i64::MAX));
        let certificate = authority
            .sign_csr(&join.csr, &role, &name, CERTIFICATE_VALIDITY)
            .map_err(|error| {
                Failure::new(ExitCode::Crypto, "the certificate could not be signed").because(chain(&error))
            })?;
        let redemption = Redemption {
            token,
            secret_hash: join.secret.hash(),
            request,
            certificate,
        };
        let command = match join.node {
            // The level may have risen since the token was made.
            None if is_noted || self.notes_certificates()? => {
                let issue = IssueCertificate {
                    redemption,
                    name: name.to_string(),
                    key: key.0,
                    not_after,
                };
                self.issue_command(issue, &authority)?
            }
            None => Command::RedeemToken {
                redemption,
                name: name.to_string(),
            },
            Some(new) => self.admission(&name, new, redemption, &authority).await?,
        };
        match self.catalog.propose(&format!("joining {name}"), command).await? {
            Reply::Joined { certificate, node_id } => self.accepted(&name, certificate, node_id),
            other => Err(unexpected(&other)),
        }
    }

    fn accepted(&self, name: &MemberName, certificate: Vec<u8>, node_id: Option<u64>) -> Result<JoinAccepted, Failure> {
        Ok(JoinAccepted {
            ca: self.authority_behind(&certificate)?,
            certificate,
            nodes: self.token_addresses(),
            node: node_id.map(|node_id| JoinedNode {
                node_id,
                suite: self.suite(),
                members: self.known_members(name.as_str()),
            }),
        })
    }

    /// The certificate of the authority that has signed a certificate. The answer of a join that comes again may be of
    /// an earlier one than signs now.
    fn authority_behind(&self, certificate: &[u8]) -> Result<Vec<u8>, Failure> {
        let by = MemberCertificate::parse(certificate).map_err(|error| {
            Failure::new(ExitCode::Crypto, "the new certificate cannot be read").because(chain(&error))
        })?;
        let rotation = self.catalog.view().rotation()?;
        match rotation.and_then(|known| known.certificate_of(&by.authority).map(<[u8]>::to_vec)) {
            Some(known) => Ok(known),
            None => Ok(self.authority()?.certificate_der().to_vec()),
        }
    }

    async fn admission(
        &self,
        name: &MemberName,
        new: NewNode,
        redemption: Redemption,
        authority: &MeshCa,
    ) -> Result<Command, Failure> {
        self.check_new_node(name, &new).await?;
        let key = MemberCertificate::parse(&redemption.certificate)
            .map_err(|error| {
                Failure::new(ExitCode::Crypto, "the new certificate cannot be read").because(chain(&error))
            })?
            .key;
        let admit = AdmitNode {
            redemption,
            name: node_name(name)?,
            region: new.region.into(),
            advertise: new.advertise.into(),
            key: key.0,
            administrator: new.administrator,
            program: new.program.into(),
            catalog_format: new.catalog_format,
        };
        self.admit_command(admit, authority)
    }

    /// A name that is taken by a node that lives must not be given to another.
    async fn check_new_node(&self, name: &MemberName, new: &NewNode) -> Result<(), Failure> {
        let known = MeshRecord::CATALOG_FORMAT;
        if new.catalog_format != known {
            return Err(Failure::new(
                ExitCode::VersionNotSupported,
                format!(
                    "the new node's program (pgmesh {}) writes catalog format {}, the mesh has {known}",
                    new.program, new.catalog_format
                ),
            )
            .remedy("install the version of pgmesh that the other nodes run"));
        }
        let node = node_name(name)?;
        let taken = || {
            Failure::new(ExitCode::OptionInvalid, format!("the mesh has a node '{node}', and it is running"))
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

    /// A new number for a node whose disk lacks what it has promised under its old number. A leader with a majority
    /// gives it out, so each acknowledged entry is on the other nodes.
    pub(crate) async fn renumber(&self, member: &MemberCertificate, begin: BeginAnew) -> Result<NewNumber, Failure> {
        let name: NodeName = member
            .name
            .as_str()
            .parse()
            .map_err(|error| Failure::new(ExitCode::Protocol, "the certificate names no node").because(error))?;
        if name == self.name {
            return Err(Failure::new(
                ExitCode::Protocol,
                "a node cannot ask itself for another number",
            ));
        }
        let command = Command::RenumberNode {
            name: name.clone(),
            number: begin.number,
            key: member.key.0,
            reason: begin.reason.into(),
        };
        match self
            .catalog
            .propose_as(&format!("node {name}"), begin.id, command)
            .await
        {
            Ok(Reply::Renumbered { node_id, .. }) => Ok(NewNumber::Given(node_id)),
            Ok(other) => Err(unexpected(&other)),
            Err(CatalogError::Refused(Refusal::NodeReplaced { known, .. })) => Ok(NewNumber::Is(known)),
            Err(error) => Err(error.into()),
        }
    }

    /// The addresses at which a joining node finds the mesh: this node first, and others in case it is gone by then.
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
}

/// A token's identifier as the catalog has it: the catalog's identifiers are longer, and the rest is zero.
fn catalog_token_id(bytes: &[u8]) -> TokenId {
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(bytes) {
        *to = *from;
    }
    TokenId(id)
}

pub(super) fn node_name(name: &MemberName) -> Result<NodeName, Failure> {
    let name = name.as_str().parse();
    name.map_err(|error| Failure::new(ExitCode::OptionInvalid, "node-name cannot be used").because(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_transport::KeyRequest;

    async fn token(site: &TestNode, role: &str, name: Option<&str>, force: bool) -> JoinToken {
        let invite = CreateInvite {
            role: role.into(),
            name: name.map(str::to_owned).map(Into::into),
            force,
            stanzas: vec![].into(),
            expires: 60,
            addresses: pgmesh_protocol::List::default(),
        };
        let invite = site.node.membership.invite("test", [9; 32], invite).await.unwrap();
        invite.token.parse().unwrap()
    }

    async fn redeem(site: &TestNode, join: JoinRequest) -> Result<JoinAccepted, Failure> {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        site.node.membership.join(join, &Comer { address, place: None }).await
    }

    fn request(token: &JoinToken, name: &str, is_node: bool) -> JoinRequest {
        let new = NewNode {
            region: String::new().into(),
            advertise: vec!["127.0.0.1:1".to_owned()].into(),
            administrator: KeyRequest::generate().unwrap().key().0,
            program: "test".into(),
            catalog_format: MeshRecord::CATALOG_FORMAT,
        };
        JoinRequest {
            token_id: token.id,
            secret: token.secret.clone(),
            csr: KeyRequest::generate().unwrap().csr_der().unwrap().into(),
            name: name.into(),
            node: is_node.then_some(new),
        }
    }

    /// Its own disk has the whole request, and its shell's history the token.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_removed_does_not_come_back_by_its_old_request() {
        let site = TestNode::start(SessionTimes::default()).await;
        let join = request(&token(&site, "node", Some("beta"), false).await, "beta", true);
        let first = redeem(&site, join.clone()).await.unwrap();
        // The answer was lost.
        let again = redeem(&site, join.clone()).await.unwrap();
        assert_eq!(first.certificate, again.certificate);
        let number = |accepted: &JoinAccepted| accepted.node.as_ref().unwrap().node_id;
        assert_eq!(number(&first), number(&again));
        let members = &first.node.as_ref().unwrap().members;
        assert_eq!(members.len(), 1, "it is told of the node that is there: {members:?}");
        site.remove("beta").await;
        let refused = redeem(&site, join).await.unwrap_err();
        assert!(refused.to_string().contains("removed"), "{refused}");
    }

    /// Both are used at the same time.
    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_tokens_for_one_place_one_is_good() {
        let site = TestNode::start(SessionTimes::default()).await;
        site.admit(&site.certificate(&Role::Node, "beta")).await;
        let tokens = [
            token(&site, "node", Some("beta"), true).await,
            token(&site, "node", Some("beta"), true).await,
        ];
        let [first, second] = tokens.each_ref().map(|token| request(token, "beta", true));
        let (first, second) = tokio::join!(redeem(&site, first), redeem(&site, second));
        let (accepted, refused) = match (first, second) {
            (Ok(accepted), Err(refused)) | (Err(refused), Ok(accepted)) => (accepted, refused),
            other => panic!("{other:?}"),
        };
        let record = site
            .node
            .catalog
            .view()
            .node(&"beta".parse().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(record.node_id, accepted.node.unwrap().node_id);
        assert!(refused.to_string().contains("has a node beta already"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_is_not_used_up_by_whom_it_is_not_for() {
        let site = TestNode::start(SessionTimes::default()).await;
        let (for_node, for_admin) = (
            token(&site, "node", Some("beta"), false).await,
            token(&site, "admin", None, false).await,
        );
        for join in [request(&for_node, "beta", false), request(&for_admin, "beta", true)] {
            let refused = redeem(&site, join).await.unwrap_err();
            assert!(refused.to_string().contains("join token"), "{refused}");
        }
        let mut guessed = request(&for_admin, "alice", false);
        guessed.secret = for_node.secret.clone();
        let applied = site.node.catalog.view().applied().unwrap();
        assert!(redeem(&site, guessed).await.is_err());
        assert_eq!(
            site.node.catalog.view().applied().unwrap(),
            applied,
            "a guess writes nothing"
        );
        let join = request(&for_admin, "alice", false);
        let first = redeem(&site, join.clone()).await.unwrap();
        assert_eq!(redeem(&site, join).await.unwrap().certificate, first.certificate);
        let other = redeem(&site, request(&for_admin, "alice", false)).await.unwrap_err();
        assert!(other.to_string().contains("already used"), "{other}");
        redeem(&site, request(&for_node, "beta", true)).await.unwrap();
    }
}

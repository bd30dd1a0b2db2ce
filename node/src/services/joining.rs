//! The role that a token gives to its bearer, and the checks of a join before the node signs or proposes anything.
//!
//! A stranger may send any number of joins. So the cheapest check comes first: the token, in this node's own catalog;
//! only a token that is not there is asked for at the leader, and that is limited. Then the certificate request, which
//! is not signed yet. Nothing enters the Raft log for a token that nobody knows, that has expired, or was used for
//! another request.

use crate::membership::Membership;
use crate::rotation::id_of;
use crate::services::admin::node_name;
use crate::worth::{noted_role, revocation};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{CreateInvite, ExitCode, Failure, JoinRequest, now_unix};
use pgmesh_raft::command::{AdmitNode, AdmitUnder, AuthorityCommand, IssueCertificate, IssueUnder};
use pgmesh_raft::{
    AUTHORITIES, CERTIFICATES, CatalogError, Command, Redeemed, Refusal, TokenId, TokenRecord, TokenRole, View,
};
use pgmesh_transport::{Fingerprint, JoinPlace, MemberCertificate, MemberName, MeshCa, Role, key_of_request};
use std::net::IpAddr;

/// Where a join comes from.
pub(crate) struct Comer<'c> {
    pub(crate) address: IpAddr,
    /// Its place among the connections without a certificate; none in tests.
    pub(crate) place: Option<&'c JoinPlace>,
}

fn requested_key(join: &JoinRequest) -> Result<Fingerprint, Failure> {
    key_of_request(&join.csr)
        .map_err(|error| Failure::new(ExitCode::Crypto, "the certificate could not be signed").because(chain(&error)))
}

/// The only name that a token with --force is good for: if its bearer chose the name, it could revoke anybody.
fn replaced_name(invite: &CreateInvite) -> Result<Option<String>, Failure> {
    if !invite.force {
        return Ok(None);
    }
    let Some(name) = &invite.name else {
        let what = "a token with --force needs the name that it may replace";
        return Err(Failure::new(ExitCode::OptionRequired, what)
            .remedy("'pgmesh invite --force NAME', where NAME is as in 'pgmesh client list'"));
    };
    let name: MemberName = name
        .parse()
        .map_err(|error| Failure::new(ExitCode::OptionInvalid, "the name cannot be used").because(error))?;
    Ok(Some(name.to_string()))
}

fn refused(refusal: Refusal) -> Failure {
    CatalogError::Refused(refusal).into()
}

impl Membership {
    /// The role that an invitation is for.
    pub(super) async fn invited_role(&self, invite: &CreateInvite) -> Result<(Role, TokenRole), Failure> {
        let stanzas = invite.stanzas.clone();
        let role = match invite.role.as_str() {
            role @ ("client" | "restore") if stanzas.is_empty() => {
                let what = match role {
                    "client" => "a client's token needs the stanzas it is for",
                    _ => "a restoring host's token needs the stanzas it is for",
                };
                return Err(Failure::new(ExitCode::OptionRequired, what).remedy("add --stanza=NAME"));
            }
            "client" => Role::Client {
                stanzas: stanzas.into_vec(),
            },
            "restore" => Role::Restore {
                stanzas: stanzas.into_vec(),
            },
            "admin" => Role::Admin,
            "monitor" => Role::Monitor,
            "node" => {
                let name = invite.name.as_deref();
                return Ok((Role::Node, self.node_token(name, invite.force).await?));
            }
            other => {
                return Err(Failure::new(
                    ExitCode::OptionInvalid,
                    format!("'{other}' is no role that can be invited"),
                )
                .remedy("--role=client, --role=restore, --role=monitor, --role=admin or --role=node NAME"));
            }
        };
        let token_role = match (noted_role(&role), &role) {
            (Some(role), _) if self.notes_certificates()? => TokenRole::Member {
                role,
                replaces: replaced_name(invite)?,
            },
            (_, Role::Admin) if !invite.force => TokenRole::Admin,
            (_, Role::Client { stanzas }) if !invite.force => TokenRole::Client {
                stanzas: stanzas.clone(),
            },
            _ => {
                return Err(refused(Refusal::NeedsLevel {
                    level: CERTIFICATES,
                    current: self.catalog.view().levels()?.current,
                }));
            }
        };
        Ok((role, token_role))
    }

    /// The token that a join shows.
    pub(super) async fn shown_token(
        &self,
        token: TokenId,
        join: &JoinRequest,
        comer: &Comer<'_>,
    ) -> Result<TokenRecord, Failure> {
        let hash = join.secret.hash();
        let known = |view: &View| -> Result<Option<TokenRecord>, Failure> {
            Ok(view.token(token)?.filter(|known| known.secret_hash == hash))
        };
        if let Some(known) = known(&self.catalog.view())? {
            return Ok(known);
        }
        // A stranger learns nothing but this.
        if !self.failed_joins.may_ask(comer.address, self.running.now()) {
            self.say_failed_join(comer.address);
            let what =
                "too many joins with tokens that this node does not know have come: the leader is not asked for more";
            return Err(Failure::new(ExitCode::Crypto, what)
                .remedy("if the token is good, join by another node, or try again in a minute")
                .again());
        }
        comer.place.inspect(|place| place.asks());
        let asked = self.catalog.view_linearizable().await.map_err(Failure::from);
        match asked.and_then(|view| known(&view)) {
            Ok(Some(known)) => {
                self.failed_joins.was_good(comer.address);
                Ok(known)
            }
            Ok(None) => {
                self.say_failed_join(comer.address);
                Err(refused(Refusal::TokenUnknown))
            }
            Err(failure) => Err(failure),
        }
    }

    fn say_failed_join(&self, address: IpAddr) {
        if let Some(failed) = self.failed_joins.failed(self.running.now()) {
            tracing::warn!(%address, failed, "joins with unknown tokens are refused; the last one came from this address");
        }
    }

    /// Checks a join with a token that is used up: the same request gets the same answer, if the certificate still
    /// counts. Signs and proposes nothing, and the connection keeps no place for it.
    pub(super) fn check_used(
        &self,
        join: &JoinRequest,
        name: &MemberName,
        used: &Redeemed,
        request: &[u8; 32],
    ) -> Result<(), Failure> {
        let other = || {
            Err(refused(Refusal::TokenUsed {
                at: used.at,
                name: used.name.clone(),
            }))
        };
        if used.request != *request || used.name != name.as_str() {
            return other();
        }
        let (view, key) = (self.catalog.view(), requested_key(join)?.0);
        let Some(number) = used.node_id else {
            let certificate = MemberCertificate::parse(&used.certificate).map_err(|error| {
                Failure::new(ExitCode::Crypto, "the certificate of the join cannot be read").because(chain(&error))
            })?;
            if certificate.key.0 != key {
                return other();
            }
            return match revocation(&view, &certificate)? {
                Some(_) => Err(refused(Refusal::CertificateRevoked(name.to_string()))),
                None => Ok(()),
            };
        };
        let node = node_name(name)?;
        match view.node(&node)? {
            Some(record) if !record.is_member() => Err(refused(Refusal::NodeRemoved(node))),
            Some(record) if record.key == key && record.node_id == number => Ok(()),
            _ => other(),
        }
    }

    /// The public key of a join that an unused token is good for. Signs and proposes nothing.
    pub(super) fn check_join(
        &self,
        join: &JoinRequest,
        name: &MemberName,
        token: &TokenRecord,
    ) -> Result<Fingerprint, Failure> {
        if now_unix() >= token.expires {
            return Err(refused(Refusal::TokenExpired { expires: token.expires }));
        }
        if let TokenRole::Member {
            replaces: Some(invited),
            ..
        } = &token.role
            && !invited.eq_ignore_ascii_case(name.as_str())
        {
            return Err(refused(Refusal::TokenOfOtherName(invited.clone(), name.to_string())));
        }
        let key = requested_key(join)?;
        if matches!(token.role, TokenRole::Member { replaces: None, .. }) {
            self.refuse_taken(name.as_str(), &key.0)?;
        }
        Ok(key)
    }

    /// The command that notes a certificate that this authority has signed for a join.
    pub(super) fn issue_command(&self, issue: IssueCertificate, authority: &MeshCa) -> Result<Command, Failure> {
        if self.catalog.view().levels()?.current < AUTHORITIES {
            return Ok(Command::IssueCertificate(Box::new(issue)));
        }
        let authority = id_of(authority)?;
        Ok(AuthorityCommand::Issue(IssueUnder { issue, authority }).into())
    }

    /// The command that admits a node whose certificate this authority has signed.
    pub(super) fn admit_command(&self, admit: AdmitNode, authority: &MeshCa) -> Result<Command, Failure> {
        if self.catalog.view().levels()?.current < AUTHORITIES {
            return Ok(Command::AdmitNode(Box::new(admit)));
        }
        let authority = id_of(authority)?;
        Ok(AuthorityCommand::Admit(AdmitUnder { admit, authority }).into())
    }

    /// `apply` decides; this keeps a join that is refused for certain out of the log.
    fn refuse_taken(&self, name: &str, key: &[u8; 32]) -> Result<(), Failure> {
        let (view, now) = (self.catalog.view(), now_unix());
        for row in view.certificates(None) {
            let (other, record) = row?;
            if record.is_called(name) && other != *key && record.is_valid(now) {
                return Err(refused(Refusal::name_taken(name, &other, &record)));
            }
        }
        Ok(())
    }
}

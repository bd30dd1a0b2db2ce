//! What a token makes of its bearer, and what is looked at before anything is signed or proposed for it.
//!
//! A stranger may send any number of joins. So the cheapest check comes first: the token, in this node's own catalog;
//! only a token that is not there is asked for at the leader, and that is limited. Then the certificate request, which
//! is not signed yet. Nothing enters the Raft log for a token that nobody knows, that has expired, or was used for
//! another request.

use crate::Node;
use crate::certificates::noted_role;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{CreateInvite, ExitCode, Failure, JoinRequest, now_unix};
use pgmesh_raft::{CERTIFICATES, CatalogError, Refusal, TokenId, TokenRecord, TokenRole, View, short_key};
use pgmesh_transport::{Fingerprint, JoinPlace, MemberName, Role, key_of_request};
use std::net::IpAddr;

/// Where a join comes from.
pub(crate) struct Comer<'c> {
    pub(crate) address: IpAddr,
    /// Its place among the connections without a certificate; none in tests.
    pub(crate) place: Option<&'c JoinPlace>,
}

fn refused(refusal: Refusal) -> Failure {
    CatalogError::Refused(refusal).into()
}

impl Node {
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
            "client" => Role::Client { stanzas },
            "restore" => Role::Restore { stanzas },
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
                replaces: invite.force,
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
            let what = "too many joins with unknown tokens come from there";
            return Err(refused(Refusal::TokenUnknown).because(what));
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

    /// The public key of a join that a token is good for. Signs and proposes nothing.
    pub(super) fn check_join(
        &self,
        join: &JoinRequest,
        name: &MemberName,
        token: &TokenRecord,
        request: &[u8; 32],
    ) -> Result<Fingerprint, Failure> {
        match &token.redeemed {
            Some(used) if used.request != *request || used.name != name.as_str() => {
                return Err(refused(Refusal::TokenUsed {
                    at: used.at,
                    name: used.name.clone(),
                }));
            }
            None if now_unix() >= token.expires => {
                return Err(refused(Refusal::TokenExpired { expires: token.expires }));
            }
            Some(_) | None => {}
        }
        let key = key_of_request(&join.csr).map_err(|error| {
            Failure::new(ExitCode::Crypto, "the certificate could not be signed").because(chain(&error))
        })?;
        if matches!(token.role, TokenRole::Member { replaces: false, .. }) && token.redeemed.is_none() {
            self.refuse_taken(name.as_str(), &key.0)?;
        }
        Ok(key)
    }

    /// `apply` decides; this keeps what is refused for certain out of the log.
    fn refuse_taken(&self, name: &str, key: &[u8; 32]) -> Result<(), Failure> {
        let (view, now) = (self.catalog.view(), now_unix());
        for row in view.certificates(None) {
            let (other, record) = row?;
            if record.name == name && other != *key && record.is_valid(now) {
                return Err(refused(Refusal::NameTaken {
                    name: name.to_owned(),
                    role: record.role.kind().to_owned(),
                    key: short_key(&other),
                }));
            }
        }
        Ok(())
    }
}

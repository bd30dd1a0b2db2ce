//! Certificates with the authority that has signed them, and the rotation of that authority.

use serde::{Deserialize, Serialize};

use super::{AdmitNode, Command, IssueCertificate, NoteCertificate};
use crate::model::{AuthorityId, RotationStep};

/// A command about certificates with their authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityCommand {
    /// As `IssueCertificate`; the authority that has signed must be the one that signs now. Reply: `Joined`.
    Issue(IssueUnder),
    /// As `NoteCertificate`; of a renewal, the authority that has signed must be the one that signs now. Reply: `Done`.
    Note(NoteIssued),
    /// As `AdmitNode`; the authority that has signed must be the one of nodes' own certificates now. Reply: `Joined`.
    Admit(AdmitUnder),
    /// The mesh gets a new authority beside its present one. Refused while another rotation is under way. Reply:
    /// `Done`.
    Begin(BeginRotation),
    /// A node has done its part of a step. When all have, the next step begins. Reply: `Done`.
    TakePart(NoteAuthority),
    /// The former authority counts no more. Refused while a node's certificate is of it, or a client's without
    /// `force`. Reply: `CutOff`.
    Finish {
        /// Clients whose certificates are of the former authority are cut off.
        force: bool,
    },
    /// The new authority is given up. Refused when it signs: clients may know it alone. Reply: `Done`.
    GiveUp,
}

impl AuthorityCommand {
    /// The command's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Issue(_) => "issue certificate",
            Self::Note(_) => "note certificate",
            Self::Admit(_) => "admit node",
            Self::Begin(_) => "begin rotation",
            Self::TakePart(_) => "note authority",
            Self::Finish { .. } => "finish rotation",
            Self::GiveUp => "give up rotation",
        }
    }
}

impl From<AuthorityCommand> for Command {
    fn from(given: AuthorityCommand) -> Self {
        Self::Authority(Box::new(given))
    }
}

/// A certificate that is issued for a token, and its authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueUnder {
    /// The certificate.
    pub issue: IssueCertificate,
    /// The authority that has signed it.
    pub authority: AuthorityId,
}

/// A node to admit, and the authority of its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitUnder {
    /// The node.
    pub admit: AdmitNode,
    /// The authority that has signed its certificate.
    pub authority: AuthorityId,
}

/// A certificate that is in use, when it was issued, and its authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteIssued {
    /// The certificate.
    pub certificate: NoteCertificate,
    /// When it was issued, in seconds since the Unix epoch.
    pub issued_at: i64,
    /// The authority that has signed it.
    pub authority: AuthorityId,
}

/// A new authority for the mesh, beside the present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginRotation {
    /// The present authority.
    pub former: AuthorityId,
    /// Its certificate, in DER.
    pub former_certificate: Vec<u8>,
    /// The new authority.
    pub next: AuthorityId,
    /// Its certificate, in DER.
    pub next_certificate: Vec<u8>,
    /// Its key under the present authority's signature, in DER.
    pub vouched: Vec<u8>,
}

/// A node has done its part of a step: it trusts the new authority and has its key, or shows the authority that nodes
/// show in that step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteAuthority {
    /// The node, by number.
    pub node_id: u64,
    /// The new authority.
    pub authority: AuthorityId,
    /// The step.
    pub step: RotationStep,
}

//! QUIC endpoints, identities and framing of the pgmesh wire protocol. This crate does not know the meaning of the
//! messages, only the longest length of each request.
//!
//! Layers, each using only those above it:
//!
//! | module | holds |
//! | --- | --- |
//! | [`name`], [`role`] | the identity of a peer: mesh, member, role, and their form in a certificate |
//! | [`certificate`], [`ca`], [`identity`], [`token`] | the mesh's certificate authority, a member's certificate and key, the way in |
//! | [`wire_version`], [`tuning`] | ALPN, and every limit and window |
//! | `tls`, `socket`, [`lost`] | verifiers, UDP sockets, why a connection ended |
//! | [`stream`], [`calls`] | messages and bodies on one stream, requests among them |
//! | `account`, `guests` | whom a connection's use counts for, and how much each may use |
//! | [`server`], [`session`] / [`client`], [`connection`] | the two sides |
//!
//! A connection is authenticated on both sides before either sees a byte of the other's messages. A client accepts only
//! a certificate of its mesh with the node role. A server accepts a client without a certificate only for joining.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests may spawn without a name and read the clock"
    )
)]

mod account;
pub mod ca;
pub mod calls;
pub mod certificate;
pub mod client;
pub mod connection;
mod durable_file;
mod guests;
pub mod identity;
mod joining;
mod liveness;
pub mod lost;
pub mod name;
pub mod role;
pub mod server;
pub mod session;
mod socket;
pub mod stream;
#[cfg(test)]
mod tests;
mod tls;
pub mod token;
pub mod tuning;
mod welcome;
pub mod wire_version;

pub use account::Account;
pub use ca::{CaError, MeshCa, key_of_request};
pub use calls::Announced;
pub use certificate::{AuthorityId, CertificateError, Fingerprint, MemberCertificate};
pub use client::{Client, ConnectError, JoinClient};
pub use connection::Connection;
pub use identity::{Identity, IdentityError, KeyRequest};
pub use joining::{JoinPlace, network};
pub use lost::{CloseCode, ConnectionLost};
pub use name::{InvalidName, MemberName, MeshId};
pub use pgmesh_protocol::{TokenId, TokenSecret};
pub use role::Role;
pub use server::{BindError, EstablishError, Incoming, Server};
pub use session::{Peer, Session};
pub use stream::{RecvHalf, SendHalf, Stream, StreamCode, StreamError};
pub use tls::{NodeCertificateProblem, TlsSetupError};
pub use token::{JoinToken, TokenError};
pub use tuning::Tuning;

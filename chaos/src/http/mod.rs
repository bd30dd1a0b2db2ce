//! HTTP/1.1 as far as object stores speak it, by hand and with a thread for each connection.
//!
//! - [`Head`], [`Framing`]: a message's head, byte for byte, and the length of its body;
//! - [`request`]: one request on a connection of its own;
//! - [`HttpServer`]: answers requests with the responses of a function;
//! - [`HttpProxy`]: stands before a server, counts its requests ([`HttpRecord`]), and does the faults of each [`Rule`]
//!   to them;
//! - [`HeldPort`]: a port for a server that comes and goes.

mod client;
mod fault;
mod message;
mod proxy;
mod record;
mod server;
mod sockets;

pub use client::request;
pub use fault::{Answer, Fault, Rule};
pub use message::{Framing, Head, Piece, pass_body};
pub use proxy::HttpProxy;
pub use record::HttpRecord;
pub use server::{HttpServer, Request, Response};
pub use sockets::HeldPort;

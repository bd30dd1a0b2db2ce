//! Fault injection and checkers for meshes of several nodes. Nothing here knows pgmesh: the code stands between
//! processes, or judges their answers.
//!
//! In order:
//! - [`Random`]: numbers that come again with the same seed;
//! - [`Faults`]: the faults that a link does to the datagrams of one direction; `pipe` decides them, without a socket
//!   and without a clock;
//! - [`Relay`]: one listening UDP address before another, with faults in both directions;
//! - [`Network`]: a relay for every ordered pair of named processes, to be partitioned, slowed down and healed;
//! - [`http`]: a proxy before an HTTP server that counts requests and harms them, and a small server;
//! - [`history`]: the operations of concurrent clients, and the judgement whether one catalog can have answered so.
//!
//! ```text
//!  alpha ──► relay alpha→beta ──► beta        a process is told the relay's address for its peer;
//!        ◄──                  ◄──             answers come back through the same relay
//! ```

mod faults;
pub mod history;
pub mod http;
mod network;
mod pipe;
mod random;
mod relay;

pub use faults::{Bandwidth, Faults};
pub use network::Network;
pub use pipe::Counts;
pub use random::Random;
pub use relay::{Direction, Limits, Relay};

//! Fault injection and checkers for meshes of several nodes. Nothing here knows pgmesh: it stands between processes, or
//! looks at what they answered.
//!
//! In order:
//! - [`Random`]: numbers that come again with the same seed;
//! - [`Faults`]: what a link does to the datagrams of one direction; `pipe` decides it, without a socket and without a
//!   clock;
//! - [`Relay`]: one listening UDP address before another, with faults in both directions;
//! - [`Network`]: a relay for every ordered pair of named processes, to be partitioned, slowed down and healed;
//! - [`http`]: a proxy before an HTTP server that counts requests and harms them, and a small server;
//! - [`history`]: what concurrent clients asked and were told, and the judgement whether one catalog can have said so.
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

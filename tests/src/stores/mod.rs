//! Object stores for tests: real servers where there are any, and one of ours.
//!
//! All of them keep what they store in memory: it ends with them. A store that goes away and comes back is one behind a
//! [`HttpProxy`](pgmesh_chaos::http::HttpProxy) that refuses connections for a while.

mod gcs;

pub use gcs::GcsServer;

//! Object stores for tests: real servers where there are any, and one of ours.
//!
//! - [`S3Server`]: moto, to be had by `make setup`; [`GarageServer`]: Garage, where `make test-all` has installed it;
//! - [`AzureServer`]: Azurite, to be had by `make setup`;
//! - [`GcsServer`]: ours, in the process of the test;
//! - [`Clouds`]: one of each type, with a proxy before each;
//! - [`Bucket`]: how a node gets to a bucket of one of them, straight or through a proxy;
//! - [`Certificates`]: what a server shows for TLS.
//!
//! moto, Azurite and ours keep what they store in memory: it ends with them. A store that goes away and comes back is
//! one behind an [`HttpProxy`](pgmesh_chaos::http::HttpProxy) that refuses connections for a while, or one that is
//! paused.

mod azure;
mod bucket;
mod certificates;
mod clouds;
mod garage;
mod gcs;
mod program;
mod s3;
mod xml;

pub use azure::AzureServer;
pub use bucket::Bucket;
pub use certificates::{Certificates, Fitness};
pub use clouds::Clouds;
pub use garage::GarageServer;
pub use gcs::GcsServer;
pub use s3::S3Server;

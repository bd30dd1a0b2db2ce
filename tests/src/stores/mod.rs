//! Object stores for tests: real servers if there are any, and pgmesh's own for GCS.
//!
//! - [`S3Server`]: moto, which `make setup` installs; [`GarageServer`]: Garage, if `make test-all` has installed it;
//! - [`AzureServer`]: Azurite, which `make setup` installs;
//! - [`GcsServer`]: pgmesh's own, in the process of the test;
//! - [`Clouds`]: an S3, an Azure and a GCS server, with a proxy before each;
//! - [`Bucket`]: a node's options for a bucket of any of them, straight or through a proxy;
//! - [`Certificates`]: the certificate of a server with TLS.
//!
//! moto, Azurite and `GcsServer` keep their objects in memory and lose them when they end. For a store that goes away
//! and comes back, a test pauses the server, or has an [`HttpProxy`](pgmesh_chaos::http::HttpProxy) before it refuse
//! connections for a while.

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

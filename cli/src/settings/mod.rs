//! From the configuration to the settings that `pgmesh_client` and `pgmesh_node` take, a file for each subject.

pub mod access;
pub mod backup;
pub mod expire;
pub mod node;
pub mod pg;
pub mod push;
pub mod repositories;
pub mod restore;
mod restore_command;

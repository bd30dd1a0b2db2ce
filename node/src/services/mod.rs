//! The requests that a node carries out, one file for each kind. `dispatch` takes them from the connections.

mod admin;
mod archive;
mod aside;
mod backup;
mod change_maps;
mod choosing;
#[cfg(test)]
mod chunk_rights;
mod comparison;
mod doubts;
mod expire;
mod foreign;
mod forget_wal;
mod get_segment;
mod healths;
mod info;
mod joining;
mod members;
mod mesh;
mod named;
mod noting_uses;
mod passed_over;
mod peer;
mod push_parts;
mod query_chunks;
mod read;
mod refused_push;
mod repository;
mod repository_change;
mod session;
mod stanza;
mod sync;
mod verify;
mod verify_mesh;
mod whole;

pub(crate) use archive::{branches_of, claimed_object, current_database, joined};
pub(crate) use backup::backup_record;
pub(crate) use change_maps::MapSource;
pub(crate) use choosing::clusters_of;
pub(crate) use doubts::{DOUBTED_AT_ONCE, Doubted, Doubts};
pub(crate) use get_segment::{Got, PartedFile};
pub(crate) use joining::Comer;
pub(crate) use push_parts::PushPartsError;
pub(crate) use whole::{Again, Checked, LookedUp, Patience, Thin, Whole, look_again};
#[cfg(test)]
pub(crate) use {archive::missing, backup::chunk_targets};

//! The formats of this crate against the installed PostgreSQL, which is their oracle.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

mod changes;
mod cluster;
mod formats;
#[path = "../../../tests/src/postgres/majors.rs"]
mod majors;
#[path = "../../../tests/src/tools.rs"]
mod tools;
mod waldump;
mod walking;
mod workload;

//! Two endpoints on 127.0.0.1.

mod admission;
mod failures;
mod limits;
mod streams;
mod support;

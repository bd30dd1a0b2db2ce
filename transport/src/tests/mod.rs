//! Two endpoints on 127.0.0.1.

mod admission;
mod failures;
mod guests;
mod limits;
mod rotation;
mod streams;
mod support;

//! What puts and gets give back.

use crate::payload::Payload;
use bytes::Bytes;

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// The object's length in the repository, in bytes.
    pub bytes: u64,
    /// Whether the object existed already, whole.
    pub already: bool,
}

/// An object's content, checked to the last byte.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The content as it was stored: compressed, ready to be passed on.
    pub payload: Payload,
    /// The content as it was before it was compressed.
    pub plain: Bytes,
}

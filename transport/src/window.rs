//! The windows of a client's connection, which follow the memory that the node holds for it.
//!
//! The receive window is the number of unread bytes that a peer may make this side keep. A client's connection has a
//! share of its account's windows. When the node holds memory for a body, the client gets credit for as many bytes
//! more, once: after the body has been read, the window is as before. QUIC cannot take credit back, so the credit of a
//! body that did not come is counted as spoiled; an account that spoils too much of it loses the connection.
//!
//! The send window is the number of unacknowledged bytes that this side keeps for the peer. It is larger while the node
//! holds memory for an answer.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use quinn::VarInt;

use crate::lost::CloseCode;

/// Credit, in bytes, that the connections of one account may have spoiled: more than a client does whose uploads are
/// interrupted now and then.
pub const MAX_SPOILED: u64 = 16 << 20;

/// The windows of one connection. Clones are of the same connection.
#[derive(Debug, Clone)]
pub struct Windows(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    connection: quinn::Connection,
    /// The share of the account's windows, in bytes.
    share: u64,
    /// The credit that all connections of the account have spoiled.
    spoiled_by_all: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Credit of bodies that did not come; the next bodies use it up.
    spoiled: u64,
    /// Bytes of answers under way.
    answers: u64,
}

/// A body that is expected, until dropped.
#[derive(Debug)]
pub struct Expected {
    windows: Windows,
    missing: u64,
}

/// An answer under way, until dropped.
#[derive(Debug)]
pub struct Answering {
    windows: Windows,
    bytes: u64,
}

impl Windows {
    /// Windows that nothing changes: a node's, an administrator's, or those of the only connection of a client.
    pub(crate) fn fixed() -> Self {
        Self(None)
    }

    pub(crate) fn new(connection: quinn::Connection, share: u64, spoiled_by_all: Arc<AtomicU64>) -> Self {
        set(&connection, share);
        Self(Some(Arc::new(Inner {
            connection,
            share,
            spoiled_by_all,
            state: Mutex::default(),
        })))
    }

    /// The node holds memory for a body of so many bytes: the peer may send them.
    pub fn expect(&self, bytes: u64) -> Expected {
        if let Some(inner) = &self.0 {
            let mut state = inner.state();
            let from_spoiled = bytes.min(state.spoiled);
            state.spoiled -= from_spoiled;
            inner.spoiled_by_all.fetch_sub(from_spoiled, Ordering::Relaxed);
            // The larger window is credit at once, and the smaller one a debt that the next bytes read pay.
            set_receive(&inner.connection, inner.share.saturating_add(bytes - from_spoiled));
            set_receive(&inner.connection, inner.share);
        }
        Expected {
            windows: self.clone(),
            missing: bytes,
        }
    }

    /// The node holds memory for an answer of so many bytes: they may be sent before the earlier ones are acknowledged.
    pub fn answer(&self, bytes: u64) -> Answering {
        self.change_answers(|answers| answers.saturating_add(bytes));
        Answering {
            windows: self.clone(),
            bytes,
        }
    }

    fn change_answers(&self, change: impl FnOnce(u64) -> u64) {
        if let Some(inner) = &self.0 {
            let mut state = inner.state();
            state.answers = change(state.answers);
            inner
                .connection
                .set_send_window(inner.share.saturating_add(state.answers));
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spoil(&self, bytes: u64) {
        self.state().spoiled += bytes;
        let by_all = self
            .spoiled_by_all
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        if by_all > MAX_SPOILED {
            let reason = b"too many bodies were given up half-way";
            self.connection.close(CloseCode::BUSY.0.into(), reason);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let spoiled = self.state().spoiled;
        self.spoiled_by_all.fetch_sub(spoiled, Ordering::Relaxed);
    }
}

impl Expected {
    /// The whole body was read.
    pub fn arrived(mut self) {
        self.missing = 0;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(inner) = self.windows.0.as_ref().filter(|_| self.missing > 0) {
            inner.spoil(self.missing);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.windows
            .change_answers(|answers| answers.saturating_sub(self.bytes));
    }
}

fn set(connection: &quinn::Connection, bytes: u64) {
    set_receive(connection, bytes);
    connection.set_send_window(bytes);
}

fn set_receive(connection: &quinn::Connection, bytes: u64) {
    connection.set_receive_window(VarInt::from_u64(bytes).unwrap_or(VarInt::MAX));
}

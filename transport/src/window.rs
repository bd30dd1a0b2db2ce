//! The windows of a client's connection, which follow the memory that the node holds for it.
//!
//! The receive window is the number of unread bytes that a peer may make this side keep. A client's connection has a
//! share of its account's windows. When the node holds memory for a body, the client gets credit for as many bytes
//! more, once: after the body has been read, the window is as before. QUIC cannot take credit back, so the credit of a
//! body that did not come is counted as spoiled; an account that spoils too much of it loses the connection.
//!
//! A body that waits for memory gets credit for the bytes that its stream may send meanwhile, so that it does not use
//! up the credit of bodies that are being read. The bodies of one account that wait have a limit.
//!
//! The send window is the number of unacknowledged bytes that this side keeps for the peer. It is larger while the node
//! holds memory for an answer.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use quinn::VarInt;

use crate::{lost::CloseCode, tuning::Tuning};

/// Credit, in bytes, that the connections of one account may have spoiled: more than a client does whose uploads are
/// interrupted now and then.
pub const MAX_SPOILED: u64 = 16 << 20;

/// Unread bytes of the bodies of one account that wait for memory.
const MAX_WAITING: u64 = 16 << 20;

/// The windows of one connection. Clones are of the same connection.
#[derive(Debug, Clone)]
pub struct Windows(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    connection: quinn::Connection,
    /// The share of the account's windows, in bytes.
    share: u64,
    /// Whether the share is smaller than a window that is not shared.
    is_small: bool,
    /// The most unread bytes of one stream.
    of_stream: u64,
    credit: Arc<Credit>,
    state: Mutex<State>,
}

/// Credit of the connections of one account, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    spoiled: AtomicU64,
    waiting: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Credit of bodies that did not come; the next bodies use it up.
    spoiled: u64,
    /// Bytes of answers under way.
    answers: u64,
}

/// A body that waits for memory, until dropped.
#[derive(Debug)]
pub struct Waiting {
    windows: Windows,
    credit: u64,
}

/// A body that is expected, until dropped.
#[derive(Debug)]
pub struct Expected {
    windows: Windows,
    /// The credit that the peer got for it.
    credit: u64,
}

/// An answer under way, until dropped.
#[derive(Debug)]
pub struct Answering {
    windows: Windows,
    bytes: u64,
}

impl Windows {
    /// The windows of a node or an administrator, which nothing changes.
    pub(crate) fn fixed() -> Self {
        Self(None)
    }

    pub(crate) fn new(connection: quinn::Connection, share: u64, tuning: &Tuning, credit: Arc<Credit>) -> Self {
        set_receive(&connection, share);
        connection.set_send_window(share);
        Self(Some(Arc::new(Inner {
            connection,
            share,
            is_small: share < u64::from(tuning.connection_window),
            of_stream: tuning.stream_window.into(),
            credit,
            state: Mutex::default(),
        })))
    }

    /// A body of so many bytes has to wait for memory. None if too many bodies of the account wait already.
    pub fn wait(&self, bytes: u64) -> Option<Waiting> {
        let Some(inner) = &self.0 else {
            let windows = self.clone();
            return Some(Waiting { windows, credit: 0 });
        };
        let credit = bytes.min(inner.of_stream);
        let waiting = inner.credit.waiting.fetch_add(credit, Ordering::Relaxed);
        if waiting.saturating_add(credit) > MAX_WAITING {
            inner.credit.waiting.fetch_sub(credit, Ordering::Relaxed);
            return None;
        }
        inner.give(credit);
        let windows = self.clone();
        Some(Waiting { windows, credit })
    }

    /// The node holds memory for a body of so many bytes: the peer may send them.
    pub fn expect(&self, bytes: u64) -> Expected {
        self.expect_after(bytes, 0)
    }

    fn expect_after(&self, bytes: u64, given: u64) -> Expected {
        let mut credit = given;
        if let Some(inner) = self.0.as_ref().filter(|inner| inner.is_small) {
            inner.give(bytes.saturating_sub(given));
            credit = credit.max(bytes);
        }
        let windows = self.clone();
        Expected { windows, credit }
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

    /// Gives the peer credit for so many bytes more, once.
    fn give(&self, bytes: u64) {
        let mut state = self.state();
        let from_spoiled = bytes.min(state.spoiled);
        state.spoiled -= from_spoiled;
        self.credit.spoiled.fetch_sub(from_spoiled, Ordering::Relaxed);
        // The larger window is credit at once, and the smaller one a debt that the next bytes read pay.
        set_receive(&self.connection, self.share.saturating_add(bytes - from_spoiled));
        set_receive(&self.connection, self.share);
    }

    fn spoil(&self, bytes: u64) {
        self.state().spoiled += bytes;
        let before = self.credit.spoiled.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > MAX_SPOILED {
            let reason = b"too many bodies were given up half-way";
            self.connection.close(CloseCode::BUSY.0.into(), reason);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let spoiled = self.state().spoiled;
        self.credit.spoiled.fetch_sub(spoiled, Ordering::Relaxed);
    }
}

impl Waiting {
    /// The node holds memory for the body now, which has so many bytes.
    pub fn granted(mut self, bytes: u64) -> Expected {
        let given = self.end();
        self.windows.expect_after(bytes, given)
    }

    /// Ends the wait; the credit that the peer has for the body.
    fn end(&mut self) -> u64 {
        let credit = std::mem::take(&mut self.credit);
        if let Some(inner) = &self.windows.0 {
            inner.credit.waiting.fetch_sub(credit, Ordering::Relaxed);
        }
        credit
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let credit = self.end();
        if let Some(inner) = self.windows.0.as_ref().filter(|_| credit > 0) {
            inner.spoil(credit);
        }
    }
}

impl Expected {
    /// The whole body was read.
    pub fn arrived(mut self) {
        self.credit = 0;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(inner) = self.windows.0.as_ref().filter(|_| self.credit > 0) {
            inner.spoil(self.credit);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.windows
            .change_answers(|answers| answers.saturating_sub(self.bytes));
    }
}

fn set_receive(connection: &quinn::Connection, bytes: u64) {
    connection.set_receive_window(VarInt::from_u64(bytes).unwrap_or(VarInt::MAX));
}

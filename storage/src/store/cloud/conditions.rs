use std::sync::atomic::{AtomicU8, Ordering};

/// A server's treatment of `If-None-Match: *` on a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Not found out yet. A lost condition does no harm, since names carry digests.
    Unlearned,
    /// The server refuses to replace an object.
    Heeded,
    /// The server replaces the object and ignores the condition.
    Ignored,
    /// The server refuses a request with a condition.
    Unknown,
}

/// The treatment that was found out for one server.
#[derive(Debug, Default)]
pub struct Learned(AtomicU8);

impl Learned {
    pub fn get(&self) -> Conditions {
        match self.0.load(Ordering::Relaxed) {
            1 => Conditions::Heeded,
            2 => Conditions::Ignored,
            3 => Conditions::Unknown,
            _ => Conditions::Unlearned,
        }
    }

    pub fn set(&self, conditions: Conditions) {
        let number = match conditions {
            Conditions::Unlearned => 0,
            Conditions::Heeded => 1,
            Conditions::Ignored => 2,
            Conditions::Unknown => 3,
        };
        self.0.store(number, Ordering::Relaxed);
    }
}

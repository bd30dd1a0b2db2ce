use std::sync::atomic::{AtomicU8, Ordering};

/// What a server does with `If-None-Match: *` on a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Not found out yet; it is relied upon that names carry digests.
    Unlearned,
    /// It refuses to replace an object.
    Heeded,
    /// It replaces the object as if nothing had been said.
    Ignored,
    /// It refuses the request.
    Unknown,
}

/// What was learned of one server.
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

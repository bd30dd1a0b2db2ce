//! The verifications that a node does for clients: few at once, since each reads several objects at a time.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::Account;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Verifications for clients at once.
const MOST_AT_ONCE: usize = 2;

/// The clients for whom this node verifies.
#[derive(Default)]
pub(crate) struct Verifications(Mutex<HashSet<Account>>);

/// A verification for a client, counted until dropped.
pub(crate) struct Verifying<'v>(Option<(&'v Verifications, Account)>);

impl Drop for Verifying<'_> {
    fn drop(&mut self) {
        if let Some((verifications, account)) = &self.0 {
            verifications.lock().remove(account);
        }
    }
}

impl Verifications {
    /// Counts a verification that a client asks for.
    ///
    /// # Errors
    /// 50: the client has a verification under way, or this node has its most.
    pub(crate) fn begin(&self, account: &Account) -> Result<Verifying<'_>, Failure> {
        if *account == Account::Mesh {
            return Ok(Verifying(None));
        }
        let mut accounts = self.lock();
        let others = accounts.len();
        if others >= MOST_AT_ONCE || !accounts.insert(account.clone()) {
            let what = format!("this node verifies for {others} clients already, once at a time for each");
            let failure = Failure::new(ExitCode::LockAcquire, what);
            return Err(failure.remedy("run it again when the other verification has ended"));
        }
        drop(accounts);
        Ok(Verifying(Some((self, account.clone()))))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_verifies_once_at_a_time_and_an_administrator_always() {
        let verifications = Verifications::default();
        let of = |name: &str| Account::of_stanzas(&[name.parse().unwrap()]);
        let first = verifications.begin(&of("a")).unwrap();
        assert!(verifications.begin(&of("a")).is_err());
        let _second = verifications.begin(&of("b")).unwrap();
        assert!(verifications.begin(&of("c")).is_err());
        assert!(verifications.begin(&Account::Mesh).is_ok());
        drop(first);
        assert!(verifications.begin(&of("c")).is_ok());
    }
}

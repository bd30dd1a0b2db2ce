//! The verifications that a node does for clients: few of each account, since each reads several objects at a time.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::Account;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Verifications of one account at once.
const MOST: usize = 2;

/// The verifications under way, by account.
#[derive(Debug, Default)]
pub(crate) struct Verifications(Mutex<HashMap<Account, usize>>);

/// A verification, until dropped.
#[derive(Debug)]
pub(crate) struct Verifying<'v> {
    all: &'v Verifications,
    account: Account,
}

impl Verifications {
    /// Counts a verification that is asked for.
    ///
    /// # Errors
    /// 50: the account has its most under way. Nodes ask for others, and are not counted.
    pub(crate) fn begin(&self, account: &Account) -> Result<Option<Verifying<'_>>, Failure> {
        if *account == Account::Nodes {
            return Ok(None);
        }
        let mut running = self.lock();
        let own = running.entry(account.clone()).or_default();
        if *own >= MOST {
            let what = format!("this node runs {MOST} verifications of {account} already");
            return Err(Failure::new(ExitCode::LockAcquire, what).remedy("run it again when one of them has ended"));
        }
        *own += 1;
        Ok(Some(Verifying {
            all: self,
            account: account.clone(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Account, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Verifying<'_> {
    fn drop(&mut self) {
        let mut running = self.all.lock();
        if let Some(own) = running.get_mut(&self.account) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                running.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_two_verifications_at_once_and_another_account_two_more() {
        let all = Verifications::default();
        let account = |name: &str| Account::of_stanzas(&[name.parse().unwrap()]);
        let first = all.begin(&account("a")).unwrap();
        let _second = all.begin(&account("a")).unwrap();
        let refused = all.begin(&account("a")).unwrap_err();
        assert_eq!(refused.code, ExitCode::LockAcquire);
        assert!(all.begin(&account("b")).is_ok());
        for _ in 0..3 {
            assert!(all.begin(&Account::Nodes).unwrap().is_none());
        }
        drop(first);
        assert!(all.begin(&account("a")).is_ok());
    }
}

//! The verifications that a node does for clients: few at once, since each reads several objects at a time.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::Account;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Verifications for clients at once.
const MOST_AT_ONCE: usize = 2;
/// The wait of a verification for its turn.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

/// The clients for whom this node verifies.
#[derive(Default)]
pub(crate) struct Verifications {
    accounts: Mutex<HashSet<Account>>,
    ended: Notify,
}

/// A verification for a client, counted until dropped.
pub(crate) struct Verifying<'v>(Option<(&'v Verifications, Account)>);

impl Drop for Verifying<'_> {
    fn drop(&mut self) {
        if let Some((verifications, account)) = &self.0 {
            verifications.lock().remove(account);
            verifications.ended.notify_waiters();
        }
    }
}

impl Verifications {
    /// Counts a verification that a client asks for, and waits for its turn.
    ///
    /// # Errors
    /// 50, to be asked again: the account has had a verification under way for [`PATIENCE`], or this node its most.
    pub(crate) async fn begin(&self, account: &Account) -> Result<Verifying<'_>, Failure> {
        if *account == Account::Mesh {
            return Ok(Verifying(None));
        }
        let turn = async {
            loop {
                // Before the look: an end in between wakes it.
                let ended = self.ended.notified();
                if self.try_begin(account) {
                    return;
                }
                ended.await;
            }
        };
        if timeout(PATIENCE, turn).await.is_ok() {
            return Ok(Verifying(Some((self, account.clone()))));
        }
        let most = MOST_AT_ONCE;
        let what = format!("this node verifies for {most} clients at a time, once for each set of stanzas");
        Err(Failure::new(ExitCode::LockAcquire, what)
            .because(format!(
                "no other verification has ended within {} s",
                PATIENCE.as_secs()
            ))
            .remedy("run it again when the others have ended")
            .again())
    }

    fn try_begin(&self, account: &Account) -> bool {
        let mut accounts = self.lock();
        accounts.len() < MOST_AT_ONCE && accounts.insert(account.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_verifies_once_at_a_time_and_an_administrator_always() {
        let verifications = Verifications::default();
        let of = |name: &str| Account::of_stanzas(&[name.parse().unwrap()]);
        let first = verifications.begin(&of("a")).await.unwrap();
        let refused = verifications.begin(&of("a")).await.err().unwrap();
        assert!(refused.again, "the client asks another node: {refused}");
        let _second = verifications.begin(&of("b")).await.unwrap();
        assert!(verifications.begin(&Account::Mesh).await.is_ok());
        let (c, again) = (of("c"), of("a"));
        let (third, fourth, ()) = tokio::join!(verifications.begin(&c), verifications.begin(&again), async {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(first);
        });
        assert!(third.is_ok() != fourth.is_ok(), "one of them has its turn");
    }
}

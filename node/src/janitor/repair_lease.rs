//! Which node pays a debt, and when. Pure; `repair.rs` looks and copies.
//!
//! No node asks another whether it may: the lease follows from the catalog and the lead. The node that hosts a
//! repository pays its debts, since no other node can. The debts of a shared repository are paid by the leader, which
//! takes them over with the lead. While two nodes believe that they lead, both may pay one debt: both put the same
//! content under the same name, and the catalog settles it once (invariant 2).

use pgmesh_storage::RepoKey;

/// Debts younger than this are left to the write that is probably still under way.
const YOUNG_SECONDS: i64 = 2;

/// By which node a repository is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosting {
    /// This one hosts it, and has it open.
    Here,
    /// Another one hosts it.
    Elsewhere,
    /// Several reach it.
    Shared,
}

/// Whether the debts of a repository are this node's to pay.
pub(super) fn has_lease(hosting: Hosting, is_leader: bool) -> bool {
    match hosting {
        Hosting::Here => true,
        Hosting::Elsewhere => false,
        Hosting::Shared => is_leader,
    }
}

/// The repositories that this node looks at: its own, and as the leader all of them.
pub(super) fn looked_at(own: Vec<RepoKey>, all: impl FnOnce() -> Vec<RepoKey>, is_leader: bool) -> Vec<RepoKey> {
    let mut keys = own;
    if is_leader {
        keys.extend(all());
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether a debt of this time is paid now, both in Unix seconds. A clock that was set back makes no debt young for
/// ever.
pub(super) fn is_due(since: i64, now: i64) -> bool {
    !(0..YOUNG_SECONDS).contains(&now.saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_has_the_lease_of_a_repository() {
        use Hosting::{Elsewhere, Here, Shared};
        for (hosting, is_leader, expected) in [
            (Here, false, true),
            (Here, true, true),
            (Elsewhere, false, false),
            (Elsewhere, true, false),
            (Shared, false, false),
            (Shared, true, true),
        ] {
            assert_eq!(
                has_lease(hosting, is_leader),
                expected,
                "{hosting:?}, leader: {is_leader}"
            );
        }
    }

    #[test]
    fn the_leader_looks_at_all_repositories_once() {
        let keys = |numbers: &[u16]| -> Vec<RepoKey> { numbers.iter().map(|n| RepoKey::new(*n).unwrap()).collect() };
        for (own, all, is_leader, expected) in [
            (keys(&[2]), keys(&[1, 2, 3]), false, keys(&[2])),
            (keys(&[2]), keys(&[1, 2, 3]), true, keys(&[1, 2, 3])),
            // The node declares a repository that the mesh does not know yet.
            (keys(&[4]), keys(&[1]), true, keys(&[1, 4])),
            (keys(&[]), keys(&[1]), false, keys(&[])),
        ] {
            assert_eq!(looked_at(own, || all, is_leader), expected);
        }
    }

    #[test]
    fn a_debt_is_left_to_the_write_under_way_for_two_seconds() {
        for (since, now, expected) in [
            (100, 100, false),
            (100, 101, false),
            (100, 102, true),
            // The clock was set back.
            (100, 99, true),
            (100, 5, true),
            (i64::MIN, i64::MAX, true),
        ] {
            assert_eq!(is_due(since, now), expected, "{since}, {now}");
        }
    }
}

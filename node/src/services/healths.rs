//! How repositories do, by the accounts of the nodes that host or reach them.

use crate::Node;
use futures::future::join_all;
use pgmesh_protocol::{Failure, HealthInfo, NodeStatus, ReachInfo, StuckArchiver, now_unix};
use pgmesh_raft::{RepositoryRecord, View};
use pgmesh_storage::{RepoKey, StanzaName, StoreSettings};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long another node may take where the answer is an ornament: restores and backups ask for `info`, too, and shall
/// not wait for a silent node.
const GLANCE_LIMIT: Duration = Duration::from_millis(500);

/// The account of each node on itself, or the reason why the node could not be asked.
pub(super) type Accounts = BTreeMap<String, Result<NodeStatus, String>>;

impl Node {
    /// The health of each repository, by the account of its host, where the host answers. A shared repository that is
    /// well on this node is well.
    pub(crate) async fn healths(&self, view: &View) -> Result<BTreeMap<RepoKey, HealthInfo>, Failure> {
        let records = view.repositories()?;
        let mut asked: BTreeSet<String> = BTreeSet::new();
        for (key, record) in &records {
            match &record.host {
                Some(host) => drop(asked.insert(host.to_string())),
                None if self.own_health(*key) == Some(HealthInfo::Up) => {}
                None => asked.extend(view.reaching(*key)?.into_iter().map(|(name, _)| name.to_string())),
            }
        }
        let accounts = asked.iter().map(|name| self.account_of(name, GLANCE_LIMIT));
        let accounts: Accounts = asked.iter().cloned().zip(join_all(accounts).await).collect();
        let mut healths = BTreeMap::new();
        for (key, record) in records {
            let ways = self.ways_of(view, key, &record, &accounts)?;
            healths.insert(key, self.health_of(key, &record, &ways, &accounts));
        }
        Ok(healths)
    }

    /// The hosts whose WAL is refused, by the accounts of the nodes that answer soon.
    pub(super) async fn all_stuck(&self, may_know: impl Fn(&StanzaName) -> bool) -> Vec<StuckArchiver> {
        stuck_of(&self.glance().await, may_know)
    }

    /// The accounts of all nodes that answer soon.
    pub(super) async fn glance(&self) -> Vec<NodeStatus> {
        let nodes = self.membership.list_nodes().unwrap_or_default();
        let accounts = nodes.iter().map(|node| self.account_of(&node.name, GLANCE_LIMIT));
        join_all(accounts).await.into_iter().flatten().collect()
    }

    /// The nodes that reach a shared repository, or declare it, and how it does there.
    pub(super) fn ways_of(
        &self,
        view: &View,
        key: RepoKey,
        record: &RepositoryRecord,
        accounts: &Accounts,
    ) -> Result<Vec<ReachInfo>, Failure> {
        if record.host.is_some() {
            return Ok(Vec::new());
        }
        let reaching = view.reaching(key)?;
        let mut ways: BTreeMap<String, ReachInfo> = BTreeMap::new();
        for (name, _) in reaching {
            let node = name.to_string();
            let health = match accounts.get(&node) {
                Some(account) => self.told(key, account),
                None if name == self.name => self.own_health(key).unwrap_or_else(|| undeclared(&node)),
                // Not asked: another is well.
                None => continue,
            };
            let reaches = true;
            ways.insert(node.clone(), ReachInfo { node, reaches, health });
        }
        for (node, account) in accounts {
            let Ok(account) = account else { continue };
            let told = account.repositories.iter().find(|(repo, _)| *repo == key);
            if let Some((_, health)) = told.filter(|_| !ways.contains_key(node)) {
                let way = ReachInfo {
                    node: node.clone(),
                    reaches: false,
                    health: health.clone(),
                };
                ways.insert(node.clone(), way);
            }
        }
        Ok(ways.into_values().collect())
    }

    pub(super) fn health_of(
        &self,
        key: RepoKey,
        record: &RepositoryRecord,
        ways: &[ReachInfo],
        accounts: &Accounts,
    ) -> HealthInfo {
        let Some(host) = &record.host else {
            return best(self.own_health(key), ways);
        };
        match (self.own_health(key), accounts.get(host.as_str())) {
            (Some(health), _) => health,
            (None, Some(account)) => self.told(key, account),
            (None, None) => HealthInfo::Refused {
                why: "this node's file does not declare it".to_owned(),
            },
        }
    }

    fn own_health(&self, key: RepoKey) -> Option<HealthInfo> {
        self.repositories.slot(key).map(|slot| slot.health())
    }

    fn told(&self, key: RepoKey, account: &Result<NodeStatus, String>) -> HealthInfo {
        match account {
            Ok(account) => {
                let reported = account.repositories.iter().find(|(repo, _)| *repo == key);
                reported.map_or_else(|| undeclared(&account.name), |(_, health)| health.clone())
            }
            Err(why) => {
                let since = match self.repositories.place(key).map(|place| place.watch().info()) {
                    Ok(HealthInfo::Down { since, .. }) => since,
                    _ => now_unix(),
                };
                HealthInfo::Down {
                    since,
                    why: why.clone(),
                }
            }
        }
    }
}

/// The hosts whose WAL is refused, by these accounts.
pub(super) fn stuck_of(accounts: &[NodeStatus], may_know: impl Fn(&StanzaName) -> bool) -> Vec<StuckArchiver> {
    let told = accounts.iter().flat_map(|own| &own.stuck);
    let is_known = |stuck: &&StuckArchiver| stuck.stanza.parse().is_ok_and(|stanza| may_know(&stanza));
    pgmesh_protocol::merged(told.filter(is_known))
}

fn undeclared(node: &str) -> HealthInfo {
    HealthInfo::Refused {
        why: format!("the file of node {node} does not declare it any more"),
    }
}

/// A shared repository is up where any node has it up; else it does as this node says, or the first.
fn best(own: Option<HealthInfo>, ways: &[ReachInfo]) -> HealthInfo {
    let healths = || own.iter().chain(ways.iter().map(|way| &way.health));
    let up = healths().find(|health| **health == HealthInfo::Up);
    let down = || healths().find(|health| matches!(health, HealthInfo::Down { .. }));
    let found = up.or_else(down).or_else(|| healths().next()).cloned();
    found.unwrap_or_else(|| HealthInfo::Refused {
        why: "no node reaches it: declare it, with its credentials, in a node's file".to_owned(),
    })
}

/// Where a repository lies, as the catalog has it.
pub(super) fn place_of(record: &RepositoryRecord) -> String {
    let settings = StoreSettings {
        definition: record.definition.clone(),
        ..StoreSettings::default()
    };
    settings.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(why: &str) -> HealthInfo {
        HealthInfo::Down {
            since: 1,
            why: why.to_owned(),
        }
    }

    fn way(node: &str, health: HealthInfo) -> ReachInfo {
        ReachInfo {
            node: node.to_owned(),
            reaches: true,
            health,
        }
    }

    #[test]
    fn one_node_that_has_it_up_is_enough() {
        let refused = HealthInfo::Refused { why: "key".to_owned() };
        let ways = [way("n1", refused.clone()), way("n2", HealthInfo::Up)];
        assert_eq!(best(Some(down("here")), &ways), HealthInfo::Up);
        let ways = [way("n1", refused.clone()), way("n2", down("there"))];
        assert_eq!(best(Some(down("here")), &ways), down("here"));
        assert_eq!(
            best(Some(refused), &ways),
            down("there"),
            "what may come back by itself"
        );
        assert!(matches!(best(None, &[]), HealthInfo::Refused { .. }));
    }
}

//! A verification of the whole mesh: each node reads and checks the repositories that it hosts, and one node each
//! shared repository. The node that was asked puts their findings together.

use super::verify::VerifySink;
use crate::Node;
use crate::links::{Lane, LinkError, Recipient, receive};
use crate::repositories::RepositoryRoute;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    ExitCode, Failure, Finding, FindingKind, HealthInfo, NAMED, VerifyEvent, VerifyRequest, VerifySummary,
};
use pgmesh_raft::NodeName;
use pgmesh_storage::RepoKey;
use pgmesh_transport::Peer;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

/// Events under way from one node.
const EVENTS: usize = 64;

/// A node, and the repositories that it verifies.
type Part = (NodeName, Vec<RepoKey>);

/// The findings of the nodes so far.
#[derive(Default)]
struct Together {
    /// Objects and bytes, per node: each tells its own sums.
    progress: BTreeMap<usize, (u64, u64)>,
    /// Findings about the catalog: each node makes them, and the client is told once.
    told: BTreeSet<(FindingKind, Option<u16>, Option<String>, String)>,
    summary: VerifySummary,
}

impl Together {
    fn progress(&mut self, source: usize, objects: u64, bytes: u64) -> VerifyEvent {
        self.progress.insert(source, (objects, bytes));
        let sums = self.progress.values();
        let (objects, bytes) = sums.fold((0, 0), |(objects, bytes), more| (objects + more.0, bytes + more.1));
        VerifyEvent::Progress { objects, bytes }
    }

    /// Whether a finding is news.
    fn is_new(&mut self, finding: &Finding) -> bool {
        let subject = match finding.kind {
            // The object's name differs from repository to repository; the sentence names it as the catalog does.
            FindingKind::Missing if finding.repo.is_none() => finding.what.clone(),
            _ => finding.subject.clone(),
        };
        self.told
            .insert((finding.kind, finding.repo, finding.stanza.clone(), subject))
    }

    fn add(&mut self, summary: VerifySummary) {
        let sum = &mut self.summary;
        sum.objects += summary.objects;
        sum.bytes += summary.bytes;
        sum.backups = sum.backups.max(summary.backups);
        sum.segments = sum.segments.max(summary.segments);
        for backup in summary.damaged_backups {
            if sum.damaged_backups.len() < NAMED && !sum.damaged_backups.contains(&backup) {
                sum.damaged_backups.push(backup);
            }
        }
        for archive in summary.archives {
            if sum.archives.len() < NAMED && !sum.archives.contains(&archive) {
                sum.archives.push(archive);
            }
        }
    }
}

impl Node {
    /// Verifies. Events go into `sink`; the last is `Done` or `Failed`. If the peer is a node, this node verifies its
    /// own repositories; for any other peer, the repositories of the mesh.
    pub(crate) async fn verify(&self, peer: &Peer, request: VerifyRequest, sink: VerifySink) {
        if peer.is_node() {
            return self.verify_own(request, sink).await;
        }
        let last = match self.verify_together(request, &sink).await {
            Ok(summary) => VerifyEvent::Done(summary),
            Err(failure) => VerifyEvent::Failed(failure),
        };
        // The client may have gone.
        let _ = sink.send(last).await;
    }

    async fn verify_together(&self, request: VerifyRequest, sink: &VerifySink) -> Result<VerifySummary, Failure> {
        let (hosts, unreached) = self.hosts(request.repo).await?;
        for (repo, why) in unreached {
            if sink.send(away(repo, &why)).await.is_err() {
                break;
            }
        }
        let (sender, mut events) = mpsc::channel::<(usize, VerifyEvent)>(EVENTS);
        let work = hosts.iter().enumerate().map(|(source, (host, repositories))| {
            let (mut request, sender) = (request.clone(), sender.clone());
            request.part = Some(repositories.clone().into());
            async move {
                if *host == self.name {
                    self.verify_here(source, request, sender).await;
                } else if let Err(error) = self.verify_there(source, host, request, &sender).await {
                    for repo in repositories {
                        // The client may have gone.
                        let _ = sender.send((source, away(*repo, &error.to_string()))).await;
                    }
                }
            }
        });
        let work = futures::future::join_all(work.collect::<Vec<_>>());
        drop(sender);
        // It owns the events: when the asker is gone, the nodes' parts have no receiver any more, and end.
        let gather = async move { gather(&mut events, sink).await };
        let (_, gathered) = tokio::join!(work, gather);
        gathered
    }

    /// The nodes to ask, each with its repositories; and the repositories that no node can verify, and why.
    async fn hosts(&self, only: Option<u16>) -> Result<(Vec<Part>, Vec<(RepoKey, String)>), Failure> {
        let mut hosts: BTreeMap<NodeName, Vec<RepoKey>> = BTreeMap::new();
        let mut unreached = Vec::new();
        for (key, record) in self.catalog.view().repositories()? {
            if only.is_some_and(|repo| repo != key.get()) {
                continue;
            }
            let host = match record.host {
                Some(host) => Ok(host),
                None => self.verifier_of(key).await,
            };
            match host {
                Ok(host) => hosts.entry(host).or_default().push(key),
                Err(why) => unreached.push((key, why)),
            }
        }
        if hosts.is_empty() && unreached.is_empty() {
            return Err(Failure::new(ExitCode::RepoInvalid, "the mesh has no such repository")
                .remedy("'pgmesh info' lists the repositories there are"));
        }
        Ok((hosts.into_iter().collect(), unreached))
    }

    /// One node that has a shared repository open: this one, else the first that says so.
    async fn verifier_of(&self, key: RepoKey) -> Result<NodeName, String> {
        let place = self.repositories.place(key)?;
        if matches!(place, RepositoryRoute::Here(_)) {
            return Ok(self.name.clone());
        }
        let reaching = self.catalog.view().reaching(key).map_err(|error| chain(&error))?;
        let names = reaching
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| *name != self.name);
        let asked = names.map(|name| async {
            let account = self.ask_node(&name).await;
            let is_up = account.is_ok_and(|account| account.repositories.contains(&(key, HealthInfo::Up)));
            is_up.then_some(name)
        });
        let answers = futures::future::join_all(asked).await;
        let found = answers.into_iter().flatten().next();
        found.ok_or_else(|| "no node has it open at present".to_owned())
    }

    async fn verify_here(&self, source: usize, request: VerifyRequest, sender: mpsc::Sender<(usize, VerifyEvent)>) {
        let (own, mut events) = mpsc::channel(EVENTS);
        let pass_on = async move {
            while let Some(event) = events.recv().await {
                if sender.send((source, event)).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(self.verify_own(request, own), pass_on);
    }

    async fn verify_there(
        &self,
        source: usize,
        host: &NodeName,
        request: VerifyRequest,
        sender: &mpsc::Sender<(usize, VerifyEvent)>,
    ) -> Result<(), LinkError> {
        let whom = Recipient::Named(host.clone());
        let mut stream = self.links.ask(&whom, Lane::Data, &request, None).await?;
        loop {
            let event = receive::<VerifyRequest>(&mut stream, &whom).await?;
            let is_last = matches!(event, VerifyEvent::Done(_) | VerifyEvent::Failed(_));
            if sender.send((source, event)).await.is_err() || is_last {
                return Ok(());
            }
        }
    }
}

async fn gather(
    events: &mut mpsc::Receiver<(usize, VerifyEvent)>,
    sink: &VerifySink,
) -> Result<VerifySummary, Failure> {
    let mut together = Together::default();
    let mut failed = None;
    while let Some((source, event)) = events.recv().await {
        let told = match event {
            VerifyEvent::Progress { objects, bytes } => Some(together.progress(source, objects, bytes)),
            VerifyEvent::Found(finding) => together.is_new(&finding).then_some(VerifyEvent::Found(finding)),
            VerifyEvent::Done(summary) => {
                together.add(summary);
                None
            }
            VerifyEvent::Failed(failure) => {
                failed.get_or_insert(failure);
                None
            }
        };
        if let Some(event) = told
            && sink.send(event).await.is_err()
        {
            return Err(Failure::new(
                ExitCode::Runtime,
                "whoever asked for the verification has gone",
            ));
        }
    }
    failed.map_or(Ok(together.summary), Err)
}

fn away(repo: RepoKey, why: &str) -> VerifyEvent {
    VerifyEvent::Found(Finding {
        kind: FindingKind::Unreadable,
        repo: Some(repo.get()),
        stanza: None,
        subject: format!("repo{repo}"),
        what: why.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: FindingKind, repo: Option<u16>, subject: &str) -> Finding {
        Finding {
            kind,
            repo,
            stanza: None,
            subject: subject.to_owned(),
            what: format!("{subject} is wrong"),
        }
    }

    #[test]
    fn what_all_nodes_find_in_the_catalog_is_told_once() {
        let mut together = Together::default();
        let gap = finding(FindingKind::WalGap, None, "a to b");
        assert!(together.is_new(&gap));
        assert!(!together.is_new(&gap));
        let of_another = Finding {
            stanza: Some("other".to_owned()),
            ..gap
        };
        assert!(
            together.is_new(&of_another),
            "names of segments repeat from stanza to stanza"
        );
        assert!(together.is_new(&finding(FindingKind::Damaged, Some(1), "chunk/x")));
        assert!(together.is_new(&finding(FindingKind::Damaged, Some(2), "chunk/x")));
    }

    #[test]
    fn sums_are_of_objects_and_not_of_what_each_node_knows() {
        let mut together = Together::default();
        for objects in [10, 20] {
            together.add(VerifySummary {
                objects,
                bytes: objects * 100,
                backups: 3,
                damaged_backups: vec!["main/x".to_owned()],
                segments: 7,
                archives: vec!["main 15-1".to_owned()],
            });
        }
        let sum = together.summary;
        assert_eq!((sum.objects, sum.bytes, sum.backups, sum.segments), (30, 3000, 3, 7));
        assert_eq!((sum.damaged_backups.len(), sum.archives.len()), (1, 1));
    }
}

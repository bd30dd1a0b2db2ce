//! Looking into one repository, and changing its definition.

use crate::Node;
use crate::links::{Lane, Recipient, receive, receive_body};
use crate::repositories::{RepositoryRoute, ViaNode};
use bytes::Bytes;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    BODY_LIMIT, ExitCode, Failure, ListRepository, MESSAGE_LIMIT, PayloadHead, ReadRepository, RepositoryListing,
    RepositoryObject,
};
use pgmesh_raft::Command;
use pgmesh_storage::{Codec, ObjectPath, Payload, RepoKey, Repository, StoreError};
use std::collections::BTreeMap;

/// How many bytes of names one answer has.
const LISTED: usize = MESSAGE_LIMIT / 2;

impl Node {
    /// The way to a repository. If another node asks, it has chosen this way, so this node's own slot is taken.
    fn asked_place(&self, repo: RepoKey, from_node: bool) -> Result<RepositoryRoute, Failure> {
        if from_node {
            return self.own_slot(repo).map(|slot| RepositoryRoute::Here(slot.clone()));
        }
        self.repositories.place(repo).map_err(|why| {
            Failure::new(ExitCode::RepoInvalid, format!("repo{repo} cannot be asked"))
                .because(why)
                .remedy("'pgmesh info' lists the repositories there are")
        })
    }

    /// Lists objects and folders.
    pub async fn list_repository(&self, list: ListRepository, from_node: bool) -> Result<RepositoryListing, Failure> {
        let mut tried = Vec::new();
        let mut place = self.asked_place(list.repo, from_node)?;
        loop {
            tried.push(place.host().cloned());
            let listed = match &place {
                RepositoryRoute::Here(_) => self.list_here(&list).await,
                RepositoryRoute::There(slot) => {
                    let (whom, limit) = (Recipient::Named(slot.host.clone()), self.settings.io_timeout);
                    self.links
                        .call(&whom, Lane::Data, &list, limit)
                        .await
                        .map_err(Failure::from)
                }
            };
            match listed.map_err(|failure| (self.next_way(list.repo, &failure, &tried, from_node), failure)) {
                Ok(entries) => return Ok(entries),
                Err((Some(next), _)) => place = next,
                Err((None, failure)) => return Err(failure),
            }
        }
    }

    /// Another way to a shared repository, where the failure is of the way that was taken.
    fn next_way(
        &self,
        repo: RepoKey,
        failure: &Failure,
        tried: &[ViaNode],
        from_node: bool,
    ) -> Option<RepositoryRoute> {
        let is_of_the_way = matches!(failure.code, ExitCode::RepoInvalid | ExitCode::HostConnect);
        let next = || self.repositories.another_way(repo, tried);
        (is_of_the_way && !from_node).then(next).flatten()
    }

    async fn list_here(&self, list: &ListRepository) -> Result<RepositoryListing, Failure> {
        let slot = self.own_slot(list.repo)?;
        let path = list.path.trim_matches('/').to_owned();
        let (folder, recurse, after) = (path.clone(), list.recurse, list.after.clone());
        let (names, more) = slot
            .request(|repository| async move {
                let after = after.as_deref();
                repository.list_names(&folder, recurse, after, LISTED).await
            })
            .await
            .map_err(|error| unreadable(list.repo, &path, &error))?;
        let objects = names.into_iter().map(|(name, size)| RepositoryObject { name, size });
        Ok(RepositoryListing {
            objects: objects.collect(),
            more,
        })
    }

    /// Reads an object: checked, decrypted and decompressed.
    pub async fn read_repository(
        &self,
        read: ReadRepository,
        from_node: bool,
    ) -> Result<(PayloadHead, Bytes), Failure> {
        let mut tried = Vec::new();
        let mut place = self.asked_place(read.repo, from_node)?;
        loop {
            tried.push(place.host().cloned());
            let found = match &place {
                RepositoryRoute::Here(_) => self.read_here(&read).await,
                RepositoryRoute::There(slot) => {
                    self.read_elsewhere(&Recipient::Named(slot.host.clone()), read.clone())
                        .await
                }
            };
            match found.map_err(|failure| (self.next_way(read.repo, &failure, &tried, from_node), failure)) {
                Ok(found) => return Ok(found),
                Err((Some(next), _)) => place = next,
                Err((None, failure)) => return Err(failure),
            }
        }
    }

    async fn read_here(&self, read: &ReadRepository) -> Result<(PayloadHead, Bytes), Failure> {
        let slot = self.own_slot(read.repo)?;
        let object = ReadRepository::object(&read.path)?;
        let path = object.to_string();
        let payload = slot
            .request(|repository| async move { content(&repository, &object).await })
            .await
            .map_err(|error| unreadable(read.repo, &path, &error))?;
        Ok((payload.head(), payload.bytes))
    }

    async fn read_elsewhere(&self, host: &Recipient, read: ReadRepository) -> Result<(PayloadHead, Bytes), Failure> {
        let work = async {
            let mut stream = self.links.ask(host, Lane::Data, &read, None).await?;
            let head = receive::<ReadRepository>(&mut stream, host).await?;
            let body = receive_body(&mut stream, host, head.length, BODY_LIMIT).await?;
            Ok((head, body))
        };
        Ok(self.links.within(host, self.settings.io_timeout, work).await?)
    }

    /// Makes this node's definition of a repository the mesh's. Returns the options that changed.
    ///
    /// # Errors
    /// `asked` is the definition in the user's file. If this node runs with another definition, nothing is changed.
    pub async fn update_repository(
        &self,
        actor: &str,
        repo: RepoKey,
        asked: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Failure> {
        let slot = self.own_slot(repo)?.clone();
        if *asked != slot.settings.definition {
            return Err(Failure::new(
                ExitCode::Config,
                format!("this node runs with another definition of repo{repo} than the file has"),
            )
            .remedy("start the node again with the new file, then run repo-update"));
        }
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .repository(repo)?
            .ok_or_else(|| Failure::from(pgmesh_raft::Refusal::UnknownRepository(repo)))?;
        let given = &slot.settings.definition;
        let options: std::collections::BTreeSet<&String> = record.definition.keys().chain(given.keys()).collect();
        let host = self.host_of(&slot);
        let moved = record.host != host;
        let mut changed: Vec<String> = options
            .into_iter()
            .filter(|option| record.definition.get(*option) != given.get(*option))
            .cloned()
            .collect();
        if moved {
            changed.push("host".to_owned());
        }
        if !changed.is_empty() {
            // It must be the same repository at its new place: nothing that the catalog counts on may be lost.
            self.check_same_repository(&slot, &record).await?;
            let command = Command::UpdateRepository {
                repo,
                definition: Some(given.clone()),
                host: moved.then_some(host),
                wrapped_keys: None,
            };
            self.catalog.propose(actor, command).await?;
        }
        self.open_one(&slot).await;
        Ok(changed)
    }
}

/// The content of an object as it was before it was compressed and encrypted, checked (invariant 6).
async fn content(repository: &Repository, object: &ObjectPath) -> Result<Payload, StoreError> {
    let text = match object {
        ObjectPath::Identity => Some(repository.identity_text().await?),
        ObjectPath::Mark(_) => {
            let path = object.to_string();
            repository.verify_path(&path).await?;
            Some(repository.read_raw(&path).await?)
        }
        _ => None,
    };
    if let Some(text) = text {
        // No object with content: it is handed out as it lies there.
        return Ok(Payload {
            digest: repository.suite().digest(&text),
            codec: Codec::None,
            plain_length: text.len() as u64,
            bytes: text,
        });
    }
    let checked = repository.content_at(&object.to_string()).await?;
    Ok(Payload {
        codec: Codec::None,
        bytes: checked.plain,
        ..checked.payload
    })
}

fn unreadable(repo: RepoKey, path: &str, error: &crate::repositories::SlotError) -> Failure {
    let code = match error.condemns() {
        Some(true) => ExitCode::FileMissing,
        Some(false) => ExitCode::Checksum,
        None => ExitCode::RepoInvalid,
    };
    Failure::new(code, format!("repo{repo}: {path:?} cannot be read")).because(chain(error))
}

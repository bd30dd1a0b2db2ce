//! A node whose disk has lost a promise (its vote, an acknowledged entry) begins anew: another number in the Raft
//! group, an empty catalog.
//!
//! The number stands for the disk's promises, so the old number must not be used again. A leader with a majority gives
//! out a new number; it then takes the old number out of the group, makes the new one a learner and fills it. The
//! switch is `mesh.json`: the empty catalog lies beside the old one until the file names its number. At its next start,
//! before anything is opened, the node moves it into place. The old catalog is kept aside until the next old catalog
//! replaces it.

use crate::core::Core;
use crate::join::call;
use crate::links::{Lane, Recipient};
use crate::mesh_file::MeshFile;
use crate::settings::{Layout, NEW_CATALOG};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{BeginAnew, ExitCode, Failure, NewNumber};
use pgmesh_raft::{Catalog, CatalogOptions, RequestId};
use pgmesh_transport::{Client, Identity};
use std::fs;
use std::time::Duration;

/// The pause before the other nodes are asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a node may take to answer: longer than it waits for a leader.
const LIMIT: Duration = Duration::from_secs(12);
/// How often the log says that no number was given out.
const COMPLAIN_EVERY: u32 = 10;

/// The administrator's choices when the node cannot help itself.
pub(crate) const CHOICES: &str = "put back a newer copy of node-path, which costs nothing if it is complete; or found the mesh anew \
    with 'pgmesh catalog-rebuild' from a repository, which costs what only the catalog knows (settings, debts, the audit trail)";

impl Core {
    /// Asks the other nodes for another number until a node has given it out, and prepares this node's new beginning.
    pub(crate) async fn begin_anew(&self, reason: &str) -> Result<(), Failure> {
        let mut asker = Asker::new(self.mesh.node_id, reason);
        loop {
            for whom in self.others() {
                let request = asker.request();
                let answer = self.links.call(&whom, Lane::Data, &request, LIMIT).await;
                if let Some(number) = asker.take(answer.map_err(|error| error.to_string())) {
                    // The members whose log the empty catalog takes.
                    let mesh = self.mesh_to_remember();
                    return prepare(&self.layout, &mesh, number).await;
                }
            }
            asker.pause().await;
        }
    }

    /// All other nodes, or else the addresses that were last known.
    fn others(&self) -> Vec<Recipient> {
        let nodes = self.catalog.view().nodes().unwrap_or_default().into_iter();
        let others = nodes.filter(|(name, record)| *name != self.name && record.is_member());
        let mut whom: Vec<Recipient> = others.map(|(name, _)| Recipient::Named(name)).collect();
        let seeds = self.settings.seeds.iter().chain(&self.mesh.seeds);
        whom.extend(seeds.map(|address| Recipient::At(address.clone())));
        whom
    }
}

/// The same for a node whose catalog cannot even be opened. Fails where no other node is known.
pub(crate) async fn begin_anew_blind(
    layout: &Layout,
    mesh: &MeshFile,
    identity: &Identity,
    addresses: &[String],
    reason: &Failure,
) -> Result<(), Failure> {
    if addresses.is_empty() {
        return Err(reason.clone().remedy(CHOICES));
    }
    tracing::error!("{reason}; this node asks the others for another number, to begin with an empty catalog");
    let client = Client::new(identity).map_err(|error| {
        Failure::new(
            ExitCode::Crypto,
            "this node's identity cannot be used to reach other nodes",
        )
        .because(chain(&error))
    })?;
    let mut asker = Asker::new(mesh.node_id, &reason.to_string());
    loop {
        for address in addresses {
            let request = asker.request();
            let asked = async {
                let connection = client.connect(address).await.map_err(|error| chain(&error))?;
                call(&connection, &request).await.map_err(|failure| failure.to_string())
            };
            let answer = tokio::time::timeout(LIMIT, asked).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer".to_owned()));
            if let Some(number) = asker.take(answer.map_err(|why| format!("{address}: {why}"))) {
                return prepare(layout, mesh, number).await;
            }
        }
        asker.pause().await;
    }
}

/// Asks for a new number until one is given out. The request stays the same one while it is repeated, or each
/// repetition would give out a number. It names the number that is replaced, so that a request that arrives too late
/// has no effect.
struct Asker {
    reason: String,
    number: u64,
    id: RequestId,
    attempt: u32,
}

impl Asker {
    fn new(number: u64, reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            number,
            id: RequestId::random(),
            attempt: 0,
        }
    }

    fn request(&self) -> BeginAnew {
        BeginAnew {
            id: self.id,
            number: self.number,
            reason: self.reason.clone().into(),
        }
    }

    /// The new number, if the answer gives one out.
    fn take(&mut self, answer: Result<NewNumber, String>) -> Option<u64> {
        let why = match answer {
            Ok(NewNumber::Given(number)) => return Some(number),
            Ok(NewNumber::Is(number)) if number != self.number => {
                // This directory's number was replaced before: the next request asks to replace its successor.
                self.number = number;
                self.id = RequestId::random();
                return None;
            }
            Ok(NewNumber::Is(number)) => format!("it answers that number {number} is not number {number}"),
            Err(why) => why,
        };
        if self.attempt.is_multiple_of(COMPLAIN_EVERY) {
            tracing::warn!(
                why,
                "this node cannot begin anew yet: a majority of the others must serve. If they do not come back: {CHOICES}"
            );
        }
        None
    }

    async fn pause(&mut self) {
        self.attempt = self.attempt.wrapping_add(1);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes the empty catalog, then the file that names it.
async fn prepare(layout: &Layout, mesh: &MeshFile, node_id: u64) -> Result<(), Failure> {
    let folder = layout.new_catalog(node_id);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| unusable(&folder, &error))?;
    }
    Catalog::create_joining(&folder, node_id, &CatalogOptions::default()).await?;
    MeshFile {
        node_id,
        ..mesh.clone()
    }
    .write(layout)?;
    tracing::warn!(
        node_id,
        old = mesh.node_id,
        "this node begins anew with an empty catalog"
    );
    Ok(())
}

/// Brings a new beginning to its end, before anything is opened.
pub(crate) fn finish(layout: &Layout) -> Result<(), Failure> {
    let root = layout.root();
    let mesh = MeshFile::read(layout)?;
    let current = layout.new_catalog(mesh.node_id);
    let entries = fs::read_dir(root).map_err(|error| unusable(root, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| unusable(root, &error))?.path();
        let is_new = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(NEW_CATALOG));
        if is_new && path != current {
            fs::remove_dir_all(&path).map_err(|error| unusable(&path, &error))?;
        }
    }
    if !current.exists() {
        return Ok(());
    }
    let (catalog, old) = (layout.catalog(), layout.old_catalog());
    if catalog.exists() {
        if old.exists() {
            fs::remove_dir_all(&old).map_err(|error| unusable(&old, &error))?;
        }
        fs::rename(&catalog, &old).map_err(|error| unusable(&catalog, &error))?;
    }
    fs::rename(&current, &catalog)
        .and_then(|()| fs::File::open(root)?.sync_all())
        .map_err(|error| unusable(&current, &error))
}

fn unusable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::Config, format!("{} cannot be used", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::DigestSuite;

    fn mesh(node_id: u64) -> MeshFile {
        MeshFile {
            mesh_id: "m".to_owned(),
            suite: DigestSuite::Blake3,
            node_id,
            seeds: vec![],
            members: vec![],
        }
    }

    #[test]
    fn a_repeated_request_is_the_same_until_another_number_is_to_be_replaced() {
        let sent = |asker: &Asker| {
            let begin = asker.request();
            (begin.id, begin.number)
        };
        let mut asker = Asker::new(3, "test");
        let first = sent(&asker);
        assert_eq!(asker.take(Err("no quorum".to_owned())), None);
        assert_eq!(sent(&asker), first);
        // Number 8 was given out before, and the answer never arrived: now 8 is replaced.
        assert_eq!(asker.take(Ok(NewNumber::Is(8))), None);
        let second = sent(&asker);
        assert_eq!(second.1, 8);
        assert_ne!(second.0, first.0, "it is another request");
        assert_eq!(asker.take(Ok(NewNumber::Given(9))), Some(9));
    }

    #[tokio::test]
    async fn a_new_beginning_ends_wherever_it_was_interrupted() {
        // After the empty catalog, after the file, between the two renames, and after both.
        for step in 0..4 {
            let root = tempfile::tempdir().unwrap();
            let layout = Layout::new(root.path());
            mesh(3).write(&layout).unwrap();
            fs::create_dir(layout.catalog()).unwrap();
            fs::write(layout.catalog().join("old"), b"").unwrap();
            // An attempt that was given up before.
            fs::create_dir(layout.new_catalog(7)).unwrap();
            prepare(&layout, &mesh(3), 8).await.unwrap();
            match step {
                0 => mesh(3).write(&layout).unwrap(),
                1 => {}
                2 => fs::rename(layout.catalog(), layout.old_catalog()).unwrap(),
                _ => finish(&layout).unwrap(),
            }
            finish(&layout).unwrap();
            assert!(!layout.new_catalog(7).exists() && !layout.new_catalog(8).exists());
            let is_old = layout.catalog().join("old").exists();
            assert_eq!(is_old, step == 0, "step {step}");
            assert_eq!(layout.old_catalog().join("old").exists(), step > 0, "step {step}");
            assert_eq!(layout.catalog().join("catalog.json").exists(), step > 0, "step {step}");
        }
    }
}

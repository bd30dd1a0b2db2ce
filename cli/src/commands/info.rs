//! `info`: stanzas, backups and repositories, as pgBackRest shows them.
//!
//! The catalog answers; only `--set` reads from a repository, namely the manifest of one backup. `status` decides,
//! `references` finds the backups that a backup shares pages with, `json` and `text` render: all four are pure.

mod holes;
mod json;
mod losses;
mod references;
#[cfg(test)]
pub(super) mod samples;
mod status;
mod text;

pub(super) use holes::{REMEDY as HOLES_REMEDY, describe_holes};
pub(super) use json::{debt, health, holes as holes_json, kept, lost, stanza_holes, stuck, worker};
pub(super) use losses::{
    costs, describe_lost, describe_stuck, describe_uncompared, describe_worker, remedy as lost_remedy,
};
pub(super) use status::{describe_kept, describe_troubles, troubles};

use super::stanza;
use crate::config::Config;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::mesh::{Backups, Mesh};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{BackupInfo, ExitCode, Failure, GetManifest, MeshInfo, StanzaHoles, StanzaInfo, StanzaLosses};
use pgmesh_storage::{BackupLabel, DatabaseRecord, ManifestRoot, Payload, RepoKey, StanzaName};
use status::{Status, chosen};

/// The first oid that is not PostgreSQL's own (`FirstNormalObjectId`, transam.h).
const FIRST_USER_OID: u32 = 16_384;

/// Shows the stanzas. A stanza or a backup that does not exist is a status, not a failure.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let asked = config.stanza().map(|_| stanza(config)).transpose()?;
    let label = label(config)?;
    let only = repository(config)?;
    if label.is_some() && asked.is_none() {
        return Err(Failure::new(
            ExitCode::OptionInvalid,
            "option 'set' not valid without option 'stanza'",
        )
        .remedy("each stanza has labels of its own: give --stanza=NAME too"));
    }
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let info = mesh.info(asked.as_ref(), Backups::With).await?;
    if let Some(why) = &info.stale {
        tracing::warn!(
            "this may be stale: node {} answered from its own copy of the catalog: {why}",
            info.node
        );
    }
    if let Some(key) = only
        && !info.repositories.iter().any(|repository| repository.key == key)
    {
        return Err(
            Failure::new(ExitCode::OptionInvalid, format!("the mesh has no repo{key}"))
                .remedy("'pgmesh info' without --repo shows the repositories there are"),
        );
    }
    let root = match (&asked, &label) {
        (Some(stanza), Some(label)) if is_known(&info, stanza, label) => Some(manifest(&mesh, stanza, label).await?),
        _ => None,
    };
    let shown = Shown {
        info: &info,
        asked: asked.as_ref().map(StanzaName::as_str),
        only,
        set: label.as_ref().map(|label| (label, root.as_ref())),
    };
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&json::render(&shown))?,
        OutputFormat::Text => output::print(&text::render(&shown))?,
    }
    Ok(ExitCode::Ok)
}

/// `--set`.
pub(super) fn label(config: &Config) -> Result<Option<BackupLabel>, Failure> {
    let parse = |text: &str| {
        text.parse().map_err(|error| {
            Failure::new(ExitCode::OptionInvalid, "option set cannot be used")
                .because(error)
                .remedy("'pgmesh info' lists the labels of the backups there are")
        })
    };
    config.text("set").map(parse).transpose()
}

/// `--repo`.
pub(super) fn repository(config: &Config) -> Result<Option<RepoKey>, Failure> {
    let Some(number) = config.optional_integer("repo") else {
        return Ok(None);
    };
    let key = u16::try_from(number).ok().and_then(|number| RepoKey::new(number).ok());
    key.map(Some).ok_or_else(|| {
        Failure::new(
            ExitCode::OptionInvalid,
            format!("{number} is no number of a repository"),
        )
    })
}

fn is_known(info: &MeshInfo, stanza: &StanzaName, label: &BackupLabel) -> bool {
    let stanzas = info.stanzas.iter().filter(|known| known.name == stanza.as_str());
    stanzas
        .flat_map(|known| &known.backups)
        .any(|backup| backup.label == *label)
}

/// The manifest's root, checked (invariant 6).
async fn manifest(mesh: &Mesh, stanza: &StanzaName, label: &BackupLabel) -> Result<ManifestRoot, Failure> {
    let suite = mesh.suite().await?;
    let request = GetManifest {
        stanza: stanza.clone(),
        label: label.clone(),
    };
    let (head, body) = mesh.fetch(&request, |head| Some(head.length)).await?;
    let damaged = |error: &dyn std::error::Error| {
        Failure::new(ExitCode::Checksum, format!("the manifest of backup {label} is damaged"))
            .because(chain(error))
            .remedy("'pgmesh verify' says in which repository")
    };
    let plain = Payload::from_parts(head, body.unwrap_or_default())
        .and_then(|payload| payload.open(suite))
        .map_err(|error| damaged(&error))?;
    ManifestRoot::decode(&plain).map_err(|error| damaged(&error))
}

/// The parts of the catalog to show.
struct Shown<'i> {
    /// The mesh's answer.
    info: &'i MeshInfo,
    /// `--stanza`.
    asked: Option<&'i str>,
    /// `--repo`.
    only: Option<RepoKey>,
    /// `--set`, and the backup's manifest if there is such a backup.
    set: Option<(&'i BackupLabel, Option<&'i ManifestRoot>)>,
}

impl<'i> Shown<'i> {
    /// The stanzas by name. A stanza that `--stanza` names and the mesh does not know has only its name.
    fn stanzas(&self) -> Vec<(&'i str, Option<&'i StanzaInfo>)> {
        let known = self
            .info
            .stanzas
            .iter()
            .map(|stanza| (stanza.name.as_str(), Some(stanza)));
        let known: Vec<_> = known
            .filter(|(name, _)| self.asked.is_none_or(|asked| asked == *name))
            .collect();
        match self.asked {
            Some(asked) if known.is_empty() => vec![(asked, None)],
            _ => known,
        }
    }

    /// The losses of a stanza.
    fn losses(&self, name: &str) -> Option<&'i StanzaLosses> {
        self.info.lost.stanzas.iter().find(|losses| losses.stanza == name)
    }

    /// The WAL that is missing from a stanza.
    fn holes(&self, name: &str) -> Option<&'i StanzaHoles> {
        self.info.holes.stanzas.iter().find(|holes| holes.stanza == name)
    }

    /// The status of a stanza, from its status in each repository. Lost objects are an error even if all repositories
    /// are well, and so is missing WAL without which no backup can be recovered to the present.
    fn overall(&self, name: &str, each: &[Status], stanza: Option<&StanzaInfo>) -> Status {
        let overall = Status::overall(each, stanza, self.label());
        let is_lost = self.info.lost.catalog.is_some() || self.losses(name).is_some();
        let is_unreached = self.holes(name).is_some_and(|holes| !holes.unreached.is_empty());
        match overall {
            Status::Ok | Status::Mixed | Status::NoBackups if is_lost => Status::Lost,
            Status::Ok | Status::Mixed if is_unreached => Status::Unreached,
            _ => overall,
        }
    }

    /// The backups of a stanza that `--set` and `--repo` select.
    fn backups(&self, stanza: Option<&'i StanzaInfo>) -> impl Iterator<Item = &'i BackupInfo> {
        let backups = stanza.map(|stanza| stanza.backups.as_slice()).unwrap_or_default();
        backups
            .iter()
            .filter(|backup| self.label().is_none_or(|label| *label == backup.label))
            .filter(|backup| !Self::places(backup, self.only).is_empty())
    }

    /// The repositories of a backup, and whether each has all of it.
    fn places(backup: &BackupInfo, only: Option<RepoKey>) -> Vec<(RepoKey, bool)> {
        let complete = backup.repositories.iter().map(|key| (*key, true));
        let owed = backup.owed.iter().map(|key| (*key, false));
        let mut places: Vec<_> = complete
            .chain(owed)
            .filter(|(key, _)| only.is_none_or(|only| only == *key))
            .collect();
        places.sort_unstable();
        places
    }

    /// `aes-256-cbc`, `none`, or `mixed`.
    fn cipher(&self) -> &'i str {
        let repositories = chosen(&self.info.repositories, self.only);
        match repositories.split_first() {
            None => "none",
            Some((first, rest)) if rest.iter().all(|other| other.cipher == first.cipher) => &first.cipher,
            Some(_) => "mixed",
        }
    }

    fn label(&self) -> Option<&'i BackupLabel> {
        self.set.map(|(label, _)| label)
    }

    /// The manifest's root of the backup that `--set` names.
    fn details(&self, label: &BackupLabel) -> Option<&'i ManifestRoot> {
        self.set.filter(|(set, _)| *set == label).and_then(|(_, root)| root)
    }
}

/// The user's databases in a backup: as in pgBackRest, without the templates that initdb makes.
fn listed(root: &ManifestRoot) -> impl Iterator<Item = &DatabaseRecord> {
    root.databases
        .iter()
        .filter(|database| database.oid >= FIRST_USER_OID || !database.name.starts_with("template"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stanza_that_was_asked_for_is_always_there() {
        let info = samples::mesh();
        let shown = |asked| Shown {
            info: &info,
            asked,
            only: None,
            set: None,
        };
        assert_eq!(shown(None).stanzas().len(), 1);
        assert!(shown(Some("main")).stanzas()[0].1.is_some());
        let other = shown(Some("other")).stanzas();
        assert!(matches!(other.as_slice(), [("other", None)]));
    }
}

//! pgBackRest's status codes of `info`, and how they follow from the mesh's answer. Pure.

use crate::output::{size, timestamp};
use pgmesh_protocol::{DebtInfo, HealthInfo, KeptInfo, RepositoryInfo, StanzaInfo};
use pgmesh_storage::{BackupLabel, RepoKey};

/// The status of a stanza, in one repository or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There are backups to restore.
    Ok,
    /// The mesh does not know the stanza.
    MissingStanza,
    /// No backup yet.
    NoBackups,
    /// The repositories differ.
    Mixed,
    /// `--set` names a backup that does not exist.
    BackupNotFound,
    /// The repository is down, or this node does not serve it.
    Other,
    /// Backups or WAL have no good copy left.
    Lost,
    /// WAL is missing, and no backup can be recovered to the present.
    Unreached,
}

impl Status {
    /// pgBackRest's number for it.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::MissingStanza => 1,
            Self::NoBackups => 2,
            Self::Mixed => 4,
            Self::BackupNotFound => 6,
            Self::Other | Self::Lost | Self::Unreached => 99,
        }
    }

    /// pgBackRest's words for it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::MissingStanza => "missing stanza path",
            Self::NoBackups => "no valid backups",
            Self::Mixed => "different across repos",
            Self::BackupNotFound => "requested backup not found",
            Self::Other => "other",
            Self::Lost => "backups or WAL have no good copy left",
            Self::Unreached => "WAL is missing, no backup can be recovered to the present",
        }
    }

    /// As the text output has it.
    pub fn text(self) -> String {
        match self {
            Self::Ok => "ok".to_owned(),
            Self::Mixed => "mixed".to_owned(),
            other => format!("error ({})", other.message()),
        }
    }

    /// The status of a stanza in one repository. A stanza or a backup that the catalog does not know is missing in
    /// every repository, up or not.
    pub fn in_repository(repository: &RepositoryInfo, stanza: Option<&StanzaInfo>, set: Option<&BackupLabel>) -> Self {
        if let Some(absent) = Self::absent(stanza, set) {
            return absent;
        }
        if repository.health != HealthInfo::Up {
            return Self::Other;
        }
        let holds_one = stanza.is_some_and(|stanza| {
            stanza
                .backups
                .iter()
                .any(|backup| backup.repositories.contains(&repository.key))
        });
        if holds_one { Self::Ok } else { Self::NoBackups }
    }

    /// The status of a stanza in all repositories, from its status in each.
    pub fn overall(each: &[Self], stanza: Option<&StanzaInfo>, set: Option<&BackupLabel>) -> Self {
        match each.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => *first,
            Some(_) => Self::Mixed,
            None => Self::absent(stanza, set).unwrap_or(Self::NoBackups),
        }
    }

    fn absent(stanza: Option<&StanzaInfo>, set: Option<&BackupLabel>) -> Option<Self> {
        let Some(stanza) = stanza else {
            return Some(Self::MissingStanza);
        };
        let known = |label: &BackupLabel| stanza.backups.iter().any(|backup| backup.label == *label);
        set.is_some_and(|label| !known(label)).then_some(Self::BackupNotFound)
    }
}

/// The troubles of a repository, a sentence each without its number: its outage, and its debt.
pub fn troubles(repository: &RepositoryInfo) -> Vec<String> {
    describe_troubles(&repository.health, &repository.debt)
}

/// The same from its health and its debt alone.
pub fn describe_troubles(health: &HealthInfo, debt: &DebtInfo) -> Vec<String> {
    let away = match health {
        HealthInfo::Up => None,
        HealthInfo::Down { since, why } => Some(format!("down since {}: {}", timestamp(*since), one_line(why))),
        HealthInfo::Refused { why } => Some(format!("not served: {}", one_line(why))),
    };
    let owes = (debt.objects > 0).then(|| {
        let objects = if debt.objects == 1 { "object" } else { "objects" };
        let since = debt
            .since
            .map(|since| format!(" since {}", timestamp(since)))
            .unwrap_or_default();
        format!("owes {} {objects} ({}){since}", debt.objects, size(debt.bytes))
    });
    away.into_iter().chain(owes).collect()
}

/// The objects that a repository refuses to delete, in a sentence; not a trouble.
pub fn describe_kept(kept: &KeptInfo) -> Option<String> {
    let sentence = match kept.objects {
        0 => return None,
        1 => "1 object is no longer needed and is kept".to_owned(),
        objects => format!("{objects} objects are no longer needed and are kept"),
    };
    Some(format!("{sentence}: {}", kept.why))
}

/// The repositories that `--repo` selects.
pub fn chosen(repositories: &[RepositoryInfo], only: Option<RepoKey>) -> Vec<&RepositoryInfo> {
    repositories
        .iter()
        .filter(|repository| only.is_none_or(|key| key == repository.key))
        .collect()
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn one_status_for_all_where_they_agree() {
        let info = samples::mesh();
        let stanza = info.stanzas.first();
        let each: Vec<Status> = info
            .repositories
            .iter()
            .map(|repo| Status::in_repository(repo, stanza, None))
            .collect();
        assert_eq!(each, [Status::Ok, Status::Other]);
        assert_eq!(Status::overall(&each, stanza, None), Status::Mixed);
        assert_eq!(Status::overall(&each[..1], stanza, None), Status::Ok);
        assert_eq!(Status::overall(&[], stanza, None), Status::NoBackups);
        assert_eq!(Status::overall(&[], None, None), Status::MissingStanza);
    }

    #[test]
    fn what_is_kept_is_told_with_its_reason() {
        let kept = |objects, why: &str| {
            describe_kept(&KeptInfo {
                objects,
                why: why.to_owned(),
            })
        };
        assert_eq!(kept(0, ""), None);
        assert_eq!(
            kept(1, "object lock").unwrap(),
            "1 object is no longer needed and is kept: object lock"
        );
        assert_eq!(
            kept(7, "delete=n").unwrap(),
            "7 objects are no longer needed and are kept: delete=n"
        );
    }

    #[test]
    fn what_is_nowhere_is_missing_in_a_repository_that_is_down_too() {
        let info = samples::mesh();
        let down = &info.repositories[1];
        assert_eq!(Status::in_repository(down, None, None).code(), 1);
        let unknown = "20200101-000000F".parse().unwrap();
        assert_eq!(
            Status::in_repository(down, info.stanzas.first(), Some(&unknown)).code(),
            6
        );
    }

    #[test]
    fn a_repository_without_a_whole_backup_has_none() {
        let mut info = samples::mesh();
        info.repositories[1].health = HealthInfo::Up;
        for backup in &mut info.stanzas[0].backups {
            backup.repositories.retain(|key| key.get() == 1);
        }
        assert_eq!(
            Status::in_repository(&info.repositories[1], info.stanzas.first(), None),
            Status::NoBackups
        );
    }

    #[test]
    fn troubles_are_one_line_each() {
        let info = samples::mesh();
        assert_eq!(troubles(&info.repositories[0]), Vec::<String>::new());
        let mut repository = info.repositories[1].clone();
        let said = troubles(&repository);
        assert_eq!(said.len(), 2);
        assert!(
            said[0].starts_with("down since 20") && said[0].ends_with(": no such directory"),
            "{said:?}"
        );
        assert!(said[1].starts_with("owes 12 objects (24.1MB) since 20"), "{said:?}");
        repository.health = HealthInfo::Refused {
            why: "wrong\n passphrase".into(),
        };
        repository.debt.objects = 1;
        assert_eq!(troubles(&repository)[0], "not served: wrong passphrase");
        assert!(troubles(&repository)[1].starts_with("owes 1 object ("));
    }
}

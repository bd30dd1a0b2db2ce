//! The settings of the tests' restores.

use super::*;
use pgmesh_protocol::now_unix;
use pgmesh_storage::{FixedSecrets, RepoKey, StoreSettings};

/// The passphrase of the repositories.
#[derive(Debug)]
struct OfTheTests;

impl PassphraseSource for OfTheTests {
    fn read(&self) -> Result<Option<Passphrase>, Failure> {
        Ok(Passphrase::new(PASSPHRASE.to_owned()).ok())
    }
}

impl Fixture {
    /// The repositories, or only that one.
    pub fn declared(&self, only: Option<RepoKey>) -> Vec<RepositorySettings> {
        let numbers = 1..=u16::try_from(self.repositories.len()).unwrap();
        let keys = numbers.map(|number| RepoKey::new(number).unwrap());
        let keys = keys.filter(|key| only.is_none_or(|only| only == *key));
        keys.map(|key| {
            let path = self.path(&format!("repo{key}")).display().to_string();
            let definition = [("type", "posix"), ("path", &path), ("cipher-type", "aes-256-cbc")];
            RepositorySettings {
                key,
                store: StoreSettings {
                    definition: definition
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .into(),
                    local: BTreeMap::new(),
                    secrets: Arc::new(FixedSecrets::default()),
                },
                passphrase: Arc::new(OfTheTests),
            }
        })
        .collect()
    }

    /// A restore that is told in the words of the program's options.
    pub fn settings(&self, words: &[&str]) -> RestoreSettings {
        let has = |name: &str| words.contains(&name);
        let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let target = Target::parse(value("--type").unwrap_or("default"), value("--target"), value("--set")).unwrap();
        let mut recovery = RecoverySettings::new(target.recovery.clone(), now_unix());
        recovery.action = value("--target-action").map(|action| action.parse().unwrap());
        recovery.restore_command = Some("pgmesh archive-get %f \"%p\"".to_owned());
        let map = value("--tablespace-map").map(|pair| pair.split_once('=').unwrap());
        RestoreSettings {
            stanza: "main".parse().unwrap(),
            pgdata: self.pgdata(),
            existing: match (has("--delta"), has("--force")) {
                (true, _) => Existing::Compare,
                (false, true) => Existing::Remove,
                (false, false) => Existing::Refuse,
            },
            force: has("--force"),
            trusts_times: has("--delta") && has("--force"),
            keeps_owners: false,
            target,
            target_timeline: None,
            archive_mode: None,
            recovery,
            places: PlaceOptions {
                tablespace_map: map
                    .map(|(key, path)| (key.to_owned(), path.into()))
                    .into_iter()
                    .collect(),
                link_all: has("--link-all"),
                ..PlaceOptions::default()
            },
            include: vec![],
            exclude: value("--db-exclude").map(str::to_owned).into_iter().collect(),
            write_manifest: has("--write-manifest"),
            workers: 2,
            repo: value("--repo").map(|number| RepoKey::new(number.parse().unwrap()).unwrap()),
        }
    }
}

//! The repositories that a configuration declares.

use pgmesh_storage::{SecretSource, SecretText, Secrets, StoreKind, StoreSettings};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::access::Config;
use super::command::Command;
use super::kind::{Secret, Value};
use super::option::IndexKey;
use super::{passphrase, table};
use crate::exit::{CommandError, ExitCode};

/// One repository as this host's configuration declares it. The keys are option names without `repoN-`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredRepository {
    /// The options that the catalog keeps and compares between nodes: `type`, `path`, `cipher-type` and so on. Defaults
    /// are filled in, so that a default that is written out makes no difference.
    pub definition: BTreeMap<String, String>,
    /// This host's own way to the repository: certificates, time-outs.
    pub local: BTreeMap<String, String>,
    /// Passphrases and keys, which reach no catalog, log or message (invariant 9).
    pub secrets: BTreeMap<String, Secret>,
}

impl DeclaredRepository {
    /// The type, if it is known.
    fn kind(&self) -> Option<StoreKind> {
        let kind = self.definition.get("type").map(|kind| kind.parse().ok());
        kind.unwrap_or(Some(StoreKind::Posix))
    }

    /// Whether the file says where the repository lies, so that this host can use it; a file may also just mention it.
    pub fn is_reachable(&self) -> bool {
        match self.kind() {
            Some(StoreKind::Posix) => self.definition.contains_key("path"),
            Some(_) => true,
            None => false,
        }
    }

    /// The first missing option among those required by the type.
    fn missing(&self) -> Option<&'static str> {
        let has = |name: &str| {
            self.definition.contains_key(name) || self.local.contains_key(name) || self.secrets.contains_key(name)
        };
        let key_type = |name: &str, usual: &'static str| self.local.get(name).map_or(usual, String::as_str).to_owned();
        let needed: Vec<&'static str> = match self.kind()? {
            StoreKind::Posix => vec!["path"],
            StoreKind::S3 => match (key_type("s3-key-type", "shared").as_str(), has("s3-endpoint")) {
                ("shared", true) => vec!["s3-bucket", "s3-key", "s3-key-secret"],
                ("shared", false) => vec!["s3-bucket", "s3-region", "s3-key", "s3-key-secret"],
                (_, true) => vec!["s3-bucket"],
                (_, false) => vec!["s3-bucket", "s3-region"],
            },
            StoreKind::Azure => match key_type("azure-key-type", "shared").as_str() {
                "auto" => vec!["azure-account", "azure-container"],
                _ => vec!["azure-account", "azure-container", "azure-key"],
            },
            StoreKind::Gcs => match key_type("gcs-key-type", "service").as_str() {
                "auto" => vec!["gcs-bucket"],
                _ => vec!["gcs-bucket", "gcs-key"],
            },
        };
        needed.into_iter().find(|name| !has(name))
    }

    /// The settings with which `pgmesh_storage` reaches it. Credentials are read anew from the files each time.
    pub fn store_settings(&self, config: &Config, number: u16) -> StoreSettings {
        StoreSettings {
            definition: self.definition.clone(),
            local: self.local.clone(),
            secrets: Arc::new(ReadAnew {
                config: config.clone(),
                number,
            }),
        }
    }

    fn store_secrets(&self) -> Secrets {
        let secrets = self
            .secrets
            .iter()
            .filter(|(name, _)| !passphrase::OPTIONS.contains(&name.as_str()));
        secrets
            .map(|(name, secret)| (name.clone(), SecretText::new(secret.expose())))
            .collect()
    }
}

/// The credentials of one repository, from the present files.
struct ReadAnew {
    config: Config,
    number: u16,
}

impl SecretSource for ReadAnew {
    fn read(&self) -> Result<Secrets, String> {
        let now = self.config.reload().map_err(|error| error.to_string())?;
        match now.repositories().get(&self.number) {
            Some(repository) => Ok(repository.store_secrets()),
            None => Err(format!(
                "the configuration does not declare repo{} any more",
                self.number
            )),
        }
    }
}

impl fmt::Debug for ReadAnew {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReadAnew(repo{})", self.number)
    }
}

impl Config {
    /// The repositories declared anywhere, by number.
    pub fn repositories(&self) -> BTreeMap<u16, DeclaredRepository> {
        let mut repositories: BTreeMap<u16, DeclaredRepository> = BTreeMap::new();
        for (key, resolved) in self.values() {
            let Some((IndexKey::Repo, number)) = key.index else {
                continue;
            };
            let Some(spec) = table::indexed(IndexKey::Repo, key.name) else {
                continue;
            };
            if spec.policy {
                continue;
            }
            let repository = repositories.entry(number).or_default();
            let name = key.name.to_owned();
            match &resolved.value {
                Value::Secret(secret) => drop(repository.secrets.insert(name, secret.clone())),
                value if spec.local => drop(repository.local.insert(name, canonical(value))),
                value => drop(repository.definition.insert(name, canonical(value))),
            }
        }
        repositories
    }

    /// Checks each repository's options against each other; the table checks each option alone. Commands of PG hosts
    /// see the repositories in the file too, but use them only with `--repo-direct`.
    pub(super) fn check_repositories(&self) -> Result<(), CommandError> {
        let is_tried = self.command() == Command::RepoCheck;
        let is_node = matches!(self.command(), Command::NodeStart | Command::CatalogRebuild);
        if !is_tried && !is_node && !self.flag("repo-direct") {
            return Ok(());
        }
        for (number, repository) in self.repositories() {
            if is_tried && self.optional_integer("repo") != Some(i64::from(number)) {
                continue;
            }
            let is_used = is_tried || is_node || repository.is_reachable();
            if let Some(name) = repository.missing().filter(|_| is_used) {
                let error = CommandError::option_required(format!("repo{number}-{name}"), self.command());
                let kind = repository.definition.get("type").map_or("posix", String::as_str);
                return Err(error.because_of(format!("repo{number}-type is {kind}")));
            }
            if is_tried {
                // `repo-check` opens no repository, so it needs no passphrase.
                continue;
            }
            let encrypted = repository
                .definition
                .get("cipher-type")
                .is_some_and(|cipher| cipher != "none");
            let given: Vec<&str> = passphrase::OPTIONS
                .into_iter()
                .filter(|name| repository.secrets.contains_key(*name))
                .collect();
            if let [one, other, ..] = given[..] {
                let what = format!("repo{number}-{one} and repo{number}-{other} are both given");
                return Err(CommandError::new(ExitCode::OptionInvalid, what)
                    .because_of("they may differ")
                    .remedy("keep one of them"));
            }
            let has_passphrase = !given.is_empty();
            if encrypted && !has_passphrase {
                let key = format!("repo{number}-cipher-pass");
                return Err(CommandError::option_required(key, self.command())
                    .because_of(format!(
                        "repo{number}-cipher-type says that the repository is encrypted"
                    ))
                    .remedy(format!(
                        "put it in the configuration file or in the environment, or give repo{number}-cipher-pass-file or \
                         repo{number}-cipher-pass-command"
                    )));
            }
            if has_passphrase && !encrypted {
                let what = format!("repo{number}-cipher-pass is given, but repo{number}-cipher-type is none");
                return Err(CommandError::new(ExitCode::OptionInvalid, what)
                    .because_of("the repository would not be encrypted")
                    .remedy(format!(
                        "add repo{number}-cipher-type=aes-256-cbc or take the passphrase out"
                    )));
            }
        }
        Ok(())
    }
}

/// The one form of a value in the catalog.
fn canonical(value: &Value) -> String {
    match value {
        Value::Flag(yes) => (if *yes { "y" } else { "n" }).to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Size(bytes) => bytes.to_string(),
        Value::Duration(span) => format!("{}ms", span.as_millis()),
        Value::Text(text) => text.clone(),
        Value::Path(path) => path.display().to_string(),
        Value::List(texts) => texts.join(","),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","),
        // A secret never becomes text here; `repositories` keeps it apart.
        Value::Secret(_) => String::new(),
    }
}
